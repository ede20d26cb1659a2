"""What a container needs to use the host's AMD GPUs: device nodes, and which GPUs are meant.

Nothing of ROCm is taken from the host. Its libraries belong to the image's C library and to the
program that was built with them; those of another release end in `GLIBC_2.38 not found`.
Source: apptainer issues 1621 and 2606; "GPU isolation techniques" in the documentation of ROCm.
"""

from __future__ import annotations

import os

from udocker.containers.spec import ContainerEdits, DeviceNode
from udocker.errors import GpuError
from udocker.host import ldcache
from udocker.nvidia.amd import amdgpus
from udocker.nvidia.devices.gpus import pci_key
from udocker.nvidia.devices.nodes import drawing_nodes
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.nvidia.amd.amdgpus import AmdGpu, Closed

RUNTIME_VARIABLE = "ROCR_VISIBLE_DEVICES"
"""Numbers and UUIDs of the GPUs that every program with ROCm sees."""
HIP_VARIABLES = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""Numbers among the GPUs that the first one leaves; HIP reads the first of these that is set."""
OPENCL_VARIABLE = "GPU_DEVICE_ORDINAL"
RUNTIME = "libhsa-runtime64.so.1"
"""The library through which all of ROCm, HIP too, finds GPUs."""
UNSELECTIVE = ("auto", "try", "all")
_DRAWING = "/dev/dri"


@dataclass(frozen=True)
class RocmPlan:
    """What to add to a container, and what the user may want to know about it."""

    edits: ContainerEdits = ContainerEdits()
    notes: tuple[str, ...] = ()
    gpus: tuple[AmdGpu, ...] = ()


def rocm_edits(host: Host, selection: str, image: Root, environment: Mapping[str, str]) -> RocmPlan:
    """Return what makes the AMD GPUs that `selection` means usable in a container from `image`.

    `selection` is `all`, `none`, `auto` (if the image has ROCm and there are GPUs), `try` (if
    there are some), or names: numbers within the job, UUIDs or their beginnings, PCI addresses.
    Raises GpuError, unless it is `auto` or `try`: then a note says why not.
    """
    if selection == "none":
        return RocmPlan()
    has_runtime = _has_runtime(image, host.machine)
    if selection == "auto" and not has_runtime:
        return RocmPlan(notes=("rocm: the image has no ROCm; --rocm=all gives GPUs anyway",))
    try:
        gpus, env = choose(host, selection, environment)
    except GpuError as error:
        if selection not in ("auto", "try"):
            raise
        return RocmPlan(notes=(f"{error.message}; continuing without GPU",))
    nodes = _nodes(host, gpus, dict(env).get(RUNTIME_VARIABLE, ""))
    notes = () if has_runtime else (_no_runtime(),)
    return RocmPlan(ContainerEdits(env=env, device_nodes=nodes), notes, gpus)


def _nodes(host: Host, gpus: tuple[AmdGpu, ...], shown: str) -> tuple[DeviceNode, ...]:
    """Return the nodes of `gpus`; all that draw, as every container sees them, where numbers
    among all GPUs of the job say which are `shown`, or nothing does."""
    compute = DeviceNode(host.path(amdgpus.COMPUTE_NODE), amdgpus.COMPUTE_NODE)
    if not shown.startswith("GPU-"):
        return compute, DeviceNode(host.path(_DRAWING), _DRAWING)
    render = [DeviceNode(host.path(gpu.node), gpu.node) for gpu in gpus]
    more = [node for gpu in gpus for node in drawing_nodes(host, gpu.pci)]
    return tuple(dict.fromkeys([compute, *render, *more]))


def of_job(gpus: tuple[AmdGpu, ...], environment: Mapping[str, str]) -> tuple[AmdGpu, ...]:
    """Return the GPUs that a program of this job sees, in the order in which it counts them.

    What ROCm's runtime shows is what HIP chooses from. A batch system that writes the same list
    into the variables of both means it once. OpenCL's variable counts where no other is set.
    """
    shown = tuple(gpu for gpu in gpus if not gpu.closed)
    first = environment.get(RUNTIME_VARIABLE)
    second = next(filter(None, map(environment.get, HIP_VARIABLES)), None)
    if first is not None:
        shown = _listed(first, shown)
    if second is not None and second != first:
        shown = _listed(second, shown)
    if first is None and second is None and OPENCL_VARIABLE in environment:
        shown = _listed(environment[OPENCL_VARIABLE], shown)
    return shown


def _listed(text: str, gpus: tuple[AmdGpu, ...]) -> tuple[AmdGpu, ...]:
    """Return the GPUs that a list names, up to the first word that is none of them."""
    chosen: list[AmdGpu] = []
    for word in text.split(","):
        gpu = _named(word.strip(), gpus)
        if gpu is None or gpu in chosen:
            break
        chosen.append(gpu)
    return tuple(chosen)


def _named(word: str, gpus: tuple[AmdGpu, ...]) -> AmdGpu | None:
    """Return the only one of `gpus` that `word` names."""
    if word.isascii() and word.isdigit():
        number = int(word) if len(word) < 8 else len(gpus)
        return gpus[number] if number < len(gpus) else None
    if word.upper().startswith("GPU-"):
        found = [gpu for gpu in gpus if gpu.uuid.lower().startswith(word.lower())]
    else:
        address = pci_key(word)
        found = [gpu for gpu in gpus if address and pci_key(gpu.pci) == address]
    return found[0] if len(found) == 1 else None


def choose(
    host: Host, selection: str, environment: Mapping[str, str]
) -> tuple[tuple[AmdGpu, ...], tuple[tuple[str, str], ...]]:
    """Return the GPUs that are meant, and the environment by which programs see just them.

    Raises GpuError when the job has none, or none of that name.
    """
    _check_driver(host, environment)
    known = amdgpus.find_gpus(host)
    job = of_job(known, environment)
    if not job:
        raise _no_gpu(host, known, environment)
    if selection in UNSELECTIVE:
        return job, ()
    chosen: list[AmdGpu] = []
    for word in selection.split(","):
        gpu = _named(word.strip(), job)
        if gpu is None:
            names = ", ".join(f"{number} ({gpu.uuid or gpu.pci})" for number, gpu in enumerate(job))
            raise GpuError(
                f"rocm: {word.strip()!r} is not one GPU of this job", hint=f"it has {names}"
            )
        if gpu not in chosen:
            chosen.append(gpu)
    return tuple(chosen), _narrowed(tuple(chosen), known, environment)


def _narrowed(
    chosen: tuple[AmdGpu, ...], known: tuple[AmdGpu, ...], environment: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return the variables that show `chosen` alone; those of the job that count anew."""
    shown = [gpu for gpu in known if not gpu.closed]
    uuids = [gpu.uuid for gpu in shown]
    # the parts of a GPU share its UUID, and some GPUs have none
    distinct = all(uuids) and len(set(uuids)) == len(uuids)
    words = [gpu.uuid if distinct else str(shown.index(gpu)) for gpu in chosen]
    again = ",".join(map(str, range(len(chosen))))
    others = (*HIP_VARIABLES, OPENCL_VARIABLE)
    counted = [(name, again) for name in others if name in environment]
    return ((RUNTIME_VARIABLE, ",".join(words)), *counted)


def _check_driver(host: Host, environment: Mapping[str, str]) -> None:
    """Raise GpuError when no AMD GPU of this node can be reached by anybody, or by this user."""
    if not host.exists(amdgpus.MODULE):
        raise GpuError(
            f"rocm: no AMD GPU driver on this node ({os.uname().nodename}):"
            " kernel module amdgpu not loaded",
            hint=_way_out(environment),
        )
    closed = amdgpus.why_closed(host, amdgpus.COMPUTE_NODE)
    if closed and closed.missing:
        raise GpuError(
            f"rocm: {closed.text}: amdgpu is loaded, but not for computing",
            hint="tell the administrators of this node (rocminfo on the host fails the same way)",
        )
    if closed:
        raise _not_permitted(closed, environment)


def _no_gpu(host: Host, known: tuple[AmdGpu, ...], environment: Mapping[str, str]) -> GpuError:
    closed = [gpu.closed for gpu in known if gpu.closed]
    if closed and len(closed) == len(known) and closed[0].group:
        return _not_permitted(closed[0], environment)
    causes = [
        f"{name} is {environment[name].strip() or 'empty'}"
        for name in (RUNTIME_VARIABLE, *HIP_VARIABLES, OPENCL_VARIABLE)
        if name in environment
    ]
    causes += [reason.text for reason in closed]
    hidden = amdgpus.hidden_gpus(host)
    if hidden:
        causes.append(f"{hidden} not permitted")
    if not known and not hidden:
        causes.append("the driver knows none that computes")
    job = environment.get("SLURM_JOB_ID")
    who = f"job {job}" if job else "this session"
    return GpuError(f"rocm: {who} has no GPU ({'; '.join(causes)})", hint=_way_out(environment))


def _not_permitted(closed: Closed, environment: Mapping[str, str]) -> GpuError:
    if not closed.group:
        return GpuError(f"rocm: {closed.text}", hint=_way_out(environment))
    return GpuError(
        f"rocm: {closed.text}, which you are not in",
        hint="the administrators of this node can add you:"
        f" usermod -aG {closed.group} USER; it counts from your next login on",
    )


def _way_out(environment: Mapping[str, str]) -> str:
    if "SLURM_JOB_ID" in environment:
        return "ask Slurm for one: --gres=gpu:1"
    return "You are on a login node? Try: srun --gres=gpu:1 udocker run …"


def _has_runtime(image: Root, machine: str) -> bool:
    """Tell whether the image has ROCm where it is installed to, or where the loader looks."""
    places = [f"/opt/{name}/lib" for name in image.listdir("/opt") if name.startswith("rocm")]
    places += ldcache.default_directories(machine)
    return any(image.exists(f"{place}/{RUNTIME}") for place in places)


def _no_runtime() -> str:
    return (
        f"rocm: the image has no {RUNTIME} in /opt/rocm or its library directories: programs"
        " that bring none of their own (as PyTorch's wheels do) find no GPU; use an image with"
        " ROCm, for the host's libraries fit only the host"
    )
