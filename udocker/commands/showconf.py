"""`udocker showconf`."""

from __future__ import annotations

import os

import click

from udocker import console
from udocker.registry.configuration import files
from udocker.settings import SYSTEM_FILE, Settings, origins


@click.command()
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show every setting in force, and where it comes from."""
    settings: Settings = ctx.obj
    given = ctx.parent.params if ctx.parent else {}
    flags = {key: value for key, value in given.items() if value and key != "allow_root"}
    rows = [
        (key, _shown(getattr(settings, key)), origin)
        for key, origin in origins(flags, settings.environment).items()
    ]
    console.table(("SETTING", "VALUE", "FROM"), rows)
    named = f", {flags['config']}" if "config" in flags else ""
    console.put(f"\nfiles read: {SYSTEM_FILE}, {settings.directory}/udocker.conf{named}")
    registries = [path for path, _ in files(settings.environment) if os.path.exists(path)]
    console.put(f"registries: {', '.join(registries) or 'no registries.conf'}")


def _shown(value: object) -> str:
    """Return a value as it is written in a file of settings."""
    return ":".join(value) if isinstance(value, tuple) else str(value)
