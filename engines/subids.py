"""Ids that an administrator has given a user beside the own one: /etc/subuid and /etc/subgid.

Source: subuid(5), newuidmap(1), getsubids(1).
"""

from __future__ import annotations

import errno
import os

from udocker import disk, trees
from udocker.engines import programs
from udocker.errors import StartError, StoreError

SUBUID, SUBGID = "/etc/subuid", "/etc/subgid"
_FILE_BYTES = 16 << 20
_DENIED = (errno.EACCES, errno.EPERM)


def maps(directory: str) -> tuple[str, str]:
    """Return what of user and group ids can be mapped, as the sandbox's word `--map-ids` has it.

    The caller is 0 inside, the others follow from 1 on. `directory` is the store's. Raises
    StartError saying what the administrator has to do.
    """
    for tool in ("newuidmap", "newgidmap"):
        if programs.find(directory, tool) is None:
            raise StartError(
                f"several user ids need {tool}, which is not on this host",
                hint="the administrator installs the package uidmap (Debian, Ubuntu), shadow "
                "(SUSE, Arch) or shadow-utils (Fedora, RHEL); --userns=host needs nothing",
            )
    names = _names(os.getuid())
    given = ranges(SUBUID, names), ranges(SUBGID, names)
    for path, found in zip((SUBUID, SUBGID), given):
        if not found:
            option = "--add-subuids" if path == SUBUID else "--add-subgids"
            raise StartError(
                f"{path} has no ids for {names[0]}",
                hint=f"the administrator runs: usermod {option} 100000-165535 {names[0]}; "
                "--userns=host needs nothing",
            )
    return _map(os.geteuid(), given[0]), _map(os.getegid(), given[1])


def ranges(path: str, names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Return all ranges, first and count, that a file gives to one of `names`; broken lines not."""
    data = disk.read(path, _FILE_BYTES) or b""
    lines = (line.split(":") for line in data.decode("utf-8", "replace").splitlines())
    rest = (fields[1:] for fields in lines if len(fields) == 3 and fields[0] in names)
    numbers = ((int(a), int(b)) for a, b in rest if a.strip().isdigit() and b.strip().isdigit())
    return tuple((first, count) for first, count in numbers if count > 0)


def _names(uid: int) -> tuple[str, ...]:
    import pwd

    try:
        return (pwd.getpwuid(uid).pw_name, str(uid))
    except KeyError:
        return (str(uid),)


def _map(own: int, given: tuple[tuple[int, int], ...]) -> str:
    parts, inside = [f"0:{own}:1"], 1
    for first, count in given:
        parts.append(f"{inside}:{first}:{count}")
        inside += count
    return ",".join(parts)


def remove_refused(path: str, directory: str, problem: StoreError) -> None:
    """Remove a tree that could not be removed because of `problem`, where other ids are the cause.

    What a program has given to other ids of the user's is removed from within a user namespace
    that has them. `directory` is the store's. Raises StoreError.
    """
    cause = problem.__cause__
    if not isinstance(cause, OSError) or cause.errno not in _DENIED:
        raise problem
    try:
        given = maps(directory)
    except StartError as error:
        hint = f"it holds files of other user ids, and {error.message}"
        raise StoreError(problem.message, hint=hint) from error
    if not _removed_with(path, given):
        raise problem


def _removed_with(path: str, given: tuple[str, str]) -> bool:
    from udocker.engines.sandbox import ids

    child = os.fork()
    if child == 0:
        code = 1
        try:
            ids.enter_with_ranges(0, *map(ids.parse_ranges, given))
            trees.remove_tree(path)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0
