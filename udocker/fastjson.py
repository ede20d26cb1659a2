"""JSON without the 15 ms that importing `json` (and `re` with it) adds to start-up.

Reader and writer are those in C that `json` itself uses; the reader is strict where `json` is
lax: a repeated key or text after the value is an error. Where an interpreter has none in C,
`json` answers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    import _json
except ImportError:  # pragma: no cover - CPython has it
    _json = None  # type: ignore[assignment]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key is given twice in one object")
    return members


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class _Context:
    """The attributes that the C scanner reads."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_constant)
    memo: dict[str, str] = {}


MAX_VALUES = 1 << 18
"""Values in a document from outside. 16 MiB of `[],` would take 400 MB; of what manifests hold, so
many are in 10 MiB and take 150 MB."""


def from_outside(data: bytes) -> Any:
    """Return what `data` holds, as `loads` does, if that is not made to fill the memory."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    return loads(data)


def loads(data: bytes | str) -> Any:
    """Return the value that `data` (UTF-8) holds. Raises ValueError, whatever is wrong."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        text = text.strip(" \t\r\n")
        if _json is None:  # pragma: no cover
            import json

            return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
        value, end = _json.make_scanner(_Context)(text, 0)  # type: ignore[arg-type]
    except (RecursionError, StopIteration, SystemError) as error:
        # SystemError: in some Pythons (3.11) the scanner raises the error of the module json if
        # that was imported, and nothing otherwise. Source: CPython, _json.c, raise_errmsg.
        raise ValueError("not JSON, or nested too deeply") from error
    if end != len(text):
        raise ValueError(f"text after the JSON value at character {end}")
    return value


def dumps(value: Any) -> str:
    """Return `value` (None, bool, int, float, str, list, tuple, dict) as compact JSON."""
    if _json is None:  # pragma: no cover
        import json

        return json.dumps(value, separators=(",", ":"))
    options = (None, ":", ",", False, False, False)
    encode = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, *options)
    return "".join(encode(value, 0))


def _refuse(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} has no JSON form")
