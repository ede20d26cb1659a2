"""The programs and libraries of other engines: where they lie and where they come from.

What `udocker install` brought lies in `$UDOCKER_DIR/engines/NAME/VERSION/`, and the symbolic link
`current` beside the versions names the one in use.
"""

from __future__ import annotations

import os
import stat

from udocker import fastjson, settings
from udocker.errors import StoreError, UsageError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PLACES = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where programs lie that are not on the PATH of every user: runc is in sbin on Debian."""
LIBRARY_PLACES = (
    "/usr/lib/{machine}-linux-gnu/fakechroot",
    "/usr/lib64/fakechroot",
    "/usr/lib/fakechroot",
    "/usr/local/lib/fakechroot",
)
"""Where libfakechroot lies: Debian, Red Hat, others, built by hand."""
LIBRARIES = ("libfakechroot",)
"""What is no program but a shared library: its file is called NAME.so."""
RECORD = "installed.json"
CURRENT = "current"
_RECORD_BYTES = 1 << 20
_OWN = "UDOCKER"
"""As the value of a variable of udocker 1.3: not the host's program, but the installed one."""


@dataclass(frozen=True)
class Installed:
    """A program or library that an engine needs."""

    name: str
    """`proot`, `crun`, `libfakechroot`, ..."""
    path: str
    """Host path of the program or shared library itself."""
    origin: str
    """`host`, the variable that names it, or what it was installed from."""
    version: str = ""
    """As its packager writes it; empty for what was not installed by udocker."""


def find(directory: str, name: str) -> Installed | None:
    """Return the program or library `name` to use; None when there is none.

    The first of: what the caller's variable names, what `udocker install` brought to the store
    `directory`, what lies on PATH or in the system's places. A place where other users can write
    is passed over. Raises UsageError when a variable names what is not there.
    """
    return next(candidates(directory, name), None)


def candidates(directory: str, name: str) -> Iterator[Installed]:
    """Yield every `name` that may be used, the preferred one first, each file once."""
    named = settings.named_executable(name)
    if named and named != _OWN:
        yield _named(name, named)
        return
    seen = set()
    hosts = () if named == _OWN else _hosts(name)
    for found in (*_versions(directory, name), *hosts):
        real = os.path.realpath(found.path)
        if real not in seen:
            seen.add(real)
            yield found


def on_host(name: str) -> Installed | None:
    """Return the host's own program or library `name`, whatever is installed beside it."""
    return next(_hosts(name), None)


def installed(directory: str) -> tuple[Installed, ...]:
    """Return all that `udocker install` brought to the store `directory`, by name.

    Of each name the version in use comes first.
    """
    names = sorted(_listed(f"{directory}/engines"))
    return tuple(found for name in names for found in _versions(directory, name))


def file_name(name: str) -> str:
    """Return what the file of `name` is called in the directory of its version."""
    return f"{name}.so" if name in LIBRARIES else name


def version_key(version: str) -> tuple[tuple[int, ...], ...]:
    """Return what sorts versions as dpkg does: epoch, upstream version, revision.

    Source: deb-version(7). An epoch may be written as in file names, with `%3a`.
    """
    epoch, colon, rest = version.replace("%3a", ":").partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return _part_key(epoch), _part_key(upstream), _part_key(revision)


def _part_key(text: str) -> tuple[int, ...]:
    """Return numbers by value, between them characters: `~`, end, letters, others."""
    key: list[int] = []
    digits = ""
    for character in text:
        if "0" <= character <= "9":
            key += [] if digits else [0]
            digits += character
            continue
        key += [int(digits)] if digits else []
        digits = ""
        weight = ord(character)
        key.append(-1 if character == "~" else weight if character.isalpha() else weight + 256)
    return (*key, int(digits), 0) if digits else (*key, 0, 0)


def _versions(directory: str, name: str) -> Iterator[Installed]:
    place = f"{directory}/engines/{name}"
    versions = [version for version in _listed(place) if version != CURRENT]
    if not versions or not all(map(_is_private, (directory, f"{directory}/engines", place))):
        return
    versions.sort(key=version_key, reverse=True)
    current = _link(f"{place}/{CURRENT}")
    if current in versions:
        versions.remove(current)
        versions.insert(0, current)
    for version in versions:
        path = f"{place}/{version}/{file_name(name)}"
        if _is_private(f"{place}/{version}") and _is_private(path) and os.path.isfile(path):
            yield Installed(name, path, _origin(f"{place}/{version}"), version)


def _origin(place: str) -> str:
    try:
        with open(f"{place}/{RECORD}", "rb") as file:
            record = fastjson.loads(file.read(_RECORD_BYTES))
        return str(record["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        return "installed"


def _hosts(name: str) -> Iterator[Installed]:
    if name in LIBRARIES:
        machine = os.uname().machine
        places = tuple(place.format(machine=machine) for place in LIBRARY_PLACES)
    else:
        places = (*settings.search_path(), *PLACES)
    for place in places:
        path = f"{place}/{file_name(name)}"
        if _can_be_used(name, path) and not _others_write(place) and not _others_write(path):
            yield Installed(name, path, "host")


def _can_be_used(name: str, path: str) -> bool:
    return os.path.isfile(path) and (name in LIBRARIES or os.access(path, os.X_OK))


def _named(name: str, value: str) -> Installed:
    """Return the program that a variable names by a path, or by a word that PATH leads to."""
    places = (os.path.dirname(value),) if "/" in value else settings.search_path()
    for place in places:
        path = f"{place}/{os.path.basename(value)}"
        if _can_be_used(name, path):
            return Installed(name, os.path.abspath(path), f"${settings.EXECUTABLES[name]}")
    variable = settings.EXECUTABLES[name]
    raise UsageError(
        f"${variable} is {value!r}, where there is no {name} that can be used",
        hint=f"unset {variable}, or let it name the file",
    )


def _listed(place: str) -> list[str]:
    try:
        names = os.listdir(place)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"{place}: {error.strerror}") from error
    return [name for name in names if not name.startswith(".")]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _is_private(path: str) -> bool:
    """Tell whether nobody but this user and root can have put something there."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _others_write(path: str) -> bool:
    """Tell whether every user can put something there; the groups of a site are its own affair."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IWOTH)
    except OSError:
        return True
