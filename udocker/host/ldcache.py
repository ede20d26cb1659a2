"""glibc's `/etc/ld.so.cache`, read and written without `ldconfig`.

Source: glibc sysdeps/generic/dl-cache.h and elf/dl-cache.c (2.2 to 2.41). Two layouts are read:
the new one, and the old one that ldconfig before 2.32 put in front of it. The new one is
written: every loader since glibc 2.2 reads it. Only little-endian machines are known.
"""

from __future__ import annotations

import struct

from udocker.values import dataclass

PATH = "/etc/ld.so.cache"
MAX_BYTES = 16 << 20
"""Largest cache that is read; those of full desktop machines have 0.3 MiB."""

FLAGS = {"x86_64": 0x0303, "aarch64": 0x0A03, "i386": 0x0003, "arm": 0x0903}
"""The entries that a loader takes, by its machine: ELF, libc 6, and the machine's ABI."""
COMPAT32 = {"x86_64": "i386", "aarch64": "arm"}
"""The machine whose 32-bit programs another one runs too (armhf)."""

_OLD_MAGIC = b"ld.so-1.7.0\0"
_OLD_HEADER = struct.Struct("<12sI")
_OLD_ENTRY = struct.Struct("<iII")
_NEW_MAGIC = b"glibc-ld.so.cache1.1"
_NEW_HEADER = struct.Struct("<20sIIB3xI12x")
_NEW_ENTRY = struct.Struct("<iIIIQ")
_LITTLE_ENDIAN = 2
_EXTENSION_HEADER = struct.Struct("<II")
_EXTENSION_SECTION = struct.Struct("<IIII")
_EXTENSION_MAGIC = 0xEAA42174
_EXTENSION_HWCAPS = 1
_MAX_SECTIONS = 16
_MAX_STRING = 4096
_DIGITS = frozenset(b"0123456789")


@dataclass(frozen=True)
class Entry:
    """A library: the name that programs ask for and the file that they get."""

    name: str
    path: str
    flags: int
    osversion: int = 0
    hwcap: int = 0
    """Processor features that the file needs; with bit 62 set, the low half counts in `hwcaps`."""


@dataclass(frozen=True)
class LdCache:
    """A cache: among entries of one name the loader takes the first that fits its processor.

    `hwcaps` are the names of `glibc-hwcaps` directories (`x86-64-v3`) that entries refer to.
    """

    entries: tuple[Entry, ...] = ()
    hwcaps: tuple[str, ...] = ()

    def paths(self, name: str, flags: int) -> tuple[str, ...]:
        """Return the files of that name for loaders that take `flags`, first choice first."""
        return tuple(e.path for e in self.entries if e.name == name and e.flags == flags)


def default_directories(machine: str) -> tuple[str, ...]:
    """Return where the loaders for `machine` look behind the cache, of all distributions."""
    triplet = f"{machine}-linux-gnu" + ("eabihf" if machine == "arm" else "")
    lib = "lib32" if machine in COMPAT32.values() else "lib64"
    return (f"/lib/{triplet}", f"/usr/lib/{triplet}", f"/{lib}", f"/usr/{lib}", "/lib", "/usr/lib")


def parse(data: bytes) -> LdCache:
    """Read a cache. Raises ValueError when it is broken, of another kind, or absurdly large."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"ld.so.cache has more than {MAX_BYTES} bytes")
    try:
        if data.startswith(_NEW_MAGIC):
            return _parse_new(data)
        if data.startswith(_OLD_MAGIC):
            return _parse_old(data)
    except struct.error as error:
        raise ValueError(f"ld.so.cache ends too early: {error}") from error
    raise ValueError("not an ld.so.cache")


def serialize(cache: LdCache) -> bytes:
    """Return the bytes of `cache`; entries of one name keep their order.

    The loader searches by bisection, so the rest is sorted as glibc's `_dl_cache_libcmp` wants.
    """
    ordered = sorted(cache.entries, key=lambda entry: _sort_key(entry.name), reverse=True)
    # sorted(reverse=True) keeps the order of equal keys, which is the loader's order of choice
    strings = _StringTable(_NEW_HEADER.size + _NEW_ENTRY.size * len(ordered))
    table = b"".join(
        _NEW_ENTRY.pack(e.flags, strings.add(e.name), strings.add(e.path), e.osversion, e.hwcap)
        for e in ordered
    )
    hwcaps = [strings.add(name) for name in cache.hwcaps]
    text = bytes(strings.data)
    text += b"\0" * (-(strings.start + len(text)) % 4)
    extension = strings.start + len(text) if hwcaps else 0
    header = _NEW_HEADER.pack(_NEW_MAGIC, len(ordered), len(text), _LITTLE_ENDIAN, extension)
    return header + table + text + (_extension(extension, hwcaps) if hwcaps else b"")


class _StringTable:
    """Strings of a cache that is being written, each once; offsets count from the cache."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.data = bytearray()
        self._offsets: dict[str, int] = {}

    def add(self, text: str) -> int:
        if text not in self._offsets:
            self._offsets[text] = self.start + len(self.data)
            self.data += text.encode("utf-8", "surrogateescape") + b"\0"
        return self._offsets[text]


def _extension(offset: int, hwcaps: list[int]) -> bytes:
    names = struct.pack(f"<{len(hwcaps)}I", *hwcaps)
    start = offset + _EXTENSION_HEADER.size + _EXTENSION_SECTION.size
    section = _EXTENSION_SECTION.pack(_EXTENSION_HWCAPS, 0, start, len(names))
    return _EXTENSION_HEADER.pack(_EXTENSION_MAGIC, 1) + section + names


class _Strings:
    """Strings of a cache that is being read, bounded in number of characters together."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._known: dict[int, str] = {}
        self._left = 4 * len(data)  # names are often the ends of paths, and share their bytes

    def at(self, offset: int) -> str:
        if offset not in self._known:
            end = self._data.find(b"\0", offset, offset + _MAX_STRING)
            if end < 0:
                raise ValueError(f"ld.so.cache: no string at offset {offset}")
            # strings may overlap: without a bound, few bytes could become very many
            self._left -= end - offset
            if self._left < 0:
                raise ValueError("ld.so.cache: its strings are larger than four times the file")
            self._known[offset] = self._data[offset:end].decode("utf-8", "surrogateescape")
        return self._known[offset]


def _parse_old(data: bytes) -> LdCache:
    _, count = _OLD_HEADER.unpack_from(data)
    end = _OLD_HEADER.size + count * _OLD_ENTRY.size
    new = -(-end // 8) * 8
    if data.startswith(_NEW_MAGIC, new):
        return _parse_new(data[new:], new)
    strings = _Strings(data[end:])
    table = _table(data, _OLD_HEADER.size, _OLD_ENTRY, count)
    return LdCache(
        tuple(Entry(strings.at(name), strings.at(path), flags) for flags, name, path in table)
    )


def _parse_new(data: bytes, before: int = 0) -> LdCache:
    """Read the new layout; unlike all other offsets, the extension's count `before` bytes too."""
    _, count, _, order, extension = _NEW_HEADER.unpack_from(data)
    if order not in (0, _LITTLE_ENDIAN):
        raise ValueError(f"ld.so.cache: byte order {order} is not little-endian")
    strings = _Strings(data)
    table = _table(data, _NEW_HEADER.size, _NEW_ENTRY, count)
    entries = tuple(
        Entry(strings.at(name), strings.at(path), flags, osversion, hwcap)
        for flags, name, path, osversion, hwcap in table
    )
    return LdCache(entries, _parse_hwcaps(data, extension, before, strings) if extension else ())


def _table(data: bytes, start: int, entry: struct.Struct, count: int) -> list[tuple[int, ...]]:
    size = count * entry.size
    if start + size > len(data):
        raise ValueError(f"ld.so.cache: {count} entries do not fit into {len(data)} bytes")
    return list(entry.iter_unpack(data[start : start + size]))


def _parse_hwcaps(data: bytes, extension: int, before: int, strings: _Strings) -> tuple[str, ...]:
    extension -= before
    if extension < 0:
        raise ValueError("ld.so.cache: its extension is broken")
    magic, count = _EXTENSION_HEADER.unpack_from(data, extension)
    if magic != _EXTENSION_MAGIC or count > _MAX_SECTIONS:
        raise ValueError("ld.so.cache: its extension is broken")
    for number in range(count):
        where = extension + _EXTENSION_HEADER.size + number * _EXTENSION_SECTION.size
        tag, _, start, size = _EXTENSION_SECTION.unpack_from(data, where)
        if tag == _EXTENSION_HWCAPS:
            names = _table(data, max(start - before, 0), struct.Struct("<I"), size // 4)
            return tuple(strings.at(offset) for (offset,) in names)
    return ()


def _sort_key(name: str) -> tuple[int, ...]:
    """Return what compares as `_dl_cache_libcmp` does: numbers by value, after any character."""
    key: list[int] = []
    number = -1
    for byte in name.encode("utf-8", "surrogateescape"):
        if byte in _DIGITS:
            number = max(number, 0) * 10 + byte - 48
            continue
        if number >= 0:
            key.append(_number_key(number))
            number = -1
        key.append(byte)
    if number >= 0:
        key.append(_number_key(number))
    return tuple(key)


def _number_key(number: int) -> int:
    """Return the place of a number behind all bytes, wrapped as glibc's `int` wraps."""
    return 256 + (number + (1 << 31)) % (1 << 32)
