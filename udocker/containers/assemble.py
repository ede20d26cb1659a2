"""From a container and a request to the spec of a run: plain values in, plain values out."""

from __future__ import annotations

import os

from udocker.containers import hostfiles
from udocker.containers.accounts import Accounts
from udocker.containers.process import ProcessRequest, make_process
from udocker.containers.spec import Bind, ContainerEdits, DeviceNode, RuntimeSpec, User
from udocker.errors import StartError
from udocker.host import job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import Rootfs
    from udocker.host.probe import Host
    from udocker.oci import ImageConfig

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
    own_files = hostfiles.files_of(container)
    accounts = Accounts(own_files.read)
    user = _user(accounts, config, request, environment)
    process = make_process(config, _process_request(request), user, environment)
    hostname = request.hostname
    files = hostfiles.name_files(host, hostname, request.network)
    edits = hostfiles.network_edits(host, hostname, request.network) | ContainerEdits(
        device_nodes=(*_nodes(host), *request.devices), binds=_existing(request.binds)
    )
    return RuntimeSpec(
        rootfs=rootfs,
        process=process,
        hostname=hostname,
        edits=edits,
        files=(
            *files,
            *hostfiles.account_files(accounts, user),
            *hostfiles.package_files(own_files, user),
        ),
        tmpfs=request.tmpfs,
        readonly=request.readonly,
        network=request.network,
        supervised=request.remove,
        pid=request.pid,
        ports=request.ports,
        many_ids=request.many_ids,
        limits=request.limits,
        cpus=request.cpus,
        scratch=container.scratch(os.getpid()),
        kernel=request.kernel,
        system_directories=request.system_directories,
    )


def _process_request(request: RunRequest) -> ProcessRequest:
    return ProcessRequest(
        args=request.args,
        entrypoint=request.entrypoint,
        env=request.env,
        working_dir=request.working_dir,
        all_host_env=request.all_host_env,
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
