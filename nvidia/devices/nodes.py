"""The device nodes that GPUs need in a container, made on the host first where it lacks them.

Source: nvidia-container-toolkit 1.20, pkg/nvcdi (driver-nvml.go, gds.go) and
internal/modifier/cdi.go for the gates; libnvidia-container 1.18, nvc_info.c;
nvidia-modprobe 580, its manual page.
"""

from __future__ import annotations

import os
import stat

from udocker.containers.spec import ContainerEdits, DeviceNode
from udocker.errors import GpuError
from udocker.nvidia import wishes
from udocker.nvidia.devices import mig
from udocker.nvidia.driver import libraries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.probe import Host
    from udocker.nvidia.devices.gpus import Gpu
    from udocker.nvidia.wishes import Wish

_CONTROL, _UVM = "/dev/nvidiactl", "/dev/nvidia-uvm"
_MODPROBE = "/usr/bin/nvidia-modprobe"
_MAKE_NODES = "ask the administrators of this node to run `nvidia-modprobe -u -c0`"
_GATED = {
    "gds": ("/dev", "nvidia-fs"),
    "mofed": ("/dev/infiniband", "uverbs"),
    "gdrcopy": ("/dev", "gdrdrv"),
    "nvswitch": ("/dev", "nvidia-nvswitch"),
}
"""What a gate opens: the directory, and the beginning of the names in it."""
_BESIDE = {"mofed": ("/dev/infiniband/rdma_cm",), "nvswitch": ("/dev/nvidia-nvlink",)}
_DRAWING = "/dev/dri"
_CHANNEL = "/dev/nvidia-caps-imex-channels/channel"
_MIG_ROOMS = {wishes.MIG_CONFIG: "mig/config", wishes.MIG_MONITOR: "mig/monitor"}


def find_nodes(
    host: Host, gpus: tuple[Gpu, ...], wish: Wish
) -> tuple[ContainerEdits, tuple[str, ...]]:
    """Return the nodes of `gpus`, their control nodes and what else `wish` opens; and notes.

    The kernel module's nodes for CUDA come into being when somebody asks for them; where they
    are missing on the real host, its `nvidia-modprobe` is asked. Raises GpuError when it fails.
    """
    compute = libraries.COMPUTE in wish.capabilities
    draws = {libraries.GRAPHICS, libraries.DISPLAY}.intersection(wish.capabilities)
    wanted = [_CONTROL, *([_UVM] if compute else [])]
    missing = [path for path in wanted if not host.exists(path)]
    notes = _make_nodes(host, missing) if missing else ()
    wanted += _existing(host, ["/dev/nvidia-uvm-tools"] if compute else [])
    wanted += _existing(host, ["/dev/nvidia-modeset"] if draws else [])
    wanted += [gpu.node for gpu in gpus]
    wanted += dict.fromkeys(node for gpu in gpus for part in gpu.mig for node in part.nodes)
    opened, more_notes = _opened(host, wish)
    nodes = [DeviceNode(host.path(path), path) for path in (*wanted, *opened)]
    if draws:
        nodes += [node for gpu in gpus if not gpu.mig for node in drawing_nodes(host, gpu.pci)]
    edits = ContainerEdits(device_nodes=tuple(nodes), additional_gids=_groups(host, nodes))
    return edits, notes + more_notes


def make_missing(host: Host, gpus: tuple[Gpu, ...]) -> bool:
    """Have the host make nodes of GPUs and parts that it has none of at all; tell whether it did.

    So it is after the start of a node on which nobody has used a GPU, or a part. Where some are
    there, the missing ones are not this user's: a container of somebody's may show a part of a
    node.
    """
    words = []
    if gpus and not any(map(host.exists, (_CONTROL, *(gpu.node for gpu in gpus)))):
        words += [f"-c{gpu.minor}" for gpu in gpus]
    capabilities = {node: path for gpu in gpus for part in gpu.mig for node, path in part.paths}
    if capabilities and not any(map(host.exists, capabilities)):
        words += [word for path in capabilities.values() for word in ("-f", path)]
    if not words or host.root or not os.access(_MODPROBE, os.X_OK):
        return False
    _run(words)
    return True


def _existing(host: Host, paths: list[str]) -> list[str]:
    return [path for path in paths if host.exists(path)]


def _opened(host: Host, wish: Wish) -> tuple[list[str], tuple[str, ...]]:
    """Return the nodes that variables of the image open, and notes on those that are not there."""
    found: list[str] = []
    notes = []
    variables = {gate: name for name, gate in wishes.GATES.items()}
    for gate in wish.opened:
        if gate in _MIG_ROOMS:
            node = mig.capability_node(host, _MIG_ROOMS[gate])
            nodes = [node] if node and mig.may_read(host, node) else []
            reason = f"gpu: the image wants {gate}, which this user may not open"
        else:
            nodes = _numbered(host, *_GATED[gate])
            nodes += _existing(host, list(_BESIDE.get(gate, ()))) if nodes else []
            directory, prefix = _GATED[gate]
            reason = f"gpu: {variables[gate]}: there is no {directory}/{prefix}* on this node"
        found += nodes
        notes += [] if nodes else [reason]
    for channel in wish.channels:
        path = f"{_CHANNEL}{channel}"
        if host.exists(path):
            found.append(path)
        else:
            notes.append(f"gpu: NVIDIA_IMEX_CHANNELS: there is no {path} on this node")
    return found, tuple(notes)


def _numbered(host: Host, directory: str, prefix: str) -> list[str]:
    return [f"{directory}/{name}" for name in host.names(directory) if name.startswith(prefix)]


def drawing_nodes(host: Host, pci: str) -> Iterator[DeviceNode]:
    """Yield the nodes by which the GPU at a PCI address draws, each also under a name with it.

    The latter are links on the host; as nodes they need no link in the container.
    """
    for name in host.names(f"/sys/bus/pci/devices/{pci}/drm"):
        kind = "render" if name.startswith("renderD") else "card"
        if name.startswith(("renderD", "card")):
            paths = (f"{_DRAWING}/{name}", f"{_DRAWING}/by-path/pci-{pci}-{kind}")
            there = (path for path in paths if host.access(path))
            yield from (DeviceNode(host.path(path), path) for path in there)


def _groups(host: Host, nodes: list[DeviceNode]) -> tuple[int, ...]:
    """Return the groups without which some of the nodes cannot be opened."""
    found = set()
    for node in nodes:
        mode, group, *_ = host.access(node.source[len(host.root) :]) or (0, 0)
        if stat.S_ISCHR(mode) and mode & 0o066 == 0o060 and group:
            found.add(group)
    return tuple(sorted(found))


def _make_nodes(host: Host, missing: list[str]) -> tuple[str, ...]:
    """Have the host make its nodes: its setuid program may, this one may not."""
    names = ", ".join(missing)
    if host.root or not os.access(_MODPROBE, os.X_OK):
        raise GpuError(f"gpu: {names} missing, and no {_MODPROBE} to make it", hint=_MAKE_NODES)
    said = _run(["-u", "-c0"])
    if not all(host.exists(path) for path in missing):
        raise GpuError(
            f"gpu: {names} missing, and nvidia-modprobe -u -c0 did not make it:"
            f" {said or 'it is not set-uid root, perhaps'}",
            hint=_MAKE_NODES,
        )
    return (f"gpu: {names} missing; ran nvidia-modprobe -u -c0 on the host: ok",)


def _run(words: list[str]) -> str:
    """Run the host's nvidia-modprobe and return its complaint."""
    import subprocess

    try:
        answer = subprocess.run([_MODPROBE, *words], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return " ".join(answer.stderr.decode(errors="replace").split())[:200]
