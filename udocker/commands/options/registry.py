"""Options of all commands that speak to registries: who one is, and how far they are trusted."""

from __future__ import annotations

import os

import click

from udocker import disk
from udocker.errors import UsageError
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from udocker.oci import Digest
    from udocker.settings import Settings

_OPTIONS = (
    click.option("--authfile", metavar="FILE", help="Take credentials from this file."),
    click.option(
        "--tls-verify", type=bool, metavar="BOOL", help="false: use http, trust any certificate."
    ),
    click.option("--insecure", is_flag=True, help="Use http, and https without certificates."),
    click.option("--httpproxy", metavar="URL", help="Proxy for http and https."),
)


def access(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which passes their values on to `settings_for`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings_for(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """Return the settings with what the options say. Raises UsageError."""
    if given.get("insecure") or given.get("tls_verify") is False:
        settings = replace(settings, insecure=True)
    elif given.get("tls_verify"):
        settings = replace(settings, insecure=False)
    environment = dict(settings.environment)
    if given.get("httpproxy"):
        environment.update(dict.fromkeys(("http_proxy", "https_proxy"), given["httpproxy"]))
    if given.get("authfile"):
        path = given["authfile"]
        if not os.path.isfile(path):
            raise UsageError(f"--authfile: there is no file {path}")
        environment["REGISTRY_AUTH_FILE"] = os.path.abspath(path)
    return replace(settings, environment=environment)


def of_end(given: Mapping[str, Any], end: str) -> dict[str, Any]:
    """Return the options for one end of a copy (`src` or `dest`), its own before common ones."""
    own = {key: given.get(f"{end}_{key}") for key in ("tls_verify", "authfile")}
    return {**given, **{key: value for key, value in own.items() if value is not None}}


def write_digest(path: str, digest: Digest) -> None:
    """The file that the user named holds the digest. Raises UsageError where it cannot."""
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory) or os.path.isdir(path):
        raise UsageError(f"--digestfile: {path} cannot be written")
    disk.write_whole(path, f"{digest}".encode(), sync=False)
