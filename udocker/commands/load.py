"""`udocker load`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.errors import UsageError
from udocker.settings import Settings
from udocker.values import replace


@click.command()
@click.option("-i", "--input", "path", metavar="FILE", help="Read a file or a directory.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Take the image for this platform.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.argument("words", nargs=-1, metavar="[FILE|-] [NAME[:TAG]]")
@click.pass_obj
def command(
    settings: Settings, path: str | None, platform: str | None, quiet: bool, words: tuple[str, ...]
) -> None:
    """Load the images of an archive (docker save, podman save), an OCI layout, or a `dir:` of
    skopeo.

    The archive may be compressed; without FILE it is read from standard input. Names are kept;
    with NAME, the image gets that name.
    """
    from udocker.transfer.archives.archivenames import Wanted
    from udocker.transfer.archives.load import Load, load

    settings = replace(settings, quiet=settings.quiet or quiet)
    stores = Stores(settings)
    path, name = _split(path, words)
    wanted = Wanted.of(name, stores.reference(name)) if name else None
    for reference in load(settings, stores.images, Load(path, wanted, platform)):
        console.put(f"Loaded image: {reference.familiar}")


def _split(path: str | None, words: tuple[str, ...]) -> tuple[str, str | None]:
    """Return where to read, and the name that is wanted.

    A word alone is the file if there is one of that name; else it is the image's, as in udocker 1.
    """
    import os

    given = list(words)
    if given and (given[0] == "-" or (path is None and os.path.exists(given[0]))):
        first = given.pop(0)
        path = path or first
    if len(given) > 1:
        hint = "udocker load -i FILE [NAME[:TAG]]"
        raise UsageError(f"load takes one file and one name, not {' '.join(words)}", hint=hint)
    return path or "-", given[0] if given else None
