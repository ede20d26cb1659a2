"""The GPUs of this node and of this job, and the device nodes that they need.

A number is always a place in the order of PCI addresses, which is NVML's order too; it is never
taken for the number in `/dev/nvidiaN`, which follows the order in which the driver met the GPUs.
"""

from __future__ import annotations

import os

from udocker.containers.spec import DeviceNode
from udocker.errors import GpuError
from udocker.nvidia import libraries
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.host.probe import Host

_GPUS = "/proc/driver/nvidia/gpus"
_NO_DEVICES = ("", "-1", "NoDevFiles", "none", "void")
"""Values of `CUDA_VISIBLE_DEVICES` by which batch systems say: none."""
UNSELECTIVE = ("auto", "try", "all")
"""Selections that take every GPU of the job."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that the driver holds."""

    pci: str
    """Domain, bus, device and function, `0000:1b:00.0`."""
    minor: int
    """Its node is `/dev/nvidia<minor>`."""
    uuid: str
    """`GPU-...`; empty while the driver has not asked the GPU yet."""
    model: str
    accessible: bool
    """Whether this user, in this job's cgroup, may open the node."""

    @property
    def node(self) -> str:
        """The absolute path of its device node."""
        return f"/dev/nvidia{self.minor}"


def find_gpus(host: Host) -> tuple[Gpu, ...]:
    """Return the GPUs of `host` in the order of their PCI addresses."""
    try:
        names = os.listdir(host.path(_GPUS))
    except OSError:
        return ()
    found = (_read_gpu(host, name) for name in names)
    return tuple(sorted(filter(None, found), key=lambda gpu: _pci_key(gpu.pci) or ()))


def _read_gpu(host: Host, name: str) -> Gpu | None:
    facts = {}
    for line in host.text(f"{_GPUS}/{name}/information").splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    minor = facts.get("Device Minor", "")
    if not minor.isdigit() or facts.get("GPU Excluded") == "Yes" or not _pci_key(name):
        return None
    uuid = facts.get("GPU UUID", "")
    return Gpu(
        pci=name.lower(),
        minor=int(minor),
        uuid="" if "?" in uuid else uuid,
        model=facts.get("Model", ""),
        accessible=_may_open(host.path(f"/dev/nvidia{minor}")),
    )


def _may_open(path: str) -> bool:
    """Tell whether a device could be opened.

    access(2) asks the device cgroup as open(2) does (`inode_permission` in fs/namei.c), but does
    not wake a sleeping GPU, which takes seconds where no persistence daemon runs.
    """
    return os.access(path, os.R_OK | os.W_OK)


def _pci_key(text: str) -> tuple[int, ...] | None:
    """Return the numbers of a PCI address with or without its domain; None for anything else."""
    parts = text.replace(".", ":").split(":")
    try:
        numbers = tuple(int(part, 16) for part in parts)
    except ValueError:
        return None
    if len(numbers) == 3:
        numbers = (0, *numbers)
    return numbers if len(numbers) == 4 else None


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
        address = _pci_key(word)
        found = [gpu for gpu in gpus if address and _pci_key(gpu.pci) == address]
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
        causes.append(f"the driver lists none in {_GPUS}")
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


def nodes(
    host: Host, gpus: tuple[Gpu, ...], capabilities: tuple[str, ...]
) -> tuple[tuple[DeviceNode, ...], tuple[str, ...]]:
    """Return the device nodes of `gpus` and their control nodes, and notes on what was done.

    The kernel module's nodes for CUDA come into being when somebody asks for them; where they
    are missing on the real host, its `nvidia-modprobe` is asked. Raises GpuError when it fails.
    """
    wanted = ["/dev/nvidiactl"]
    notes: tuple[str, ...] = ()
    if libraries.COMPUTE in capabilities:
        wanted.append("/dev/nvidia-uvm")
    missing = [path for path in wanted if not host.exists(path)]
    if missing:
        notes = _make_nodes(host, missing)
    optional = ["/dev/nvidia-uvm-tools"] if libraries.COMPUTE in capabilities else []
    if libraries.GRAPHICS in capabilities or libraries.DISPLAY in capabilities:
        optional.append("/dev/nvidia-modeset")
    wanted += [path for path in optional if host.exists(path)]
    wanted += [gpu.node for gpu in gpus]
    return tuple(DeviceNode(host.path(path), path) for path in wanted), notes


def _make_nodes(host: Host, missing: list[str]) -> tuple[str, ...]:
    """Have the host make its nodes: its setuid program may, this one may not."""
    program = "/usr/bin/nvidia-modprobe"
    names = ", ".join(missing)
    if host.root or not os.access(program, os.X_OK):
        raise GpuError(
            f"gpu: {names} missing, and no {program} to make it",
            hint="ask the administrators of this node to run `nvidia-modprobe -u -c0`",
        )
    import subprocess

    command = [program, "-u", "-c0"]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=30, check=False)
        said = answer.stderr.decode(errors="replace").strip()[:200]
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if not all(host.exists(path) for path in missing):
        raise GpuError(
            f"gpu: {names} missing, and nvidia-modprobe -u -c0 did not make it: {said or 'silent'}",
            hint="tell the administrators of this node",
        )
    return (f"gpu: {names} missing; ran nvidia-modprobe -u -c0 on the host: ok",)
