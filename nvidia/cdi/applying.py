"""From devices to what a container needs: the edits of specifications as our own.

The order is the specification's: for each device its file's common edits, once, and its own;
variables, hooks and groups add up, nodes and mounts of one path replace each other, and mounts
are sorted by the depth of their paths. Source: CDI specification, SPEC.md and cache.go.

Nothing of a specification is run. What its hooks would do is done here, as far as a user may.
"""

from __future__ import annotations

import os
import stat

from udocker.containers.spec import Bind, ContainerEdits, DeviceNode, Tmpfs
from udocker.errors import StartError
from udocker.nvidia.cdi import hooks
from udocker.nvidia.cdi.spec import NO_PERMISSIONS
from udocker.nvidia.cdi.surroundings import Surroundings
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.nvidia.cdi.registry import Found
    from udocker.nvidia.cdi.spec import Edits, Mount, Node

_BIND_TYPES = ("", "bind", "none", "rbind")
_TMPFS_OPTIONS = ("size", "mode", "nr_inodes", "nr_blocks")
_KINDS = {"b": stat.S_ISBLK, "c": stat.S_ISCHR, "u": stat.S_ISCHR, "p": stat.S_ISFIFO}
_STALE = "the specification is older than what is on this node: have it made anew"


@dataclass(frozen=True)
class CdiPlan:
    """What devices add to a container, and what the user may want to know about it."""

    edits: ContainerEdits = ContainerEdits()
    tmpfs: tuple[Tmpfs, ...] = ()
    notes: tuple[str, ...] = ()


def plan(
    host: Host,
    devices: tuple[Found, ...],
    image: Root,
    cache_directory: str,
    *,
    library_cache: str = "",
    program_env: tuple[tuple[str, str], ...] = (),
    ignore_hooks: bool = False,
) -> CdiPlan:
    """Return what `devices` need in a container from `image`.

    `library_cache` is the host path of an ld.so.cache that is to show in place of the image's,
    `program_env` the program's environment. Files are written into `cache_directory`. Raises
    StartError for what this node does not have, for what only root may do, and, unless
    `ignore_hooks`, for hooks that are not known.
    """
    gathered = tuple(_in_order(devices))
    for path, edits in gathered:
        if edits.needs_root:
            text = f"cdi: {path}: {' and '.join(edits.needs_root)} of the container needs root"
            raise StartError(text, hint="ask for a device without it")
    nodes, notes = _nodes(host, gathered)
    binds, tmpfs = _mounts(host, gathered)
    env = tuple(pair for _, edits in gathered for pair in edits.env)
    around = Surroundings(
        host, image, cache_directory, nodes, binds, library_cache, program_env + env
    )
    result = hooks.emulate(
        tuple((path, hook) for path, edits in gathered for hook in edits.hooks),
        around,
        ignore_unknown=ignore_hooks,
    )
    made = ContainerEdits(env=env, device_nodes=nodes, binds=binds)
    return CdiPlan(made | result.edits, tmpfs, notes + _groups(gathered) + result.notes)


def _in_order(devices: tuple[Found, ...]) -> Iterator[tuple[str, Edits]]:
    """Yield the edits in the order in which they count, each with the path of its file."""
    seen = set()
    for found in devices:
        if found.spec.path not in seen:
            seen.add(found.spec.path)
            yield found.spec.path, found.spec.edits
        yield found.spec.path, found.device.edits


def _nodes(
    host: Host, gathered: tuple[tuple[str, Edits], ...]
) -> tuple[tuple[DeviceNode, ...], tuple[str, ...]]:
    last: dict[str, tuple[str, Node]] = {}
    for path, edits in gathered:
        for node in edits.nodes:
            last.pop(node.path, None)
            last[node.path] = path, node
    notes: list[str] = []
    made = tuple(_node(host, path, node, notes) for path, node in last.values())
    return made, tuple(notes)


def _node(host: Host, spec_path: str, node: Node, notes: list[str]) -> DeviceNode:
    """Return a node of the host as it shows: no node can be made without root."""
    source = host.path(node.host_path)
    destination = _inside(node.path, spec_path)
    try:
        status = os.stat(source)
    except OSError as error:
        text = f"cdi: {spec_path}: device node {node.host_path}: {error.strerror}"
        raise StartError(text, hint=_STALE) from error
    if not host.root:  # a tree for tests has plain files in the place of nodes
        _check_kind(status, spec_path, node)
        number = (os.major(status.st_rdev), os.minor(status.st_rdev))
        said = (node.major, node.minor or 0) if node.major else number
        if said != number:
            is_said, is_now = ":".join(map(str, said)), ":".join(map(str, number))
            notes.append(f"cdi: {node.host_path} is {is_now}, not {is_said} as {spec_path} says")
    wanted = node.permissions.replace(NO_PERMISSIONS, "") if node.permissions else "rw"
    modes = (os.R_OK if "r" in wanted else 0) | (os.W_OK if "w" in wanted else 0)
    if not os.access(source, modes):
        notes.append(f"cdi: {node.host_path} may not be opened by this user (mode, group or job)")
    return DeviceNode(source, destination)


def _check_kind(status: os.stat_result, spec_path: str, node: Node) -> None:
    tests = [_KINDS[node.type]] if node.type else [*_KINDS.values()]
    if not any(test(status.st_mode) for test in tests):
        what = f"of type {node.type!r}" if node.type else "a device"
        text = f"cdi: {spec_path}: {node.host_path} is not {what} on this node"
        raise StartError(text, hint=_STALE)


def _mounts(
    host: Host, gathered: tuple[tuple[str, Edits], ...]
) -> tuple[tuple[Bind, ...], tuple[Tmpfs, ...]]:
    last: dict[str, tuple[str, Mount]] = {}
    for path, edits in gathered:
        for mount in edits.mounts:
            place = _inside(mount.container_path, path)
            last.pop(place, None)
            last[place] = path, mount
    binds, tmpfs = [], []
    for place in sorted(last, key=lambda place: place.count("/")):
        path, mount = last[place]
        if mount.type == "tmpfs":
            tmpfs.append(Tmpfs(place, ",".join(_tmpfs_words(mount.options))))
        else:
            binds.append(_bind(host, path, mount, place))
    return tuple(binds), tuple(tmpfs)


def _bind(host: Host, spec_path: str, mount: Mount, place: str) -> Bind:
    """Return a bind. What may be set-uid or a device in it has no power in a user's container."""
    if mount.type not in _BIND_TYPES:
        text = f"cdi: {spec_path}: a mount of type {mount.type!r} at {place} needs root"
        raise StartError(text, hint="ask for a device without it")
    source = host.path(mount.host_path)
    if not os.path.exists(source):
        text = f"cdi: {spec_path}: {mount.host_path} is not on this node"
        raise StartError(text, hint=_STALE)
    return Bind(source, place, readonly="ro" in mount.options)


def _tmpfs_words(options: tuple[str, ...]) -> Iterator[str]:
    """Yield the options that our own engines know; the others are theirs always."""
    for option in options:
        if option in ("ro", "noexec") or option.partition("=")[0] in _TMPFS_OPTIONS:
            yield option


def _inside(path: str, spec_path: str) -> str:
    """Return a path of the container without dots; it cannot be the root."""
    clean = "/" + os.path.normpath(path).lstrip("/")
    if clean == "/":
        raise StartError(f"cdi: {spec_path}: nothing can show at {path}, the container's root")
    return clean


def _groups(gathered: tuple[tuple[str, Edits], ...]) -> tuple[str, ...]:
    """Return notes on groups: the program has the caller's, and nobody can add others to them."""
    wanted = dict.fromkeys(gid for _, edits in gathered for gid in edits.gids)
    held = {*os.getgroups(), os.getegid()}
    missing = ", ".join(str(gid) for gid in wanted if gid not in held)
    if not missing or os.geteuid() == 0:
        return ()
    return (f"cdi: the device wants members of group {missing}, which this user is not",)
