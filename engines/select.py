"""Which engine runs a container: the first without an obstacle, or just the one asked for."""

from __future__ import annotations

from udocker.containers.features import OPTIONS
from udocker.errors import StartError, UsageError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.container import Container
    from udocker.containers.spec import Engine
    from udocker.host.probe import Host


@dataclass(frozen=True)
class Way:
    """A way to run containers: an engine in one of its modes."""

    name: str
    mode: str
    module: str
    factory: str
    automatic: bool = True
    """It is taken without being asked for."""


WAYS = (
    Way("userns", "N2", "udocker.engines.userns", "UsernsEngine"),
    Way("userns", "N1", "udocker.engines.userns", "UsernsEngine", automatic=False),
    Way("crun", "R1", "udocker.engines.runc", "CrunEngine"),
    Way("runc", "R1", "udocker.engines.runc", "RuncEngine"),
    Way("crun", "R2", "udocker.engines.runc", "CrunEngine", automatic=False),
    Way("runc", "R2", "udocker.engines.runc", "RuncEngine", automatic=False),
    Way("crun", "R3", "udocker.engines.runc", "CrunEngine", automatic=False),
    Way("runc", "R3", "udocker.engines.runc", "RuncEngine", automatic=False),
    Way("bwrap", "B1", "udocker.engines.bwrap", "BwrapEngine"),
    Way("apptainer", "S1", "udocker.engines.apptainer", "ApptainerEngine"),
    Way("singularity", "S1", "udocker.engines.apptainer", "SingularityEngine"),
    Way("proot", "P1", "udocker.engines.proot", "ProotEngine"),
    Way("fakechroot", "F3", "udocker.engines.fakechroot", "FakechrootEngine"),
    Way("fakechroot", "F1", "udocker.engines.fakechroot", "FakechrootEngine", automatic=False),
    Way("fakechroot", "F2", "udocker.engines.fakechroot", "FakechrootEngine", automatic=False),
    Way("fakechroot", "F4", "udocker.engines.fakechroot", "FakechrootEngine", automatic=False),
    Way("proot", "P2", "udocker.engines.proot", "ProotEngine"),
)
"""All ways, best first. A name alone means the first of its ways."""
NAMES = tuple(dict.fromkeys(way.name for way in WAYS))
MODES = tuple(dict.fromkeys(way.mode for way in WAYS))


def make(way: Way, directory: str) -> Engine:
    """Return the engine for the store in `directory`; its module is imported now."""
    from importlib import import_module

    engine: Engine = getattr(import_module(way.module), way.factory)(directory, way.mode)
    return engine


def ways(asked: str = "") -> tuple[Way, ...]:
    """Return the ways that a word of the user means (name or mode), best first; empty: the usual.

    Raises UsageError for a word that is no engine.
    """
    if not asked:
        return tuple(way for way in WAYS if way.automatic)
    by_mode = tuple(way for way in WAYS if way.mode == asked.upper())
    found = by_mode or tuple(way for way in WAYS if way.name == asked.lower())[:1]
    if not found:
        known = ", ".join((*NAMES, *MODES))
        raise UsageError(f"no engine or execution mode {asked!r}", hint=f"one of: {known}")
    return found


def choose(
    host: Host,
    directory: str,
    asked: str = "",
    *,
    demanded: tuple[str, ...] = (),
    container: Container | None = None,
    with_gpu: bool = False,
) -> Engine:
    """Return the engine to use; an asked one (name or mode) never gives way to another.

    `demanded` are features that the run needs; `container` is what is to run, where it is
    known. PRoot without seccomp (P2, and P1 as some distributions build it) slows every system
    call down, so it is not taken `with_gpu` unless it was asked for. Raises StartError with
    every obstacle.
    """
    obstacles = []
    for way in ways(asked):
        engine = make(way, directory)
        obstacle = engine.obstacle(host) or _lacking(engine, demanded)
        if obstacle is None and container is not None:
            obstacle = engine.obstacle_of(container)
        if obstacle is None and asked.upper() == way.mode:
            obstacle = engine.obstacle_to_mode(host, container)
        if obstacle is None and with_gpu and not asked and engine.stops_every_call(host):
            obstacle = f"too slow with a GPU, for it stops every call; --engine {way.mode} takes it"
        if obstacle is None:
            return engine
        obstacles.append(f"{way.name} ({way.mode}): {obstacle}")
    what = f"{asked} cannot be used" if asked else "no engine can run this here"
    reasons = "; ".join(obstacles)
    raise StartError(f"{what}: {reasons}", hint="udocker doctor explains every engine")


def _lacking(engine: Engine, demanded: tuple[str, ...]) -> str | None:
    """Return what of `demanded` the engine cannot honour, and who can; None: nothing."""
    lacking = [feature for feature in demanded if feature not in engine.features]
    if not lacking:
        return None
    options = ", ".join(OPTIONS[feature] for feature in lacking)
    able = ", ".join(_able(lacking, engine.name)) or "no other engine"
    return f"it cannot honour {options}; engines that can: {able}"


def _able(demanded: list[str], but: str) -> Iterator[str]:
    for name in NAMES:
        way = ways(name)[0]
        if name != but and set(demanded) <= make(way, "").features:
            yield name
