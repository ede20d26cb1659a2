"""`udocker ps`."""

from __future__ import annotations

import time

import click

from udocker import console, trees
from udocker.commands.inspection import labels_of
from udocker.commands.moments import age
from udocker.commands.stores import Stores
from udocker.commands.templates import put_rows
from udocker.containers import choices, state
from udocker.containers.logs import moment
from udocker.errors import UdockerError, UsageError
from udocker.reference import Reference
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from udocker.containers.container import Container
    from udocker.containers.state import Condition

TITLES = {
    **{"ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND"},
    **{"CreatedAt": "CREATED AT", "RunningFor": "CREATED", "State": "STATE", "Status": "STATUS"},
    **{"Labels": "LABELS", "Mode": "MODE"},
}
"""What stands above the fields of `--format`, in docker's words."""
FILTERS = ("name", "status", "label", "id", "ancestor", "exited")


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Print ids and nothing else.")
@click.option("-a", "--all", "everything", is_flag=True, help="Accepted; all are always listed.")
@click.option("--platform", "platforms", is_flag=True, help="Show the platform.")
@click.option("-p", "--running", "processes", is_flag=True, help="List the processes that run.")
@click.option("-m", "--modes", is_flag=True, help="Show the execution mode.")
@click.option("-s", "--size", "sizes", is_flag=True, help="Show what programs have written.")
@click.option("-n", "--last", type=int, default=-1, metavar="N", help="The N newest only.")
@click.option("-l", "--latest", is_flag=True, help="The newest only.")
@click.option("--no-trunc", is_flag=True, help="Accepted; ids are always whole.")
@click.option("--format", "template", metavar="TEMPLATE", help="[table] {{.Names}}, or json.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only such.")
@click.pass_obj
def command(settings: Settings, /, filters: tuple[str, ...], **options: Any) -> None:
    """List containers, oldest first.

    Filters: name, status, label, id, ancestor (image), exited (exit code). Of one kind any may
    hold, of each kind one must.
    """
    stores = Stores(settings)
    rows = [Row(stores, container) for container in _containers(stores)]
    wanted = _by_kind(filters)
    names = stores.containers.names()
    for row in rows:
        row.names = names.get(row.container.id, ())
    rows = [row for row in rows if all(row.fits(kind, wanted[kind]) for kind in wanted)]
    last = 1 if options["latest"] else options["last"]
    rows = rows[max(0, len(rows) - last) :] if last >= 0 else rows
    if options["quiet"]:
        for row in rows:
            console.put(row.container.id)
    elif options["template"] and options["template"] != "table":
        put_rows(options["template"], (row.fields() for row in rows), TITLES)
    elif options["processes"]:
        _put_processes(rows)
    else:
        shown = {key: options[key] for key in ("modes", "sizes", "platforms")}
        _put_table(rows, **shown)


class Row:
    """A container with what is to be told of it; what costs time is found when it is asked for."""

    def __init__(self, stores: Stores, container: Container) -> None:
        self.container = container
        self.names: tuple[str, ...] = ()
        self.stores = stores
        self._condition: Condition | None = None

    @property
    def condition(self) -> Condition:
        """The status now."""
        if self._condition is None:
            self._condition = state.condition_of(self.stores.containers, self.container)
        return self._condition

    @property
    def image(self) -> str:
        """The image's name as users write it."""
        return self.container.location or Reference.parse(self.container.image).familiar

    @property
    def shown_names(self) -> str:
        """The names as udocker lists them, which scripts look for: `['a', 'b']`."""
        return str(list(self.names)) if self.names else ""

    @property
    def labels(self) -> dict[str, str]:
        """The labels that the container was made with, over those of its image."""
        return labels_of(self.stores, self.container)

    @property
    def mode(self) -> str:
        """The execution mode: of the last run, else the one that was set, else none."""
        ran = self.condition.state
        return (ran.mode if ran else "") or choices.load(self.container).mode

    @property
    def size(self) -> str:
        """What its programs have written, or the size of its copy of the image."""
        paths = (self.container.upper, self.container.rootfs)
        return console.human_size(sum(map(trees.size_bytes, paths)))

    @property
    def platform(self) -> str:
        """The platform of its image; `?` where that has been removed by force."""
        try:
            return str(self.stores.config_of(self.container).platform)
        except UdockerError:
            return "?"

    @property
    def status(self) -> str:
        """The status in words, with the time since it is so."""
        ran, status = self.condition.state, self.condition.status
        if ran is None or status == state.CREATED:
            return status
        if status == state.UNKNOWN:
            return f"unknown (on {ran.host})"
        if self.condition.is_running:
            return f"{status} {age(time.time() - ran.started_ns / 1e9)}"
        code = "?" if ran.exit_code is None else ran.exit_code
        ago = f" {age(time.time() - ran.finished_ns / 1e9)} ago" if ran.finished_ns else ""
        return f"{status} ({code}){ago}"

    def fits(self, kind: str, values: Iterable[str]) -> bool:
        """Tell whether one of `values` holds for the container."""
        return any(self._fits(kind, value) for value in values)

    def _fits(self, kind: str, value: str) -> bool:
        if kind == "name":
            return any(value.strip("/") in name for name in self.names)
        if kind == "id":
            return self.container.id.startswith(value)
        if kind == "status":
            return self.condition.status == value
        if kind == "ancestor":
            return value in (self.image, self.image.rpartition(":")[0], self.container.image)
        if kind == "label":
            name, equals, wanted = value.partition("=")
            return name in self.labels and (not equals or self.labels[name] == wanted)
        ran = self.condition.state
        return ran is not None and not self.condition.is_running and str(ran.exit_code) == value

    def fields(self) -> dict[str, Any]:
        """Return what docker's `--format` knows of a container."""
        created = self.container.created
        return {
            "ID": self.container.id,
            "Names": ",".join(self.names),
            "Image": self.image,
            "Command": " ".join(self.container.command),
            "CreatedAt": moment(created * 10**9),
            "RunningFor": f"{age(time.time() - created)} ago",
            "State": self.condition.status,
            "Status": self.status,
            "Labels": ",".join(f"{name}={value}" for name, value in self.labels.items()),
            "Mode": self.mode,
        }


def _containers(stores: Stores) -> list[Container]:
    """Return all containers that are whole; what a killed run was to remove is removed."""
    store = stores.containers
    containers = store.containers(broken=lambda error: console.warn(error.message))
    if any(container.ephemeral for container in containers):
        store.remove_leftovers()
        containers = [container for container in containers if store.is_there(container)]
    return containers


def _by_kind(filters: Iterable[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for text in filters:
        kind, equals, value = text.partition("=")
        if kind not in FILTERS or not equals:
            raise UsageError(
                f"--filter {text!r} is not known", hint="one of: " + ", ".join(FILTERS)
            )
        if kind == "status" and value not in state.STATUSES:
            known = ", ".join(state.STATUSES)
            raise UsageError(f"--filter {text!r}: no such status", hint=f"one of: {known}")
        wanted.setdefault(kind, []).append(value)
    return wanted


def _put_table(rows: Iterable[Row], *, modes: bool, sizes: bool, platforms: bool) -> None:
    header = ["CONTAINER ID", "STATUS", "NAMES", "IMAGE"]
    header[1:1] = ["MODE"] if modes else []
    header += ["SIZE"] if sizes else []
    header += ["PLATFORM"] if platforms else []
    lines = []
    for row in rows:
        line = [row.container.id, row.status, row.shown_names, row.image]
        line[1:1] = [row.mode or "-"] if modes else []
        line += [row.size] if sizes else []
        line += [row.platform] if platforms else []
        lines.append(line)
    console.table(header, lines)


def _put_processes(rows: Iterable[Row]) -> None:
    from udocker.commands.top import HEADER, cells
    from udocker.containers.ending import Running
    from udocker.host import processes

    lines = []
    for row in rows:
        if row.condition.is_running:
            found = Running(row.stores.containers, row.container, row.condition.state)
            own = (row.container.id[:12], row.shown_names)
            lines += [(*own, *cells(process)) for process in processes.rows(found.programs())]
    console.table(("CONTAINER ID", "NAMES", *HEADER), lines)
