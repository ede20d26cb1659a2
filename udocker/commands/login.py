"""`udocker login`."""

from __future__ import annotations

import sys

import click

from udocker import console
from udocker.commands import reaching
from udocker.errors import AccessDenied, UdockerError, UsageError
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OFFERED_USERS = {"nvcr.io": "$oauthtoken"}
"""Registries that know one user only; shells tend to make nothing of this name."""


@click.command()
@click.option(
    "-u", "--username", metavar="NAME", help="Name at the registry; asked for if missing."
)
@click.option("-p", "--password", metavar="TEXT", help="Password; others can see it, so rather:")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--get-login", is_flag=True, help="Print the name that is logged in, and end.")
@click.option("--registry", metavar="HOST", help="The registry; the same as naming it.")
@reaching.options
@click.argument("host", metavar="[HOST[/PATH]]", required=False)
@click.pass_obj
def command(
    settings: Settings,
    /,
    username: str | None,
    password: str | None,
    password_stdin: bool,
    get_login: bool,
    registry: str | None,
    host: str | None,
    **how: Any,
) -> None:
    """Log in to a registry (docker.io if none is named), for this and later commands.

    The credentials are tried first; wrong ones are not kept. With a path they are for the
    images below it.
    """
    from udocker.registry.client import Client
    from udocker.registry.credentials import save_credentials
    from udocker.registry.secret import Credentials

    settings = reaching.applied(settings, new=True, **how)
    key = reaching.account(host or registry or settings.registry)
    server = key.partition("/")[0]
    if get_login:
        _put_login(key, settings)
        return
    name = username or _OFFERED_USERS.get(server) or _ask("Username")
    if password_stdin and password is not None:
        raise UsageError("--password and --password-stdin exclude each other")
    if password_stdin and sys.stdin is None:
        raise UsageError("a password is expected on standard input, which is closed")
    if password_stdin:
        password = sys.stdin.read().rstrip("\r\n")
    elif password is None:
        password = _ask("Password", hidden=True)
    if not password:
        raise UsageError("the password is empty")
    credentials = Credentials(name, password)
    try:
        tried = Client(server, settings, credentials=credentials).login()
    except AccessDenied as error:
        error.hint = "check the name and the password, or token"
        raise
    if not tried:
        console.warn(f"{server} lets everybody look at it: the password could not be tried")
    where = save_credentials(key, credentials, settings.environment)
    console.say(f"logged in to {key} as {name}; the credentials are in {where}")


def _ask(what: str, *, hidden: bool = False) -> str:
    """Return what the user types. Raises UsageError where nobody can."""
    if not sys.stdin or not sys.stdin.isatty():
        hint = "--username NAME --password-stdin < FILE"
        raise UsageError(f"no {what.lower()}, and no terminal to ask for it", hint=hint)
    answer: str = click.prompt(what, hide_input=hidden, err=True)
    return answer


def _put_login(key: str, settings: Settings) -> None:
    """Print the user for a registry. Raises UdockerError for nobody."""
    from udocker.registry.credentials import find_credentials

    registry, _, repository = key.partition("/")
    found = find_credentials(registry, repository, settings.environment)
    if found is None:
        raise UdockerError(f"not logged in to {key}", hint=f"udocker login {key}")
    console.put(found.username or "(by a token)")
