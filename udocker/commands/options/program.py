"""Options on the program: its environment, directory, terminal, time zone."""

from __future__ import annotations

from udocker.commands.options import grammar
from udocker.containers.process import parse_variable
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from udocker.commands.words import Values

_STREAMS = ("stdin", "stdout", "stderr")
_ZONE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-/")


def wishes(values: Values, environment: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """Return the fields of the request that options on the program fill."""
    for stream in values.all("attach"):
        grammar.one_of(stream.lower(), _STREAMS, "--attach")
    files = [read_env_file(path, environment) for path in values.all("env_file")]
    given = tuple(parse_variable(text) for text in values.all("env"))
    return {
        "env": (*(variable for file in files for variable in file), *given),
        "all_host_env": values.flag("hostenv"),
        "unset_env": values.all("unsetenv"),
        "unset_all_env": values.flag("unsetenv_all"),
        "proxy_env": values.flag("http_proxy", default=True),
        "working_dir": values.last("workdir") or None,
        "entrypoint": values.last("entrypoint"),
        "interactive": values.flag("interactive"),
        "terminal": values.flag("tty"),
        "umask": _umask(values.last("umask")),
        "time_zone": _zone(values.last("tz")),
    }


def read_env_file(path: str, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Read docker's `--env-file`: a variable a line, quotes stay, NAME takes the caller's value.

    A NAME that the caller has not is left out. Raises UsageError.
    """
    found = []
    for line in grammar.lines_of(path, "--env-file"):
        name, equals, value = line.partition("=")
        if not name:
            raise UsageError(f"--env-file {path}: no name in the line {line[:100]!r}")
        if name != "".join(name.split()):
            raise UsageError(f"--env-file {path}: the name {name[:100]!r} contains white space")
        if equals or name in environment:
            found.append((name, value if equals else environment[name]))
    return found


def _umask(text: str | None) -> int | None:
    if text is None:
        return None
    if not (0 < len(text) <= 4 and set(text) <= set("01234567") and int(text, 8) <= 0o777):
        raise UsageError(f"--umask {text!r} is not octal", hint="as 0022")
    return int(text, 8)


def _zone(text: str | None) -> str | None:
    """Return the name of a time zone that is a path below zoneinfo. Raises UsageError."""
    if text is None or text == "local":
        return text
    parts = text.split("/")
    if not set(text) <= _ZONE or not all(parts):
        raise UsageError(f"--tz {text!r} is no time zone", hint="as Europe/Berlin, UTC, local")
    return text
