"""`udocker import`."""

from __future__ import annotations

import os
import sys

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.errors import UdockerError, UsageError
from udocker.oci import Platform
from udocker.reference import Reference
from udocker.settings import Settings
from udocker.transfer.archives.fromclone import unpacked_clone
from udocker.transfer.archives.fromtar import Wish, import_tar
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.container import Container
    from udocker.images.store import Image

_PIECE_BYTES = 1 << 20
_URLS = ("http://", "https://")


@dataclass(frozen=True)
class _Source:
    """Where the files come from: a path, a web address, or `-`."""

    text: str

    @property
    def name(self) -> str:
        """What it is called in messages; of an address, what is no secret."""
        if self.text == "-":
            return "standard input"
        if not self.is_url:
            return self.text
        from udocker.registry.route import shown

        return shown(self.text)

    @property
    def is_url(self) -> bool:
        return self.text.startswith(_URLS)

    def chunks(self, settings: Settings) -> Iterator[bytes]:
        """Return the bytes as they come. Raises UsageError, UdockerError."""
        if self.is_url:
            from udocker.registry.transport import stream

            return stream(self.text, settings.environment, insecure=settings.insecure)
        if self.text != "-":
            return _read(self.text)
        if sys.stdin is None or sys.stdin.isatty():
            hint = "udocker import FILE NAME, or: tar -c -C DIR . | udocker import - NAME"
            raise UsageError("an archive is expected on standard input", hint=hint)
        return _read(sys.stdin.fileno(), self.name)


def _read(file: int | str, name: str = "") -> Iterator[bytes]:
    """Yield the content of a file, or of an open one."""
    try:
        with open(file, "rb", buffering=0, closefd=isinstance(file, str)) as opened:
            while data := opened.read(_PIECE_BYTES):
                yield data
    except OSError as error:
        raise UdockerError(f"{name or file}: {error.strerror}") from error


@click.command()
@click.option(
    "-c",
    "--change",
    "changes",
    multiple=True,
    metavar="INSTRUCTION",
    help="A Dockerfile instruction: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, WORKDIR, ...",
)
@click.option("-m", "--message", default="", metavar="TEXT", help="What the image is for.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="What the files are for.")
@click.option("--mv", "move", is_flag=True, help="Remove FILE once it is imported.")
@click.option("--tocontainer", is_flag=True, help="Make a container, and no image.")
@click.option("--clone", is_flag=True, help="Make a container of what udocker 1 exported so.")
@click.option("--name", metavar="NAME", help="With --tocontainer or --clone: the container's name.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of what was left out.")
@click.argument("file", metavar="FILE|URL|-")
@click.argument("image", required=False, metavar="[IMAGE[:TAG]]")
@click.pass_obj
def command(
    settings: Settings,
    changes: tuple[str, ...],
    message: str,
    platform: str | None,
    move: bool,
    tocontainer: bool,
    clone: bool,
    name: str | None,
    quiet: bool,
    file: str,
    image: str | None,
) -> None:
    """Make an image of a tar archive with the files of a system. Prints the image's id.

    The archive may be compressed. Without IMAGE it is named localhost/ and the image's digits.
    """
    if name and not (tocontainer or clone):
        raise UsageError("--name is a container's", hint="udocker import --tocontainer --name=...")
    settings = replace(settings, quiet=settings.quiet or quiet)
    stores = Stores(settings)
    source = _Source(file)
    machine = os.uname().machine
    wish = Wish(
        reference=_reference(stores, image),
        platform=Platform.parse(platform) if platform else Platform.of_machine(machine),
        message=message,
        changes=changes,
    )
    stores.images.prepare()  # once: it sweeps what this process left, too
    if clone:
        console.put(_cloned(stores, source, wish, name).id)
    elif tocontainer:
        console.put(_container(stores, source, wish, name).id)
    else:
        console.put(_image(stores, source, wish).manifest.digest.hex)
    if move and not source.is_url and file != "-":
        _remove(file)


def _reference(stores: Stores, image: str | None) -> Reference | None:
    if image is None:
        return None
    reference = stores.reference(image)
    if reference.digest:
        raise UsageError(f"{image}: a digest cannot be given to an image", hint="give it a tag")
    return reference


def _image(
    stores: Stores, source: _Source, wish: Wish, chunks: Iterator[bytes] | None = None
) -> Image:
    """Make an image of what the source has, or of `chunks` in its place."""
    store = stores.images
    with store.using():
        chunks = chunks or source.chunks(stores.settings)
        return import_tar(stores.settings, store, source.name, chunks, wish)


def _cloned(stores: Stores, source: _Source, wish: Wish, name: str | None) -> Container:
    """Make a container of one that udocker 1 packed."""
    settings, store = stores.settings, stores.images
    with unpacked_clone(settings, store, source.name, source.chunks(settings)) as clone:
        wish = replace(wish, process=clone.process)
        return _container(stores, source, wish, name, clone.chunks())


def _container(
    stores: Stores,
    source: _Source,
    wish: Wish,
    name: str | None,
    chunks: Iterator[bytes] | None = None,
) -> Container:
    """Make a container; its image, under a name that nobody has, is gone afterwards."""
    if name:
        stores.containers.check_name(name)
    passing = Reference("localhost", "imported", os.urandom(6).hex(), None)
    image = _image(stores, source, replace(wish, reference=passing), chunks)
    try:
        shown = replace(image, name=str(wish.reference)) if wish.reference else image
        config = stores.images.read_manifest(image).config.digest
        container = stores.containers.plan(shown, config)
        stores.containers.add(container, name)
    finally:
        stores.images.remove(image)
        stores.collect()
    return container


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        console.warn(f"{path} is imported, but was not removed: {error.strerror}")
