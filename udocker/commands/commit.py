"""`udocker commit`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.atrest import readable
from udocker.commands.export import tell_left_out
from udocker.commands.stores import Stores
from udocker.errors import UsageError
from udocker.reference import Reference
from udocker.settings import Settings
from udocker.transfer.commit import Wish, commit


@click.command()
@click.option("-m", "--message", default="", metavar="TEXT", help="What the image is for.")
@click.option("-a", "--author", default="", metavar="AUTHOR", help="Who made it.")
@click.option(
    "-c",
    "--change",
    "changes",
    multiple=True,
    metavar="INSTRUCTION",
    help="A Dockerfile instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, WORKDIR, ...",
)
@click.option("-p", "--pause", is_flag=True, help="Accepted; programs are not paused.")
@click.option("-s", "--squash", is_flag=True, help="One layer with everything, not one more.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of what was left out.")
@click.argument("container", metavar="CONTAINER")
@click.argument("image", required=False, metavar="[IMAGE[:TAG]]")
@click.pass_obj
def command(
    settings: Settings,
    message: str,
    author: str,
    changes: tuple[str, ...],
    pause: bool,
    squash: bool,
    quiet: bool,
    container: str,
    image: str | None,
) -> None:
    """Make an image of a container: what it changed becomes a layer. Prints the image's id.

    The config is that of the container's image with the changes given. Without IMAGE it is
    named localhost/ and the container's id.
    """
    stores = Stores(settings)
    found = stores.containers.get(container)
    reference = (
        stores.reference(image) if image else Reference.parse(f"localhost/{found.id[:12]}:latest")
    )
    if reference.digest:
        raise UsageError(f"{image}: a digest cannot be given to an image", hint="give it a tag")
    with readable(stores, found):
        done = commit(stores.images, found, reference, Wish(message, author, changes, squash))
    console.put(done.image.manifest.digest.hex)
    if quiet or settings.quiet:
        return
    if done.squashed:
        console.warn(f"the layers of {found.image} are not here any more: the image has one layer")
    tell_left_out(settings, list(done.left_out))
