"""The image's `ldconfig`, while a library cache of ours shows in the place of the image's own.

A file on which something is mounted cannot be replaced: ldconfig would fail, and with it the
installation of every package that has a library. So it makes its links and leaves the cache
alone. What is new the loader finds in its own directories; elsewhere once ldconfig has run in
the container without GPUs.
Source: ldconfig(8); rename(2), EBUSY.
"""

from __future__ import annotations

import os

from udocker.containers.spec import Bind
from udocker.errors import GpuError, StoreError
from udocker.nvidia import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.root import Root

_PLACES = ("/sbin/ldconfig.real", "/sbin/ldconfig", "/usr/sbin/ldconfig")
"""The first is Ubuntu's, whose /sbin/ldconfig is a script that may call it."""
WATCHED = (*_PLACES, "/bin/sh")
"""The files of an image on which the answer depends."""
_REAL = "/run/udocker/ldconfig"
_SCRIPT = f'#!/bin/sh\nexec {_REAL} -N "$@"\n'.encode()


def binds(image: Root, cache_directory: str) -> tuple[Bind, ...]:
    """Return what makes ldconfig leave the cache alone; nothing where the image has none.

    Raises GpuError when the script for it cannot be written to `cache_directory`.
    """
    for place in _PLACES:
        path, real = image.locate(place), image.resolve(place)
        if path and real and os.path.isfile(real) and image.exists("/bin/sh"):
            name = f"ldconfig-{cache.digest(_SCRIPT)}"
            script = os.path.join(cache_directory, name)
            if not os.path.exists(script):
                _save(cache_directory, name)
            return Bind(real, _REAL, readonly=True), Bind(script, path, readonly=True)
    return ()


def _save(cache_directory: str, name: str) -> None:
    try:
        cache.save(cache_directory, name, _SCRIPT, mode=0o755)
    except StoreError as error:
        raise GpuError(f"gpu: {error.message}", hint=error.hint) from error
