"""Which engine runs a container: the first without an obstacle, or just the one asked for."""

from __future__ import annotations

from udocker.engines.userns import UsernsEngine
from udocker.errors import StartError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.spec import Engine
    from udocker.host.probe import Host

MODES = {
    "N1": "userns",
    "N2": "userns",
    "P1": "proot",
    "P2": "proot",
    "F1": "fakechroot",
    "F2": "fakechroot",
    "F3": "fakechroot",
    "F4": "fakechroot",
    "R1": "runc",
    "R2": "runc",
    "R3": "runc",
    "S1": "apptainer",
    "B1": "bwrap",
}
"""udocker's codes of execution modes, and the engine that each belongs to."""
NAMES = tuple(dict.fromkeys((*MODES.values(), "crun", "singularity")))


def engines(directory: str, mode: str = "") -> tuple[Engine, ...]:
    """Return the engines of this version, best first, for the store in `directory`."""
    return (UsernsEngine(directory, flat=mode == "N1"),)


def choose(host: Host, directory: str, asked: str = "") -> Engine:
    """Return the engine to use; an asked one (name or mode) never gives way to another.

    Raises UsageError for a word that is no engine, StartError with every obstacle otherwise.
    """
    wanted = MODES.get(asked.upper(), asked.lower())
    if asked and wanted not in NAMES:
        known = ", ".join((*NAMES, *MODES))
        raise UsageError(f"no engine or execution mode {asked!r}", hint=f"one of: {known}")
    candidates = [
        engine for engine in engines(directory, asked.upper()) if wanted in ("", engine.name)
    ]
    if not candidates:
        names = ", ".join(engine.name for engine in engines(directory))
        raise StartError(f"the engine {wanted} is not part of this version; it has: {names}")
    obstacles = []
    for engine in candidates:
        obstacle = engine.obstacle(host)
        if obstacle is None:
            return engine
        obstacles.append(f"{engine.name}: {obstacle}")
    raise StartError("no engine can run containers here: " + "; ".join(obstacles))
