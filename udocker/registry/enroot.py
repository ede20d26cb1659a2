"""Credentials that enroot (and with it Pyxis) keeps, in the manner of netrc.

Source: enroot, doc/cmd/import.md, "Description": `machine HOST login USER password WORD`.
"""

from __future__ import annotations

from udocker.reference import HUB
from udocker.registry.secret import Credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MAX_BYTES = 1 << 20
_HUB_MACHINE = "auth.docker.io"


def find(registry: str, environment: Mapping[str, str]) -> Credentials | None:
    """Return what the file has for a registry, None for nothing, or for no file that is ours.

    A password that is a command to be run (`$(...)`) is not one here.
    """
    home = environment.get("HOME", "")
    config = environment.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    directory = environment.get("ENROOT_CONFIG_PATH") or (config and f"{config}/enroot")
    path = f"{directory}/.credentials"
    machines = (_HUB_MACHINE, HUB) if registry == HUB else (registry,)
    for entry in _entries(path) if directory else ():
        machine, user, password = (entry.get(key, "") for key in ("machine", "login", "password"))
        if machine in machines and user and password and "$(" not in password:
            return Credentials(user, password, origin=path)
    return None


def _entries(path: str) -> Iterator[dict[str, str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(_MAX_BYTES).splitlines()
    except OSError:
        return
    words = iter(" ".join(line for line in lines if not line.lstrip().startswith("#")).split())
    entry: dict[str, str] = {}
    for word in words:
        if word == "machine":
            yield entry
            entry = {}
        if word in ("machine", "login", "password"):
            entry.setdefault(word, next(words, ""))
    yield entry
