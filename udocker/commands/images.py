"""`udocker images`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.reference import Reference
from udocker.settings import Settings


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Print ids and nothing else.")
@click.option("-l", "long", is_flag=True, help="Show layers too.")
@click.option("-p", "show_platform", is_flag=True, help="Show platforms too.")
@click.pass_obj
def command(settings: Settings, quiet: bool, long: bool, show_platform: bool) -> None:
    """List the images that are here."""
    store = Stores(settings).images
    images = store.images()
    if quiet:
        for image in images:
            console.put(image.short_id)
        return
    rows = []
    for image in images:
        manifest = store.read_manifest(image)
        size = sum(layer.size_bytes for layer in manifest.layers)
        name = Reference.parse(image.name).familiar
        row = [name, image.short_id, console.human_size(size)]
        rows.append([*row, str(image.manifest.platform)] if show_platform else row)
        if long:
            rows += [
                [f"  {layer.digest}", "", console.human_size(layer.size_bytes)]
                for layer in manifest.layers
            ]
    header = ["REPOSITORY:TAG", "IMAGE ID", "SIZE"]
    console.table([*header, "PLATFORM"] if show_platform else header, rows)
