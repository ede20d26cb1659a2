"""Options on the image: when it is pulled and from where, or a directory in place of one."""

from __future__ import annotations

import os

from udocker.commands.options import grammar
from udocker.errors import UsageError
from udocker.reference import registry_of
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from udocker.commands.words import Values
    from udocker.settings import Settings

PULL = ("missing", "always", "newer", "never", "reuse")


def wishes(values: Values, _: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """Return the fields of the request that options on the image fill."""
    location = values.last("location")
    return {
        "pull": grammar.one_of(values.last("pull") or "missing", PULL, "--pull"),
        "platform": _platform(values),
        "location": parse_location(location) if location is not None else None,
        "ignore_config": values.flag("nometa"),
    }


def parse_location(text: str) -> str:
    """Return the absolute path of a directory to be used as a root. Raises UsageError."""
    path = os.path.realpath(text)
    if not text or not os.path.isdir(path):
        raise UsageError(f"the root file system {text!r} is no directory of this host")
    if path == "/":
        raise UsageError("the host's own root cannot be the root of a container")
    return path


def settings_for(values: Values, settings: Settings) -> Settings:
    """Return the settings with what the options say of this pull."""
    if values.flag("quiet"):
        settings = replace(settings, quiet=True)
    registry = values.last("registry") or values.last("index")
    if registry:
        settings = replace(settings, registry=registry_of(registry))
    if not values.flag("tls_verify", default=True):
        settings = replace(settings, insecure=True)
    environment = dict(settings.environment)
    if values.last("httpproxy"):
        environment.update(
            dict.fromkeys(("http_proxy", "https_proxy"), values.all("httpproxy")[-1])
        )
    if values.last("authfile"):
        from udocker.commands.reaching import with_authfile

        environment = with_authfile(environment, _file(values.all("authfile")[-1], "--authfile"))
    return replace(settings, environment=environment)


def _platform(values: Values) -> str | None:
    parts = [values.last(key) for key in ("os", "arch", "variant")]
    if not any(parts):
        return values.last("platform") or None
    if values.last("platform"):
        raise UsageError("--platform says already what --os, --arch and --variant do")
    system, architecture, variant = parts
    if not architecture:
        raise UsageError("--os and --variant need --arch", hint="--platform OS/ARCH[/VARIANT]")
    return "/".join(filter(None, (system or "linux", architecture, variant)))


def _file(path: str, option: str) -> str:
    if not os.path.isfile(path):
        raise UsageError(f"{option}: there is no file {path}")
    return os.path.abspath(path)
