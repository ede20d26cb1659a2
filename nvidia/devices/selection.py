"""Which GPUs this job has, and which of them a request means.

A number is always a place in the order of PCI addresses, never the one in `/dev/nvidiaN`. A GPU
in MIG mode stands for its parts: in an answer its `mig` holds those that are meant.
"""

from __future__ import annotations

from udocker.errors import GpuError
from udocker.nvidia.devices.gpus import Gpu, pci_key
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from udocker.nvidia.devices.mig import MigDevice

CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"
_ORDINALS = (CUDA_VARIABLE, "GPU_DEVICE_ORDINAL")
"""Variables that count the GPUs that a job may open; Slurm sets both alike."""
_GLOBAL = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
"""Variables that count all GPUs of the node."""
UNSELECTIVE = ("auto", "try", "all")
"""Selections that take every GPU of the job."""
_UUID_LENGTH = len("GPU-00000000-0000-0000-0000-000000000000")


def of_job(gpus: tuple[Gpu, ...], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that this job may use, in the job's own order.

    Those that it may open, narrowed by `CUDA_VISIBLE_DEVICES`, of which CUDA takes the words up
    to the first that it does not know; where that is not set, by what Slurm says. The UUID of a
    part that NVML has not been asked for may be that of any part.
    """
    accessible = _openable(gpus)
    variable = narrowing_variable(environment)
    if variable in _ORDINALS:
        return _visible(environment[variable], accessible)
    return _of_slurm(environment[variable], gpus, accessible) if variable else accessible


def narrowing_variable(environment: Mapping[str, str]) -> str:
    """Return the name of the variable that tells which GPUs are the job's; empty: none does."""
    told = [name for name in _ORDINALS if name in environment]
    told += [name for name in _GLOBAL if environment.get(name)]
    return next(iter(told), "")


def _openable(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Return what can be opened: whole GPUs, and those in parts with the parts."""
    found = []
    for gpu in gpus:
        parts = tuple(part for part in gpu.mig if part.accessible)
        if gpu.accessible and (parts or not gpu.mig):
            found.append(gpu if len(parts) == len(gpu.mig) else replace(gpu, mig=parts))
    return tuple(found)


def _visible(text: str, accessible: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs that `CUDA_VISIBLE_DEVICES` shows, as CUDA reads it."""
    chosen: list[Gpu] = []
    for word in text.split(","):
        name = word.strip()
        if _is_part_uuid(name) and not _knows_parts(accessible):
            return tuple(gpu for gpu in accessible if gpu.mig)
        gpu = _named(name, accessible)
        if gpu is None or gpu in chosen:
            break
        chosen.append(gpu)
    return _joined(chosen)


def _of_slurm(text: str, gpus: tuple[Gpu, ...], accessible: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs that Slurm counts in `text`, `0,2-3`.

    It counts device files in the order of their numbers (gres.conf, `File=/dev/nvidia[0-7]`), and
    parts of GPUs among them. Where the cgroup leaves no more than were given, they are those;
    where the numbers mean nothing here, all.
    """
    numbers = _ranges(text)
    if len(accessible) <= len(numbers) or any(gpu.mig for gpu in gpus):
        return accessible
    in_order = sorted(gpus, key=lambda gpu: gpu.minor)
    given = [in_order[number] for number in numbers if number < len(in_order)]
    return tuple(gpu for gpu in accessible if gpu in given) if given else accessible


def _ranges(text: str) -> list[int]:
    numbers: list[int] = []
    for word in text.split(",")[:1024]:
        first, _, last = word.strip().partition("-")
        ends = [int(end) for end in (first, last or first) if end.isdecimal() and len(end) < 5]
        if len(ends) == 2:
            numbers += range(ends[0], ends[1] + 1)
    return numbers


def needs_names(gpus: tuple[Gpu, ...], request: str) -> bool:
    """Tell whether the UUIDs of parts must be known to understand `request` or to answer it."""
    return request not in (*UNSELECTIVE, "none") and any(gpu.mig for gpu in gpus)


def select(
    gpus: tuple[Gpu, ...],
    request: str,
    environment: Mapping[str, str],
    *,
    whole_names: bool = False,
) -> tuple[Gpu, ...]:
    """Return the GPUs that `request` means: `auto`, `try`, `all`, `none`, or a list of names.

    A name is a number within the job, `0:1` (the second part of the first GPU), a UUID or, unless
    `whole_names`, its beginning, a PCI address, or `MIG-GPU-<uuid>/<gi>/<ci>`. All of the job are
    all that it may open: the numbers in its `CUDA_VISIBLE_DEVICES` count them. Raises GpuError
    when the job has no GPU, or none of that name.
    """
    if request == "none":
        return ()
    job = of_job(gpus, environment)
    if not job:
        from udocker.nvidia.devices import refusal

        raise refusal.no_gpu(gpus, environment, narrowing_variable(environment))
    if request in UNSELECTIVE:
        return _openable(gpus) if CUDA_VARIABLE in environment else job
    chosen: list[Gpu] = []
    for word in map(str.strip, request.split(",")):
        gpu = None if whole_names and _is_shortened(word) else _named(word, job)
        if gpu is None:
            raise _unknown(word, job, whole_names=whole_names)
        chosen.append(gpu)
    return _joined(chosen)


def _joined(gpus: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """Return every GPU once, with all the parts of it that are among `gpus`."""
    found: dict[str, Gpu] = {}
    for gpu in gpus:
        before = found.get(gpu.pci, gpu)
        parts = tuple(dict.fromkeys(before.mig + gpu.mig))
        found[gpu.pci] = replace(gpu, mig=parts)
    return tuple(found.values())


def _named(word: str, gpus: tuple[Gpu, ...]) -> Gpu | None:
    """Return the only one of `gpus` that `word` names, with only the part that it names."""
    if word.upper().startswith("MIG-"):
        return _part_of_uuid(word.lower(), gpus)
    whole, colon, part = word.partition(":")
    if _is_number(whole) and (not colon or _is_number(part)):
        found = gpus[int(whole)] if int(whole) < len(gpus) else None
        return _part_of_number(found, int(part)) if found and colon else found
    if word.upper().startswith("GPU-"):
        named = [gpu for gpu in gpus if gpu.uuid.lower().startswith(word.lower())]
    else:
        address = pci_key(word)
        named = [gpu for gpu in gpus if address and pci_key(gpu.pci) == address]
    return named[0] if len(named) == 1 else None


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 8


def _part_of_number(gpu: Gpu, number: int) -> Gpu | None:
    return replace(gpu, mig=(gpu.mig[number],)) if number < len(gpu.mig) else None


def _part_of_uuid(word: str, gpus: tuple[Gpu, ...]) -> Gpu | None:
    """Return the part `MIG-<uuid>`, or `MIG-GPU-<uuid of the GPU>/<gi>/<ci>` of older drivers."""
    parts = [(gpu, part) for gpu in gpus for part in gpu.mig]
    found = [pair for pair in parts if pair[1].uuid.lower().startswith(word)]
    if "/" in word:
        found = [pair for pair in parts if _old_name(*pair).lower() == word]
    return replace(found[0][0], mig=(found[0][1],)) if len(found) == 1 else None


def _old_name(gpu: Gpu, part: MigDevice) -> str:
    return f"MIG-{gpu.uuid}/{part.gi}/{part.ci}"


def _is_part_uuid(word: str) -> bool:
    return word.upper().startswith("MIG-") and "/" not in word


def _is_shortened(word: str) -> bool:
    return word.upper().startswith(("GPU-", "MIG-")) and len(word) < _UUID_LENGTH


def _knows_parts(gpus: tuple[Gpu, ...]) -> bool:
    return all(part.uuid for gpu in gpus for part in gpu.mig)


def _unknown(word: str, job: tuple[Gpu, ...], *, whole_names: bool) -> GpuError:
    known = ", ".join(f"{number} ({gpu.uuid or gpu.pci})" for number, gpu in enumerate(job))
    parts = [
        f"{number}:{place} ({part.uuid or _old_name(gpu, part)})"
        for number, gpu in enumerate(job)
        for place, part in enumerate(gpu.mig)
    ]
    hint = f"it has {', '.join([known, *parts])}"
    if _is_part_uuid(word) and not _knows_parts(job):
        return GpuError(
            f"gpu: {word}: NVML, which knows the UUIDs of parts of GPUs, cannot be asked", hint=hint
        )
    shortened = whole_names and _is_shortened(word)
    whole = "; NVIDIA_VISIBLE_DEVICES takes whole UUIDs only" if shortened else ""
    return GpuError(f"gpu: {word!r} is not one GPU of this job{whole}", hint=hint)


def visible_devices(
    gpus: tuple[Gpu, ...], request: str, environment: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return the `CUDA_VISIBLE_DEVICES` that the program must see, as pairs of an environment.

    The job's own, unchanged, unless `request` narrows it, or it says which GPUs in another
    variable only: then the UUIDs of `gpus` or of their parts.
    """
    if request in UNSELECTIVE:
        visible = environment.get(CUDA_VARIABLE)
        if visible is not None:
            return ((CUDA_VARIABLE, visible),)
        # which parts of GPUs are the job's, the other variables do not tell
        if any(gpu.mig for gpu in gpus) or not narrowing_variable(environment):
            return ()
    uuids = [part.uuid for gpu in gpus for part in gpu.mig or (gpu,)]
    # without UUIDs: the container has only the nodes of `gpus`, so that all are meant
    words = uuids if all(uuids) else [str(number) for number in range(len(gpus))]
    return ((CUDA_VARIABLE, ",".join(words)),)
