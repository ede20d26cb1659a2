"""Files of another driver that an image carries, and what would lead programs to them.

Images that were made on a GPU node, or by installing a driver, keep libraries that are right
only with the kernel module of that day; older tools leave empty files behind. Only names and
ELF headers are looked at, in the directories where loaders look, and only so many.
"""

from __future__ import annotations

import os
from itertools import islice

from udocker.host import ldcache, ldconf
from udocker.nvidia.driver import libraries
from udocker.nvidia.placement.placed import MAX_ELEMENTS
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.loader import Loader
    from udocker.host.root import Root
    from udocker.nvidia.driver.installation import Driver

DIRECTORIES = (
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib64/nvidia",
    "/usr/lib/nvidia",
)
"""Where drivers of old lie, beside the directories of every loader."""
_NOT_LOCKED = ("libnvidia-egl-", "nvidia-drm_gbm")
"""Parts of a driver that distributions build too, tied to no kernel module."""
_STUBS = "stubs"
"""A directory of that name is for linking: no program finds it by itself."""
MAX_DIRECTORIES = 64
MAX_NAMES = 1 << 15
"""Names that are looked at in one directory."""
MAX_FILES = 256


@dataclass(frozen=True)
class BakedFile:
    """A file in an image that claims to be part of a driver."""

    path: str
    """In the image, free of links."""
    soname: str
    """The name by which programs get it."""
    version: str
    """Of its driver, as its name has it; `(empty)` for a file without content."""


def find(
    loader: Loader, driver: Driver, library_path: str = "", compat: tuple[str, ...] = ()
) -> tuple[BakedFile, ...]:
    """Return the driver files that an image carries where programs of its `loader` find them.

    `library_path` is the program's LD_LIBRARY_PATH; `compat` are directories that are judged
    apart, and no driver left behind.
    """
    image = loader.root
    known = sonames(driver)
    found: dict[str, BakedFile] = {}
    for directory in islice(_directories(loader, library_path), MAX_DIRECTORIES):
        for name in driver_names(image, directory, frozenset(known)):
            path = image.locate(f"{directory}/{name}")
            place = os.path.dirname(path) if path else ""
            if not path or path in found or place in compat or _STUBS in place.split("/"):
                continue
            file = _examined(loader, path, name, known)
            if file and len(found) < MAX_FILES:
                found[path] = file
    return tuple(found.values())


def is_locked(name: str) -> bool:
    """Tell whether a file name is one of those that only fit one kernel module."""
    return name.partition(".so")[0] in libraries.LIBRARIES and not name.startswith(_NOT_LOCKED)


def driver_names(image: Root, directory: str, known: frozenset[str]) -> tuple[str, ...]:
    """Return the names in a directory that are a driver's; `known` are those of its libraries."""
    return tuple(
        name
        for name in image.listdir(directory)[:MAX_NAMES]
        if ".so." in name and (is_locked(name) or name.partition(".so")[0] in known)
    )


def sonames(driver: Driver) -> dict[str, str]:
    """Return the SONAME of each driver-locked library of the host, by its name up to `.so`."""
    return {
        library.soname.partition(".so")[0]: library.soname
        for library in driver.libraries
        if not library.soname.startswith(_NOT_LOCKED)
    }


def _directories(loader: Loader, library_path: str) -> Iterator[str]:
    places = [*ldcache.default_directories(loader.machine), *DIRECTORIES]
    flags = ldcache.FLAGS.get(loader.machine, -1)
    cached = (e.path for e in loader.cache.entries if e.flags == flags and is_locked(e.name))
    places += [os.path.dirname(path) for path in cached]
    named = ldconf.elements(library_path)[:MAX_ELEMENTS]
    places += [place for place in named if place.startswith("/")]
    seen = set()
    for directory in (d for place in places for d in (place, f"{place}/vdpau")):
        located = loader.root.locate(directory)
        if located and located not in seen:
            seen.add(located)
            yield located


def _examined(loader: Loader, path: str, name: str, known: dict[str, str]) -> BakedFile | None:
    host_path = loader.root.resolve(path)
    if host_path is None or not os.path.isfile(host_path):
        return None
    base = name.partition(".so")[0]
    if not os.path.getsize(host_path):
        return BakedFile(path, known.get(base, name), "(empty)")
    found = loader.open(path)
    if found is None:
        return None  # of another machine, or no library at all: no loader takes it
    version = os.path.basename(path).partition(".so.")[2]
    return BakedFile(path, found.facts.soname or name, version)
