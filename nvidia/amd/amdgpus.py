"""The AMD GPUs of this node, as the kernel's compute driver tells of them.

They are in the order of its nodes, in which ROCm counts them. Source: kfd_topology.c of Linux,
which lets nobody read what the device cgroup keeps from him; topology.c of ROCm's thunk, which
leaves out GPUs whose render node is missing or kept back.
"""

from __future__ import annotations

import os

from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host

MODULE = "/sys/module/amdgpu"
COMPUTE_NODE = "/dev/kfd"
_TOPOLOGY = "/sys/class/kfd/kfd/topology/nodes"
_VENDOR = "4098"
"""AMD's number among PCI vendors, 0x1002."""


@dataclass(frozen=True)
class Closed:
    """Why a node may not be opened."""

    text: str
    missing: bool = False
    group: str = ""
    """The group whose members may open it."""


@dataclass(frozen=True)
class AmdGpu:
    """A GPU, or a part of one, that the compute driver holds."""

    render_minor: int
    """Its node is `/dev/dri/renderD<render_minor>`."""
    pci: str
    """Domain, bus, device and function, `0000:c1:00.0`."""
    uuid: str
    """`GPU-` and 16 hex digits as ROCm writes it; empty for GPUs that have none."""
    target: str
    """What compilers call it, `gfx90a`."""
    closed: Closed | None
    """Why this user, in this job, may not open its node; None: he may."""

    @property
    def node(self) -> str:
        """The absolute path of its render node."""
        return f"/dev/dri/renderD{self.render_minor}"


def find_gpus(host: Host) -> tuple[AmdGpu, ...]:
    """Return the GPUs of `host` that this job's cgroup does not hide, in the order of ROCm."""
    try:
        names = os.listdir(host.path(_TOPOLOGY))
    except OSError:
        return ()
    numbers = sorted(int(name) for name in names if name.isascii() and name.isdigit())
    return tuple(filter(None, (_read_gpu(host, number) for number in numbers[:1024])))


def hidden_gpus(host: Host) -> int:
    """Return how many of the compute driver's nodes this job's cgroup keeps from being read."""
    try:
        names = os.listdir(host.path(_TOPOLOGY))
    except OSError:
        return 0
    return sum(not host.text(f"{_TOPOLOGY}/{name}/properties") for name in names)


def driver_version(host: Host) -> str:
    """Return the version of the kernel module; empty for the one that Linux itself has."""
    return host.text(f"{MODULE}/version", 64).strip()


def why_closed(host: Host, node: str) -> Closed | None:
    """Return why a node may not be opened; None when it may.

    access(2) asks the device cgroup as open(2) does, without waking the GPU.
    """
    path = host.path(node)
    if os.access(path, os.R_OK | os.W_OK):
        return None
    try:
        status = os.stat(path)
    except OSError:
        return Closed(f"{node} is missing", missing=True)
    if _mode_allows(status):  # so it is the device cgroup
        return Closed(f"{node} not permitted")
    group = _group_name(status.st_gid)
    return Closed(f"{node} is for the group {group}", group=group)


def _read_gpu(host: Host, number: int) -> AmdGpu | None:
    facts = dict(
        line.split()[:2]
        for line in host.text(f"{_TOPOLOGY}/{number}/properties").splitlines()
        if len(line.split()) == 2
    )
    values = {name: int(text) for name, text in facts.items() if text.isascii() and text.isdigit()}
    minor = values.get("drm_render_minor", 0)
    if facts.get("vendor_id") != _VENDOR or not 128 <= minor < 1 << 20:
        return None
    unique = values.get("unique_id", 0)
    return AmdGpu(
        render_minor=minor,
        pci=_pci(values.get("domain", 0), values.get("location_id", 0)),
        uuid=f"GPU-{unique:016x}" if unique else "",
        target=_target(values.get("gfx_target_version", 0)),
        closed=why_closed(host, f"/dev/dri/renderD{minor}"),
    )


def _pci(domain: int, location: int) -> str:
    """Return the address in which `location` packs bus, device and function."""
    bus, device, function = location >> 8 & 0xFF, location >> 3 & 0x1F, location & 7
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function}"


def _target(version: int) -> str:
    """Return `gfx90a` for 90010: two decimal digits for each part below the first."""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}" if version else ""


def _mode_allows(status: os.stat_result) -> bool:
    mode = status.st_mode
    if status.st_uid == os.geteuid():
        return mode & 0o600 == 0o600
    if status.st_gid in (os.getegid(), *os.getgroups()):
        return mode & 0o060 == 0o060
    return mode & 0o006 == 0o006


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
