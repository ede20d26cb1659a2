"""`udocker export`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands import output
from udocker.commands.atrest import readable
from udocker.commands.stores import Stores
from udocker.containers.archive import Archiver
from udocker.containers.files import open_files
from udocker.containers.leftovers import leftovers
from udocker.errors import UsageError
from udocker.images.archives.tarwriter import TarWriter, write_all
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container

_SHOWN = 5


@click.command()
@click.option("-o", "--output", "path", metavar="FILE", help="Write there; `-` is standard output.")
@click.option("--clone", is_flag=True, help="Not supported: a clone is made by udocker clone.")
@click.argument("words", nargs=-1, required=True, metavar="[-] CONTAINER")
@click.pass_obj
def command(settings: Settings, path: str | None, clone: bool, words: tuple[str, ...]) -> None:
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
    output.write(path, "udocker export -o FILE ...", lambda to, _: _export(stores, found, to))


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
