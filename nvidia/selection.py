"""Which GPUs this job has, and which of them a request means.

A number is always a place in the order of PCI addresses, never the one in `/dev/nvidiaN`.
"""

from __future__ import annotations

from udocker.errors import GpuError
from udocker.nvidia import gpus as known_gpus
from udocker.nvidia.gpus import Gpu, pci_key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_DEVICES = ("", "-1", "NoDevFiles", "none", "void")
"""Values of `CUDA_VISIBLE_DEVICES` by which batch systems say: none."""
UNSELECTIVE = ("auto", "try", "all")
"""Selections that take every GPU of the job."""


def of_job(gpus: tuple[Gpu, ...], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that this job may use, in the job's own order.

    Those that it may open, narrowed by `CUDA_VISIBLE_DEVICES`, of which CUDA takes the words up
    to the first that it does not know. Raises GpuError when the job has parts of GPUs (MIG).
    """
    accessible = tuple(gpu for gpu in gpus if gpu.accessible)
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return accessible
    chosen: list[Gpu] = []
    for word in visible.split(","):
        gpu = _named(word.strip(), accessible)
        if gpu is None or gpu in chosen:
            break
        chosen.append(gpu)
    return tuple(chosen)


def select(gpus: tuple[Gpu, ...], request: str, environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that `request` means: `auto`, `try`, `all`, `none`, or a list of names.

    A name is a number within the job, a UUID or its beginning, or a PCI address. All of the job
    are all that it may open: the numbers in its `CUDA_VISIBLE_DEVICES` count them. Raises
    GpuError when the job has no GPU, or none of that name.
    """
    if request == "none":
        return ()
    job = of_job(gpus, environment)
    if not job:
        raise _no_gpu(gpus, environment)
    if request in UNSELECTIVE:
        return tuple(gpu for gpu in gpus if gpu.accessible)
    chosen: list[Gpu] = []
    for word in request.split(","):
        gpu = _named(word.strip(), job)
        if gpu is None:
            known = ", ".join(f"{number} ({gpu.uuid or gpu.pci})" for number, gpu in enumerate(job))
            raise GpuError(
                f"gpu: {word.strip()!r} is not one GPU of this job", hint=f"it has {known}"
            )
        if gpu not in chosen:
            chosen.append(gpu)
    return tuple(chosen)


def _named(word: str, gpus: tuple[Gpu, ...]) -> Gpu | None:
    """Return the only one of `gpus` that `word` names."""
    if word.upper().startswith("MIG-"):
        raise GpuError(
            f"gpu: {word}: MIG devices are not supported yet", hint="ask for a whole GPU"
        )
    if word.isascii() and word.isdigit():
        number = int(word) if len(word) < 8 else len(gpus)
        return gpus[number] if number < len(gpus) else None
    if word.upper().startswith("GPU-"):
        found = [gpu for gpu in gpus if gpu.uuid.lower().startswith(word.lower())]
    else:
        address = pci_key(word)
        found = [gpu for gpu in gpus if address and pci_key(gpu.pci) == address]
    return found[0] if len(found) == 1 else None


def _no_gpu(gpus: tuple[Gpu, ...], environment: Mapping[str, str]) -> GpuError:
    causes = []
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in _NO_DEVICES:
        causes.append(f"CUDA_VISIBLE_DEVICES is {visible.strip() or 'empty'}")
    elif visible is not None and any(gpu.accessible for gpu in gpus):
        causes.append(f"CUDA_VISIBLE_DEVICES is {visible!r}, which names none of them")
    closed = [gpu.node for gpu in gpus if not gpu.accessible]
    if closed:
        causes.append(f"{', '.join(closed)} not permitted")
    if not gpus:
        causes.append(f"the driver lists none in {known_gpus.DIRECTORY}")
    job = environment.get("SLURM_JOB_ID")
    who = f"job {job}" if job else "this session"
    way_out = "ask Slurm for one: --gres=gpu:1" if job else "Try: srun --gres=gpu:1 udocker run …"
    return GpuError(f"gpu: {who} has no GPU ({'; '.join(causes)})", hint=way_out)


def visible_devices(
    gpus: tuple[Gpu, ...], request: str, environment: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return the `CUDA_VISIBLE_DEVICES` that the program must see, as pairs of an environment.

    The job's own, unchanged, unless `request` narrows it: then the UUIDs of `gpus`.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if request in UNSELECTIVE:
        return () if visible is None else (("CUDA_VISIBLE_DEVICES", visible),)
    known = all(gpu.uuid for gpu in gpus)
    # without UUIDs: the container has only the nodes of `gpus`, so that all are meant
    words = [gpu.uuid for gpu in gpus] if known else [str(n) for n in range(len(gpus))]
    return (("CUDA_VISIBLE_DEVICES", ",".join(words)),)
