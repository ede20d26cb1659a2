"""PRoot's own loaders, taken out of its binary, and made to leave heaps to the kernel.

PRoot writes them into a temporary file for each run and executes that; version 5.1 into /tmp,
whatever the environment says. There are sites where nothing in /tmp may be executed. It uses
those that PROOT_LOADER and PROOT_LOADER_32 name, and then leaves nothing behind when it is killed.
What is changed in those of version 5.1, and why, `heap` says.

Source: proot-me/proot, src/execve/enter.c, get_loader_path.
"""

from __future__ import annotations

import os
import struct

from udocker import disk
from udocker.engines import heap

_VARIABLES = {2: "PROOT_LOADER", 1: "PROOT_LOADER_32"}
"""By the class of the ELF file: 64 and 32 bits."""
_OURS = 1
"""Counts what is changed in loaders: those of an older udocker are not used."""
_PROOT_BYTES = 64 << 20
_MAGIC = b"\x7fELF"
_HEADERS = {2: "<16s2HI3QI6H", 1: "<16s2HI3II6H"}
_EXECUTABLE = 2


def made(proot: str, cache: str) -> dict[str, str]:
    """Return the variables that name the loaders of the binary `proot`, those that were taken."""
    named = {variable: _path(proot, cache, variable) for variable in _VARIABLES.values()}
    return {variable: path for variable, path in named.items() if os.path.exists(path)}


def make(proot: str, cache: str) -> None:
    """The loaders in the binary `proot` lie in the directory `cache` (none if it has none)."""
    if made(proot, cache):
        return
    disk.make_directory(cache)
    data = disk.read(proot, _PROOT_BYTES) or b""
    for variable, loader in _embedded(data).items():
        if heap.is_needed(data):
            loader = heap.left_to_kernel(loader)
        disk.write_whole(_path(proot, cache, variable), loader, mode=0o755, sync=False)


def _path(proot: str, cache: str, variable: str) -> str:
    """Return where the loader of one version of a binary lies; the first part is for ours."""
    status = os.stat(proot)
    return f"{cache}/{variable.lower()}.{_OURS}.{status.st_size:x}.{status.st_mtime_ns:x}"


def _embedded(data: bytes) -> dict[str, bytes]:
    """Return the ELF executables that lie in another one, by their variable."""
    found: dict[str, bytes] = {}
    start = data.find(_MAGIC, 1)
    while start >= 0:
        kind = data[start + 4] if len(data) > start + 4 else 0
        size = _size(data, start, kind)
        if size:
            found.setdefault(_VARIABLES[kind], data[start : start + size])
        start = data.find(_MAGIC, start + 1)
    return found


def _size(data: bytes, start: int, kind: int) -> int:
    """Return the length of the ELF executable at `start`, which ends with its section headers."""
    if kind not in _HEADERS or start + struct.calcsize(_HEADERS[kind]) > len(data):
        return 0
    fields = struct.unpack_from(_HEADERS[kind], data, start)
    _, elf_type, _, version, _, _, sections, *_, size, count, _ = fields
    end = sections + size * count
    is_whole = elf_type == _EXECUTABLE and version == 1 and 0 < end <= len(data) - start
    return end if is_whole else 0
