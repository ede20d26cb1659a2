"""What a program needs below it, and which of several images fits a machine best.

Source: containerd's platforms, `Normalize` and `Only`, whose order docker and Kubernetes share;
image-spec 1.1, image-index.md, "platform".
"""

from __future__ import annotations

import os

from udocker.errors import InvalidDocument
from udocker.values import dataclass


@dataclass(frozen=True)
class Platform:
    """A system and a processor, in Go's words (`linux`, `amd64`; `arm64`, variant `v8`)."""

    os: str
    architecture: str
    variant: str = ""

    @staticmethod
    def parse(text: str) -> Platform:
        """Read `os/architecture[/variant]`, a bare architecture, or a bare system, as docker's
        `--platform`."""
        parts = text.lower().split("/")
        if len(parts) == 1 and text.lower() in _SYSTEMS:
            parts.append(os.uname().machine.lower())
        elif len(parts) == 1:
            parts = ["linux", *parts]
        if len(parts) > 3 or not all(parts) or not all(map(_CHARACTERS.issuperset, parts)):
            hint = "one platform, such as linux/arm64 or linux/arm/v7"
            shown = repr(text[:200])
            raise InvalidDocument(f"platform {shown}: not os/architecture[/variant]", hint=hint)
        if len(parts) == 2 and parts[0] in (*_ARCHITECTURES, "amd64", "386"):
            hint = f"did you mean linux/{'/'.join(parts)}?"
            raise InvalidDocument(f"platform {text!r}: {parts[0]} is no system", hint=hint)
        return Platform.of_words(*parts)

    @staticmethod
    def of_machine(machine: str) -> Platform:
        """Return the platform of a Linux host whose `uname -m` is `machine`."""
        return Platform.of_words("linux", machine.lower())

    @staticmethod
    def of_words(system: str, architecture: str, variant: str = "") -> Platform:
        """Return the platform that words in lower case mean, some of which have several."""
        system = {"macos": "darwin"}.get(system, system)
        name, default = _ARCHITECTURES.get(architecture, (architecture, ""))
        return Platform(system, name, _variant(name, variant) or default)

    def rank(self, other: Platform, *, strict: bool = False) -> int | None:
        """Return how far an image for `other` is from the best for this platform, which is 0.

        None where it does not run. `strict` takes no other architecture: without it 386 runs
        on amd64 and arm on arm64, as a last resort.
        """
        if other.os != self.os:
            return None
        same = other.architecture == self.architecture
        if strict and not same:
            return None
        found = (other.architecture, other.variant)
        if found in (accepted := _accepted(self.architecture, self.variant)):
            return accepted.index(found)
        return 0 if same and other.variant == self.variant else None

    def runs(self, other: Platform, *, strict: bool = False) -> bool:
        """Tell whether an image for `other` runs on this platform.

        One that does not say for which processor it is may, unless `strict`.
        """
        if not other.architecture and not strict:
            return other.os == self.os
        return self.rank(other, strict=strict) is not None

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


_SYSTEMS = ("linux", "windows", "darwin", "macos", "freebsd")
_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "arm64": ("arm64", "v8"),
    "armhf": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armel": ("arm", "v6"),
    "arm": ("arm", "v7"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86": ("386", ""),
    "loongarch64": ("loong64", ""),
    "mips64el": ("mips64le", ""),
}


def _variant(architecture: str, word: str) -> str:
    """Return the one word for a variant: `8` and `v8.0` are v8, and v1 of amd64 is none."""
    if architecture in ("arm", "arm64") and word[:1].isdecimal():
        word = f"v{word}"
    if architecture == "arm64" and word.endswith(".0"):
        word = word[:-2]
    return "" if (architecture, word) == ("amd64", "v1") else word


def _accepted(architecture: str, variant: str) -> list[tuple[str, str]]:
    """Return architectures and variants that run, the best first."""
    if architecture == "amd64":
        return [*(("amd64", v) for v in (*_down(variant, 2), "")), ("386", "")]
    if architecture == "arm":
        return [("arm", v) for v in (*_down(variant, 5), "")]
    if architecture == "arm64":
        variants = (*_arm64(variant), "")
        # v8 and later can have what v8 of 32 bits has
        return [*(("arm64", v) for v in variants), *_accepted("arm", "v8")]
    return [(architecture, variant)]


def _down(variant: str, least: int) -> list[str]:
    """Return `v3`, `v2` for v3 and 2: what the variant is and has from older ones."""
    number = variant[1:]
    newest = int(number) if number.isdecimal() and len(number) < 3 else 0
    return [f"v{older}" for older in range(newest, least - 1, -1)]


def _arm64(variant: str) -> list[str]:
    """Return the variants that run on one of arm64: v9.x has all of v8.(x+5)."""
    major, _, minor = variant[1:].partition(".")
    digits = minor or "0"
    if major not in ("8", "9") or not digits.isdecimal() or len(digits) > 2:
        return [variant]
    newest = int(digits)
    if major == "8":
        return _minors(8, newest)
    return [*_minors(9, newest), *_minors(8, newest + 5)]


def _minors(major: int, newest: int) -> list[str]:
    return [f"v{major}.{minor}" if minor else f"v{major}" for minor in range(newest, -1, -1)]
