"""`udocker mkrepo`."""

from __future__ import annotations

import os

import click

from udocker import console, disk
from udocker.errors import UsageError
from udocker.images.store import PUBLIC, ImageStore
from udocker.settings import SYSTEM_FILE, Settings


@click.command()
@click.option("--shared", is_flag=True, help="Let all users read what is put into it.")
@click.argument("directory", metavar="DIR")
@click.pass_obj
def command(settings: Settings, directory: str, shared: bool) -> None:
    """Make an empty store in a directory that is not there yet.

    A store belongs to one account. With --shared others can run what it holds: they name it in
    UDOCKER_SITE_STORES. Files of images are made readable to all in it, and lose set-id bits.
    """
    path = os.path.abspath(directory)
    if os.path.lexists(path):
        raise UsageError(f"{path} is there already", hint="name a directory that is not there")
    disk.make_directory(path, 0o755 if shared else 0o700)
    if shared:
        os.chmod(path, 0o755)  # whatever the umask says
        disk.write_whole(f"{path}/{PUBLIC}", b"")
    ImageStore(path).prepare()
    disk.make_directory(f"{path}/containers")
    console.put(path)
    if not settings.quiet:
        console.say(f"use it with udocker --repo={path}, or set UDOCKER_DIR={path}")
        if shared:
            console.say(f"others set UDOCKER_SITE_STORES={path}, or site_stores in {SYSTEM_FILE}")
