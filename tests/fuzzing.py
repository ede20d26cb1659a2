"""Files of the corpus, changed at random and fed to what reads them in a process of small means.

`python tests/fuzzing.py DIRECTORY CASES SEED` works in an empty directory and prints how many
inputs were taken and how many refused; any other end of it is a fault.
"""

from __future__ import annotations

import os
import random
import re
import resource
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = os.path.join(HERE, "corpus")
MEMORY_BYTES, FILE_BYTES, CPU_S = 1 << 30, 64 << 20, 120
NUMBERS = ["-1", "0", "8", "65536", "4294967295", "9" * 19, "9" * 45, "1e99", "0777"]
WORDS = [b"/", b"..", b".wh.", b".wh..wh..opq", b"\0", b"\xff", b"=", b"\n", b"null", b"[]", b"{}"]
OTHER = os.path.join("outside", "secret")


def seeds():
    """Return pairs of a kind and the content of a file of the corpus."""
    return [
        (kind, open(os.path.join(CORPUS, kind, name), "rb").read())
        for kind in sorted(os.listdir(CORPUS))
        for name in sorted(os.listdir(os.path.join(CORPUS, kind)))
    ]


def mutated(data, chance, kind):
    """Return `data` with some changes; headers of tar streams get their checksums again."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        change(changed, chance)
    if kind == "tar" and chance.random() < 0.9:
        for start in range(0, len(changed) - 511, 512):
            if 32 < changed[start + 156] < 127 or changed[start + 257 : start + 262] == b"ustar":
                block = changed[start : start + 512]
                block[148:156] = b" " * 8
                changed[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(changed)


def change(data, chance):
    """Make one change."""
    where = chance.randrange(len(data) + 1)
    kind = chance.randrange(7)
    if kind == 0 and where < len(data):
        data[where] ^= 1 << chance.randrange(8)
    elif kind == 1:
        word = chance.choice(WORDS)
        data[where : where + len(word)] = word
    elif kind == 2:
        del data[where : where + chance.choice([1, 4, 512])]
    elif kind == 3:
        data[where:where] = data[where : where + chance.choice([1, 8, 512])]
    elif kind == 4:
        numbers = list(re.finditer(rb"\d+", bytes(data)))
        if numbers:
            found = chance.choice(numbers)
            number = chance.choice(NUMBERS).encode()
            same = number[-len(found.group()) :].rjust(len(found.group()), b"0")
            data[found.start() : found.end()] = chance.choice([number, same])
    elif kind == 5:
        start = where // 512 * 512
        block = data[start : start + 512]
        other = chance.randrange(len(data) + 1) // 512 * 512
        data[other:other] = block
    else:
        size = chance.choice([2, 8, 12])
        data[where : where + size] = chance.randbytes(size)


def readers(directory):
    """Return what reads each kind."""
    from udocker.containers.container import Container
    from udocker.errors import UdockerError
    from udocker.host import ldcache
    from udocker.images import layers, sidefile
    from udocker.images.compression import decompress
    from udocker.images.layers.layertree import LayerTree
    from udocker.nvidia.placement import compat
    from udocker.oci import ImageConfig, Index, Manifest
    from udocker.trees import remove_tree

    limits = layers.Limits(entries=1000, size_bytes=1 << 24)

    def stack(data):
        work = os.path.join(directory, "work")
        try:
            trees = []
            for number in range(2):
                os.makedirs(f"{work}/{number}")
                tree = layers.unpack([data], f"{work}/{number}", limits)
                trees.append((f"{work}/{number}", LayerTree.from_json(tree.to_json())))
            layers.merge(trees, f"{work}/rootfs")
        finally:
            remove_tree(work)

    def library_cache(data):
        try:
            read = ldcache.parse(data)
        except ValueError as error:
            raise UdockerError(str(error)) from error
        again = ldcache.parse(ldcache.serialize(read))
        assert sorted(map(repr, again.entries)) == sorted(map(repr, read.entries))

    return {
        "tar": stack,
        "ldcache": library_cache,
        "note": compat.parse_note,
        "compressed": lambda data: [None for _ in decompress.chunks([data])],
        "manifest": lambda data: Manifest.from_bytes(data, media_type(data)),
        "index": Index.from_bytes,
        "config": ImageConfig.from_bytes,
        "owners": lambda data: sidefile.parse(data, "owners"),
        "record": lambda data: LayerTree.from_json(data.decode("utf-8", "replace")),
        "container": lambda data: Container.from_json(data, "/containers/x", "/trees"),
    }


def media_type(data):
    """Return the type that a registry would have given."""
    vendor = "docker.distribution.manifest.v2" if b"vnd.docker" in data else "oci.image.manifest.v1"
    return f"application/vnd.{vendor}+json"


def outside(directory):
    """Return what a directory beside the trees holds."""
    path = os.path.join(directory, OTHER)
    found = os.stat(path), os.stat(os.path.dirname(path))
    return [(s.st_mode, s.st_nlink, s.st_mtime_ns, s.st_size) for s in found], os.listdir(directory)


def main():
    """Feed the changed corpus to its readers."""
    directory, cases, seed = os.path.abspath(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    sys.path.insert(0, os.path.dirname(HERE))
    from udocker.errors import UdockerError

    os.makedirs(os.path.join(directory, "outside"))
    with open(os.path.join(directory, OTHER), "w") as file:
        file.write("secret")
    before = outside(directory)
    read = readers(directory)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    chance, corpus, counts = random.Random(seed), seeds(), [0, 0]
    for number in range(cases):
        kind, data = corpus[number % len(corpus)]
        changed = mutated(data, chance, kind)
        try:
            read[kind](changed)
            counts[0] += 1
        except UdockerError as error:
            counts[1] += 1
            assert error.message, changed
        except BaseException:
            print(f"{kind}: {changed!r}", file=sys.stderr)
            raise
        if kind == "tar":
            assert outside(directory) == before, changed
    print(*counts)


if __name__ == "__main__":
    main()
