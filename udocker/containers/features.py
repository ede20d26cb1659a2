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
STATIC_PROGRAMS = "static programs"
MUSL = "musl"
KERNEL_RELEASE = "kernel release"

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
    KERNEL_RELEASE: "--kernel",
}
"""The features that options demand. The others are properties that the table in README tells."""


def demanded(request: RunRequest) -> tuple[str, ...]:
    """Return the features without which `request` cannot be honoured."""
    wanted = {
        OTHER_USER: request.user is not None,
        PRIVATE_NETWORK: request.network == "none",
        PORTS: bool(request.ports) and request.network == "none",
        HOST_NAME: request.hostname is not None,
        PROCESS_NAMESPACE: request.pid == "private" or request.init,
        MANY_IDS: request.many_ids,
        TMPFS: bool(request.tmpfs or request.shm_size),
        READ_ONLY_ROOT: request.readonly,
        READ_ONLY_BINDS: any(bind.readonly for bind in request.binds),
        KERNEL_RELEASE: request.kernel is not None,
    }
    return tuple(feature for feature, is_wanted in wanted.items() if is_wanted)
