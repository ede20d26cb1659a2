"""`udocker pull`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands import contenttrust, reaching
from udocker.commands.stores import Stores
from udocker.settings import Settings
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command(cls=contenttrust.Command)
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Take the image for this platform.")
@click.option("-q", "--quiet", is_flag=True, help="Print the image's digest and nothing else.")
@click.option("--registry", metavar="HOST", help="Where a name without a host is looked up.")
@click.option("--index", hidden=True)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Layers at the same time; 1: over one connection, too.",
)
@click.option("--signature-policy", metavar="FILE", help="Which images may come in.")
@contenttrust.option
@click.option("--allow-foreign", is_flag=True, help="Layers from where the image says.")
@reaching.options
@click.argument("reference")
@click.pass_obj
def command(
    settings: Settings,
    /,
    reference: str,
    platform: str | None,
    quiet: bool,
    registry: str | None,
    index: str | None,
    signature_policy: str | None,
    allow_foreign: bool,
    jobs: int | None,
    **how: Any,
) -> None:
    """Pull an image from a registry, verify it and unpack it, ready to run."""
    settings = replace(settings, quiet=settings.quiet or quiet)
    settings = replace(settings, policy=signature_policy or settings.policy)
    settings = replace(settings, foreign_layers=settings.foreign_layers or allow_foreign)
    settings = replace(settings, jobs=jobs or settings.jobs)
    settings = reaching.applied(settings, registry=registry or index, **how)
    image = Stores(settings).pull(reference, platform)
    console.put(str(image.manifest.digest) if settings.quiet else f"{image.name} {image.short_id}")
