"""`udocker unpause`."""

from __future__ import annotations

import click

from udocker.commands.pause import change
from udocker.containers import state
from udocker.containers.ending import Running
from udocker.settings import Settings


@click.command()
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def command(settings: Settings, containers: tuple[str, ...]) -> int:
    """Let containers that were paused go on."""
    return change(settings, containers, state.PAUSED, Running.continue_processes)
