"""Users and groups as the container's files know them. Source: passwd(5), group(5)."""

from __future__ import annotations

from udocker.containers.spec import User
from udocker.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_ID = (1 << 32) - 2
_FILE_BYTES = 4 << 20


class Accounts:
    """The container's accounts; `read` returns a file of the container or raises OSError."""

    def __init__(self, read: Callable[[str, int], bytes]) -> None:
        self._read = read

    def passwd(self) -> str:
        """Return the text of /etc/passwd."""
        return self._text("/etc/passwd")

    def group(self) -> str:
        """Return the text of /etc/group."""
        return self._text("/etc/group")

    def user(self, text: str) -> User:
        """Return the user that `NAME|UID[:GROUP|GID]` means. Raises StartError if there is none."""
        name, _, group = text.partition(":")
        entry = self._by_name_or_id(self.passwd(), name) if name else None
        if entry:
            uid, gid, home = int(entry[2]), _id(entry[3]) or 0, entry[5]
            found = User(uid, gid, entry[0], home or "/")
        else:
            number = _id(name) if name else 0
            if number is None:
                raise StartError(f"no user {name!r} in the image's /etc/passwd")
            found = User(number, 0, "", "/")
        return User(found.uid, self._gid(group), found.name, found.home) if group else found

    def by_uid(self, uid: int, gid: int) -> User | None:
        """Return the account of that uid, with `gid` as its group."""
        for entry in _entries(self.passwd(), 7):
            if _id(entry[2]) == uid:
                return User(uid, gid, entry[0], entry[5] or "/")
        return None

    def _gid(self, text: str) -> int:
        entry = self._by_name_or_id(self.group(), text)
        number = int(entry[2]) if entry else _id(text)
        if number is None:
            raise StartError(f"no group {text!r} in the image's /etc/group")
        return number

    def _by_name_or_id(self, table: str, text: str) -> list[str] | None:
        entries = [entry for entry in _entries(table, 3) if _id(entry[2]) is not None]
        named = [entry for entry in entries if entry[0] == text]
        number = _id(text)
        numbered = [entry for entry in entries if number is not None and _id(entry[2]) == number]
        found = next(iter(named or numbered), [])
        return found + [""] * (7 - len(found)) if found else None

    def _text(self, path: str) -> str:
        try:
            return self._read(path, _FILE_BYTES).decode("utf-8", "surrogateescape")
        except OSError:  # images need not have one
            return ""


def _entries(table: str, fields: int) -> Iterator[list[str]]:
    for line in table.splitlines():
        parts = line.split(":")
        if len(parts) >= fields and not line.startswith("#"):
            yield parts


def _id(text: str) -> int | None:
    """Return the uid or gid that `text` writes in decimal digits."""
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID:
        return int(text)
    return None
