"""`udocker push`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands import reaching
from udocker.commands.digestfile import option as digestfile_option
from udocker.commands.digestfile import write as write_digest
from udocker.commands.stores import Stores
from udocker.settings import Settings
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command()
@reaching.options
@click.option("-q", "--quiet", is_flag=True, help="Print the digest and nothing else.")
@click.option("--disable-content-trust", is_flag=True, hidden=True, expose_value=False)
@digestfile_option
@click.option(
    "--jobs", type=click.IntRange(1, 64), metavar="N", help="Blobs on their way at once (4)."
)
@click.argument("image")
@click.argument("destination", required=False)
@click.pass_obj
def command(
    settings: Settings,
    /,
    image: str,
    destination: str | None,
    quiet: bool,
    digestfile: str | None,
    jobs: int | None,
    **how: Any,
) -> None:
    """Send an image to a registry, under its own name or as DESTINATION.

    DESTINATION is a name, or any place that `udocker copy` knows, such as oci:DIRECTORY[:TAG].

    What the registry has already is not sent again; the image arrives byte for byte, so that its
    digest stays what it is. Prints the name and the digest.
    """
    from udocker.transfer.ends import place_for, target_at
    from udocker.transfer.push import push

    settings = replace(settings, quiet=settings.quiet or quiet, jobs=jobs or settings.jobs)
    settings = reaching.applied(settings, **how)
    stores = Stores(settings)
    found = stores.get_image(image)
    place = place_for(settings, destination or found.name)
    with target_at(settings, stores.images, place) as target:
        pushed = push(settings, stores.images, found, target)
    write_digest(digestfile, pushed.digest)
    console.put(str(pushed.digest) if settings.quiet else f"{target.name} {pushed.digest}")
