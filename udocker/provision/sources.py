"""Which Debian repositories this machine is configured for, as apt reads it.

Source: sources.list(5). Both styles are read; what is no plain archive of packages (flat
repositories, CD-ROMs, mirror lists) is passed over.
"""

from __future__ import annotations

import os
import re

from udocker.errors import UsageError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.probe import Host

DIRECTORY = "/etc/apt"
MAX_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<rest>\S.*)")
_YES, _NO = ("yes", "true", "1", "on", "enable"), ("no", "false", "0", "off", "disable")
_SCHEMES = ("http", "https", "file", "copy")


@dataclass(frozen=True)
class Source:
    """One suite of one repository."""

    uri: str
    """Without a slash at its end."""
    suite: str
    components: tuple[str, ...]
    signed_by: tuple[str, ...] = ()
    """Paths of keyrings, fingerprints, or one key as text; empty: all keys that apt trusts."""
    trusted: bool = False
    """It need not be signed."""
    may_expire: bool = True
    """Its `Valid-Until` counts."""


def configured(host: Host, architecture: str) -> tuple[Source, ...]:
    """Return the repositories of `host` for an architecture of Debian, each once.

    A file with mistakes is passed over, as are those whose names apt does not read.
    """
    found: list[Source] = []
    for path in _files(host):
        try:
            found += parse(host.text(path, MAX_BYTES), path, architecture)
        except UsageError:
            continue
    return tuple(dict.fromkeys(found))


def parse(text: str, name: str, architecture: str) -> tuple[Source, ...]:
    """Return the sources in a file: in deb822 style when it is called `*.sources`, or looks so.

    Raises UsageError naming the place of a mistake.
    """
    if name.endswith(".sources") or re.search(r"^Types:", text, re.MULTILINE | re.IGNORECASE):
        return tuple(_from_stanzas(text, name, architecture))
    return tuple(_from_lines(text, name, architecture))


def _files(host: Host) -> Iterator[str]:
    yield f"{DIRECTORY}/sources.list"
    parts = f"{DIRECTORY}/sources.list.d"
    try:
        names = sorted(os.listdir(host.path(parts)))
    except OSError:
        return
    for name in names:
        if _NAME.match(name) and name.endswith((".list", ".sources")):
            yield f"{parts}/{name}"


def _from_lines(text: str, name: str, architecture: str) -> Iterator[Source]:
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line or line.startswith("deb-src"):
            continue
        match = _ONE_LINE.match(line)
        words = match["rest"].split() if match else []
        if match is None or len(words) < 2:
            raise UsageError(f"{name}:{number}: not `deb URI SUITE COMPONENT...`")
        options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
        fields = {
            "uris": words[0],
            "suites": words[1],
            "components": " ".join(words[2:]),
            "architectures": options.get("arch", "").replace(",", " "),
            "signed-by": options.get("signed-by", "").replace(",", "\n"),
            "trusted": options.get("trusted", ""),
            "check-valid-until": options.get("check-valid-until", ""),
        }
        yield from _from_fields(fields, architecture)


def _from_stanzas(text: str, name: str, architecture: str) -> Iterator[Source]:
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for number, stanza in enumerate(re.split(r"\n[ \t]*\n", "\n".join(lines)), 1):
        if not stanza.strip():
            continue
        try:
            fields = parse_stanza(stanza.strip("\n"))
        except ValueError:
            raise UsageError(f"{name}: stanza {number} is not made of fields") from None
        if fields.get("enabled", "yes").lower() in _NO or "deb" not in fields["types"].split():
            continue
        yield from _from_fields(fields, architecture)


def parse_stanza(stanza: str) -> dict[str, str]:
    """Return the fields of a deb822 stanza, names in lower case. Raises ValueError."""
    fields: dict[str, str] = {"types": ""}
    name = ""
    for line in stanza.splitlines():
        if line[:1] in " \t" and name:
            fields[name] += f"\n{line.strip()}"
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or not name:
            raise ValueError(line[:100])
        fields[name] = value.strip()
    return fields


def _from_fields(fields: Mapping[str, str], architecture: str) -> Iterator[Source]:
    architectures = fields.get("architectures", "").split()
    if architectures and architecture not in architectures:
        return
    components = tuple(fields.get("components", "").split())
    for uri in fields.get("uris", "").split():
        for suite in fields.get("suites", "").split():
            if components and not suite.endswith("/") and uri.partition(":")[0] in _SCHEMES:
                yield Source(
                    uri.rstrip("/"),
                    suite.replace("$(ARCH)", architecture),
                    components,
                    _keys(fields.get("signed-by", "")),
                    fields.get("trusted", "").lower() in _YES,
                    fields.get("check-valid-until", "").lower() not in _NO,
                )


def _keys(text: str) -> tuple[str, ...]:
    """Return paths and fingerprints, or one whole key, in which a dot stands for an empty line."""
    if "-----BEGIN" in text:
        lines = ("" if line.strip() == "." else line for line in text.strip().splitlines())
        return ("\n".join(lines),)
    return tuple(text.split())
