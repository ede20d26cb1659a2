"""`udocker top`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.stores import Stores
from udocker.containers.ending import running
from udocker.errors import StoreError
from udocker.host import processes
from udocker.settings import Settings

HEADER = ("UID", "PID", "PPID", "STIME", "TTY", "TIME", "CMD")


@click.command()
@click.argument("container")
@click.argument("options", nargs=-1, metavar="[ps OPTIONS]")
@click.pass_obj
def command(settings: Settings, container: str, options: tuple[str, ...]) -> None:
    """Show the processes of a running container, with the numbers that they have on the host."""
    store = Stores(settings).containers
    found = running(store, store.get(container))
    if found is None:
        raise StoreError(f"container {container} is not running")
    rows = processes.rows(found.programs())
    console.table(HEADER, [cells(row) for row in rows])


def cells(row: processes.Row) -> tuple[str, ...]:
    """Return a process in the columns of HEADER."""
    minutes, seconds = divmod(int(row.cpu_s), 60)
    return (
        *(
            row.user,
            str(row.pid),
            str(row.parent),
            processes.started_text(row.started),
            row.terminal,
        ),
        *(f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}", row.command),
    )
