"""From a container and a request to the spec of a run: plain values in, plain values out."""

from __future__ import annotations

import os
import stat

from udocker.containers import hostfiles, volumes
from udocker.containers.accounts import Accounts
from udocker.containers.process import ProcessRequest, make_process
from udocker.containers.spec import Bind, ContainerEdits, DeviceNode, Port, RuntimeSpec, Tmpfs, User
from udocker.errors import StartError
from udocker.host import job
from udocker.host.root import Root
from udocker.oci import ImageConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import Rootfs, TextFile
    from udocker.host.probe import Host

FABRIC_NODES = ("infiniband", "knem", "xpmem", "gdrdrv", "kgni0", "kdreg", "ss0", "ipath", "hfi1")
FABRIC_PREFIXES = ("cxi", "hfi1_", "ipath")
OTHER_NODES = ("fuse", "kvm", "net", "dri", "kfd", "vfio", "accel")
"""Nodes that every container sees where the host has them; NVIDIA's come with `--gpu`."""


def make_spec(
    host: Host,
    container: Container,
    config: ImageConfig,
    request: RunRequest,
    rootfs: Rootfs,
    environment: Mapping[str, str],
) -> RuntimeSpec:
    """Return the run of `container` that `request` describes. Raises StartError."""
    if request.ignore_config:
        config = ImageConfig(config.platform, ())
    own_files = hostfiles.files_of(container)
    accounts = Accounts((Root(host.path("/")) if request.host_accounts else own_files).read)
    user = _user(accounts, config, request, environment)
    asked = _asked(container, request)
    unasked = _files_of_user(own_files, accounts, user, request)
    files = (
        *hostfiles.name_files(host, request),
        *(file for file in unasked if _has_place(file.destination, asked)),
    )
    return RuntimeSpec(
        rootfs=rootfs,
        process=make_process(config, _process_request(request), user, environment),
        hostname=request.hostname,
        edits=_edits(host, request, asked, files),
        files=tuple(file for file in files if file.destination not in request.left_out),
        tmpfs=_memory(request),
        readonly=request.readonly,
        network=request.network,
        supervised=request.remove,
        pid="private" if request.init else request.pid,
        ports=_ports(config, request),
        many_ids=request.many_ids,
        limits=request.limits,
        cpus=_processors(request.cpus),
        scratch=container.scratch(os.getpid()),
        kernel=request.kernel,
        system_directories=request.system_directories,
        umask=request.umask,
        force=request.force,
    )


def _files_of_user(
    own: Root, accounts: Accounts, user: User, request: RunRequest
) -> tuple[TextFile, ...]:
    added = (
        hostfiles.account_files(accounts, user, request.account_line) if request.add_account else ()
    )
    return (*added, *(() if request.many_ids else hostfiles.package_files(own, user)))


def _asked(container: Container, request: RunRequest) -> tuple[Bind, ...]:
    """Return the user's volumes."""
    named = tuple(volumes.bind(container, volume) for volume in request.volumes)
    return (*_existing(request.binds), *named)


def _has_place(path: str, asked: tuple[Bind, ...]) -> bool:
    """Tell whether what nobody asked for can show at `path` with nothing made in a volume."""
    around = [bind for bind in asked if path.startswith(f"{bind.destination}/")]
    if not around:
        return True
    inner = max(around, key=lambda bind: len(bind.destination))
    return os.path.lexists(inner.source + path[len(inner.destination) :])


def _edits(
    host: Host, request: RunRequest, asked: tuple[Bind, ...], files: tuple[TextFile, ...]
) -> ContainerEdits:
    """Return what of the host shows; what the user says beats what would show unasked."""
    taken = {*(bind.destination for bind in asked), *(file.destination for file in files)}
    taken.update(request.left_out)
    binds = hostfiles.host_edits(host, request).binds
    unasked = (bind for bind in binds if _has_place(bind.destination, asked))
    nodes = _nodes(host) if request.system_directories else ()
    return ContainerEdits(
        device_nodes=(
            *(node for node in nodes if node.destination not in request.left_out),
            *_present(request.devices),
        ),
        binds=(*(bind for bind in unasked if bind.destination not in taken), *asked),
    )


def _memory(request: RunRequest) -> tuple[Tmpfs, ...]:
    if not request.shm_size:
        return request.tmpfs
    return (*request.tmpfs, Tmpfs("/dev/shm", f"mode=1777,size={request.shm_size}"))


def _ports(config: ImageConfig, request: RunRequest) -> tuple[Port, ...]:
    """Return the published ports; on the host's network every port is the host's."""
    if request.network == "host":
        return ()
    if not request.publish_all:
        return request.ports
    published = {(port.container_port, port.protocol) for port in request.ports}
    exposed = (*(_exposed(text) for text in config.exposed_ports), *request.exposed)
    more = dict.fromkeys(port for port in exposed if port)
    others = (p for p in more if (p.container_port, p.protocol) not in published)
    return (*request.ports, *others)


def _exposed(text: str) -> Port | None:
    """Return what an image's `80/tcp` means; None for what nobody could publish."""
    number, _, protocol = text.partition("/")
    if not (number.isascii() and number.isdigit() and 0 < int(number[:6]) < 1 << 16):
        return None
    return Port("", 0, int(number), protocol or "tcp") if protocol in ("tcp", "udp", "") else None


def _processors(asked: tuple[int, ...]) -> tuple[int, ...]:
    """Return the processors. Raises StartError for those that this process may not use."""
    mine = os.sched_getaffinity(0) if asked else set()
    others = [number for number in asked if number not in mine]
    if others:
        raise StartError(
            f"--cpuset-cpus: not of this job or this machine: {', '.join(map(str, others))}",
            hint="processors that can be had: " + ",".join(map(str, sorted(mine))),
        )
    return asked


def _present(nodes: tuple[DeviceNode, ...]) -> tuple[DeviceNode, ...]:
    """Return the nodes. Raises StartError for what is neither a device node nor a directory."""
    for node in nodes:
        try:
            mode = os.stat(node.source).st_mode
        except OSError as error:
            raise StartError(f"--device {node.source}: {error.strerror}") from error
        if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)):
            raise StartError(f"--device {node.source} is no device node of this host")
    return nodes


def _process_request(request: RunRequest) -> ProcessRequest:
    return ProcessRequest(
        args=request.args,
        entrypoint=request.entrypoint,
        env=request.env,
        working_dir=request.working_dir,
        all_host_env=request.all_host_env,
        unset_env=request.unset_env,
        unset_all_env=request.unset_all_env,
        proxy_env=request.proxy_env,
        time_zone=request.time_zone,
        terminal=request.terminal,
    )


def _user(
    accounts: Accounts, config: ImageConfig, request: RunRequest, environment: Mapping[str, str]
) -> User:
    keep = request.keep_id
    if keep is None:
        keep = request.user is None and job.is_parallel_step(environment)
    if keep:
        return _caller(accounts)
    return accounts.user(request.user or config.user or "0")


def _caller(accounts: Accounts) -> User:
    uid, gid = os.geteuid(), os.getegid()
    known = accounts.by_uid(uid, gid)
    if known:
        return known
    import pwd

    try:
        return User(uid, gid, pwd.getpwuid(uid).pw_name, "/")
    except KeyError:  # a uid without a name: some clusters' compute nodes know no names
        return User(uid, gid, f"user{uid}", "/")


def _nodes(host: Host) -> tuple[DeviceNode, ...]:
    try:
        present = os.listdir(host.path("/dev"))
    except OSError:
        return ()
    wanted = set(FABRIC_NODES + OTHER_NODES)
    chosen = (n for n in sorted(present) if n in wanted or n.startswith(FABRIC_PREFIXES))
    return tuple(DeviceNode(host.path(f"/dev/{name}"), f"/dev/{name}") for name in chosen)


def _existing(binds: tuple[Bind, ...]) -> tuple[Bind, ...]:
    missing = [bind.source for bind in binds if not os.path.exists(bind.source)]
    if missing:
        raise StartError(f"not on this host: {', '.join(missing)}", hint="see --volume SRC:DST")
    return binds
