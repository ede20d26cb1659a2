"""`udocker help`."""

from __future__ import annotations

import click

from udocker import console


@click.command()
@click.argument("name", required=False, metavar="[COMMAND]")
@click.pass_context
def command(ctx: click.Context, name: str | None) -> None:
    """Show the help of a command, or which commands there are."""
    above = ctx.find_root()
    group = above.command
    if name is None or not isinstance(group, click.Group):
        console.put(above.get_help())
        return
    _, found, _ = group.resolve_command(above, [name])  # says which one was perhaps meant
    if found is not None:
        console.put(click.Context(found, info_name=name, parent=above).get_help())
