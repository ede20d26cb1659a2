"""Whether an installed program works here: it is run before it is believed."""

from __future__ import annotations

import os
import re
import subprocess

from udocker.engines import programs, select
from udocker.errors import UdockerError
from udocker.host import elf
from udocker.provision.libraries import newest_glibc
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.engines.programs import Installed
    from udocker.host.probe import Host
    from udocker.provision.catalogue import Item

_TIMEOUT_S = 20
_MAX_TEXT = 65536
_VERSION = re.compile(r"(?<![\w.])v?(\d+\.\d+[\w.+~-]*)")
_STAT_FAMILY = (2, 33)
"""The first glibc whose programs call stat by its own name. Source: glibc 2.33, NEWS."""


def version_of(name: str, path: str) -> str:
    """Return the version that a program says it has; empty when it says none.

    Raises UdockerError when it cannot be run.
    """
    if name in programs.LIBRARIES:
        return ""
    env = {"PATH": os.defpath, "LC_ALL": "C", "HOME": "/"}
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            env=env,
            cwd="/",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UdockerError(f"{name}: {path} cannot be run: {error}") from error
    text = (done.stdout[:_MAX_TEXT] + done.stderr[:_MAX_TEXT]).decode("utf-8", "replace")
    if done.returncode:
        said = text.strip().partition("\n")[0][:200] or f"exit status {done.returncode}"
        raise UdockerError(f"{name}: {path} does not work: {said}")
    found = _VERSION.search(text)
    return found[1] if found else ""


def with_version(found: Installed) -> Installed:
    """Return the same with the version that it says it has, where udocker did not install it."""
    if found.version:
        return found
    try:
        return replace(found, version=version_of(found.name, found.path))
    except UdockerError:  # what is wrong with it its engine tells
        return found


def test(item: Item, path: str, machine: str) -> None:
    """Return when the file at `path` is what it should be and runs. Raises UdockerError."""
    facts = elf.read(path)
    if facts is None or facts.machine != machine:
        what = f"made for {facts.machine}" if facts else "no ELF file"
        raise UdockerError(f"{item.name}: {path} is {what}, this machine is {machine}")
    version_of(item.name, path)


def coverage(path: str) -> str:
    """Return in words which containers a libfakechroot is for."""
    try:
        facts = elf.read(path)
    except OSError:  # somebody has just replaced it
        return ""
    if facts is None:
        return "no library"
    if any(name.startswith("libc.musl") or name == "libc.so" for name in facts.needed):
        return "for containers with musl"
    newest = newest_glibc(facts)
    if not newest:
        return "for containers with any glibc"
    text = ".".join(map(str, newest))
    if newest < _STAT_FAMILY:
        return f"for containers with glibc {text} to 2.32"
    return f"for containers with glibc {text} and newer"


def obstacle(host: Host, directory: str, item: Item) -> str:
    """Return why the engine of an item cannot run here; empty: it can."""
    way = next(way for way in select.WAYS if way.name == item.engine)
    try:
        return select.make(way, directory).obstacle(host) or ""
    except UdockerError as error:
        return error.message
