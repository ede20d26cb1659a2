"""`udocker push`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands import contenttrust, reaching
from udocker.commands.digestfile import option as digestfile_option
from udocker.commands.digestfile import write as write_digest
from udocker.commands.stores import Stores
from udocker.errors import ImageNotFound, InvalidReference, UsageError
from udocker.settings import Settings
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.images.compressed import Compression
    from udocker.images.store import Image
    from udocker.oci import Digest
    from udocker.transfer.copying.places import Location

_NONE = "none"


@click.command(cls=contenttrust.Command)
@reaching.options
@click.option("-q", "--quiet", is_flag=True, help="Print the digest and nothing else.")
@click.option("-a", "--all-tags", is_flag=True, help="All images of the repository IMAGE.")
@click.option(
    "--compression-format",
    "kind",
    type=click.Choice(["gzip", "zstd", _NONE]),
    help="How layers go that are plain tar here (gzip); none: as they are.",
)
@click.option("--compression-level", "level", type=int, metavar="N", help="gzip: 1-9, zstd: 1-22.")
@contenttrust.option
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
    all_tags: bool,
    kind: str | None,
    level: int | None,
    digestfile: str | None,
    jobs: int | None,
    **how: Any,
) -> None:
    """Send an image to a registry, under its own name or as DESTINATION.

    DESTINATION is a name, or any place that `udocker copy` knows, such as oci:DIRECTORY[:TAG].

    What the registry has already is not sent again. Layers that are plain tar here (of archives
    that were loaded) go compressed, which gives the manifest a new digest; the config, and so the
    image's id, stays. All else arrives byte for byte. Prints the name and the digest.
    """
    if all_tags and (destination or digestfile):
        raise UsageError("--all-tags takes neither a DESTINATION nor --digestfile")
    settings = replace(settings, quiet=settings.quiet or quiet, jobs=jobs or settings.jobs)
    settings = reaching.applied(settings, **how)
    compression = _compression(kind, level)
    stores = Stores(settings)
    found = _repository(stores, image) if all_tags else [stores.get_image(image)]
    for one in found:
        digest = _push(stores, one, destination or one.name, compression)
        write_digest(digestfile, digest)


def _push(stores: Stores, image: Image, to: str, how: Compression | None) -> Digest:
    """Push an image; print where to, and the digest that it has there."""
    from udocker.transfer.copying.ends import place_for, target_at
    from udocker.transfer.copying.push import push

    settings = stores.settings
    place = place_for(settings, to)
    with target_at(settings, stores.images, place) as target:
        pushed = push(settings, stores.images, image, target, how if _can_change(place) else None)
    console.put(str(pushed.digest) if settings.quiet else f"{target.name} {pushed.digest}")
    return pushed.digest


def _compression(kind: str | None, level: int | None) -> Compression | None:
    """Return what the options mean; None: layers go as they are. Raises UsageError."""
    from udocker.images.compressed import GZIP, LEVELS, Compression

    kind = kind or GZIP
    if level is not None and level not in LEVELS.get(kind, ()):
        few = [f"{name} has {levels[0]} to {levels[-1]}" for name, levels in LEVELS.items()]
        raise UsageError(f"--compression-level: {level} is none of {kind}", hint=", ".join(few))
    return None if kind == _NONE else Compression(kind, level)


def _can_change(place: Location) -> bool:
    """Tell whether an image can arrive with another digest and compressed: not under a name that
    is its digest, and not in docker's archives, in which layers are plain."""
    from udocker.transfer.copying.places import DOCKER_ARCHIVE

    return place.transport != DOCKER_ARCHIVE and (bool(place.path) or "@" not in place.name)


def _repository(stores: Stores, name: str) -> list[Image]:
    """Return all images of a repository. Raises ImageNotFound, UsageError."""
    wanted = stores.reference(name)
    try:
        stores.reference(f"{name}:latest")
    except InvalidReference:
        raise UsageError(f"{name}: with --all-tags, a name without a tag is wanted") from None
    start = f"{wanted.name}:"
    found: dict[str, Image] = {}
    for image in stores.images.all_images():  # the user's own first, then those of the site
        if image.name.startswith(start):
            found.setdefault(image.name, image)
    if not found:
        raise ImageNotFound(f"no image of {wanted.name} here", hint="udocker images")
    return list(found.values())
