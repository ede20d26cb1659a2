"""The device nodes that GPUs need in a container, made on the host first where it lacks them."""

from __future__ import annotations

import os

from udocker.containers.spec import DeviceNode
from udocker.errors import GpuError
from udocker.nvidia import libraries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host
    from udocker.nvidia.gpus import Gpu


def find_nodes(
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
