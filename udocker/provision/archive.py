"""Programs from a file: a bundle of `udocker bundle`, or a tarball of udocker 1.3.

Both may also be directories: a bundle that was unpacked, or the `~/.udocker` of udocker 1.3. Only
files with known names are read, into memory, each bounded; everything else is passed over.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile

from udocker import fastjson
from udocker.engines import programs
from udocker.errors import IntegrityError, UdockerError, UnpackError
from udocker.images.archives import tar
from udocker.images.compression import decompress
from udocker.provision import catalogue
from udocker.provision.catalogue import MAX_FILE_BYTES
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import BinaryIO

MANIFEST = "MANIFEST.json"
FORMAT = 1
MAX_ARCHIVE_BYTES = 512 << 20
_LIMITS = tar.Limits(entries=20_000, size_bytes=2 << 30, depth=32)
_MAX_HELD_BYTES = 512 << 20
_CHUNK_BYTES = 1 << 20
_BUNDLED = re.compile(
    r"engines/[A-Za-z0-9]+/[A-Za-z0-9.+~%_-]{1,100}/(lib/)?[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}\Z"
)
_PLAIN = re.compile(r"[0-9][A-Za-z0-9.+~%_-]{0,99}\Z")
_TARBALL = re.compile(
    r"(?:udocker_dir/)?(?:bin/(?P<program>proot|crun|runc)-(?P<machine>[a-z0-9_]+?)(?P<kernel>-4_8_0)?"
    r"|lib/libfakechroot-(?:(?P<system>[A-Za-z]+-[0-9.]+)-)?(?P<libmachine>[a-z0-9_]+)\.so"
    r"|lib/VERSION)\Z"
)


@dataclass(frozen=True)
class Parcel:
    """A version of a program or library with its files, whole and verified."""

    name: str
    version: str
    origin: str
    files: tuple[tuple[str, bytes], ...]
    """Paths in the directory of the version, and contents; the program's is its own name."""


def parcels(path: str, machine: str, kernel: tuple[int, int]) -> tuple[Parcel, ...]:
    """Return what the archive or directory `path` has for this machine.

    Raises UdockerError, IntegrityError for what is broken, hostile or changed.
    """
    contents = _of_directory(path) if os.path.isdir(path) else _of_archive(path)
    files = _collected(contents, path)
    if MANIFEST in files:
        found = tuple(_bundled(files, machine, path))
    else:
        found = tuple(_from_tarball(files, machine, kernel))
    if not found:
        raise UdockerError(
            f"{path}: no program for {machine} is in it",
            hint="it takes what `udocker bundle` made, or a tarball of udocker 1.3's programs",
        )
    return found


def verify(path: str, sha256: str) -> None:
    """Return when the archive has that checksum, given or beside it. Raises IntegrityError."""
    hasher = hashlib.sha256()
    with _opened(path) as file:
        for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""):
            hasher.update(chunk)
    if hasher.hexdigest() != sha256.lower():
        raise IntegrityError(f"{path}: its checksum is {hasher.hexdigest()}, not {sha256}")


def stated_checksum(text: str, name: str) -> str:
    """Return the SHA-256 that a text states for the file `name`; empty: none.

    The text is a `SHA256SUMS`, or a JSON document such as udocker's `metadata.json`.
    """
    for line in text.splitlines():
        match = re.match(r"([0-9a-fA-F]{64})[ \t]+[ *]?(?:\./)?(\S+)\Z", line.strip())
        if match and match[2] == name:
            return match[1].lower()
    try:
        return _stated_in(fastjson.loads(text), name, 8)
    except ValueError:
        return ""


def _stated_in(value: object, name: str, depth: int) -> str:
    if depth == 0 or not isinstance(value, (dict, list)):
        return ""
    if isinstance(value, dict):
        texts = [text for text in value.values() if isinstance(text, str)]
        if any(text == name or text.endswith(f"/{name}") for text in texts):
            sums = (value.get(key) for key in ("sha256", "sha256sum"))
            found = [s for s in sums if isinstance(s, str) and re.match(r"[0-9a-fA-F]{64}\Z", s)]
            if found:
                return found[0].lower()
        value = list(value.values())
    return next(filter(None, (_stated_in(inner, name, depth - 1) for inner in value)), "")


def _is_known(path: str) -> bool:
    return path == MANIFEST or bool(_BUNDLED.match(path) or _TARBALL.match(path))


def _collected(contents: Iterable[tuple[str, bytes]], path: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    held = 0
    for name, data in contents:
        if name in files:
            raise IntegrityError(f"{path}: it has {name} twice")
        held += len(data)
        if held > _MAX_HELD_BYTES:
            raise IntegrityError(f"{path}: its programs have more than {_MAX_HELD_BYTES} bytes")
        files[name] = data
    return files


def _of_archive(path: str) -> Iterator[tuple[str, bytes]]:
    with _opened(path) as file:
        chunks = iter(lambda: file.read(_CHUNK_BYTES), b"")
        try:
            reader = tar.Reader(decompress.chunks(chunks), _LIMITS)
            for member in reader:
                name = member.path.decode("utf-8", "replace")
                name = name[2:] if name.startswith("./") else name
                if not _is_known(name):
                    continue
                if member.kind != tar.FILE or member.extents is not None:
                    raise IntegrityError(f"{path}: {name} is not a plain file")
                if member.size > MAX_FILE_BYTES:
                    raise IntegrityError(f"{path}: {name} has {member.size} bytes")
                yield name, _content(reader, member.size)
        except UnpackError as error:
            reason = error.message.replace("the layer", "its content")
            raise IntegrityError(f"{path}: {reason}", hint=error.hint) from error


def _content(reader: tar.Reader, size: int) -> bytes:
    with tempfile.TemporaryFile() as file:
        reader.copy(file.fileno(), size)
        file.seek(0)
        return file.read()


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UdockerError(f"{path}: {error.strerror}") from error


def _of_directory(path: str) -> Iterator[tuple[str, bytes]]:
    for directory, folders, names in os.walk(path):
        relative = os.path.relpath(directory, path)
        deep = relative.count("/") >= 3
        folders[:] = (
            []
            if deep
            else sorted(
                f for f in folders if f in _FOLDERS or "/" in relative or relative == "engines"
            )
        )
        for name in sorted(names):
            inner = os.path.normpath(f"{relative}/{name}")
            if _is_known(inner):
                yield inner, _file_content(f"{directory}/{name}")


_FOLDERS = ("engines", "bin", "lib", "udocker_dir")


def _file_content(path: str) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
                raise IntegrityError(
                    f"{path} is not a plain file of at most {MAX_FILE_BYTES} bytes"
                )
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise UdockerError(f"{path}: {error.strerror}") from error


def _bundled(files: Mapping[str, bytes], machine: str, path: str) -> Iterator[Parcel]:
    try:
        manifest = fastjson.loads(files[MANIFEST])
        if manifest["format"] != FORMAT:
            raise IntegrityError(f"{path}: a bundle of format {manifest['format']!r}")
        if manifest["machine"] != machine:
            raise UdockerError(
                f"{path}: its programs are for {manifest['machine']}, this machine is {machine}",
                hint="make the bundle on a machine of the same kind",
            )
        for entry in manifest["programs"]:
            yield _bundled_parcel(entry, files, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{path}: its {MANIFEST} makes no sense: {error!r}") from error


def _bundled_parcel(entry: Mapping[str, object], files: Mapping[str, bytes], path: str) -> Parcel:
    name, version = str(entry["name"]), str(entry["version"])
    known = [item.name for item in catalogue.ITEMS]
    if name not in known or not _PLAIN.match(version) or not isinstance(entry["files"], dict):
        raise IntegrityError(f"{path}: its {MANIFEST} names {name!r} {version!r}")
    contents = []
    program = programs.file_name(name)
    for relative, checksum in sorted(entry["files"].items()):
        if relative != program and not relative.startswith("lib/"):
            raise IntegrityError(f"{path}: {name} {version} has a file {relative!r}")
        place = f"engines/{name}/{version}/{relative}"
        data = files.get(place)
        if data is None or hashlib.sha256(data).hexdigest() != checksum:
            what = "is missing" if data is None else "is not what its checksum says"
            raise IntegrityError(f"{path}: {place} {what}")
        contents.append((relative, data))
    if program not in dict(contents):
        raise IntegrityError(f"{path}: {name} {version} has no program in it")
    return Parcel(name, version, str(entry["origin"])[:200], tuple(contents))


def _from_tarball(
    files: Mapping[str, bytes], machine: str, kernel: tuple[int, int]
) -> Iterator[Parcel]:
    """Yield what udocker 1.3 had for this machine; of two PRoots the one for this kernel."""
    stated = (
        next((files[p] for p in files if p.endswith("lib/VERSION")), b"")
        .decode("ascii", "replace")
        .strip()
    )
    release = stated if _PLAIN.match(stated) else "1.3"
    origin = f"udocker tools {release}"
    chosen: dict[str, tuple[str, bytes]] = {}
    for path, data in sorted(files.items()):
        match = _TARBALL.match(path)
        if match is None or machine != _machine(match["machine"] or match["libmachine"] or ""):
            continue
        if match["program"]:
            if not match["kernel"] or kernel >= (4, 8):
                chosen[match["program"]] = (release, data)
            continue
        system = match["system"] or ""
        version = f"{release}-{system}" if system else release
        yield Parcel("libfakechroot", version, origin, (("libfakechroot.so", data),))
    for name, (version, data) in chosen.items():
        yield Parcel(name, version, origin, ((name, data),))


def _machine(name: str) -> str:
    names = {theirs: ours for ours, theirs in catalogue.UDOCKER_MACHINES.items()}
    return names.get(name, name)
