"""Whose a file is inside a container: ids of the host to those that its programs see."""

from __future__ import annotations

import os
import stat

from udocker.images import override

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.files import Found

    Attributes = tuple[tuple[str, bytes], ...]

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

    def facts(self, found: Found, attributes: Attributes) -> Facts:
        """Return what a file is inside; `attributes` are all its own.

        What its image says of it is remembered there: the mode counts unless somebody changed it
        on the disk since, the owner unless the file has been given to another one.
        """
        owner, mode = self.of(found.status), stat.S_IMODE(found.mode)
        value = override.value_in(attributes)
        if value is None:
            return Facts(owner, mode, attributes)
        remembered = override.decode(value)
        if remembered is not None:
            owner = remembered[0] if owner == (0, 0) else owner
            mode = override.image_mode(found.mode, remembered[1])
        others = tuple(pair for pair in attributes if pair[0] != override.ATTRIBUTE)
        return Facts(owner, mode, others)


class Facts:
    """Owner, permission bits and user attributes of a file as an image has them."""

    __slots__ = ("attributes", "mode", "owner")

    def __init__(self, owner: tuple[int, int], mode: int, attributes: Attributes) -> None:
        self.owner = owner
        self.mode = mode
        self.attributes = attributes
        """Without that of `override`."""


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
