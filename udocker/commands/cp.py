"""`udocker cp`."""

from __future__ import annotations

import os
import sys

import click

from udocker import console
from udocker.commands.atrest import restore
from udocker.commands.stores import Stores
from udocker.containers.archive import Archiver
from udocker.containers.files import Files, Found, open_files
from udocker.containers.layer import open_layer
from udocker.containers.placing import Placer, extract, put_tree
from udocker.containers.store import got
from udocker.disk import store_error
from udocker.engines import inside, select
from udocker.errors import StoreError, UsageError
from udocker.images.archives.tarwriter import TarWriter, write_all
from udocker.images.compression import decompress
from udocker.images.tree import join, split
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.container import Container
    from udocker.disk import Lock

_PIECE_BYTES = 1 << 20
_STREAM = b"source"
"""How what is copied is called in the stream into a running container."""


@click.command()
@click.option("-a", "--archive", is_flag=True, help="Accepted; modes and times are always kept.")
@click.option("-L", "--follow-link", "follow", is_flag=True, help="Copy what a link SRC leads to.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of what was left out.")
@click.argument("source", metavar="[CONTAINER:]SRC|-")
@click.argument("destination", metavar="[CONTAINER:]DST|-")
@click.pass_obj
def command(
    settings: Settings, archive: bool, follow: bool, quiet: bool, source: str, destination: str
) -> None:
    """Copy files between a container and the host; `-` is a tar archive on standard input or
    output.

    SRC/. is what is in the directory SRC. Links in the container never lead out of it.
    """
    stores = Stores(settings)
    reads, writes = _parse(stores, source), _parse(stores, destination)
    if (reads is None) == (writes is None):
        hint = "udocker cp CONTAINER:SRC DST, or udocker cp SRC CONTAINER:DST"
        raise UsageError("one of the two has to be CONTAINER:PATH", hint=hint)
    if reads:
        left_out = _copy_out(stores, *reads, destination, follow=follow)
    else:
        assert writes is not None
        left_out = _copy_in(stores, source, *writes, follow=follow)
    if left_out and not (quiet or settings.quiet):
        console.warn(f"left out: {', '.join(left_out)}")


def _parse(stores: Stores, text: str) -> tuple[Container, bytes] | None:
    """Read `CONTAINER:PATH`; None for a path of the host (`./a:b` says that it is one)."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or not name or name == ".":
        return None
    return stores.containers.get(name), os.fsencode(path or "/")


# out of a container


def _copy_out(
    stores: Stores, container: Container, path: bytes, destination: str, *, follow: bool
) -> list[str]:
    lock = stores.containers.lock(container)
    try:
        if got(lock):
            restore(stores, container)
        lock.acquire(shared=True)
        with open_files(container) as files:
            found = _source(files, path, follow=follow)
            if destination == "-":
                return _to_archive(files, found, _name(path, found))
            return _to_host(files, found, path, destination)
    except OSError as error:
        where = os.fsdecode(error.filename or b"")
        what = f"{where} ({container.id[:12]}:{os.fsdecode(path)})" if where else str(container.id)
        raise store_error(error, what) from error
    finally:
        lock.release()


def _source(files: Files, path: bytes, *, follow: bool) -> Found:
    found = files.reach(path, follow=follow or _has_contents(path)).found
    if found is None:
        raise StoreError(f"no file {os.fsdecode(path)} in the container")
    return found


def _to_archive(files: Files, found: Found, name: bytes) -> list[str]:
    if sys.stdout is None or sys.stdout.isatty():
        raise UsageError("an archive does not suit a terminal", hint="write it to a file or pipe")
    return _write_archive(files, found, name, sys.stdout.fileno())


def _write_archive(files: Files, found: Found, name: bytes, descriptor: int) -> list[str]:
    """Write `found`, and all below it, as `name`; return what was left out."""
    writer = TarWriter(write_all(descriptor))
    archiver = Archiver(writer, sparse=True)
    archiver.add(found, name)
    if found.is_directory:
        for below in files.walk(found):
            archiver.add(below, join(name, below.path[len(found.path) :].lstrip(b"/")))
    writer.finish()
    return archiver.left_out


def _to_host(files: Files, found: Found, path: bytes, destination: str) -> list[str]:
    real = os.path.realpath(destination)
    inside_it = os.path.isdir(real)
    if not inside_it and destination.endswith("/") and not found.is_directory:
        raise UsageError(f"{destination} is not a directory")
    above, name = (real, "") if inside_it else os.path.split(real)
    if not os.path.isdir(above):
        raise UsageError(f"{above} is not a directory", hint="make it first")
    with Files(open_layer(above, own=False)) as target:
        placer = Placer(target)
        place = placer.destination(
            os.fsencode(name),
            _name(path, found),
            is_directory=found.is_directory,
            contents=_has_contents(path),
        )
        put_tree(placer, files, found, place)
        return placer.left_out


# into a container


def _copy_in(
    stores: Stores, source: str, container: Container, path: bytes, *, follow: bool
) -> list[str]:
    lock = stores.containers.lock(container)
    try:
        if got(lock):
            restore(stores, container)
        elif not os.path.isdir(container.rootfs):
            return _into_running(stores, source, container, path, lock, follow=follow)
        if not os.path.isdir(container.rootfs):
            os.makedirs(container.upper, 0o755, exist_ok=True)
        with open_files(container) as files:
            placer = Placer(files)
            if source == "-":
                _check_directory(placer, path)
                extract(placer, _input(), lambda name: join(path.strip(b"/"), name))
            else:
                _put_host_files(placer, source, path, follow=follow)
            return placer.left_out
    except OSError as error:
        what = f"{container.id[:12]}:{os.fsdecode(error.filename or path)}"
        raise store_error(error, what) from error
    finally:
        lock.release()


def _put_host_files(placer: Placer, source: str, path: bytes, *, follow: bool) -> None:
    with _host_files(source, follow=follow) as files:
        found = _host_source(files, source, follow=follow)
        place = placer.destination(
            path, _host_name(source), is_directory=found.is_directory, contents=_ends_dotted(source)
        )
        put_tree(placer, files, found, place)


def _into_running(
    stores: Stores, source: str, container: Container, path: bytes, lock: Lock, *, follow: bool
) -> list[str]:
    """Copy into a container whose layer is mounted: a process that joins it does the writing."""
    lock.acquire(shared=True)
    engine = select.make(select.ways("N2")[0], stores.settings.directory)
    joined = engine.namespaces(lock)
    if not joined:
        short = container.id[:12]
        hint = f"run udocker cp on the host that runs it, or udocker stop {short} before"
        raise StoreError(f"container {short} is running, but not on this host", hint=hint)
    if source == "-":
        return inside.feed(
            joined, lambda out: _pass_on(_input(), out), lambda data: _take(data, path)
        )
    with _host_files(source, follow=follow) as files:
        found = _host_source(files, source, follow=follow)
        name, contents = _host_name(source), _ends_dotted(source)
        is_directory = found.is_directory
        return inside.feed(
            joined,
            lambda out: _ignore(_write_archive(files, found, _STREAM, out)),
            lambda data: _take_as(data, path, name, is_directory=is_directory, contents=contents),
        )


def _take(data: int, path: bytes) -> list[str]:
    with Files(open_layer("/", own=False)) as files:
        placer = Placer(files)
        _check_directory(placer, path)
        extract(placer, _chunks(data), lambda name: join(path.strip(b"/"), name))
        return placer.left_out


def _take_as(
    data: int, path: bytes, name: bytes, *, is_directory: bool, contents: bool
) -> list[str]:
    with Files(open_layer("/", own=False)) as files:
        placer = Placer(files)
        place = placer.destination(path, name, is_directory=is_directory, contents=contents)
        extract(placer, _chunks(data), lambda member: join(place, member[len(_STREAM) + 1 :]))
        return placer.left_out


def _check_directory(placer: Placer, path: bytes) -> None:
    """Raise UsageError unless an archive can be unpacked there."""
    if not placer.is_directory(path):
        raise UsageError(f"{os.fsdecode(path)} is not a directory of the container")


def _host_files(source: str, *, follow: bool) -> Files:
    """Return the files below the directory that the source is, or is in."""
    return Files(open_layer(_host_place(source, follow=follow)[0], own=False))


def _host_source(files: Files, source: str, *, follow: bool) -> Found:
    name = _host_place(source, follow=follow)[1]
    found = files.child(files.root(), name) if name else files.root()
    if found is None:
        raise UsageError(f"no file {source} on this host")
    return found


def _host_place(source: str, *, follow: bool) -> tuple[str, bytes]:
    """Return a directory of the host and a name in it; no name for the directory itself."""
    if os.path.isdir(source) and (follow or source.endswith(("/", "/.")) or source in (".", "..")):
        return os.path.realpath(source), b""
    path = os.path.realpath(source) if follow else os.path.abspath(source)
    if not os.path.lexists(path):
        raise UsageError(f"no file {source} on this host")
    above, name = os.path.split(path)
    return above, os.fsencode(name)


def _host_name(source: str) -> bytes:
    return os.fsencode(os.path.basename(os.path.abspath(source)))


def _ends_dotted(source: str) -> bool:
    return _has_contents(os.fsencode(source))


def _has_contents(path: bytes) -> bool:
    """Tell whether a path means what is in a directory: it ends in `/.`."""
    return path == b"." or path.endswith(b"/.")


def _name(path: bytes, found: Found) -> bytes:
    """Return what a file of the container is called by its path."""
    return split(path.rstrip(b"/."))[1] or split(found.path)[1] or b"."


def _input() -> Iterator[bytes]:
    if sys.stdin is None or sys.stdin.isatty():
        hint = "tar c FILES | udocker cp - CONTAINER:DIR"
        raise UsageError("an archive is expected on standard input", hint=hint)
    return decompress.chunks(_chunks(sys.stdin.fileno()), expansion=0)  # the user's own


def _chunks(descriptor: int) -> Iterator[bytes]:
    while data := os.read(descriptor, _PIECE_BYTES):
        yield data


def _pass_on(chunks: Iterator[bytes], out: int) -> None:
    write = write_all(out)
    for chunk in chunks:
        write(chunk)


def _ignore(_: object) -> None:
    """What was left out on the way in, the other side says."""
