"""`udocker logout`."""

from __future__ import annotations

import click

from udocker import console
from udocker.settings import Settings


@click.command()
@click.option("--registry", metavar="HOST", help="The registry; the same as naming it.")
@click.option("-a", "--all", "everywhere", is_flag=True, help="Forget them for all registries.")
@click.argument("host", required=False)
@click.pass_obj
def command(settings: Settings, registry: str | None, everywhere: bool, host: str | None) -> None:
    """Forget the credentials for a registry (docker.io if none is named)."""
    from udocker.registry.credentials import forget_credentials

    host = host or registry or settings.registry
    paths = forget_credentials(None if everywhere else host, settings.environment)
    where = "any registry" if everywhere else host
    console.say(f"removed from {', '.join(paths)}" if paths else f"not logged in to {where}")
