"""`udocker inspect`."""

from __future__ import annotations

import json
import os

import click

from udocker import console, fastjson
from udocker.commands.inspection import described, root_path
from udocker.commands.stores import Stores
from udocker.commands.templates import fill
from udocker.errors import ImageNotFound, UdockerError
from udocker.oci import MAX_DOCUMENT_BYTES
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.images.store import Image


@click.command()
@click.option("-p", "path_only", is_flag=True, help="Print where the files lie and nothing else.")
@click.option("-f", "--format", "template", metavar="TEMPLATE", help="As {{.State.Running}}.")
@click.option("--type", "kind", type=click.Choice(["container", "image"]), help="Look for these.")
@click.argument("names", nargs=-1, required=True, metavar="IMAGE|CONTAINER...")
@click.pass_obj
def command(
    settings: Settings,
    path_only: bool,
    template: str | None,
    kind: str | None,
    names: tuple[str, ...],
) -> int:
    """Show the config of images, and what containers are and do, as JSON.

    One name gives one object, several give a list.
    """
    stores = Stores(settings)
    found: list[Any] = []
    code = 0
    for name in names:
        try:
            found.append(_path(stores, name, kind) if path_only else _object(stores, name, kind))
        except UdockerError as error:
            if len(names) == 1:
                raise
            console.say_error(error)
            code = 1
    if path_only or template:
        for one in found:
            console.put(one if path_only else fill(template or "", one))
    else:
        console.put(json.dumps(found if len(names) > 1 else found[0], indent=4))
    return code


def _object(stores: Stores, name: str, kind: str | None) -> Any:
    container = stores.containers.find(name) if kind != "image" else None
    if container:
        return described(stores, container)
    image = _image(stores, name, kind)
    digest = stores.images.read_manifest(image).config.digest
    stores.images.config(digest)  # raises for one that is damaged
    return fastjson.loads(stores.images.blobs.read(digest, MAX_DOCUMENT_BYTES))


def _path(stores: Stores, name: str, kind: str | None) -> str:
    container = stores.containers.find(name) if kind != "image" else None
    if container is None:
        return _image(stores, name, kind).tree
    path, is_whole = root_path(stores, container)
    if not is_whole:
        upper = os.path.basename(container.upper)
        console.warn(f"what programs wrote lies in {container.directory}/{upper}")
    return path


def _image(stores: Stores, name: str, kind: str | None) -> Image:
    if kind == "container":
        raise ImageNotFound(f"no container {name!r} here", hint="udocker ps lists containers")
    return stores.get_image(name) if kind else stores.get_other(name)
