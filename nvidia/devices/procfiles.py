"""Files of the driver's that a container sees changed, and ways to the node's GPU services.

Source: libnvidia-container 1.18, nvc_mount.c (mount_procfs, mount_app_profile);
nvidia-container-toolkit 1.20, cmd/nvidia-cdi-hook (disable-device-node-modification,
update-application-profile); NVIDIA, Multi-Process Service, "Environment Variables".
"""

from __future__ import annotations

import os

from udocker.containers.spec import Bind, ContainerEdits
from udocker.errors import StoreError
from udocker.nvidia import cache
from udocker.nvidia.driver import libraries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from udocker.host.probe import Host
    from udocker.nvidia.devices.gpus import Gpu

PARAMETERS = "/proc/driver/nvidia/params"
PROFILE = "/etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf"
_MODIFIES, _MODIFIES_NOT = "ModifyDeviceFiles: 1", "ModifyDeviceFiles: 0"
_STORAGE = ("/etc/cufile.json", "/run/udev")
_MPS_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
_MPS_DIRECTORY = "/tmp/nvidia-mps"


def parameters(host: Host, directory: str) -> tuple[Bind, ...]:
    """Return the bind by which libraries of the driver leave device nodes alone.

    They would make and change them, which fails in a container, or succeeds where it runs as
    the real root. The changed copy is kept in `directory`; without one nothing is bound.
    """
    text = host.text(PARAMETERS)
    if _MODIFIES not in text:
        return ()
    return _kept(directory, "params", text.replace(_MODIFIES, _MODIFIES_NOT), PARAMETERS)


def profile(
    gpus: tuple[Gpu, ...], capabilities: tuple[str, ...], directory: str
) -> tuple[Bind, ...]:
    """Return the bind by which EGL and Vulkan see no GPU but `gpus`; none where nothing draws."""
    if not {libraries.GRAPHICS, libraries.DISPLAY}.intersection(capabilities):
        return ()
    return profile_of((gpu.minor for gpu in gpus), directory)


def profile_of(minors: Iterable[int], directory: str) -> tuple[Bind, ...]:
    """Return the bind by which EGL and Vulkan see no GPU but those of these minor numbers.

    The driver's mask has room for numbers below 64.
    """
    mask = sum(1 << minor for minor in set(minors) if minor < 64)
    settings = f'"settings":["EGLVisibleDGPUDevices",0x{mask:x}]'
    text = (
        f'{{"profiles":[{{"name":"_container_",{settings}}}],'
        '"rules":[{"pattern":[],"profile":"_container_"}]}\n'
    )
    return _kept(directory, "profile", text, PROFILE)


def services(
    host: Host, capabilities: tuple[str, ...], environment: Mapping[str, str]
) -> ContainerEdits:
    """Return the way to the daemon that shares GPUs between processes (MPS), if one is set up.

    The directory is bound, not its sockets: a daemon that starts anew makes new ones. Clients
    write to them, so it cannot be read-only.
    """
    named = environment.get(_MPS_VARIABLE, "")
    directory = named or _MPS_DIRECTORY
    usable = directory.startswith("/") and host.is_directory(directory)
    if libraries.COMPUTE not in capabilities or not usable:
        return ContainerEdits()
    return ContainerEdits(
        env=((_MPS_VARIABLE, directory),) if named else (),
        binds=(Bind(host.path(directory), directory),),
    )


def storage(host: Host, opened: tuple[str, ...]) -> tuple[Bind, ...]:
    """Return what GPUDirect Storage reads besides its nodes, where it is `opened` and there.

    Its library asks udev's files which disks lie behind which file system. Source:
    nvidia-container-toolkit 1.20, pkg/nvcdi/gds.go.
    """
    if "gds" not in opened or not host.exists("/dev/nvidia-fs0"):
        return ()
    there = (path for path in _STORAGE if host.access(path))
    return tuple(Bind(host.path(path), path, readonly=True) for path in there)


def _kept(directory: str, kind: str, text: str, destination: str) -> tuple[Bind, ...]:
    """Return the bind of a file with `text`, which is written unless it is there."""
    name = f"{kind}-{cache.digest(text)}"
    path = os.path.join(directory, name)
    try:
        if not cache.is_kept(path):
            cache.save(directory, name, text.encode())
    except StoreError:
        return ()  # programs run without it
    return (Bind(path, destination, readonly=True),)
