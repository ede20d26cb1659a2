"""TOML from files that people write: bounded, with the file and the line of what is wrong."""

from __future__ import annotations

import sys

from udocker.errors import UsageError
from udocker.registry.faults import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 1 << 20
_ABSENT = (FileNotFoundError, NotADirectoryError)


class Table:
    """A table of a TOML file, whose members are asked for by the kind that they must have."""

    def __init__(self, path: str, text: str, members: dict[str, Any]) -> None:
        self.path = path
        self.members = members
        self._text = text

    def text(self, key: str) -> str:
        """Return a text, empty where it is missing."""
        return self._member(key, str, "a text") or ""

    def flag(self, key: str) -> bool:
        """Return true or false, false where it is missing."""
        return self._member(key, bool, "true or false") or False

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts, empty where it is missing."""
        listed = self._member(key, list, "a list of texts") or []
        if not all(isinstance(text, str) for text in listed):
            raise self.wrong(key, f"{key} is not a list of texts")
        return tuple(listed)

    def table(self, key: str) -> Table:
        """Return a table in this one, empty where it is missing."""
        return Table(self.path, self._text, self._member(key, dict, "a table") or {})

    def tables(self, key: str) -> tuple[Table, ...]:
        """Return a list of tables, empty where it is missing."""
        listed = self._member(key, list, f"a list of tables ([[{key}]])") or []
        if not all(isinstance(members, dict) for members in listed):
            raise self.wrong(key, f"{key} is not a list of tables ([[{key}]])")
        return tuple(Table(self.path, self._text, members) for members in listed)

    def wrong(self, word: str, problem: str) -> UsageError:
        """Return the error for what is wrong about `word`, with the line where it first stands."""
        lines = enumerate(self._text.splitlines(), 1)
        at = next((number for number, line in lines if word and word in line), None)
        return wrong_file(f"{self.path}:{at}" if at else self.path, problem)

    def _member(self, key: str, kind: type, called: str) -> Any:
        value = self.members.get(key)
        if value is not None and type(value) is not kind:
            raise self.wrong(key, f"{key} is not {called}")
        return value


def read(path: str) -> Table | None:
    """Return what a file holds, None where there is no such file. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except _ABSENT:
        return None
    except OSError as error:
        raise wrong_file(path, f"cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise wrong_file(path, f"is larger than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise wrong_file(f"{path}:{line}", "is not UTF-8") from None
    return Table(path, text, _parsed(path, text))


def _parsed(path: str, text: str) -> dict[str, Any]:
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        return {}  # as distributions install it: no reader has to be imported
    try:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
    except ModuleNotFoundError:
        raise wrong_file(path, "cannot be read without the package tomli") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem, _, place = str(error).partition(" (at ")
        line = place[len("line ") :].partition(",")[0]
        where = line if line.isdecimal() else len(text.splitlines())
        raise wrong_file(f"{path}:{where}", f"is not TOML: {printable(problem)}") from None
    except (RecursionError, ValueError):  # lists in lists without end; numbers of 5000 digits
        raise wrong_file(path, "is not TOML that anybody would write") from None


def wrong_file(where: str, problem: str) -> UsageError:
    """Return the error for a file, and the way to do without it."""
    return UsageError(
        f"{where}: {problem}",
        hint="repair it, or name another one (or /dev/null) in CONTAINERS_REGISTRIES_CONF",
    )
