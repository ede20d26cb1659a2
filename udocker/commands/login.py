"""`udocker login`."""

from __future__ import annotations

import sys

import click

from udocker import console
from udocker.errors import UsageError
from udocker.settings import Settings


@click.command()
@click.option(
    "-u", "--username", metavar="NAME", help="Name at the registry; asked for if missing."
)
@click.option("-p", "--password", metavar="TEXT", help="Password; others can see it, so rather:")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--registry", metavar="HOST", help="The registry; the same as naming it.")
@click.argument("host", required=False)
@click.pass_obj
def command(
    settings: Settings,
    username: str | None,
    password: str | None,
    password_stdin: bool,
    registry: str | None,
    host: str | None,
) -> None:
    """Log in to a registry (docker.io if none is named), for this and later commands.

    The credentials are tried first; wrong ones are not kept.
    """
    from udocker.registry.client import Client
    from udocker.registry.credentials import Credentials, save_credentials

    host = host or registry or settings.registry
    name = username or click.prompt("Username", err=True)
    if password_stdin:
        password = sys.stdin.read().rstrip("\r\n")
    elif password is None:
        password = click.prompt("Password", hide_input=True, err=True)
    if not password:
        raise UsageError("the password is empty")
    credentials = Credentials(name, password)
    Client(host, settings, credentials=credentials).login()
    path = save_credentials(host, credentials, settings.environment)
    console.say(f"logged in to {host}; the credentials are in {path}")
