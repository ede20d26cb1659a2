"""Many ids in a user namespace: ranges that newuidmap(1) maps, and their way further down."""

from __future__ import annotations

import os

from udocker.engines.sandbox.kernel import CLONE_NEWUSER, SandboxError, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Ranges = tuple[tuple[int, int, int], ...]
    """First id inside, first id outside, how many. Source: user_namespaces(7)."""


def parse_ranges(text: str) -> Ranges:
    """Return the ranges that a word holds: `INSIDE:OUTSIDE:COUNT,...`. Raises ValueError."""
    parts = (part.split(":") for part in text.split(","))
    return tuple((int(inside), int(outside), int(count)) for inside, outside, count in parts)


def enter_with_ranges(flags: int, uids: Ranges, gids: Ranges) -> None:
    """Enter a new user namespace (and others by `flags`) with ranges of ids mapped.

    A user may map no id but the own one; newuidmap(1) and newgidmap(1) may, which run as root
    and know from /etc/subuid and /etc/subgid what is the user's. Raises SandboxError.
    """
    pid = str(os.getpid())

    def ask() -> bool:
        tools = (("newuidmap", uids), ("newgidmap", gids))
        return all(_succeeds([tool, pid, *_words(ranges)]) for tool, ranges in tools)

    _unshare_mapped(flags, ask, "map the ids of /etc/subuid and /etc/subgid with newuidmap")


def enter_with_same(flags: int, uids: Ranges, gids: Ranges) -> None:
    """Enter a further user namespace that has the ids of this one. Raises SandboxError."""
    process = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write() -> bool:
        for name, ranges in (("uid_map", uids), ("gid_map", gids)):
            lines = "".join(f"{inside} {inside} {count}\n" for inside, _, count in ranges)
            fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=process)
            os.write(fd, lines.encode())
            os.close(fd)
        return True

    _unshare_mapped(flags, write, "map the ids of the container")
    os.close(process)


def become(uid: int, gid: int) -> None:
    """This process has the ids of a user of the container. Raises SandboxError."""
    try:
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise SandboxError(
            f"become user {uid}, group {gid} of the container", error.errno
        ) from error


def _unshare_mapped(flags: int, write_maps: Callable[[], bool], step: str) -> None:
    """Enter a user namespace whose maps a child writes, which stays outside."""
    entered, enter = os.pipe()
    answer, answers = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(enter)
            if os.read(entered, 1) and write_maps():
                os.write(answers, b"+")
        finally:
            os._exit(0)
    os.close(entered)
    os.close(answers)
    try:
        unshare(CLONE_NEWUSER | flags)
        os.write(enter, b"+")
    finally:
        os.close(enter)
        done = os.read(answer, 1)
        os.close(answer)
        _wait(child)
    if not done:
        raise SandboxError(f"{step}: it is not permitted")


def _wait(child: int) -> None:
    try:
        os.waitpid(child, 0)
    except ChildProcessError:  # whoever called us ignores the ends of children
        pass


def _succeeds(argv: list[str]) -> bool:
    """Run a program of the host; what it says goes to standard error."""
    child = os.posix_spawnp(argv[0], argv, {"PATH": "/usr/bin:/bin:/usr/local/bin"})
    return os.waitpid(child, 0)[1] == 0


def _words(ranges: Ranges) -> list[str]:
    return [str(number) for mapped in ranges for number in mapped]
