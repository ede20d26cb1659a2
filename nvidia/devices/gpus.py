"""The GPUs of this node, as the kernel module tells of them.

They are in the order of PCI addresses, which is NVML's order too; it is never taken for the order
of the numbers in `/dev/nvidiaN`, which is that in which the driver met the GPUs.
"""

from __future__ import annotations

import os

from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host
    from udocker.nvidia.devices.mig import MigDevice

DIRECTORY = "/proc/driver/nvidia/gpus"
MISSING = "missing"


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
    mig: tuple[MigDevice, ...] = ()
    """Its parts, of a GPU in MIG mode; programs use them and not the whole."""
    denial: str = ""
    """Why it is not accessible: `MISSING`, `not permitted`, ..."""
    group: str = ""
    """The group whose members alone may open it, where this user is none."""

    @property
    def node(self) -> str:
        """The absolute path of its device node."""
        return f"/dev/nvidia{self.minor}"


def find_gpus(host: Host) -> tuple[Gpu, ...]:
    """Return the GPUs of `host` in the order of their PCI addresses."""
    found = (_read_gpu(host, name) for name in host.names(DIRECTORY))
    return tuple(sorted(filter(None, found), key=lambda gpu: pci_key(gpu.pci) or ()))


def _read_gpu(host: Host, name: str) -> Gpu | None:
    facts = {}
    for line in host.text(f"{DIRECTORY}/{name}/information").splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    minor = facts.get("Device Minor", "")
    if (
        not (minor.isdecimal() and len(minor) < 8)
        or facts.get("GPU Excluded") == "Yes"
        or not pci_key(name)
    ):
        return None
    number, uuid = int(minor), facts.get("GPU UUID", "")
    denial, group = _denial(host.access(f"/dev/nvidia{number}"))
    return Gpu(
        pci=name.lower(),
        minor=number,
        uuid="" if "?" in uuid else uuid,
        model=facts.get("Model", ""),
        accessible=not denial,
        mig=_parts(host, number),
        denial=denial,
        group=group,
    )


def _parts(host: Host, number: int) -> tuple[MigDevice, ...]:
    if not host.exists(f"/proc/driver/nvidia/capabilities/gpu{number}/mig"):
        return ()
    from udocker.nvidia.devices import mig  # most GPUs are whole

    return mig.find_devices(host, number)


def _denial(access: list[int]) -> tuple[str, str]:
    """Return why a device of that `Host.access` cannot be opened, and the group that may; both
    empty when it can.

    To try it would wake a sleeping GPU, which takes seconds where no persistence daemon runs.
    """
    if not access:
        return MISSING, ""
    mode, gid, may_read, may_write = access
    if may_read and may_write:
        return "", ""
    if mode & 0o066 == 0o060 and gid not in (os.getegid(), *os.getgroups()):
        name = _group_name(gid)
        return f"for group {name} only, of which this user is not", name
    return "not permitted", ""


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def pci_key(text: str) -> tuple[int, ...] | None:
    """Return the numbers of a PCI address with or without its domain; None for anything else."""
    parts = text.replace(".", ":").split(":")
    try:
        numbers = tuple(int(part, 16) for part in parts)
    except ValueError:
        return None
    if len(numbers) == 3:
        numbers = (0, *numbers)
    return numbers if len(numbers) == 4 else None
