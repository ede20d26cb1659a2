"""What the user asks of one run, typed: the words of `udocker run` after parsing."""

from __future__ import annotations

from udocker.containers.spec import Bind, DeviceNode, Tmpfs
from udocker.values import dataclass


@dataclass(frozen=True)
class RunRequest:
    """Every wish of a run; None and empty mean that nothing was said."""

    args: tuple[str, ...] = ()
    entrypoint: str | None = None
    env: tuple[tuple[str, str | None], ...] = ()
    working_dir: str | None = None
    user: str | None = None
    """`NAME|UID[:GROUP|GID]` as the program sees itself."""
    keep_id: bool | None = None
    """The program sees the caller's own uid and gid; None: in a rank of a parallel program."""
    all_host_env: bool = False
    terminal: bool = False
    hostname: str | None = None
    readonly: bool = False
    tmpfs: tuple[Tmpfs, ...] = ()
    network: str = "host"
    binds: tuple[Bind, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    gpu: str | None = None
    gpu_capabilities: str = ""
    pull: str = "missing"
    """`missing`, `always`, `newer` or `never`."""
    platform: str | None = None
    name: str | None = None
    remove: bool = False
    dry_run: bool = False
    engine: str = ""
    notes: tuple[str, ...] = ()
    """What of the words had no effect, for the user to know."""
