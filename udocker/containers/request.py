"""What the user asks of one run, typed: the words of `udocker run` after parsing."""

from __future__ import annotations

from udocker.containers.spec import Bind, DeviceNode, Limit, Port, Tmpfs
from udocker.values import dataclass


@dataclass(frozen=True)
class NamedVolume:
    """A directory that udocker keeps for the user's containers, which shows at a path of one."""

    name: str
    destination: str
    """Absolute path in the container."""
    readonly: bool = False
    copy: bool = True
    """When it is made it gets what the image has at the path."""


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
    unset_env: tuple[str, ...] = ()
    """Variables that neither the image nor the job gives."""
    unset_all_env: bool = False
    """Only `env` counts, and PATH, without which no program is found."""
    proxy_env: bool = True
    """The variables that name proxies pass."""
    umask: int | None = None
    time_zone: str | None = None
    """As a path below zoneinfo; `local`: the host's."""
    terminal: bool = False
    hostname: str | None = None
    readonly: bool = False
    tmpfs: tuple[Tmpfs, ...] = ()
    network: str = "host"
    binds: tuple[Bind, ...] = ()
    volumes: tuple[NamedVolume, ...] = ()
    left_out: tuple[str, ...] = ()
    """Paths of the container at which nothing shall show (`--novol`)."""
    devices: tuple[DeviceNode, ...] = ()
    cdi_devices: tuple[str, ...] = ()
    """Qualified names, `vendor.com/class=name`; those of NVIDIA's GPUs are in `gpu` too."""
    cdi_directories: tuple[str, ...] = ()
    """Host paths of more directories with specifications of devices."""
    cdi_ignore_hooks: bool = False
    """Hooks of specifications that are not known are left out."""
    gpu: str | None = None
    """Which GPUs, as `--gpu` takes them; None: the settings decide."""
    gpu_capabilities: str = ""
    rocm: str | None = None
    """Which of AMD's GPUs, in the words of `gpu`."""
    gpu_strict: bool = False
    """What the image requires of GPUs and driver must be met (`--gpu-strict`)."""
    cuda_compat: str = "auto"
    """The image's newer CUDA driver library: `auto`, `off` or `force`."""
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
    exposed: tuple[Port, ...] = ()
    """Ports of the container beside those that the image exposes."""
    publish_all: bool = False
    limits: tuple[Limit, ...] = ()
    cpus: tuple[int, ...] = ()
    shm_size: int = 0
    """Bytes of a /dev/shm of its own; 0: the host's."""
    extra_hosts: tuple[tuple[str, str], ...] = ()
    """Names and addresses for /etc/hosts."""
    hosts_file: bool = True
    """/etc/hosts is the host's, or one made for the container; else the image's."""
    domainname: str | None = None
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    cidfile: str | None = None
    pidfile: str | None = None
    stop_signal: str | None = None
    stop_timeout_s: int | None = None
    timeout_s: float | None = None
    """The program is killed when it runs longer (`--timeout`)."""
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
    add_account: bool = True
    """passwd and group get the user where the image does not know it."""
    account_line: str | None = None
    """The line that passwd gets then, with `$UID` and the like; None: the usual one."""
    direct_rendering: bool = False
    """The host's libraries of direct rendering show (`--dri`)."""
    ignore_config: bool = False
    """What the image says of program, environment and user does not count (`--nometa`)."""
    force: bool = False
    """Programs that the engine cannot contain are run nevertheless."""
    location: str | None = None
    """A directory of the host that is the root file system (`--location`, `--rootfs`)."""
    kernel: str | None = None
    """The release that uname(2) shall say (`--kernel`)."""
    joins_as_user: bool = False
    """A program that joins a running container is `user`, not whom the container has."""
    volumes_from: tuple[str, ...] = ()
    """Containers whose volumes the program has too."""
    notes: tuple[str, ...] = ()
    """What of the words had no effect, for the user to know."""
