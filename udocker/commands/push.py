"""`udocker push`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands import reaching
from udocker.commands.digestfile import option as digestfile_option
from udocker.commands.digestfile import write as write_digest
from udocker.commands.stores import Stores
from udocker.errors import InvalidReference, UsageError
from udocker.settings import Settings
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.reference import Reference


@click.command()
@reaching.options
@click.option("-q", "--quiet", is_flag=True, help="Print the digest and nothing else.")
@digestfile_option
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
    **how: Any,
) -> None:
    """Send an image to a registry, under its own name or as DESTINATION.

    What the registry has already is not sent again; the image arrives byte for byte, so that its
    digest stays what it is. Prints the name and the digest.
    """
    from udocker.transfer.push import push

    settings = reaching.applied(replace(settings, quiet=settings.quiet or quiet), **how)
    stores = Stores(settings)
    found = stores.get_image(image)
    reference = _reference(stores, destination or found.name)
    pushed = push(settings, stores.images, found, reference)
    write_digest(digestfile, pushed.digest)
    console.put(str(pushed.digest) if settings.quiet else f"{reference} {pushed.digest}")


def _reference(stores: Stores, name: str) -> Reference:
    try:
        return stores.reference(name)
    except InvalidReference as error:
        transport = name.partition(":")[0]
        if transport in ("oci", "oci-archive", "docker-archive", "dir"):
            hint = f"udocker copy udocker:IMAGE {name}"
            raise UsageError(f"{name} is not a name in a registry", hint=hint) from error
        raise
