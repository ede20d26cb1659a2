"""`--disable-content-trust[=BOOL]`, as docker's commands take it."""

from __future__ import annotations

import click

from udocker import console
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_NAME = "--disable-content-trust"
_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")


def option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option, of which nothing depends: docker's content trust is not known here."""
    return click.option(_NAME, is_flag=True, hidden=True, expose_value=False)(command)


class Command(click.Command):
    """A command with that option, whose value click would not take."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the option's value; the other words are click's."""
        end = args.index("--") if "--" in args else len(args)
        given = [word for word in args[:end] if word.startswith(f"{_NAME}=")]
        disabled = [_disables(word.partition("=")[2]) for word in given]
        if False in disabled[-1:]:
            console.warn(f"{_NAME}=false: not known here; a policy says what is trusted")
        rest = [word for word in args[:end] if word not in given]
        return super().parse_args(ctx, [*rest, *args[end:]])


def _disables(value: str) -> bool:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise UsageError(f"{_NAME}: {value!r} is neither true nor false")
    return value.lower() in _TRUE
