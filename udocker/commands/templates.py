"""Go templates of docker's `--format`, as far as scripts use them: fields, `json`, plain text.

`{{.State.Running}}`, `{{json .Mounts}}`, `{{index .Config.Labels "key"}}`, `{{len .Names}}`,
`{{join .Names ","}}`. Source: docker documentation, "Format command and log output".
"""

from __future__ import annotations

import json
import re

from udocker import console
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_WORDS = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_PATH = re.compile(r"(\.[A-Za-z0-9_-]+)+|\.")
_ESCAPES = {"\\t": "\t", "\\n": "\n"}


def put_rows(template: str, rows: Iterable[Mapping[str, Any]], titles: Mapping[str, str]) -> None:
    """Print the template filled with each of the rows, or for `json` the rows.

    `table TEMPLATE` makes columns, parted by tabs, below the titles of the fields. Raises
    UsageError.
    """
    if template.startswith("table "):
        header, *lines = [fill(template, row).split("\t") for row in (titles, *rows)]
        console.table(header, lines)
        return
    for row in rows:
        console.put(json.dumps(row) if template == "json" else fill(template, row))


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Return the template with what it names of `values`. Raises UsageError."""
    if template.startswith("table "):
        template = template[len("table ") :]
    for written, meant in _ESCAPES.items():
        template = template.replace(written, meant)
    return _ACTION.sub(lambda match: _value(match.group(1), values), template)


def _value(action: str, values: Mapping[str, Any]) -> str:
    function, *operands = _WORDS.findall(action) or [""]
    if not operands:
        return _shown(_field(function, values))
    if function == "json" and len(operands) == 1:
        return json.dumps(_field(operands[0], values), separators=(",", ":"))
    if function == "len" and len(operands) == 1:
        return str(len(_field(operands[0], values)))
    if function == "join" and len(operands) == 2:
        return _text(operands[1]).join(map(_shown, _field(operands[0], values)))
    if function == "index" and len(operands) == 2:
        return _shown(_member(_field(operands[0], values), operands[1]))
    raise _unknown(action)


def _field(path: str, values: Mapping[str, Any]) -> Any:
    """Return what `.A.B` names; letters may be of any case."""
    if not _PATH.fullmatch(path):
        raise _unknown(path)
    found: Any = values
    for name in filter(None, path.split(".")):
        keys = {key.lower(): key for key in found} if isinstance(found, dict) else {}
        if name.lower() not in keys:
            known = ", ".join(found) if isinstance(found, dict) else "none"
            raise UsageError(f"--format: there is no field {path}", hint=f"fields there: {known}")
        found = found[keys[name.lower()]]
    return found


def _member(collection: Any, key: str) -> Any:
    try:
        return collection[_text(key) if key.startswith('"') else int(key)]
    except (LookupError, TypeError, ValueError):
        return ""


def _text(word: str) -> str:
    try:
        return str(json.loads(word))
    except ValueError:
        raise _unknown(word) from None


def _shown(value: Any) -> str:
    """Return a value as Go's templates print it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(map(_shown, value)) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_shown(item)}" for key, item in value.items()) + "]"
    return "<no value>" if value is None else str(value)


def _unknown(text: str) -> UsageError:
    return UsageError(
        f"--format: {text!r} is not understood", hint="fields (.A.B), json, index, join and len are"
    )
