"""Changes to an image's config as Dockerfile instructions: what `commit --change` takes.

Source: docker-container-commit(1); Dockerfile reference; image-spec 1.1, config.md.
"""

from __future__ import annotations

import posixpath
import shlex

from udocker import fastjson
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    Process = dict[str, Any]
    """The member `config` of an image's config."""

_SHELL = ["/bin/sh", "-c"]


def apply(process: Process, instructions: Iterable[str]) -> Process:
    """Return `process` with all instructions carried out, in order. Raises UsageError."""
    changed = dict(process)
    for text in instructions:
        word, _, rest = text.strip().replace("\t", " ", 1).partition(" ")
        instruction = _INSTRUCTIONS.get(word.upper())
        if instruction is None:
            known = ", ".join(_INSTRUCTIONS)
            raise UsageError(f"--change {text!r}: no instruction {word!r}", hint=f"one of: {known}")
        try:
            instruction(changed, rest.strip())
        except ValueError as error:
            raise UsageError(f"--change {text!r}: {error}") from error
    return changed


def _command(process: Process, text: str) -> None:
    process["Cmd"] = _program(text)


def _entrypoint(process: Process, text: str) -> None:
    process["Entrypoint"] = _program(text)
    process.pop("Cmd", None)  # it was meant for the other program


def _env(process: Process, text: str) -> None:
    values = dict(line.partition("=")[::2] for line in process.get("Env") or [])
    values.update(_pairs(text))
    process["Env"] = [f"{name}={value}" for name, value in values.items()]


def _label(process: Process, text: str) -> None:
    process["Labels"] = {**(process.get("Labels") or {}), **_pairs(text)}


def _expose(process: Process, text: str) -> None:
    ports: dict[str, dict[str, str]] = {}
    for word in _words(text):
        number, _, protocol = word.partition("/")
        bounds = number.split("-")
        if len(bounds) > 2 or not all(b.isdigit() and 0 < int(b) < 65536 for b in bounds):
            raise ValueError(f"{word!r} is not a port")
        if protocol not in ("", "tcp", "udp", "sctp"):
            raise ValueError(f"{protocol!r} is not a protocol")
        ports[f"{number}/{protocol or 'tcp'}"] = {}
    process["ExposedPorts"] = {**(process.get("ExposedPorts") or {}), **ports}


def _user(process: Process, text: str) -> None:
    process["User"] = _one_word(text)


def _volume(process: Process, text: str) -> None:
    paths = _list(text) if text.startswith("[") else _words(text)
    process["Volumes"] = {**(process.get("Volumes") or {}), **{path: {} for path in paths}}


def _working_directory(process: Process, text: str) -> None:
    if not text:
        raise ValueError("a directory is missing")
    process["WorkingDir"] = posixpath.join(process.get("WorkingDir") or "/", text)


def _stop_signal(process: Process, text: str) -> None:
    process["StopSignal"] = _one_word(text)


def _on_build(process: Process, text: str) -> None:
    if not text:
        raise ValueError("an instruction is missing")
    process["OnBuild"] = [*(process.get("OnBuild") or []), text]


_INSTRUCTIONS: dict[str, Callable[[Process, str], None]] = {
    "CMD": _command,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _working_directory,
}


def _program(text: str) -> list[str]:
    """Read the exec form, `["a", "b"]`, or the shell form, any other text."""
    if text.startswith("["):
        return _list(text)
    return [*_SHELL, text] if text else []


def _list(text: str) -> list[str]:
    values = fastjson.loads(text.encode())
    if not all(isinstance(value, str) for value in values):
        raise ValueError("not a list of texts")
    return list(values)


def _pairs(text: str) -> dict[str, str]:
    """Read `A=b C="d e"`, or the old form `A b c`."""
    if not text:
        raise ValueError("a name and a value are missing")
    name, space, value = text.partition(" ")
    if "=" not in name:
        if not space:
            raise ValueError(f"{name} has no value")
        return {name: value.strip()}
    pairs = [word.partition("=") for word in _words(text)]
    if not all(name and equals for name, equals, _ in pairs):
        raise ValueError("not NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _words(text: str) -> list[str]:
    words = shlex.split(text)
    if not words:
        raise ValueError("a value is missing")
    return words


def _one_word(text: str) -> str:
    if len(text.split()) != 1:
        raise ValueError("it takes one word")
    return text
