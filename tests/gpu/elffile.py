"""ELF libraries made byte by byte: of either size, any machine, and any need.

They have what a loader reads, by way of program headers, and no section headers.
"""

from __future__ import annotations

import struct

MACHINES = {"x86_64": 62, "aarch64": 183, "i386": 3, "arm": 40, "ppc64le": 21}
_NEEDED, _STRTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH = 1, 5, 10, 14, 15, 29
_VERDEF, _VERDEFNUM, _VERNEED, _VERNEEDNUM = range(0x6FFFFFFC, 0x70000000)
_ELF_TYPE_LIBRARY = 3


class _Strings:
    def __init__(self):
        self.data = b"\0"

    def add(self, text):
        position = len(self.data)
        self.data += text.encode() + b"\0"
        return position


def library(
    soname, *, bits=64, machine="x86_64", needed=(), needs=(), definitions=(), runpath="", rpath=""
):
    """Return a library's bytes; `needs` is ((file, (version, or (version, weak), ...)), ...)."""
    wide = bits == 64
    strings = _Strings()
    tags = [(_NEEDED, strings.add(name)) for name in needed]
    for tag, text in ((_SONAME, soname), (_RUNPATH, runpath), (_RPATH, rpath)):
        tags += [(tag, strings.add(text))] if text else []
    need_table = _needs(strings, needs)
    definition_table = _definitions(strings, soname, definitions)
    start = 64 + 2 * 56 if wide else 52 + 2 * 32
    count = len(tags) + 7
    at_strings = start + count * (16 if wide else 8)
    at_needs = at_strings + len(strings.data)
    at_definitions = at_needs + len(need_table)
    tags += [(_STRTAB, at_strings), (_STRSZ, len(strings.data))]
    tags += [(_VERNEED, at_needs), (_VERNEEDNUM, len(needs))] if needs else []
    if definitions:
        tags += [(_VERDEF, at_definitions), (_VERDEFNUM, len(definitions) + 1)]
    tags += [(0, 0)] * (count - len(tags))
    dynamic = b"".join(struct.pack("<QQ" if wide else "<II", *tag) for tag in tags)
    body = dynamic + strings.data + need_table + definition_table
    return _headers(wide, MACHINES[machine], start, len(dynamic), len(body)) + body


def _headers(wide, machine, start, dynamic, body):
    identity = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    size, segment = (64, 56) if wide else (52, 32)
    head = identity + struct.pack(
        "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH",
        *(_ELF_TYPE_LIBRARY, machine, 1, 0, size, 0, 0, size, segment, 2, 0, 0, 0),
    )
    whole = start + body
    for kind, offset, length in ((1, 0, whole), (2, start, dynamic)):
        if wide:
            head += struct.pack("<IIQQQQQQ", kind, 4, offset, offset, offset, length, length, 8)
        else:
            head += struct.pack("<IIIIIIII", kind, offset, offset, offset, length, length, 4, 4)
    return head


def _needs(strings, needs):
    table = b""
    for number, (file, versions) in enumerate(needs):
        last = number == len(needs) - 1
        size = 16 + 16 * len(versions)
        table += struct.pack("<HHIII", 1, len(versions), strings.add(file), 16, 0 if last else size)
        for index, version in enumerate(versions):
            name, weak = version if isinstance(version, tuple) else (version, False)
            step = 0 if index == len(versions) - 1 else 16
            table += struct.pack("<IHHII", 0, 2 * weak, 2, strings.add(name), step)
    return table


def _definitions(strings, soname, definitions):
    table = b""
    names = (soname or "", *definitions) if definitions else ()
    for number, name in enumerate(names):
        step = 0 if number == len(names) - 1 else 28
        flags = 1 if number == 0 else 0
        table += struct.pack("<HHHHIII", 1, flags, number + 1, 1, 0, 20, step)
        table += struct.pack("<II", strings.add(name), 0)
    return table
