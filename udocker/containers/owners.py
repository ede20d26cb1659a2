"""Whose a file is inside a container: ids of the host to those that its programs see."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE_BYTES = 4 << 20


class Owners:
    """Ids of files as the container has them: the caller's own is root, ranges of subordinate
    ids follow from 1 on, any other is root's too. Source: subuid(5), `udocker run --userns auto`.
    """

    def __init__(self) -> None:
        self._own = (os.geteuid(), os.getegid())
        self._ranges: tuple[list[tuple[int, int]], list[tuple[int, int]]] | None = None

    def of(self, status: os.stat_result) -> tuple[int, int]:
        """Return uid and gid of a file inside."""
        if (status.st_uid, status.st_gid) == self._own:
            return 0, 0
        if self._ranges is None:
            self._ranges = (list(_ranges("/etc/subuid")), list(_ranges("/etc/subgid")))
        uids, gids = self._ranges
        return _inside(status.st_uid, uids), _inside(status.st_gid, gids)


def _inside(number: int, ranges: list[tuple[int, int]]) -> int:
    first = 1
    for start, count in ranges:
        if start <= number < start + count:
            return first + number - start
        first += count
    return 0


def _ranges(path: str) -> Iterator[tuple[int, int]]:
    """Yield first id and count of the ranges that are this user's."""
    names = (str(os.geteuid()), _user_name())
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(_FILE_BYTES).splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in names and (fields[1] + fields[2]).isdigit():
            yield int(fields[1]), int(fields[2])


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""
