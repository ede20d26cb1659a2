"""The driver's libraries in an image: where they go, and how its loader comes to find them.

They are bound under one directory of the container, and the image's `/etc/ld.so.cache` is
shadowed by one that lists the driver's before the image's own and all others behind them. So the
host's driver wins over what an image may carry, a program's own RUNPATH still wins over the
cache, and nothing in the image is written or run.

Choosing reads the ELF headers of some hundred files (0.1 s), so the answer is kept. It holds for
one state of the driver and of those directories and files of the image where loaders look
(`watched`): whoever installs a library in a container, changes its cache, or its C library,
gets a new one. A library that is overwritten in place, in a directory that stays as it was, is
not noticed, except the C library.
"""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.errors import GpuError, StoreError
from udocker.host import ldcache, ldconf
from udocker.nvidia import cache
from udocker.nvidia.driver import libraries
from udocker.nvidia.placement.placed import MAX_ELEMENTS, Placement, from_json, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.host.root import Root
    from udocker.nvidia.driver.installation import Driver

_FORMAT = 6
_WATCHED = (
    ldcache.PATH,
    ldconf.PATH,
    ldconf.DIRECTORY,
    "/nix/store",
    "/gnu/store",
    "/usr/local",
    "/usr/local/cuda/compat",
    "/usr/local/cuda/compat/lib.real",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
)
_LIBC = "libc.so.6"


def place(
    driver: Driver,
    capabilities: tuple[str, ...],
    image: Root,
    machine: str,
    directory: str,
    *,
    host_root: str = "",
    mode: str = "auto",
    library_path: str = "",
    preload: str = "",
    states: Mapping[str, list[list[int]]] | None = None,
) -> Placement:
    """Return what of `driver` goes into `image` for `capabilities`.

    `host_root` is where the host's files lie, `mode` that of `compat.decide`, `library_path` and
    `preload` are the program's LD_LIBRARY_PATH and LD_PRELOAD, `states` those of what is `watched`
    and perhaps more, where somebody has them. Remembered in `directory`. Raises GpuError when the
    image cannot load the driver at all.
    """
    words = [_FORMAT, driver.key, capabilities, machine, mode, library_path, preload, image.origin]
    states = states or cache.states(image, watched(machine, capabilities, library_path))
    name = "gpu-" + cache.digest(*words, list(states.items()))
    kept = from_json(cache.load(directory, f"{name}.json"))
    if kept is not None and _still_holds(kept, image):
        return kept
    from udocker.nvidia.placement import choosing

    made, merged = choosing.choose(
        driver, capabilities, image, machine, host_root, mode, library_path, preload
    )
    try:
        if merged:
            cache_file = cache.save(directory, f"{name}.cache", merged)
            made = choosing.with_cache(made, cache_file)
        cache.save(directory, f"{name}.json", fastjson.dumps(to_json(made)).encode())
    except StoreError as error:
        text = f"gpu: cannot write to {directory}: {error.message}"
        raise GpuError(text, hint=error.hint) from error
    return made


def _still_holds(kept: Placement, image: Root) -> bool:
    """Tell whether the cache is there, and in the image what is hidden, in whatever directory."""
    there = not kept.cache_file or os.path.exists(kept.cache_file)
    return there and all(image.exists(shadow.destination) for shadow in kept.shadows)


def watched(machine: str, capabilities: tuple[str, ...], library_path: str) -> tuple[str, ...]:
    """Return the files and directories of an image whose states decide what goes into it."""
    places = ldcache.default_directories(machine)
    found = [*_WATCHED, *places, *(f"{place}/{_LIBC}" for place in places)]
    if libraries.COMPAT32 in capabilities and machine in ldcache.COMPAT32:
        found += ldcache.default_directories(ldcache.COMPAT32[machine])
    named = ldconf.elements(library_path)[:MAX_ELEMENTS]
    return (*found, *(element for element in named if element.startswith("/")))
