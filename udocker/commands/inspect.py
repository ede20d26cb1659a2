"""`udocker inspect`."""

from __future__ import annotations

import json

import click

from udocker import console, fastjson
from udocker.commands.stores import Stores
from udocker.oci import MAX_DOCUMENT_BYTES
from udocker.settings import Settings


@click.command()
@click.option("-p", "path_only", is_flag=True, help="Print where the files lie and nothing else.")
@click.argument("name", metavar="IMAGE|CONTAINER")
@click.pass_obj
def command(settings: Settings, path_only: bool, name: str) -> None:
    """Show the config of an image, or how a container was made, as JSON."""
    stores = Stores(settings)
    container = stores.containers.find(name)
    if container:
        console.put(container.tree if path_only else _pretty(container.to_json()))
        return
    image = stores.get_image(name)
    if path_only:
        console.put(image.tree)
        return
    digest = stores.images.read_manifest(image).config.digest
    stores.images.config(digest)  # raises for one that is damaged
    console.put(_pretty(stores.images.blobs.read(digest, MAX_DOCUMENT_BYTES)))


def _pretty(text: str | bytes) -> str:
    return json.dumps(fastjson.loads(text), indent=4)
