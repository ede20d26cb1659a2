"""The members of a JSON object, taken out by name and kind; what is left over is an error."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

_LONGEST = 1 << 16
_HIGHEST = (1 << 32) - 1


class Fields:
    """An object of a specification. Every method raises ValueError that says where and what.

    null is the same as absent, as Go's decoders have it.
    """

    def __init__(self, value: Any, where: str, version: str) -> None:
        """`where` is the object's place in the document, empty for the whole."""
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'the document'}: an object is wanted, not {_kind(value)}")
        self._left = {key: member for key, member in value.items() if member is not None}
        self._taken: set[str] = set()
        self.where = where
        self.version = version
        """The document's `cdiVersion`."""

    def at(self, key: str) -> str:
        """Return the place of a member, for messages."""
        return f"{self.where}.{key}" if self.where else key

    def has(self, key: str) -> bool:
        """Tell whether the member is there."""
        return key in self._left

    def names(self) -> tuple[str, ...]:
        """Return the names of all members."""
        return tuple(str(key) for key in self._left)

    def demand(self, version: str, what: str) -> None:
        """Refuse `what` in a document of a version before `version`."""
        if _numbers(self.version) < _numbers(version):
            raise ValueError(f"{what} needs cdiVersion {version}, but the file says {self.version}")

    def text(self, key: str, *, needed: bool = True, may_be_number: bool = False) -> str:
        """Return a string, empty when it is absent and not `needed`.

        `may_be_number`: an integer does too, which is how YAML reads the device name 0.
        """
        value = self._take(key)
        if value is None or value == "":
            if not needed:
                return ""
            raise ValueError(f"{self.at(key)} is {'missing' if value is None else 'empty'}")
        if may_be_number and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not _is_text(value):
            self._refuse_text(value, self.at(key))
        text: str = value
        return text

    def path(self, key: str, *, needed: bool = True) -> str:
        """Return an absolute path."""
        value = self.text(key, needed=needed)
        if value and not value.startswith("/"):
            raise ValueError(f"{self.at(key)}: {value[:80]!r} is not an absolute path")
        return value

    def texts(self, key: str, most: int) -> tuple[str, ...]:
        """Return a list of strings, empty when it is absent."""
        values = self._list(key, most)
        for index, value in enumerate(values):
            if not _is_text(value):
                self._refuse_text(value, f"{self.at(key)}[{index}]")
        return tuple(values)

    def number(self, key: str) -> int | None:
        """Return an integer of 32 bits without sign, None when it is absent."""
        value = self._take(key)
        return None if value is None else _number(value, self.at(key))

    def numbers(self, key: str, most: int) -> tuple[int, ...]:
        """Return a list of such integers, empty when it is absent."""
        return tuple(
            _number(value, f"{self.at(key)}[{index}]")
            for index, value in enumerate(self._list(key, most))
        )

    def flag(self, key: str) -> bool:
        """Return a boolean, False when it is absent."""
        value = self._take(key)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{self.at(key)}: true or false is wanted, not {_kind(value)}")
        return bool(value)

    def one_of(self, key: str, words: tuple[str, ...]) -> str:
        """Return a string that is one of `words`, or empty when it is absent."""
        value = self.text(key, needed=False)
        if value and value not in words:
            known = ", ".join(filter(None, words))
            raise ValueError(f"{self.at(key)}: {value[:40]!r} is none of {known}")
        return value

    def inner(self, key: str) -> Fields:
        """Return an object within, an empty one when it is absent."""
        value = self._take(key)
        return Fields({} if value is None else value, self.at(key), self.version)

    def entries(self, key: str, most: int) -> Iterator[Fields]:
        """Yield the objects of a list within."""
        for index, value in enumerate(self._list(key, most)):
            yield Fields(value, f"{self.at(key)}[{index}]", self.version)

    def done(self) -> None:
        """Refuse members that nobody has taken: they are unknown."""
        if not self._taken.issuperset(self._left):
            left = [str(key) for key in self._left if key not in self._taken]
            within = f" in {self.where}" if self.where else ""
            raise ValueError(f"unknown field {left[0][:40]!r}{within}")

    def _take(self, key: str) -> Any:
        self._taken.add(key)
        return self._left.get(key)

    def _list(self, key: str, most: int) -> list[Any]:
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ValueError(f"{self.at(key)}: a list is wanted, not {_kind(value)}")
        if len(value) > most:
            raise ValueError(f"{self.at(key)} has more than {most} entries")
        return value

    @staticmethod
    def _refuse_text(value: Any, where: str) -> NoReturn:
        if not isinstance(value, str):
            raise ValueError(f"{where}: a string is wanted, not {_kind(value)}")
        raise ValueError(f"{where}: no such text can be used")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and len(value) <= _LONGEST


def _number(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{where}: an integer is wanted, not {_kind(value)}")
    if not 0 <= value <= _HIGHEST:
        raise ValueError(f"{where}: {str(value)[:40]} is no number of 32 bits")
    return value


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _kind(value: Any) -> str:
    known = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "a number"
    return known.get(type(value), "null")
