"""The small grammars that options share: words, numbers, sizes, CSV fields, pairs."""

from __future__ import annotations

from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_UNITS = "kmgtp"
_MAX = (1 << 63) - 1


def one_of(word: str, known: Iterable[str], option: str) -> str:
    """Return `word`. Raises UsageError when it is none of `known`."""
    if word not in known:
        raise UsageError(f"{option} {word!r} is not known", hint="one of: " + ", ".join(known))
    return word


def whole(text: str, option: str, *, least: int = 0, most: int = _MAX) -> int:
    """Return the decimal number that `text` writes. Raises UsageError."""
    digits = text[1:] if text.startswith("-") else text
    number = int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    if number is None or not least <= number <= most:
        limits = f"from {least} to {most}" if most < _MAX else f"of at least {least}"
        raise UsageError(f"{option} {text!r} is not a whole number {limits}")
    return number


def size(text: str, option: str) -> int:
    """Return the bytes that docker understands: `64m`, `1.5GiB`, `65536`. Raises UsageError."""
    word = text.lower()
    digits = word.rstrip("bikmgtp ")
    unit = word[len(digits) :].strip()
    plain = digits.replace(".", "", 1)
    known = unit in ("", "b") or (unit[0] in _UNITS and unit[1:] in ("", "b", "ib"))
    if not (plain.isascii() and plain.isdigit() and len(plain) < 20 and known):
        raise UsageError(f"{option} {text!r} is not a size", hint="as 512m, 2g, 65536 (bytes)")
    exponent = _UNITS.index(unit[0]) + 1 if unit[:1] in tuple(_UNITS) else 0
    result = int(float(digits) * 1024**exponent)
    if result > _MAX:
        raise UsageError(f"{option} {text!r} is too large")
    return result


def csv_fields(text: str, option: str) -> list[str]:
    """Return the fields of a line of CSV; in double quotes a comma is a comma. Source: RFC 4180."""
    fields = [""]
    quoted = False
    position = 0
    while position < len(text):
        character = text[position]
        if character == '"' and quoted and text[position + 1 : position + 2] == '"':
            fields[-1] += '"'
            position += 1
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            fields.append("")
        else:
            fields[-1] += character
        position += 1
    if quoted:
        raise UsageError(f"{option} {text!r}: a quote is not closed")
    return fields


def pair(text: str, option: str) -> tuple[str, str]:
    """Read `NAME=VALUE`, or `NAME` with an empty value. Raises UsageError."""
    name, _, value = text.partition("=")
    if not name or name != name.strip():
        raise UsageError(f"{option} {text!r}: that is no NAME=VALUE")
    return name, value


def truth(value: str, option: str) -> bool:
    """Return what `true` or `false` says, or nothing at all, which is true."""
    return one_of(value.lower() or "true", ("true", "false", "1", "0"), option) in ("true", "1")


def lines_of(path: str, option: str, limit_bytes: int = 8 << 20) -> list[str]:
    """Return the lines of a UTF-8 file that say something, without their leading white space.

    Lines that begin with `#` say nothing, nor does a byte order mark. Raises UsageError.
    Source: docker's `pkg/kvfile`.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(limit_bytes + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {option} {path}: {error}") from error
    if len(data) > limit_bytes:
        raise UsageError(f"{option} {path}: larger than {limit_bytes} bytes")
    if "\0" in text:
        raise UsageError(f"{option} {path}: it holds a zero byte, which no variable can")
    lines = text.removeprefix("\ufeff").split("\n")
    stripped = [line.removesuffix("\r").lstrip() for line in lines]
    return [line for line in stripped if line and not line.startswith("#")]
