"""What the user asks of one run, typed: the words of `udocker run` after parsing."""

from __future__ import annotations

from udocker.containers.spec import Bind, DeviceNode, Limit, Port, Tmpfs
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
    detach: bool = False
    """The program runs in the background, its output goes to the container's log."""
    init: bool = False
    pid: str = "host"
    """`host` or `private`."""
    many_ids: bool = False
    """`--userns=auto`: the ids of /etc/subuid are mapped too."""
    ports: tuple[Port, ...] = ()
    limits: tuple[Limit, ...] = ()
    cpus: tuple[int, ...] = ()
    shm_size: int = 0
    """Bytes of a /dev/shm of its own; 0: the host's."""
    extra_hosts: tuple[tuple[str, str], ...] = ()
    """Names and addresses for /etc/hosts."""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    cidfile: str | None = None
    pidfile: str | None = None
    stop_signal: str | None = None
    stop_timeout_s: int | None = None
    signal_proxy: bool = True
    interactive: bool = False
    log_driver: str = "json-file"
    """`json-file` or `none`; for detached runs."""
    replace: bool = False
    """Remove the container that has the name already."""
    system_directories: bool = True
    """False: without the host's /dev, /proc, /sys and files of names (`--nosysdirs`)."""
    host_accounts: bool = False
    """The host's passwd and group show (`--hostauth`)."""
    location: str | None = None
    """A directory of the host that is the root file system (`--location`, `--rootfs`)."""
    kernel: str | None = None
    """The release that uname(2) shall say (`--kernel`)."""
    volumes_from: tuple[str, ...] = ()
    """Containers whose volumes the program has too."""
    notes: tuple[str, ...] = ()
    """What of the words had no effect, for the user to know."""
