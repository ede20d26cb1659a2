"""Names of devices: `vendor.com/class=name`. Source: CDI specification, kind and device names."""

from __future__ import annotations

from udocker.values import dataclass

_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_ALPHANUMERIC = _LETTERS | frozenset("0123456789")
_IN_KIND = _ALPHANUMERIC | frozenset("_-.")
_IN_DEVICE = _IN_KIND | frozenset(":")
_LONGEST = 255


@dataclass(frozen=True)
class QualifiedName:
    """A device of a kind."""

    kind: str
    """`vendor.com/class`."""
    device: str

    def __str__(self) -> str:
        return f"{self.kind}={self.device}"


def parse(text: str) -> QualifiedName:
    """Read `vendor.com/class=name`. Raises ValueError that says which part is wrong."""
    kind, equals, device = text.partition("=")
    if not equals:
        raise ValueError("it is not VENDOR/CLASS=NAME")
    fault = kind_fault(kind) or device_fault(device)
    if fault:
        raise ValueError(fault)
    return QualifiedName(kind, device)


def is_qualified(text: str) -> bool:
    """Tell whether `text` is meant as the name of a device, and not as a path."""
    return not text.startswith(("/", ".")) and "/" in text.partition("=")[0] and "=" in text


def kind_fault(kind: str) -> str | None:
    """Return why `kind` is none, in one sentence; None when it is one."""
    vendor, slash, name = kind.partition("/")
    if not slash:
        return f"the kind {kind!r} is not VENDOR/CLASS"
    for word, part in (("vendor", vendor), ("class", name)):
        if not part:
            return f"the kind {kind!r} has no {word}"
        if len(part) > _LONGEST:
            return f"the {word} of the kind has more than {_LONGEST} characters"
        if part[0] not in _LETTERS:
            return f"the {word} {part!r} does not begin with a letter"
        if part[-1] not in _ALPHANUMERIC:
            return f"the {word} {part!r} does not end with a letter or digit"
        if not _IN_KIND.issuperset(part):
            return f"the {word} {part!r} has more than letters, digits, '_', '-' and '.'"
    return None


def device_fault(name: str) -> str | None:
    """Return why `name` names no device, in one sentence; None when it may."""
    if not name:
        return "the name of the device is empty"
    if len(name) > _LONGEST:
        return f"the name of the device has more than {_LONGEST} characters"
    if name[0] not in _ALPHANUMERIC or name[-1] not in _ALPHANUMERIC:
        return f"the device name {name!r} does not begin and end with a letter or digit"
    if not _IN_DEVICE.issuperset(name):
        return f"the device name {name!r} has more than letters, digits, '_', '-', '.' and ':'"
    return None
