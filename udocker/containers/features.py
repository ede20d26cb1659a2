"""What a run may ask that not every engine can do: one table for errors, choice and README."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.request import RunRequest

OVERLAY = "overlay"
FAKE_ROOT = "fake root"
OTHER_USER = "other user"
PRIVATE_NETWORK = "private network"
PORTS = "published ports"
HOST_NAME = "host name"
PROCESS_NAMESPACE = "process namespace"
MANY_IDS = "many ids"
TMPFS = "tmpfs"
READ_ONLY_ROOT = "read-only root"
READ_ONLY_BINDS = "read-only binds"
NESTED_BINDS = "binds in binds"
DEVICES = "devices at other paths"
OWN_NAMES = "names of its own"
KEEP_ID = "id of the caller"
STATIC_PROGRAMS = "static programs"
MUSL = "musl"
KERNEL_RELEASE = "kernel release"
CHEAP_BINDS = "cheap binds"
"""Any number of files of the host may show: the kernel mounts them, and calls cost the same."""
FEW_MOUNTS = "few mounts"
"""A program of others mounts, and looks at all mounts for each: 40 cost runc 10 ms, bwrap 20."""
OWN_LINKS = "links in the container's files"
"""A symbolic link to what is injected may stand in the container's own files: one mount less."""
HOST_LINKS = "links to the host"
"""A symbolic link with a path of the host leads there also from within the container."""
HOST_LOADER = "the host's loader"
"""A program of the host that another one starts is loaded by the host's loader, which does not go
with the container's C library."""

OPTIONS = {
    OTHER_USER: "--user",
    PRIVATE_NETWORK: "--network none",
    PORTS: "--publish with --network none",
    HOST_NAME: "--hostname",
    PROCESS_NAMESPACE: "--pid private and --init",
    MANY_IDS: "--userns auto",
    TMPFS: "--tmpfs and --shm-size",
    READ_ONLY_ROOT: "--read-only",
    READ_ONLY_BINDS: "--volume SRC:DST:ro",
    NESTED_BINDS: "a --volume in another one",
    DEVICES: "--device SRC:DST",
    OWN_NAMES: "--add-host and --dns",
    KEEP_ID: "--userns keep-id",
    KERNEL_RELEASE: "--kernel",
}
"""The features that options demand, as these are written."""
PROPERTIES = {
    OVERLAY: "a layer to write to over the shared image, without a copy",
    FAKE_ROOT: "root, as far as the program can see (apt, dpkg, useradd work)",
    STATIC_PROGRAMS: "static programs (Go)",
    MUSL: "images with musl (Alpine)",
}
"""The features that no option asks for, in words."""


def demanded(request: RunRequest) -> tuple[str, ...]:
    """Return the features without which `request` cannot be honoured."""
    wanted = {
        OTHER_USER: request.user is not None,
        PRIVATE_NETWORK: request.network == "none",
        PORTS: bool(request.ports or request.publish_all) and request.network == "none",
        HOST_NAME: request.hostname is not None,
        PROCESS_NAMESPACE: request.pid == "private" or request.init,
        MANY_IDS: request.many_ids,
        TMPFS: bool(request.tmpfs or request.shm_size),
        READ_ONLY_ROOT: request.readonly,
        READ_ONLY_BINDS: any(bind.readonly for bind in request.binds)
        or any(volume.readonly for volume in request.volumes),
        NESTED_BINDS: _is_nested([bind.destination for bind in request.binds]),
        DEVICES: any(node.source != node.destination for node in request.devices),
        OWN_NAMES: bool(request.extra_hosts or request.dns or request.dns_search),
        KEEP_ID: request.keep_id is True,
        KERNEL_RELEASE: request.kernel is not None,
    }
    return tuple(feature for feature, is_wanted in wanted.items() if is_wanted)


def _is_nested(paths: list[str]) -> bool:
    """Tell whether one of the paths lies in another one."""
    return any(path.startswith(f"{other}/") for path in paths for other in paths)
