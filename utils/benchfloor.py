"""What no pull can be cheaper than: PYTHON benchfloor.py [--checked] REGISTRY NAME:TAG PLAN DIR

Downloads the layers of an image, two at a time and the largest first; inflates them and writes
the same files with the same content, by names that it knows beforehand: PLAN, which `plan`
makes, says where in a layer which file lies. No tar is read, no directory made, no mode or time
set, no link, no whiteout, nothing merged. With --checked the digests of blobs and of layers are
compared and the blobs are kept, as udocker does it.

Run by the Python that udocker is installed in: the same igzip, zstd, OpenSSL and kernel work for
both, and what is above it is udocker's own.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

READ_BYTES = 256 << 10
PIECE_BYTES = 1 << 20
REF_NAME = "org.opencontainers.image.ref.name"


def plan(layout: str, tag: str) -> dict[str, list[tuple[int, int]]]:
    """Return offset and size of every file of the layers of a layout's image, by digest."""
    manifest = _manifest_of(layout, tag)
    return {layer["digest"]: list(_files(layout, layer)) for layer in manifest["layers"]}


def _manifest_of(layout: str, tag: str) -> dict[str, Any]:
    with open(f"{layout}/index.json") as file:
        entries = json.load(file)["manifests"]
    entry = next(entry for entry in entries if entry["annotations"][REF_NAME] == tag)
    with open(f"{layout}/blobs/{entry['digest'].replace(':', '/')}") as file:
        manifest: dict[str, Any] = json.load(file)
    return manifest


def _files(layout: str, layer: dict[str, Any]) -> Iterator[tuple[int, int]]:
    import subprocess

    path = f"{layout}/blobs/{layer['digest'].replace(':', '/')}"
    zstd = layer["mediaType"].endswith("zstd")
    command = ["zstd" if zstd else "gzip", "-dc"]
    with (
        open(path, "rb") as blob,
        subprocess.Popen(command, stdin=blob, stdout=subprocess.PIPE) as process,
    ):
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                if member.isreg():
                    yield member.offset_data, member.size
        assert process.stdout
        while process.stdout.read(PIECE_BYTES):  # else it dies of a broken pipe
            pass


class Blob:
    """The bytes of one blob as they come."""

    def __init__(self, address: str, url: str, keep: str | None) -> None:
        self._connection = http.client.HTTPConnection(address)
        self._connection.request("GET", url)
        self._answer = self._connection.getresponse()
        self._digest = hashlib.sha256() if keep else None
        self._file = open(keep, "wb", buffering=0) if keep else None  # noqa: SIM115

    def read(self, _size: int = -1) -> bytes:
        """Return the next bytes, none at the end."""
        data = self._answer.read(READ_BYTES)
        if self._digest and self._file:
            self._digest.update(data)
            self._file.write(data)
        return data

    def finish(self, digest: str) -> None:
        """The blob was that of the digest."""
        while self.read():
            pass
        self._connection.close()
        if self._digest and self._file:
            self._file.close()
            if f"sha256:{self._digest.hexdigest()}" != digest:
                raise SystemExit(f"{digest} is another one")


def inflated(blob: Blob, media_type: str) -> Iterator[bytes]:
    """Yield the content of a blob in pieces of a megabyte at most."""
    if media_type.endswith("zstd"):
        import zstandard

        source: Any = blob
        reader = zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
        while data := reader.read(PIECE_BYTES):
            yield data
        return
    from isal import igzip_lib

    decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    while not decoder.eof:
        data = blob.read() if decoder.needs_input else b""
        yield decoder.decompress(data, PIECE_BYTES)


def write_files(pieces: Iterator[bytes], files: Sequence[tuple[int, int]], directory: str) -> None:
    """Write those parts of the stream that are files."""
    os.mkdir(directory)
    place = os.open(directory, os.O_RDONLY)
    piece, position = memoryview(b""), 0
    for number, (offset, size) in enumerate(files):
        file = os.open(str(number), os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=place)
        while size:
            while offset >= position + len(piece):
                position += len(piece)
                piece = memoryview(next(pieces))
            start = offset - position
            written = os.write(file, piece[start : start + size])
            offset, size = offset + written, size - written
        os.close(file)
    for _ in pieces:
        pass


def _hashed(pieces: Iterator[bytes], digest: Any) -> Iterator[bytes]:
    for piece in pieces:
        digest.update(piece)
        yield piece


def layer(address: str, name: str, entry: Any, diff_id: str, files: Any, place: str) -> None:
    """One layer is here, checked where its diff id is given."""
    blob = Blob(address, f"/v2/{name}/blobs/{entry['digest']}", diff_id and f"{place}.blob")
    pieces, digest = inflated(blob, entry["mediaType"]), hashlib.sha256()
    write_files(_hashed(pieces, digest) if diff_id else pieces, files, place)
    blob.finish(entry["digest"])
    if diff_id and f"sha256:{digest.hexdigest()}" != diff_id:
        raise SystemExit(f"{diff_id} is another one")


def _get(address: str, url: str) -> Any:
    connection = http.client.HTTPConnection(address)
    connection.request("GET", url, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})
    return json.loads(connection.getresponse().read())


def main() -> None:
    """Do it in two processes that take the layers one by one, the largest first."""
    words = [word for word in sys.argv[1:] if word != "--checked"]
    address, reference, plan_file, directory = words
    name, _, tag = reference.rpartition(":")
    with open(plan_file) as file:
        files = json.load(file)
    manifest = _get(address, f"/v2/{name}/manifests/{tag}")
    config = _get(address, f"/v2/{name}/blobs/{manifest['config']['digest']}")
    layers, diff_ids = manifest["layers"], config["rootfs"]["diff_ids"]
    queue, feed = os.pipe()
    os.write(feed, bytes(sorted(range(len(layers)), key=lambda n: -layers[n]["size"])))
    os.close(feed)
    child = os.fork()
    while item := os.read(queue, 1):
        entry, diff_id = layers[item[0]], diff_ids[item[0]] if "--checked" in sys.argv else ""
        layer(address, name, entry, diff_id, files[entry["digest"]], f"{directory}/{item[0]}")
    if child and os.waitpid(child, 0)[1]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
