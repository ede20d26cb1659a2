"""Images to pull, made without a network and the same every time on the same machine.

small     busybox and its links, in three layers
deb       Debian as debootstrap makes it, in four
ml        a Python stack for machine learning as far as an unpacker can tell: twelve layers of
          shared libraries, one of them huge, and of tens of thousands of small files, with
          whiteouts, hard links and odd modes. What is in them comes from this machine's
          /usr, cut up and mixed, so that it compresses as the real ones do.
ml-zstd   the same, compressed with zstd
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterator

EDITION = 2
"""Of the images: an earlier one in a store is not taken."""
KIND = "application/vnd.oci.image"
TAG = "1"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
EPOCH = 1_700_000_000
SLICE_BYTES = 48 << 10
"""Longer than the window of gzip: a slice that comes again is compressed again."""
POOL_BYTES = 384 << 20
SITE = "opt/conda/lib/python3.11/site-packages"


class Layer:
    """An uncompressed layer on its way into a tar stream."""

    def __init__(self, out: io.RawIOBase | object) -> None:
        self._tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT)  # type: ignore[call-overload]  # noqa: SIM115
        self._folders: set[str] = set()

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a file, and the directories above it that are not there yet."""
        self.folder(os.path.dirname(path))
        member = self._member(path, tarfile.REGTYPE, mode)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add a directory with those above it, once."""
        if path and path not in self._folders:
            self.folder(os.path.dirname(path))
            self._folders.add(path)
            self._tar.addfile(self._member(path, tarfile.DIRTYPE, mode))

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self.folder(os.path.dirname(path))
        member = self._member(path, tarfile.SYMTYPE, 0o777)
        member.linkname = target
        self._tar.addfile(member)

    def hard_link(self, path: str, target: str) -> None:
        """Add a hard link to a file of this layer or of one below."""
        self.folder(os.path.dirname(path))
        member = self._member(path, tarfile.LNKTYPE, 0o644)
        member.linkname = target
        self._tar.addfile(member)

    def close(self) -> None:
        """The archive has its end."""
        self._tar.close()

    def _member(self, path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        member = tarfile.TarInfo(path)
        member.type, member.mode, member.mtime = kind, mode, EPOCH
        return member


class Tee:
    """What is written goes through a digest into a compressor's standard input."""

    def __init__(self, target: io.BufferedWriter) -> None:
        self._target = target
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Pass `data` on."""
        self.digest.update(data)
        self._target.write(data)
        return len(data)


class Layout:
    """An OCI image layout that one image is written into."""

    def __init__(self, path: str, codec: str) -> None:
        self._path = path
        self._codec = codec
        self._layers: list[dict[str, object]] = []
        self._diff_ids: list[str] = []
        os.makedirs(f"{path}/blobs/sha256")

    @contextlib.contextmanager
    def layer(self) -> Iterator[Layer]:
        """One more layer, compressed as `docker push` does it: one gzip member of level 6."""
        fast = ["pigz", "-n", "-6"] if shutil.which("pigz") else ["gzip", "-n", "-6"]
        command = ["zstd", "-q", "-3", "-T0"] if self._codec == "zstd" else fast
        draft = f"{self._path}/draft"
        with (
            open(draft, "wb") as file,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file) as compressor,
        ):
            assert compressor.stdin
            tee = Tee(compressor.stdin)  # type: ignore[arg-type]
            layer = Layer(tee)
            yield layer
            layer.close()
            compressor.stdin.close()
        if compressor.returncode:
            raise SystemExit(f"bench: {command[0]} failed")
        self._diff_ids.append(f"sha256:{tee.digest.hexdigest()}")
        self._layers.append(self._keep(draft, f"{KIND}.layer.v1.tar+{self._codec}"))

    def finish(self) -> None:
        """The image has its config, its manifest and its name."""
        machine = platform.machine()
        config = {
            "architecture": MACHINES.get(machine, machine),
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["/bin/true"]},
            "rootfs": {"type": "layers", "diff_ids": self._diff_ids},
            "history": [{"created_by": "bench"} for _ in self._layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{KIND}.manifest.v1+json",
            "config": self._document(config, f"{KIND}.config.v1+json"),
            "layers": self._layers,
        }
        entry = self._document(manifest, f"{KIND}.manifest.v1+json")
        entry["annotations"] = {"org.opencontainers.image.ref.name": TAG}
        self._write("index.json", {"schemaVersion": 2, "manifests": [entry]})
        self._write("oci-layout", {"imageLayoutVersion": "1.0.0"})

    def _write(self, name: str, document: object) -> None:
        with open(f"{self._path}/{name}", "w") as file:
            json.dump(document, file)

    def _document(self, document: object, media_type: str) -> dict[str, object]:
        draft = f"{self._path}/draft"
        self._write("draft", document)
        return self._keep(draft, media_type)

    def _keep(self, draft: str, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256()
        with open(draft, "rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
        size = os.stat(draft).st_size
        os.rename(draft, f"{self._path}/blobs/sha256/{digest.hexdigest()}")
        return {"mediaType": media_type, "digest": f"sha256:{digest.hexdigest()}", "size": size}


class Pool:
    """What this machine's /usr is made of, to be cut into files that never were."""

    def __init__(self, seed: int = 4) -> None:
        self._random = random.Random(seed)
        found = sorted(_usr_files())
        self._binary = self._read((p for p, size in found if _is_library(p, size)), POOL_BYTES)
        self._text = self._read((p for p, size in found if p.endswith(".py")), POOL_BYTES // 8)
        if len(self._binary) < 16 * SLICE_BYTES or len(self._text) < 16 * SLICE_BYTES:
            raise SystemExit("bench: /usr has too few libraries and Python files to mix an image")

    def binary(self, size: int) -> bytes:
        """Return so much of shared libraries."""
        return b"".join(self._slices(self._binary, size))

    def text(self, size: int) -> bytes:
        """Return so much of Python source, no two alike."""
        head = b"# %032x\n" % self._random.getrandbits(128)
        return (head + b"".join(self._slices(self._text, size)))[:size]

    def noise(self, size: int) -> bytes:
        """Return weights: the low bits of floats do not compress, the high ones do."""
        data = bytearray(self._random.randbytes(size))
        data[3::4] = bytes(b"\x3c\xbc\x3d\xbd"[byte & 3] for byte in data[3::4])
        return bytes(data)

    def size(self, median: int) -> int:
        """Return the size of a file of a kind: many small ones, few large ones."""
        return min(int(self._random.lognormvariate(0, 1.1) * median) + 40, 64 * median)

    def number(self, below: int) -> int:
        """Return a number that is as good as any other."""
        return self._random.randrange(below)

    def _slices(self, pool: bytes, size: int) -> Iterator[bytes]:
        while size > 0:
            length = min(SLICE_BYTES, size)
            start = self._random.randrange(len(pool) - length)
            yield pool[start : start + length]
            size -= length

    def _read(self, paths: Iterator[str], limit: int) -> bytes:
        pool = bytearray()
        for path in paths:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                pool += file.read(8 << 20)
            if len(pool) > limit:
                break
        return bytes(pool)


def _usr_files() -> Iterator[tuple[str, int]]:
    for directory, folders, names in os.walk("/usr"):
        folders.sort()
        for name in names:
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                if not os.path.islink(path):
                    yield path, os.stat(path).st_size


def _is_library(path: str, size: int) -> bool:
    return size > SLICE_BYTES and (".so" in path or "/bin/" in path or "/libexec/" in path)


def make_small(layout: Layout) -> None:
    """Busybox, its links, a file of configuration."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SystemExit("bench: the image `small` is made of busybox, which is not installed")
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    with layout.layer() as layer, open(busybox, "rb") as file:
        layer.file("bin/busybox", file.read(), 0o755)
    with layout.layer() as layer:
        for name in set(names.split()) - {"busybox"}:
            layer.symlink(f"bin/{name}", "busybox")
        for name in ("dev", "proc", "sys", "tmp", "root"):
            layer.folder(name)
    with layout.layer() as layer:
        layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")


def make_ml(layout: Layout, pool: Pool) -> None:
    """Twelve layers, 42,000 entries, 1.2 GB."""
    with layout.layer() as layer:
        _packages(layer, pool, "usr/share", count=60, files=60, median=2500)
        _libraries(layer, pool, "usr/lib/x86_64-linux-gnu", count=420, median=90_000)
    with layout.layer() as layer:
        _libraries(layer, pool, "usr/bin", count=300, median=60_000)
        layer.folder("var/mail", 0o2775)
    with layout.layer() as layer:
        _packages(layer, pool, "opt/conda/lib/python3.11", count=50, files=90, median=6000)
    with layout.layer() as layer:
        _libraries(layer, pool, "usr/local/cuda/lib64", count=12, median=17_000_000)
    with layout.layer() as layer:
        _torch(layer, pool)
    with layout.layer() as layer:
        _packages(layer, pool, SITE, count=120, files=130, median=3500)
        _libraries(layer, pool, f"{SITE}/scipy", count=160, median=300_000)
        for number in range(130):  # in one layer: podman 4.3 refuses links to files of another
            target = f"{SITE}/package_000/part_{number % 7}/module_{number:03}.py"
            layer.hard_link(f"{SITE}/linked/module_{number:03}.py", target)
    with layout.layer() as layer:
        _packages(layer, pool, "opt/conda/share/jupyter", count=40, files=130, median=1800)
    with layout.layer() as layer:
        for number in range(4):
            layer.file(f"models/part-{number}.safetensors", pool.noise(16 << 20))
    with layout.layer() as layer:
        _less(layer)
    with layout.layer() as layer:
        _packages(layer, pool, "srv/app", count=12, files=40, median=3000)
        layer.file("srv/app/secret", b"key\n", 0)
    with layout.layer() as layer:
        layer.file("etc/profile.d/conda.sh", b"export PATH=/opt/conda/bin:$PATH\n")
    with layout.layer() as layer:
        layer.folder("workspace", 0o1777)


def _packages(layer: Layer, pool: Pool, top: str, *, count: int, files: int, median: int) -> None:
    for package in range(count):
        for number in range(files):
            path = f"{top}/package_{package:03}/part_{number % 7}/module_{number:03}.py"
            layer.file(path, pool.text(pool.size(median)))


def _libraries(layer: Layer, pool: Pool, top: str, *, count: int, median: int) -> None:
    for number in range(count):
        name = f"{top}/lib{number:03}.so"
        layer.file(f"{name}.1.{number}", pool.binary(pool.size(median) if count > 20 else median))
        if number % 3 == 0:
            layer.symlink(name, os.path.basename(f"{name}.1.{number}"))


def _torch(layer: Layer, pool: Pool) -> None:
    """The large layer: two libraries are most of it, headers and sources the rest."""
    top = f"{SITE}/torch"
    layer.file(f"{top}/lib/libtorch_cpu.so", pool.binary(340 << 20), 0o755)
    layer.file(f"{top}/lib/libtorch_python.so", pool.binary(80 << 20), 0o755)
    _packages(layer, pool, f"{top}/include", count=40, files=150, median=3000)
    _packages(layer, pool, top, count=20, files=130, median=6000)


def _less(layer: Layer) -> None:
    """What Dockerfiles do afterwards: delete and replace."""
    for number in range(0, 60, 2):
        layer.file(f"usr/share/package_{number:03}/part_1/.wh.module_001.py", b"")
    layer.file("opt/conda/share/jupyter/package_003/.wh..wh..opq", b"")
    layer.file("opt/conda/share/jupyter/.wh.package_004", b"")
