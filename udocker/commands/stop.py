"""`udocker stop`."""

from __future__ import annotations

import time

import click

from udocker import console
from udocker.commands import runoptions
from udocker.commands.stores import Stores
from udocker.containers import state
from udocker.containers.ending import STOP_GRACE_S, Running, running, signal_number
from udocker.errors import UdockerError
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from udocker.containers.container import Container

_PAUSE_S = 0.02


@click.command()
@click.option(
    "-t", "--time", "--timeout", "grace_s", type=int, metavar="S", help="Seconds before SIGKILL."
)
@click.option("-s", "--signal", "name", metavar="SIGNAL", help="Signal to ask with.")
@click.argument("containers", nargs=-1, required=True, metavar="CONTAINER...")
@click.pass_obj
def command(
    settings: Settings, grace_s: int | None, name: str | None, containers: tuple[str, ...]
) -> int:
    """Ask the programs of containers to end; kill those that have not in time (10 s)."""
    return stop(Stores(settings), containers, grace_s, name)


def stop(
    stores: Stores,
    names: Sequence[str],
    grace_s: int | None = None,
    signal_name: str | None = None,
    *,
    told: bool = True,
) -> int:
    """Stop all containers of those names at the same time; return 1 if one failed.

    The names are `told` to the user.
    """
    code = 0
    number = signal_number(signal_name) if signal_name else None
    asked: list[tuple[str, float, Running | None]] = []
    for name in names:
        try:
            asked.append((name, *_ask(stores, name, grace_s, number)))
        except UdockerError as error:
            console.say_error(error)
            code = 1
    for name, until, container in asked:
        if container and not _ends(container, until):
            container.end()
        if told:
            console.put(name)
    return code


def _ask(
    stores: Stores, name: str, grace_s: int | None, number: int | None
) -> tuple[float, Running | None]:
    """Send a container its stop signal; return until when it has time, and None if it is over."""
    container = stores.containers.get(name)
    found = running(stores.containers, container)
    if found is None:
        return 0.0, None
    usual_number, usual_grace_s = _wishes(stores, container)
    found.signal(usual_number if number is None else number)
    seconds = usual_grace_s if grace_s is None else grace_s
    return (time.monotonic() + seconds if seconds >= 0 else float("inf")), found


def _ends(container: Running, until: float) -> bool:
    while not container.has_ended(within_s=_PAUSE_S):
        if time.monotonic() >= until:
            return False
        container.ask_rest()
    return True


def _wishes(stores: Stores, container: Container) -> tuple[int, int]:
    """Return the signal and the seconds that the run asked for, or its image, or the usual."""
    now = state.load(container)
    options = now.options if now else container.options
    values, _, _ = runoptions.parse(options)
    name = values.last("stop_signal") or stores.config_of(container).stop_signal or "TERM"
    seconds = values.last("stop_timeout") or ""
    return signal_number(name), int(seconds) if seconds.lstrip("-").isdigit() else STOP_GRACE_S
