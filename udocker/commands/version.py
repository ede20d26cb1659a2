"""`udocker version`."""

from __future__ import annotations

import click

from udocker import __version__, console


@click.command()
def command() -> None:
    """Show the version."""
    console.put(f"version: {__version__}")
