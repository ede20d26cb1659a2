"""Command-line words by docker's rules, without the 30 ms that importing click costs.

A table of options serves both: this parser reads `udocker run`, click shows the help.
"""

from __future__ import annotations

from udocker import console
from udocker.errors import UdockerError, UsageError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    Groups = Sequence[tuple[str, Sequence["Option"]]]

FLAG, VALUE, OPTIONAL = "flag", "value", "optional"
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Option:
    """An option: how it is written, what it takes, what it is for.

    `kind` is FLAG (`--rm`, also `--rm=true`), VALUE (`--name x`, `--name=x`, `-ex`) or
    OPTIONAL (`--gpu`, `--gpu=0`: a value only after `=`).
    """

    names: tuple[str, ...]
    kind: str
    help: str
    metavar: str
    default: str
    """What an OPTIONAL option means without a value."""
    key: str
    """The first long name without dashes, with underscores."""

    def __init__(
        self,
        names: tuple[str, ...],
        kind: str,
        help: str = "",
        metavar: str = "TEXT",
        default: str = "",
    ) -> None:
        long = names[0] if names[0][1] == "-" else names[1]
        key = long[2:].replace("-", "_")
        # a hundred of them are made for every run: at once takes a quarter of one by one
        self.__dict__.update(
            names=names, kind=kind, help=help, metavar=metavar, default=default, key=key
        )


class UnknownOption(UsageError):
    """A word that looks like an option is none of those that the command has."""

    def __init__(self, name: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.name = name


class Values:
    """What the words said: for each option all values given, in order."""

    def __init__(self) -> None:
        self._given: dict[str, list[str]] = {}

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys of the options that were given."""
        return iter(self._given)

    def add(self, option: Option, value: str) -> None:
        """Note a value of an option."""
        self._given.setdefault(option.key, []).append(value)

    def set(self, key: str, values: Sequence[str]) -> None:
        """Let these be the values of an option; none of them: it was not given."""
        if values:
            self._given[key] = list(values)
        else:
            self._given.pop(key, None)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Tell whether a flag is on; the last word on it counts."""
        return self._given[key][-1] == "true" if key in self._given else default

    def last(self, key: str) -> str | None:
        """Return the last value of an option; None when it was not given."""
        return self._given.get(key, [None])[-1]

    def all(self, key: str) -> tuple[str, ...]:
        """Return all values of an option."""
        return tuple(self._given.get(key, ()))

    def as_words(self, *, without: Container[str] = ()) -> list[str]:
        """Return words that mean the same: `--name=value` for each value."""
        return [
            f"--{key.replace('_', '-')}={value}"
            for key, values in self._given.items()
            if key not in without
            for value in values
        ]


class HelpWantedError(Exception):
    """The words ask for help and nothing else; `-h` does when it stands alone."""


def guarded(action: Callable[[], int]) -> int:
    """Return what `action` returns; 125, as docker, when an error kept the program from a start.

    -1 when it is help that is wanted.
    """
    try:
        return action()
    except HelpWantedError:
        return -1
    except UdockerError as error:
        console.say_error(error)
        return max(error.exit_code, 125)


def parse(words: Sequence[str], options: Sequence[Option]) -> tuple[Values, list[str], list[str]]:
    """Return the values, the words that were options, and the rest from the first other word on.

    Raises UsageError for options that are unknown or lack their value, and HelpWantedError.
    """
    table = {name: option for option in options for name in option.names}
    values = Values()
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return values, list(words[:position]), list(words[position + 1 :])
        if len(word) < 2 or word[0] != "-":
            break
        if word == "--help" or list(words) == ["-h"]:
            raise HelpWantedError
        following = words[position + 1] if position + 1 < len(words) else None
        used = _long if word.startswith("--") else _short
        position += 1 + used(word, following, table, values)
    return values, list(words[:position]), list(words[position:])


def _long(word: str, following: str | None, table: dict[str, Option], values: Values) -> int:
    """Read `--name`, `--name=value` or `--name value`; return how many words more it took."""
    name, equals, value = word.partition("=")
    option = table.get(name)
    if option is None:
        raise UnknownOption(name, f"no such option: {name}", hint=_similar(name, table))
    if option.kind == FLAG:
        truth = _TRUTH.get(value.lower()) if equals else True
        if truth is None:
            raise UsageError(f"{name} is either true or false, not {value!r}")
        values.add(option, "true" if truth else "false")
        return 0
    if equals or option.kind == OPTIONAL:
        values.add(option, value if equals else option.default)
        return 0
    return _with_value(option, name, following, values)


def _short(word: str, following: str | None, table: dict[str, Option], values: Values) -> int:
    """Read `-it`, `-eA=b`, `-e A=b` or `-e=A=b`; return how many words more it took."""
    for position in range(1, len(word)):
        name, rest = f"-{word[position]}", word[position + 1 :]
        option = table.get(name)
        if option is None:
            where = f" (in {word})" if len(word) > 2 else ""
            hint = f"did you mean -{word}?" if f"-{word.partition('=')[0]}" in table else None
            raise UnknownOption(name, f"no such option: {name}{where}", hint)
        if option.kind == FLAG:
            values.add(option, "true")
        elif rest:
            values.add(option, rest[1:] if rest.startswith("=") else rest)
            return 0
        else:
            return _with_value(option, name, following, values)
    return 0


def _with_value(option: Option, name: str, following: str | None, values: Values) -> int:
    if following is None:
        raise UsageError(f"the option {name} needs a value ({option.metavar})")
    values.add(option, following)
    return 1


def _similar(name: str, table: dict[str, Option]) -> str | None:
    import difflib

    found = difflib.get_close_matches(
        name, [n for n in table if n.startswith("--")], n=1, cutoff=0.75
    )
    return f"did you mean {found[0]}?" if found else None
