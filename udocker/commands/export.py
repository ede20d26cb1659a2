"""`udocker export`."""

from __future__ import annotations

import os
import stat
import sys

import click

from udocker import console, disk
from udocker.commands.atrest import readable
from udocker.commands.stores import Stores
from udocker.containers.archive import Archiver
from udocker.containers.files import open_files
from udocker.containers.leftovers import leftovers
from udocker.errors import UdockerError, UsageError
from udocker.images.tarwriter import TarWriter, write_all
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container

_SHOWN = 5


@click.command()
@click.option("-o", "--output", metavar="FILE", help="Write there; `-` is standard output.")
@click.option("--clone", is_flag=True, help="Not supported: a clone is made by udocker clone.")
@click.argument("words", nargs=-1, required=True, metavar="[-] CONTAINER")
@click.pass_obj
def command(settings: Settings, output: str | None, clone: bool, words: tuple[str, ...]) -> None:
    """Write all files of a container as a tar archive, to standard output or a file."""
    if clone:
        hint = "udocker clone copies a container; udocker commit makes an image of it"
        raise UsageError(
            "--clone: archives of udocker 1 for its own import are not made", hint=hint
        )
    if len(words) > 2 or (len(words) == 2 and words[0] != "-"):
        raise UsageError("export takes one container", hint="udocker export -o FILE CONTAINER")
    stores = Stores(settings)
    found = stores.containers.get(words[-1])
    if output in (None, "-"):
        _to_standard_output(stores, found)
    else:
        _to_file(stores, found, str(output))


def _to_standard_output(stores: Stores, container: Container) -> None:
    if sys.stdout is None or sys.stdout.isatty():
        raise UsageError("an archive does not suit a terminal", hint="udocker export -o FILE ...")
    try:
        _export(stores, container, sys.stdout.fileno())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UdockerError(f"cannot write to standard output: {error.strerror}") from error


def _to_file(stores: Stores, container: Container, path: str) -> None:
    """Write the file, which appears whole; a pipe or device that is there is written to."""
    try:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                _export(stores, container, descriptor)
            finally:
                os.close(descriptor)
            return
        draft = f"{path}.{disk.owner()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            _export(stores, container, descriptor)
            os.fsync(descriptor)
            os.rename(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk.store_error(error, path) from error


def _export(stores: Stores, container: Container, descriptor: int) -> None:
    writer = TarWriter(write_all(descriptor))
    archiver = Archiver(writer, sparse=True)
    with readable(stores, container), open_files(container) as files:
        left = leftovers(container, files)
        root = files.root()
        archiver.add(root, b".")
        for found in files.walk(root):
            if found.path not in left:
                archiver.add(found)
    writer.finish()
    tell_left_out(stores.settings, archiver.left_out)


def tell_left_out(settings: Settings, left_out: list[str]) -> None:
    """Tell the user what an archive does not have, unless they want quiet."""
    if left_out and not settings.quiet:
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        console.warn(f"left out: {', '.join(left_out[:_SHOWN])}{more}")
