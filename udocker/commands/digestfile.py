"""The option `--digestfile` of commands that send images."""

from __future__ import annotations

import os

import click

from udocker import disk
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.oci import Digest

option = click.option("--digestfile", metavar="FILE", help="Write the digest to this file as well.")


def write(path: str | None, digest: Digest) -> None:
    """The file that the user named, if any, holds the digest. Raises UsageError, StoreError."""
    if not path:
        return
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory) or os.path.isdir(path):
        raise UsageError(f"--digestfile: {path} cannot be written")
    disk.write_whole(path, str(digest).encode(), sync=False)
