"""Options on how registries are reached, alike for all commands that ask them."""

from __future__ import annotations

import os

import click

from udocker.errors import UsageError
from udocker.reference import HUB, Reference, registry_of
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from udocker.settings import Settings

_AUTHFILE = click.option(
    "--authfile", metavar="FILE", help="Credentials in this file and nowhere else."
)
_OPTIONS = (
    _AUTHFILE,
    click.option("--cert-dir", metavar="DIR", help="Certificates (*.crt, *.cert with *.key)."),
    click.option(
        "--tls-verify", type=bool, metavar="BOOL", help="=false: http, or https unchecked."
    ),
    click.option("--httpproxy", metavar="URL", help="Proxy: http://..., socks5h://..., ..."),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the function takes their values as `**reaching` for `applied`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def authfile_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the one option that is of use where nothing is asked for."""
    return _AUTHFILE(command)


def applied(
    settings: Settings,
    *,
    registry: str | None = None,
    authfile: str | None = None,
    cert_dir: str | None = None,
    tls_verify: bool | None = None,
    httpproxy: str | None = None,
    new: bool = False,
) -> Settings:
    """Return the settings with what the options say; with `new`, the file of credentials need
    not be there. Raises UsageError."""
    environment = dict(settings.environment)
    if registry:
        settings = replace(settings, registry=registry_of(registry))
    if authfile:
        if not new and not os.path.exists(authfile):
            raise UsageError(f"--authfile: there is no file {authfile}")
        environment = with_authfile(environment, authfile)
    if cert_dir:
        if not os.path.isdir(cert_dir):
            raise UsageError(f"--cert-dir: there is no directory {cert_dir}")
        settings = replace(settings, cert_dir=os.path.abspath(cert_dir))
    if tls_verify is not None:
        settings = replace(settings, insecure=not tls_verify)
    if httpproxy:
        environment.update(http_proxy=httpproxy, https_proxy=httpproxy)
    return replace(settings, environment=environment)


def account(text: str) -> str:
    """Return what credentials are for: a registry, or `registry/path`; of nothing, docker.io.

    Raises UsageError for what is neither.
    """
    name = text.partition("://")[2] or text or HUB
    host, _, path = name.rstrip("/").partition("/")
    if path in ("", "v1", "v2"):
        return registry_of(name)
    reference = Reference.parse(f"{registry_of(host)}/{path}")
    return reference.name


def with_authfile(environment: Mapping[str, str], path: str) -> dict[str, str]:
    """Return an environment in which a file holds all credentials: no variables count beside it."""
    from udocker.registry.credentials import VARIABLES

    kept = {name: value for name, value in environment.items() if name not in VARIABLES}
    return {**kept, "REGISTRY_AUTH_FILE": os.path.abspath(path)}
