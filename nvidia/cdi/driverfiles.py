"""The driver's files as the node's own specification of its GPUs lists them.

Whoever administers the node had it made, so it names what the discovery by names may miss. It
counts only while it is that of the loaded driver: an update leaves it behind.
"""

from __future__ import annotations

import os

from udocker.nvidia.cdi import reading, registry
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host
    from udocker.nvidia.cdi.spec import Edits, Mount, Spec

KIND = "nvidia.com/gpu"
_LIBCUDA = "libcuda.so."


@dataclass(frozen=True)
class DriverFiles:
    """Host paths of the driver's files, links in them not resolved."""

    source: str
    """The specification."""
    libraries: tuple[str, ...]
    binaries: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()


def find(host: Host, version: str, cache_directory: str | None = None) -> DriverFiles | None:
    """Return the files of the driver `version`; None where no specification of it holds."""
    for path in reversed(_paths(host)):
        found = reading.load(path, cache_directory).spec
        if found is None or found.kind != KIND:
            continue
        if missing(host, found.edits) is None and version_of(found) == version:
            return _sorted(host, found)
    return None


def loaded_version(host: Host) -> str:
    """Return the version of the kernel module; empty when none tells."""
    return host.text("/sys/module/nvidia/version").strip()


def missing(host: Host, edits: Edits) -> str | None:
    """Return the first host path of nodes and mounts that is not on the host."""
    paths = [mount.host_path for mount in edits.mounts if mount.type != "tmpfs"]
    paths += [node.host_path for node in edits.nodes]
    return next((path for path in paths if not os.path.exists(host.path(path))), None)


def version_of(spec: Spec) -> str:
    """Return the version of the driver that the specification was made for; empty: unknown."""
    names = (os.path.basename(mount.host_path) for mount in _mounts(spec))
    versions = (name[len(_LIBCUDA) :] for name in names if name.startswith(_LIBCUDA))
    return next((version for version in versions if "." in version), "")


def _mounts(spec: Spec) -> tuple[Mount, ...]:
    of_devices = (mount for device in spec.devices for mount in device.edits.mounts)
    return tuple(dict.fromkeys((*spec.edits.mounts, *of_devices)))


def _paths(host: Host) -> list[str]:
    directories = [host.path(directory) for directory in registry.SYSTEM_DIRECTORIES]
    return [path for directory in directories for path in registry.files(directory)]


def _sorted(host: Host, spec: Spec) -> DriverFiles:
    libraries, binaries, files, sockets = [], [], [], []
    for mount in _mounts(spec):
        path = host.path(mount.host_path)
        name = os.path.basename(path)
        if not os.path.isfile(path):
            sockets.append(path)
        elif ".so" in name:
            libraries.append(path)
        elif os.path.basename(os.path.dirname(path)) in ("bin", "sbin"):
            binaries.append(path)
        else:
            files.append(path)
    kinds = (tuple(libraries), tuple(binaries), tuple(files), tuple(sockets))
    return DriverFiles(spec.path, *kinds)
