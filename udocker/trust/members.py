"""Objects of JSON read to the last member: what is left over is an error, not a detail."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Members:
    """The members of a JSON object, to be taken by name; ValueError for what is not as expected."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'it'} is not an object")
        self._left = dict(value)
        self._where = where

    def place(self, key: str) -> str:
        """Return how the member is called in messages."""
        return f"{self._where}.{key}" if self._where else key

    def has(self, key: str) -> bool:
        """Tell whether the member is there and was not taken."""
        return key in self._left

    def take(self, key: str, *default: Any) -> Any:
        """Return a member, which has to be there unless there is a default."""
        if key not in self._left and not default:
            raise ValueError(f"{self.place(key)} is missing")
        return self._left.pop(key, *default)

    def text(self, key: str) -> str:
        """Return a member that is a string, not empty."""
        return _text(self.take(key), self.place(key))

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a member that is a list of strings, none empty, one at least."""
        value = self.take(key)
        if not isinstance(value, list) or not value:
            raise ValueError(f"{self.place(key)} is not a list of strings")
        return tuple(_text(entry, self.place(key)) for entry in value)

    def finish(self) -> None:
        """Nothing is left that nobody knows."""
        if self._left:
            raise ValueError(f"{self.place(min(self._left))[:200]!r} is unknown")

    def each(self, read: Callable[[Any, str, str], Any]) -> Any:
        """Return pairs of every name and what `read(value, place, name)` makes of it."""
        names = tuple(self._left)
        return tuple((name, read(self._left[name], self.place(name), name)) for name in names)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where} is not a string, or is empty")
    return value
