"""How a container's loader finds the libraries that a specification has mounted.

The same as `ldconfig` in the container would come to, from what is known of the mounts: an
ld.so.cache that lists them before the image's own libraries, and links with their SONAMEs.
"""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.containers.spec import Bind
from udocker.errors import StoreError
from udocker.host import ldcache
from udocker.nvidia import cache
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from udocker.containers.spec import Symlink
    from udocker.nvidia.cdi.surroundings import Surroundings

_FORMAT = 2
_MOST_NAMES = 4096


@dataclass(frozen=True)
class Library:
    """A library that a mount shows, and which loaders take."""

    path: str
    """In the container."""
    soname: str
    """The name that programs open: its SONAME, or the file's own."""
    flags: int
    """As in an ld.so.cache."""

    @property
    def link(self) -> str:
        """The path of the link with its SONAME, beside it."""
        return f"{os.path.dirname(self.path)}/{self.soname}"


def libraries(around: Surroundings, folders: Iterable[str]) -> tuple[Library, ...]:
    """Return the libraries that mounts show directly in `folders`, in the order of these.

    Remembered: where nothing has changed since the last time no library is read.
    """
    wanted = tuple(dict.fromkeys(folders))
    mounted = _mounted(around, wanted)
    identities = [[path, source, _identity(source)] for path, source in mounted.items()]
    name = f"cdi-{cache.digest([_FORMAT, around.host.machine, identities])}.libraries"
    kept = cache.load(around.cache_directory, name)
    if not _is_answer(kept):
        kept = _read(mounted, around.host.machine)
        try:
            cache.save(around.cache_directory, name, fastjson.dumps(kept).encode())
        except StoreError:
            pass  # only the next start is slower
    found = [Library(*entry) for entry in kept]
    return tuple(
        library for folder in wanted for library in found if os.path.dirname(library.path) == folder
    )


def cache_bind(
    around: Surroundings,
    folders: tuple[str, ...],
    found: tuple[Library, ...],
    links: tuple[Symlink, ...],
    newer: tuple[Library, ...] = (),
) -> Bind:
    """Return the bind of an ld.so.cache that has what is in `folders` before all that it had.

    Libraries of the image that are `newer` come before both. Raises StoreError when it cannot be
    written.
    """
    known = _known_cache(around)
    places = {(a.soname, a.flags): a.path for a in newer}
    better = {a.path: places.get((a.soname, a.flags)) for a in found}
    flags = {library.path: library.flags for library in found}
    all_names = (
        *((a.soname, a.path, a.path) for a in found),
        *((os.path.basename(a.path), a.path, _target(a)) for a in links if _is_library(a.path)),
    )
    for called, place, file in all_names:
        if file in flags and os.path.dirname(place) in folders:
            places.setdefault((called, flags[file]), better[file] or place)
    entries = [(called, place, kind) for (called, kind), place in places.items()]
    name = f"cdi-{cache.digest([_FORMAT, entries], known)}.cache"
    path = os.path.join(around.cache_directory, name)
    if not cache.is_kept(path):
        merged = _merged([ldcache.Entry(*entry) for entry in entries], known)
        path = cache.save(around.cache_directory, name, merged)
    return Bind(path, ldcache.PATH, readonly=True)


def _target(link: Symlink) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(link.path), link.target))


def _mounted(around: Surroundings, folders: tuple[str, ...]) -> dict[str, str]:
    """Return the files that lie directly in `folders` by mounts: host paths by container paths."""
    found: dict[str, str] = {}
    for bind in around.binds:
        if os.path.dirname(bind.destination) in folders and _is_library(bind.destination):
            found[bind.destination] = bind.source
        for folder in folders:
            if folder == bind.destination or folder.startswith(f"{bind.destination}/"):
                source = bind.source + folder[len(bind.destination) :]
                found.update((f"{folder}/{a}", f"{source}/{a}") for a in _names(source))
    return found


def _names(directory: str) -> list[str]:
    try:
        return [name for name in sorted(os.listdir(directory))[:_MOST_NAMES] if _is_library(name)]
    except OSError:
        return []


def _is_library(path: str) -> bool:
    """Tell whether ldconfig(8) would look at a file of that name."""
    name = os.path.basename(path)
    return name.startswith(("lib", "ld-")) and ".so" in name


def _identity(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _known_cache(around: Surroundings) -> bytes:
    """Return the cache that shows so far; nothing when the image has none or one not sane."""
    try:
        if not around.library_cache:
            return around.image.read(ldcache.PATH, ldcache.MAX_BYTES)
        with open(around.library_cache, "rb") as file:
            return file.read(ldcache.MAX_BYTES)
    except OSError:
        return b""


def _read(mounted: Mapping[str, str], machine: str) -> list[tuple[str, str, int]]:
    from udocker.host import elffacts

    found = []
    for path, source in mounted.items():
        try:
            facts = elffacts.scan(source)
        except OSError:
            facts = None
        flags = _flags(facts.bits, facts.machine, machine) if facts else 0
        if facts and flags:
            plain = facts.soname if facts.soname and "/" not in facts.soname else ""
            found.append((path, plain or os.path.basename(path), flags))
    return found


def _flags(bits: int, found: str, machine: str) -> int:
    """Return the cache's flags of a library, 0 when no loader of this machine takes it."""
    if (bits, found) == (64, machine) or (bits, found) == (32, ldcache.COMPAT32.get(machine)):
        return ldcache.FLAGS.get(found, 0)
    return 0


def _merged(first: list[ldcache.Entry], known: bytes) -> bytes:
    try:
        of_image = ldcache.parse(known)
    except ValueError:
        of_image = ldcache.LdCache()
    return ldcache.serialize(ldcache.LdCache((*first, *of_image.entries), of_image.hwcaps))


def _is_answer(kept: Any) -> bool:
    return isinstance(kept, list) and all(
        isinstance(entry, list) and [type(value) for value in entry] == [str, str, int]
        for entry in kept
    )
