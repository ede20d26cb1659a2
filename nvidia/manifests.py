"""Manifests of Vulkan and EGL name a driver's libraries by names that hold in every container.

Most say `libGLX_nvidia.so.0`, for the loader to find. Some distributions (NixOS) write the path
that the library has on the host, where a container has nothing. Source: the Khronos Vulkan
loader's LoaderDriverInterface, "Driver Manifest File Format"; libglvnd src/EGL/icd_enumeration.md.
"""

from __future__ import annotations

import os

from udocker import disk, fastjson
from udocker.containers.spec import Bind
from udocker.errors import GpuError, StoreError
from udocker.nvidia import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_MAX_BYTES = 1 << 16


def portable(
    binds: Iterable[Bind], names: frozenset[str], cache_directory: str
) -> tuple[Bind, ...]:
    """Return `binds`, those of manifests with the bare names of libraries in the place of paths.

    `names` are those by which the container's loader finds libraries. Raises GpuError.
    """
    return tuple(
        _portable(bind, names, cache_directory) if bind.destination.endswith(".json") else bind
        for bind in binds
    )


def _portable(bind: Bind, names: frozenset[str], cache_directory: str) -> Bind:
    data = text = disk.read(bind.source, _MAX_BYTES) or b""
    for path in _paths(data) if b'"/' in data else ():
        name = os.path.basename(path)
        if name in names:
            text = text.replace(f'"{path}"'.encode(), f'"{name}"'.encode())
    if text == data:
        return bind
    try:
        made = cache.save(cache_directory, f"gpu-{cache.digest(text)}.json", text)
    except StoreError as error:
        raise GpuError(f"gpu: {error.message}", hint=error.hint) from error
    return Bind(made, bind.destination, readonly=True)


def _paths(data: bytes) -> tuple[str, ...]:
    try:
        return tuple(path for path in _library_paths(fastjson.loads(data)) if path[:1] == "/")
    except (ValueError, RecursionError):
        return ()


def _library_paths(value: Any) -> Iterator[str]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in inner:
        if isinstance(member, (dict, list)):
            yield from _library_paths(member)
        elif key == "library_path" and isinstance(member, str):
            yield member
