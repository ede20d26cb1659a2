"""`udocker diff`."""

from __future__ import annotations

import json
import os

import click

from udocker import console
from udocker.commands.atrest import readable
from udocker.commands.stores import Stores
from udocker.containers.changes import changes
from udocker.containers.files import open_files
from udocker.containers.leftovers import leftovers
from udocker.disk import store_error
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.files import Files

_KINDS = {"C": 0, "A": 1, "D": 2}
"""docker's numbers. Source: Engine API, `ContainerChanges`."""


@click.command()
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="Form.")
@click.argument("container", metavar="CONTAINER")
@click.pass_obj
def command(settings: Settings, form: str, container: str) -> None:
    """List what a container changed of its image: A added, C changed, D removed."""
    stores = Stores(settings)
    found = stores.containers.get(container)
    try:
        with readable(stores, found), open_files(found) as files:
            listed = _changes(found, files)
    except OSError as error:
        raise store_error(error, found.directory) from error
    if form == "json":
        entries = [{"Path": _text(path), "Kind": _KINDS[kind]} for path, kind in listed]
        console.put(json.dumps(entries))
        return
    for path, kind in listed:
        console.put(f"{kind} {path}")


def _changes(container: Container, files: Files) -> list[tuple[str, str]]:
    """Return the paths that programs changed and how, without what mounts have left."""
    found = changes(container, files, leftovers(container, files))
    return sorted((f"/{os.fsdecode(change.path)}", change.kind) for change in found)


def _text(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace")
