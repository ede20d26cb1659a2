"""What is known of a container, in docker's words."""

from __future__ import annotations

import os

from udocker.commands import runoptions
from udocker.commands.stores import Stores
from udocker.containers import choices, state
from udocker.containers.logs import moment, path_of
from udocker.containers.request import RunRequest
from udocker.containers.store import announced
from udocker.errors import ContainerNotFound, UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.containers.container import Container
    from udocker.containers.state import Condition

_NEVER = "0001-01-01T00:00:00Z"
"""Docker's word for a time that has not come."""


def described(stores: Stores, container: Container) -> dict[str, Any]:
    """Return the container as `docker inspect` would, with udocker's own facts beside."""
    condition = state.condition_of(stores.containers, container)
    names = stores.containers.names().get(container.id, ())
    ran = condition.state
    config = stores.config_of(container)
    request = _request(stores, container)
    chosen = choices.load(container)
    return {
        "Id": container.id,
        "Created": moment(container.created * 10**9),
        "Name": names[0] if names else "",
        "Names": list(names),
        "Image": container.image,
        "ImageID": str(container.config),
        "State": _state(stores, container, condition),
        "Config": {
            "Image": container.image,
            "Cmd": list(container.command or config.cmd),
            "Entrypoint": list(config.entrypoint),
            "Labels": labels_of(stores, container),
            "StopSignal": request.stop_signal or config.stop_signal or "SIGTERM",
        },
        "HostConfig": {"AutoRemove": container.ephemeral},
        "Mounts": _mounts(request),
        "LogPath": path_of(container.directory) if ran and os.path.exists(_log(container)) else "",
        "Engine": {
            "Name": ran.engine if ran else "",
            "Mode": (ran.mode if ran else "") or chosen.mode,
            "Prepared": chosen.prepared,
        },
        "Options": list(container.options),
        "Directory": container.directory,
        "RootPath": root_path(stores, container)[0],
    }


def _log(container: Container) -> str:
    return path_of(container.directory)


def _state(stores: Stores, container: Container, condition: Condition) -> dict[str, Any]:
    ran = condition.state
    return {
        "Status": condition.status,
        "Running": condition.is_running,
        "Paused": condition.status == state.PAUSED,
        "Pid": program_of(stores, container, condition) if condition.is_running else 0,
        "ExitCode": ran.exit_code if ran and not condition.is_running else None,
        "StartedAt": moment(ran.started_ns) if ran else _NEVER,
        "FinishedAt": moment(ran.finished_ns) if ran and ran.finished_ns else _NEVER,
        "Host": ran.host if ran else "",
    }


def labels_of(stores: Stores, container: Container) -> dict[str, str]:
    """Return the labels that the container was made with, over those of its image."""
    try:
        labels = dict(stores.config_of(container).labels)
    except UdockerError:  # its image has been removed by force
        labels = {}
    return {**labels, **dict(_request(stores, container).labels)}


def _request(stores: Stores, container: Container) -> RunRequest:
    """Return what the container was made with; nothing when what that names is not there now."""
    try:
        return runoptions.options_of(container, stores.settings.environment)
    except UdockerError:
        return RunRequest()


def _mounts(request: RunRequest) -> list[dict[str, Any]]:
    """Return the volumes and directories in memory."""
    binds = [
        {
            "Type": "bind",
            "Source": bind.source,
            "Destination": bind.destination,
            "RW": not bind.readonly,
        }
        for bind in request.binds
    ]
    memory = [
        {"Type": "tmpfs", "Destination": one.destination, "RW": True} for one in request.tmpfs
    ]
    return binds + memory


def program_of(stores: Stores, container: Container, condition: Condition) -> int:
    """Return the pid of a process in the container's root, as this host counts them; 0: none."""
    try:
        lock = stores.containers.lock(container, asks=True)
    except ContainerNotFound:
        return 0
    try:
        pid, namespace = announced(lock)
        if pid and os.readlink(f"/proc/{pid}/ns/mnt") == namespace:
            return int(pid)
    except OSError:  # that one has ended
        pass
    finally:
        lock.release()
    return condition.state.pid if condition.state and condition.state.is_alive() else 0


def root_path(stores: Stores, container: Container) -> tuple[str, bool]:
    """Return the host path of the container's root, and whether all of its files show there.

    A layer that is written lies over the image's tree only while a program runs.
    """
    if os.path.isdir(container.rootfs):
        return container.rootfs, True
    condition = state.condition_of(stores.containers, container)
    pid = program_of(stores, container, condition) if condition.is_running else 0
    merged = f"/proc/{pid}/root"
    if pid and os.path.isdir(merged):
        return merged, True
    try:
        return container.tree, not os.listdir(container.upper)
    except OSError:
        return container.tree, True
