"""`udocker mkrepo`."""

from __future__ import annotations

import os

import click

from udocker import console, disk
from udocker.errors import UsageError
from udocker.images.store import ImageStore
from udocker.settings import Settings


@click.command()
@click.argument("directory", metavar="DIR")
@click.pass_obj
def command(settings: Settings, directory: str) -> None:
    """Make an empty store in a directory that is not there yet."""
    path = os.path.abspath(directory)
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already", hint="name a directory that is not there")
    disk.make_directory(path)
    ImageStore(path).prepare()
    disk.make_directory(f"{path}/containers")
    console.put(path)
    if not settings.quiet:
        console.say(f"use it with udocker --repo={path}, or set UDOCKER_DIR={path}")
