"""How a container's loader finds the libraries that a specification has mounted.

The same as `ldconfig` in the container would come to, from what is known of the mounts: an
ld.so.cache that lists them before the image's own libraries, and links with their SONAMEs.
"""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.containers.spec import Bind, ContainerEdits, Symlink
from udocker.host import ldcache
from udocker.nvidia import cache
from udocker.nvidia.cdi.surroundings import Result, Surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FORMAT = 1
_MOST_NAMES = 4096
_I386_FLAGS = 0x0003


def plan(
    around: Surroundings,
    folders: tuple[str, ...],
    soname_folders: tuple[str, ...],
    links: Mapping[str, str],
    compat_for: str,
) -> Result:
    """Return the cache of `folders` and the links of `soname_folders`, beside those in `links`.

    Where nothing has changed since the last time no library is read. `compat_for` is the version
    of the driver, when the image's newer CUDA library may be taken in its place.
    """
    mounted = _mounted(around, dict.fromkeys((*folders, *soname_folders)))
    known = _known_cache(around)
    machine = around.host.machine
    first, notes = _compat(around, compat_for)
    name = "cdi-" + cache.digest(
        [_FORMAT, machine, folders, soname_folders, sorted(links.items()), first],
        [[path, source, _identity(source)] for path, source in mounted.items()],
        known,
    )
    directory = around.cache_directory
    kept = cache.load(directory, f"{name}.json")
    cache_file = os.path.join(directory, f"{name}.cache")
    if not _is_answer(kept) or not os.path.exists(cache_file):
        kept, entries = _look(mounted, links, folders, soname_folders, machine)
        entries = [*first, *entries]
        merged = _merged([ldcache.Entry(*entry) for entry in entries], known)
        cache_file = cache.save(directory, f"{name}.cache", merged)
        cache.save(directory, f"{name}.json", fastjson.dumps(kept).encode())
    symlinks = tuple(Symlink(path, target) for path, target in kept)
    binds = (Bind(cache_file, ldcache.PATH, readonly=True),) if folders or first else ()
    return Result(ContainerEdits(binds=binds, symlinks=symlinks, library_dirs=folders), notes)


def _mounted(around: Surroundings, folders: Mapping[str, None]) -> dict[str, str]:
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


def _look(
    mounted: Mapping[str, str],
    links: Mapping[str, str],
    folders: tuple[str, ...],
    soname_folders: tuple[str, ...],
    machine: str,
) -> tuple[list[tuple[str, str]], list[tuple[str, str, int]]]:
    """Return links (path, target) and entries (name, path, flags), in the order of `folders`."""
    from udocker.host import elf

    flags: dict[str, int] = {}
    sonames: dict[str, str] = {}
    for path, source in mounted.items():
        try:
            facts = elf.read(source)
        except OSError:
            facts = None
        fits = facts is not None and _flags(facts.bits, facts.machine, machine)
        if facts is None or not fits:
            continue
        flags[path] = fits
        sonames[path] = facts.soname if facts.soname and "/" not in facts.soname else ""
    made = {}
    entries = []
    for folder in dict.fromkeys((*folders, *soname_folders)):
        here = [path for path in flags if os.path.dirname(path) == folder]
        pairs = {sonames[path] or os.path.basename(path): path for path in here}
        for soname, path in pairs.items():
            wanted = f"{folder}/{soname}"
            if wanted not in mounted and wanted not in links and folder in soname_folders:
                made[wanted] = os.path.basename(path)
        pairs = {**_link_names(folder, links, flags), **pairs}
        if folder in folders:
            entries += [(name, path, flags[_end(path, links)]) for name, path in pairs.items()]
    return [*made.items()], entries


def _link_names(folder: str, links: Mapping[str, str], flags: Mapping[str, int]) -> dict[str, str]:
    """Return the links in a folder that lead to libraries: their paths by their names."""
    return {
        os.path.basename(path): path
        for path in links
        if os.path.dirname(path) == folder and _is_library(path) and _end(path, links) in flags
    }


def _end(path: str, links: Mapping[str, str]) -> str:
    target = links.get(path)
    return path if target is None else os.path.join(os.path.dirname(path), target)


def _flags(bits: int, found: str, machine: str) -> int:
    """Return the cache's flags of a library, 0 when no loader of this machine takes it."""
    if (bits, found) == (64, machine):
        return ldcache.FLAGS.get(machine, 0)
    return _I386_FLAGS if machine == "x86_64" and (bits, found) == (32, "i386") else 0


def _merged(first: list[ldcache.Entry], known: bytes) -> bytes:
    try:
        of_image = ldcache.parse(known)
    except ValueError:
        of_image = ldcache.LdCache()
    return ldcache.serialize(ldcache.LdCache((*first, *of_image.entries), of_image.hwcaps))


def _compat(
    around: Surroundings, version: str
) -> tuple[tuple[tuple[str, str, int], ...], tuple[str, ...]]:
    """Return entries for the image's newer CUDA library, where it is to be taken, and notes."""
    return (), ()


def _is_answer(kept: Any) -> bool:
    return isinstance(kept, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(a, str) for a in pair)
        for pair in kept
    )
