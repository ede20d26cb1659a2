"""The programs and libraries of other engines: where they lie and where they come from."""

from __future__ import annotations

import os

from udocker.values import dataclass

PLACES = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where programs lie that are not on the PATH of every user: runc is in sbin on Debian."""


@dataclass(frozen=True)
class Installed:
    """A program or library that an engine needs."""

    name: str
    """`proot`, `crun`, `libfakechroot`, ..."""
    path: str
    """Host path of the program or shared library itself."""
    origin: str
    """`host`, or what it was installed from."""
    version: str = ""


def find(directory: str, name: str, environment_path: str = os.defpath) -> Installed | None:
    """Return the program `name` to use: one that `udocker install` brought, else the host's."""
    for place in (*environment_path.split(":"), *PLACES):
        path = f"{place}/{name}"
        if place and os.path.isfile(path) and os.access(path, os.X_OK):
            return Installed(name, path, "host")
    return None
