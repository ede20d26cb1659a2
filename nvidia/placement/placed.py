"""Libraries of the host at their places in a container, as values and as kept JSON."""

from __future__ import annotations

import os

from udocker.containers.spec import Bind, ContainerEdits, Symlink
from udocker.host import ldcache
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BASE = "/run/udocker/gpu"
"""Where injected things are in the container; a file system in memory is mounted above it."""
DIRECTORY = f"{BASE}/lib"
"""Driver-locked libraries, searched before the image's own; `lib32` holds those of 32 bits."""
FALLBACK = f"{BASE}/fallback"
"""What the image has not, searched behind its own; `fallback32` holds those of 32 bits."""

MAX_ELEMENTS = 128
"""Directories of LD_LIBRARY_PATH that are looked into; what stands behind them stays as it is."""


@dataclass(frozen=True)
class Placed:
    """A library of the host and its place in the container."""

    source: str
    """Host path."""
    destination: str
    extra_names: tuple[str, ...] = ()
    """Links beside it."""


@dataclass(frozen=True)
class Placement:
    """What goes into a container, and by what its loader finds it."""

    libraries: tuple[Placed, ...] = ()
    cache_file: str = ""
    """Host path of the merged ld.so.cache; empty when the image has no use for one."""
    shadows: tuple[Placed, ...] = ()
    """Host files over files of another driver that the image carries."""
    first: tuple[str, ...] = ()
    """Directories of the container that come before the image's own."""
    search: tuple[tuple[str, str], ...] = ()
    """What LD_LIBRARY_PATH and LD_PRELOAD become, where they would lead past the host's driver."""
    variables: tuple[tuple[str, str], ...] = ()
    """By which programs find plug-ins, unless they are told otherwise already."""
    cuda: tuple[int, int] | None = None
    """Of the image's own newer driver library, where that is used."""
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The names by which the container's loader finds the libraries."""
        places = (os.path.basename(a.destination) for a in self.libraries)
        return frozenset(places).union(*(a.extra_names for a in self.libraries))

    @property
    def edits(self) -> ContainerEdits:
        """The changes to a container, without variables and shadows."""
        binds = [Bind(a.source, a.destination, readonly=True) for a in self.libraries]
        if self.cache_file:
            binds.append(Bind(self.cache_file, ldcache.PATH, readonly=True))
        links = [
            Symlink(f"{os.path.dirname(a.destination)}/{name}", os.path.basename(a.destination))
            for a in self.libraries
            for name in a.extra_names
        ]
        places = dict.fromkeys(os.path.dirname(a.destination) for a in self.libraries)
        last = [place for place in places if place.startswith(FALLBACK)]
        return ContainerEdits(
            env=self.search,
            binds=tuple(binds),
            symlinks=tuple(links),
            library_dirs=self.first,
            fallback_library_dirs=tuple(last),
        )

    @property
    def shadow_binds(self) -> tuple[Bind, ...]:
        """The shadows, as binds."""
        return tuple(Bind(a.source, a.destination, readonly=True) for a in self.shadows)


def to_json(made: Placement) -> list[Any]:
    """Return a placement as lists and strings."""
    return [
        [[a.source, a.destination, a.extra_names] for a in made.libraries],
        made.cache_file,
        [[a.source, a.destination] for a in made.shadows],
        made.first,
        made.search,
        made.variables,
        made.cuda,
        made.notes,
    ]


def from_json(value: Any) -> Placement | None:
    """Return the placement that `to_json` wrote; None for anything else."""
    try:
        held, cache_file, shadows, first, search, variables, cuda, notes = value
        return Placement(
            tuple(Placed(source, to, tuple(names)) for source, to, names in held),
            cache_file,
            tuple(Placed(source, to) for source, to in shadows),
            tuple(first),
            tuple((name, text) for name, text in search),
            tuple((name, text) for name, text in variables),
            None if cuda is None else (cuda[0], cuda[1]),
            tuple(notes),
        )
    except (LookupError, TypeError, ValueError):
        return None
