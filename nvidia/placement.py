"""The driver's libraries in an image: which of them fit it, and the library cache that finds them.

The libraries are bound under one directory of the container, and the image's `/etc/ld.so.cache`
is shadowed by one that lists them first. So the host's driver wins over what an image may carry,
a program's own RUNPATH still wins over it, and nothing in the image is written or run.
"""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.errors import GpuError, StoreError
from udocker.host import ldcache
from udocker.nvidia import cache, libraries
from udocker.nvidia.driver import glibc_version
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.root import Root
    from udocker.nvidia.driver import Driver, DriverLibrary

DIRECTORY = "/run/udocker/gpu/lib"
"""Where the libraries are in the container; a file system in memory is mounted above it."""

_FORMAT = 1
_LIBC = "libc.so.6"


@dataclass(frozen=True)
class Placement:
    """The libraries that go into a container, and the cache by which its loader finds them."""

    libraries: tuple[DriverLibrary, ...]
    cache_file: str
    """Host path of the merged ld.so.cache; empty when the image has no use for one."""
    notes: tuple[str, ...] = ()


def destination(library: DriverLibrary) -> str:
    """Return the path of `library` in the container."""
    return "/".join(filter(None, (DIRECTORY, library.plugin_directory, library.soname)))


def place(
    driver: Driver, capabilities: tuple[str, ...], image: Root, machine: str, directory: str
) -> Placement:
    """Return what of `driver` goes into `image` for `capabilities`.

    Remembered in `directory` for the same driver, C library and cache of the image. Raises
    GpuError when the image cannot load the driver at all.
    """
    wanted = tuple(a for a in driver.libraries if set(a.capabilities).intersection(capabilities))
    libc = _find_libc(image, machine)
    if libc is None:
        return _without_glibc(image, machine)
    known = _image_cache(image)
    name = "gpu-" + cache.digest(
        _FORMAT, driver.key, capabilities, machine, known, image.path, _identity(libc)
    )
    kept = cache.load(directory, f"{name}.json")
    cache_file = os.path.join(directory, f"{name}.cache")
    if not _is_answer(kept) or not os.path.exists(cache_file):
        kept = _fit(wanted, image, libc)
        kept[1] += _baked_notes(known, image, machine, driver.version)
        merged = _merged(known, _fitting(wanted, kept[0]), machine)
        try:
            cache_file = cache.save(directory, f"{name}.cache", merged)
            cache.save(directory, f"{name}.json", fastjson.dumps(kept).encode())
        except StoreError as error:
            text = f"gpu: cannot write to {directory}: {error.message}"
            raise GpuError(text, hint=error.hint) from error
    return Placement(_fitting(wanted, kept[0]), cache_file, tuple(kept[1]))


def _fitting(wanted: tuple[DriverLibrary, ...], skipped: list[str]) -> tuple[DriverLibrary, ...]:
    return tuple(library for library in wanted if library.path not in skipped)


def _is_answer(kept: object) -> bool:
    return (
        isinstance(kept, list)
        and len(kept) == 2
        and all(isinstance(part, list) and all(isinstance(t, str) for t in part) for part in kept)
    )


def _without_glibc(image: Root, machine: str) -> Placement:
    if image.exists(f"/lib/ld-musl-{machine}.so.1"):
        raise GpuError(
            "gpu: musl image (Alpine): NVIDIA's libraries need glibc",
            hint="use an image based on Debian, Ubuntu or a Red Hat",
        )
    note = "gpu: the image has no C library: only static programs run in it, without the driver"
    return Placement((), "", (note,))


def _find_libc(image: Root, machine: str) -> str | None:
    paths = (image.resolve(f"{d}/{_LIBC}") for d in ldcache.default_directories(machine))
    return next((path for path in paths if path and os.path.isfile(path)), None)


def _identity(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _image_cache(image: Root) -> bytes:
    """Return the image's cache; nothing when it has none or one that is not sane.

    Without one its loader still looks in its default directories, so none need be made up.
    """
    try:
        return image.read(ldcache.PATH, ldcache.MAX_BYTES)
    except OSError:
        return b""


def _parsed(data: bytes) -> ldcache.LdCache:
    try:
        return ldcache.parse(data)
    except ValueError:
        return ldcache.LdCache()


def _merged(known: bytes, chosen: tuple[DriverLibrary, ...], machine: str) -> bytes:
    """Return the image's cache with the driver's libraries before its own."""
    of_image = _parsed(known)
    of_driver = tuple(_entries(chosen, ldcache.FLAGS[machine]))
    return ldcache.serialize(ldcache.LdCache(of_driver + of_image.entries, of_image.hwcaps))


def _entries(chosen: tuple[DriverLibrary, ...], flags: int) -> Iterator[ldcache.Entry]:
    for library in chosen:
        if library.plugin_directory != "gbm":
            for name in (library.soname, *library.extra_names):
                yield ldcache.Entry(name, destination(library), flags)


def _fit(wanted: tuple[DriverLibrary, ...], image: Root, libc: str) -> list[list[str]]:
    """Return the host paths of libraries that the image cannot load, and notes about them.

    Raises GpuError when one without which nothing works is among them.
    """
    defined = _glibc_definitions(libc)
    newest = max(map(glibc_version, defined), default=())
    has = ".".join(map(str, newest)) or "of unknown version"
    skipped: list[str] = []
    notes: list[str] = []
    for library in wanted:
        lacking = next((n for n in library.glibc_needs if _lacks(n, newest, defined)), None)
        if lacking is None:
            continue
        text = f"gpu: image glibc {has} is too old for {library.soname} (needs {lacking})"
        if library.soname.partition(".so")[0] in libraries.CORE:
            raise GpuError(text, hint="use an image with a newer distribution")
        skipped.append(library.path)
        notes.append(f"{text}: left out")
    return [skipped, notes]


def _lacks(need: str, newest: tuple[int, ...], defined: frozenset[str]) -> bool:
    # numbers are compared, not names: a version may be defined by libm or libpthread alone
    number = glibc_version(need)
    return number > newest if number else need not in defined


def _glibc_definitions(libc: str) -> frozenset[str]:
    from udocker.host import elf

    try:
        facts = elf.read(libc)
    except OSError:
        facts = None
    return frozenset(facts.version_definitions) if facts else frozenset()


def _baked_notes(known: bytes, image: Root, machine: str, version: str) -> list[str]:
    """Return a note when the image carries a driver of its own, which is now hidden."""
    notes = []
    for path in _parsed(known).paths("libcuda.so.1", ldcache.FLAGS[machine])[:1]:
        real = image.resolve(path)
        if real:
            own = os.path.basename(real).partition(".so.")[2]
            directory = os.path.dirname(path)
            notes.append(
                f"gpu: image contains its own libcuda.so.1 ({own}, {directory})"
                f" – hidden by the host's {version}"
            )
    return notes
