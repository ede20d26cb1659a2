"""Every way to run a container, asked whether it works here."""

from __future__ import annotations

import os

from udocker.engines import programs, select
from udocker.errors import UdockerError
from udocker.provision import catalogue, trial
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.container import Container
    from udocker.engines.programs import Installed
    from udocker.engines.select import Way
    from udocker.host.probe import Host


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one way."""

    way: Way
    obstacle: str
    """Why it cannot be used; empty: it can."""
    program: Installed | None
    """What it runs; None for the embedded engine, or where it is missing."""
    fix: str = ""

    @property
    def usable(self) -> bool:
        """Containers can run so."""
        return not self.obstacle


def verdicts(host: Host, directory: str, container: Container | None = None) -> Iterator[Verdict]:
    """Yield what every way says, in the order of preference, of this host and of `container`."""
    known: dict[str, Installed | None] = {}
    for way in select.WAYS:
        if way.name not in known:
            known[way.name] = _program(directory, way.name)
        obstacle = _obstacle(host, directory, way, container)
        program = known[way.name]
        yield Verdict(way, obstacle, program, _fix(way, program) if obstacle else "")


def _obstacle(host: Host, directory: str, way: Way, container: Container | None) -> str:
    try:
        engine = select.make(way, directory)
        obstacle = engine.obstacle(host)
        if obstacle is None and container is not None:
            obstacle = engine.obstacle_of(container)
    except UdockerError as error:
        return error.message
    return obstacle or ""


def _program(directory: str, engine: str) -> Installed | None:
    """Return what the engine runs, with the version that it says it has."""
    items = [item for item in catalogue.ITEMS if item.engine == engine]
    name = items[0].name if items else engine
    try:
        found = programs.find(directory, name)
    except UdockerError:  # a variable names what is not there, as the obstacle tells
        return None
    return trial.with_version(found) if found else None


def _fix(way: Way, program: Installed | None) -> str:
    if program is None and any(item.engine == way.name for item in catalogue.ITEMS):
        return f"udocker install {way.name}"
    return ""


def forget(directory: str, *, existed: bool) -> None:
    """Remove what the questions left in a store that was not there before."""
    if existed:
        return
    cache = f"{directory}/cache"
    try:
        for name in os.listdir(cache):
            os.unlink(f"{cache}/{name}")
        os.rmdir(cache)
        os.rmdir(directory)
    except OSError:  # somebody else uses it by now
        return
