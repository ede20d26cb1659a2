"""`udocker logout`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands import reaching
from udocker.settings import Settings


@click.command()
@click.option("--registry", metavar="HOST", help="The registry; the same as naming it.")
@click.option("-a", "--all", "everywhere", is_flag=True, help="Forget them for all registries.")
@reaching.authfile_option
@click.argument("host", metavar="[HOST[/PATH]]", required=False)
@click.pass_obj
def command(
    settings: Settings,
    /,
    registry: str | None,
    everywhere: bool,
    authfile: str | None,
    host: str | None,
) -> None:
    """Forget the credentials for a registry (docker.io if none is named)."""
    from udocker.registry.credentials import forget_credentials

    settings = reaching.applied(settings, authfile=authfile)
    key = None if everywhere else reaching.account(host or registry or settings.registry)
    paths = forget_credentials(key, settings.environment)
    where = key or "any registry"
    console.say(f"removed from {', '.join(paths)}" if paths else f"not logged in to {where}")
