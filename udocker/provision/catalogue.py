"""What `udocker install` can bring: names, packages, and the engines that need them."""

from __future__ import annotations

from udocker.errors import UsageError
from udocker.values import dataclass

MAX_FILE_BYTES = 64 << 20
"""One program or library; runc, the largest, has 11 MB."""
LIBRARY = "library"
PROGRAM = "program"
DEBIAN_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el"}
"""Debian's name of each architecture as `uname -m` says it."""
UDOCKER_MACHINES = {"x86_64": "x86_64", "aarch64": "arm64", "ppc64le": "ppc64le"}
"""The name in udocker 1.3's tarballs."""


@dataclass(frozen=True)
class Item:
    """A program or library that can be installed."""

    name: str
    engine: str
    """The engine that uses it."""
    package: str
    """The Debian package that has it."""
    paths: tuple[str, ...]
    """Where it may lie in the package; `{machine}` stands for the architecture."""
    kind: str = PROGRAM


ITEMS = (
    Item("proot", "proot", "proot", ("usr/bin/proot",)),
    Item("crun", "crun", "crun", ("usr/bin/crun",)),
    Item(
        "libfakechroot",
        "fakechroot",
        "libfakechroot",
        ("usr/lib/{machine}-linux-gnu/fakechroot/libfakechroot.so",),
        LIBRARY,
    ),
    Item("runc", "runc", "runc", ("usr/sbin/runc", "usr/bin/runc")),
    Item("bwrap", "bwrap", "bubblewrap", ("usr/bin/bwrap",)),
)
USUAL = ("proot", "crun", "libfakechroot")
"""What is installed when nothing is named: what udocker 1.3's tarball had."""
_ALIASES = {"fakechroot": "libfakechroot", "bubblewrap": "bwrap"}
_NEEDS_ROOT = ("apptainer", "singularity", "newuidmap", "uidmap")


def item(name: str) -> Item:
    """Return what a word of the user means. Raises UsageError for what cannot be installed."""
    wanted = _ALIASES.get(name.lower(), name.lower())
    for known in ITEMS:
        if known.name == wanted:
            return known
    names = ", ".join(known.name for known in ITEMS)
    if wanted == "userns":
        raise UsageError("userns is part of udocker: there is nothing to install", hint=names)
    if wanted in _NEEDS_ROOT:
        raise UsageError(
            f"{wanted} works only where an administrator installed it",
            hint=f"udocker can install: {names}",
        )
    raise UsageError(f"udocker cannot install {name!r}", hint=f"it can: {names}")
