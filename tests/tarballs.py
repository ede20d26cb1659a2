"""Tar streams made byte by byte, the honest and the hostile ones, and what a tree looks like."""

from __future__ import annotations

import os
import stat

FILE, LINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = (b"%d" % n for n in range(7))
USTAR, GNU, V7 = b"ustar\x0000", b"ustar  \0", bytes(8)
END = bytes(1024)


def header(
    name,
    kind,
    size,
    *,
    mode=0o644,
    owner=(0, 0),
    mtime=0,
    link=b"",
    magic=USTAR,
    prefix=b"",
    tail=None,
):
    """Return one block; `name` and `link` have 100 bytes at most, `tail` replaces 345 to 512."""
    block = bytearray(512)
    for start, field in (
        (0, name),
        (100, b"%07o" % mode),
        (108, b"%07o\0%07o\0" % owner),
        (124, number(size)),
        (136, number(mtime)),
        (148, b" " * 8),
        (156, kind),
        (157, link),
        (257, magic),
        (345, prefix),
    ):
        block[start : start + len(field)] = field
    if tail is not None:
        block[345 : 345 + len(tail)] = tail
    return sealed(block)


def sealed(block, *, signed=False):
    """Return the block with the checksum that its bytes have."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def number(value):
    """Return 12 bytes that hold `value`: octal, or GNU's binary form where octal does not do."""
    if 0 <= value < 8**11:
        return b"%011o\0" % value
    return (value & ((1 << 96) - 1) | 1 << 95).to_bytes(12, "big")


def padded(data):
    """Return `data` and zeros up to a whole block."""
    return data + bytes(-len(data) % 512)


def entry(name, kind=FILE, data=b"", *, link=b"", pax=None, **fields):
    """Return a member; what does not fit into 100 bytes goes into a PAX header, as `pax` does."""
    name, link = _bytes(name), _bytes(link)
    records = dict(pax or {})
    for key, value in ((b"path", name), (b"linkpath", link)):
        if len(value) > 100:
            records.setdefault(key, value)
    lead = extended(records) if records else b""
    return lead + header(name[:100], kind, len(data), link=link[:100], **fields) + padded(data)


def extended(records, kind=b"x"):
    """Return a PAX header with `records`, a dict or pairs."""
    pairs = records.items() if isinstance(records, dict) else records
    data = b"".join(record(key, value) for key, value in pairs)
    return header(b"PaxHeaders/x", kind, len(data)) + padded(data)


def record(key, value):
    """Return `length key=value`, the length counted with itself."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def gnu_long(kind, value):
    """Return GNU's header for a long name (`L`) or link (`K`)."""
    data = value + b"\0"
    return header(b"././@LongLink", kind, len(data), magic=GNU) + padded(data)


def file(name, data=b"", mode=0o644, **fields):
    """Return a file."""
    return entry(name, FILE, data, mode=mode, **fields)


def folder(name, mode=0o755, **fields):
    """Return a directory."""
    return entry(name, DIRECTORY, mode=mode, **fields)


def symlink(name, target, **fields):
    """Return a symbolic link."""
    return entry(name, SYMLINK, link=target, mode=0o777, **fields)


def hard_link(name, target, **fields):
    """Return a hard link to the member `target`."""
    return entry(name, LINK, link=target, **fields)


def device(name, kind=CHARACTER):
    """Return a device node."""
    return entry(name, kind)


def fifo(name, mode=0o644):
    """Return a named pipe."""
    return entry(name, FIFO, mode=mode)


def archive(*members):
    """Return the stream of `members` with the zeros that end it."""
    return b"".join(members) + END


def pieces(data, size=1 << 20):
    """Return an iterator of parts of `data`."""
    return (data[start : start + size] for start in range(0, len(data), size))


def snapshot(directory, *, times=False):
    """Return what is below `directory`: path to kind, mode and content.

    Links have no mode; `times` adds the mtime of everything.
    """
    found = {}
    for path, names, files in os.walk(os.fsencode(directory)):
        for name in names + files:
            full = os.path.join(path, name)
            facts = _facts(full)
            if times:
                facts += (os.lstat(full).st_mtime_ns,)
            found[os.path.relpath(full, os.fsencode(directory))] = facts
    return found


def _facts(path):
    info = os.lstat(path)
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISLNK(info.st_mode):
        return ("link", os.readlink(path))
    if stat.S_ISDIR(info.st_mode):
        return ("directory", mode)
    if stat.S_ISREG(info.st_mode):
        with open(path, "rb") as content:
            return ("file", mode, content.read())
    return ("other", stat.S_IFMT(info.st_mode), mode)


def contents(directory):
    """Return what is below `directory` in short: path to text, link target or None, as `str`."""
    short = {}
    for path, facts in snapshot(directory).items():
        value = {"file": lambda f=facts: f[2].decode(), "directory": lambda: None}
        value["link"] = lambda f=facts: "-> " + f[1].decode()
        short[path.decode()] = value[facts[0]]()
    return short


def _bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def merged(directory, *streams):
    """Unpack every stream as a layer, merge all in `directory`/rootfs and return that path."""
    # Imported late, so that builders of plain tar streams need nothing of the project.
    from udocker.images import layers

    trees = []
    for index, stream in enumerate(streams):
        place = os.path.join(directory, f"layer{index}")
        os.mkdir(place)
        tree = layers.unpack(pieces(stream, 4096), place)
        trees.append((place, layers.LayerTree.from_json(tree.to_json())))
    rootfs = os.path.join(directory, "rootfs")
    layers.merge(trees, rootfs)
    return rootfs
