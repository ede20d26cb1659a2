"""MIG devices: parts of GPUs, each opened by two capability nodes beside its GPU's own.

What parts there are, and the minor numbers of their nodes, the kernel module tells in /proc; which
UUID a part has, NVML alone knows, and it is asked only when a UUID must be understood.
Source: NVIDIA, Multi-Instance GPU User Guide, "Device Nodes and Capabilities"; open GPU kernel
modules 580, nv-caps.c, nv-procfs.c.
"""

from __future__ import annotations

from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.probe import Host

CAPABILITIES = "/proc/driver/nvidia/capabilities"
_MINORS = "/proc/driver/nvidia-caps/mig-minors"
_NODE = "/dev/nvidia-caps/nvidia-cap"


@dataclass(frozen=True)
class MigDevice:
    """A compute instance in a GPU instance of a GPU."""

    gi: int
    ci: int
    paths: tuple[tuple[str, str], ...]
    """The node that opens the GPU instance, then that of the compute instance; each absolute,
    with the capability in /proc from which the host makes it."""
    accessible: bool
    """Whether this user, in this job's cgroup, may open both."""
    uuid: str = ""
    """`MIG-...`; empty until NVML has been asked."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The absolute paths of its two nodes."""
        return tuple(node for node, _ in self.paths)


def find_devices(host: Host, gpu_minor: int) -> tuple[MigDevice, ...]:
    """Return the parts of the GPU of `/dev/nvidia<gpu_minor>` by their numbers; none: it is whole.

    NVML counts them in an order of its own.
    """
    place = f"{CAPABILITIES}/gpu{gpu_minor}/mig"
    found = (
        _read(host, gpu_minor, gi, ci)
        for gi in _numbers(host, place, "gi")
        for ci in _numbers(host, f"{place}/gi{gi}", "ci")
    )
    return tuple(device for device in found if device)


def capability_node(host: Host, path: str) -> str:
    """Return the node of the capability `path` (`mig/config`); empty when there is none."""
    for line in host.text(f"{CAPABILITIES}/{path}", 4096).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "DeviceFileMinor" and value.strip().isdecimal():
            return f"{_NODE}{int(value)}"
    wanted = path.replace("/mig/", "/").replace("mig/", "")
    for line in host.text(_MINORS).splitlines():
        name, _, value = line.partition(" ")
        if name == wanted and value.isdecimal():
            return f"{_NODE}{int(value)}"
    return ""


def may_read(host: Host, node: str) -> bool:
    """Tell whether this user, in this job's cgroup, may read a capability's node.

    To use the capability no more is needed.
    """
    access = host.access(node)
    return bool(access) and bool(access[2])


def _read(host: Host, gpu: int, gi: int, ci: int) -> MigDevice | None:
    place = f"gpu{gpu}/mig/gi{gi}"
    names = (f"{place}/access", f"{place}/ci{ci}/access")
    paths = tuple((capability_node(host, name), f"{CAPABILITIES}/{name}") for name in names)
    if not all(node for node, _ in paths):
        return None
    accessible = all(may_read(host, node) for node, _ in paths)
    return MigDevice(gi, ci, paths, accessible)


def _numbers(host: Host, directory: str, prefix: str) -> Iterator[int]:
    """Return N of the entries `<prefix>N` of a directory, in order."""
    words = (name[len(prefix) :] for name in host.names(directory) if name.startswith(prefix))
    return iter(sorted(int(word) for word in words if word.isdecimal() and len(word) < 6))
