"""A program's LD_LIBRARY_PATH and LD_PRELOAD, without what would lead it past the host's driver."""

from __future__ import annotations

import os

from udocker.host import ldconf
from udocker.nvidia.placement import baked
from udocker.nvidia.placement.placed import MAX_ELEMENTS
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.host.root import Root

LIBRARY_PATH, PRELOAD = "LD_LIBRARY_PATH", "LD_PRELOAD"


@dataclass(frozen=True)
class Search:
    """The variables that get other values in the container, and why."""

    variables: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def cleaned(
    program: Mapping[str, str],
    image: Root,
    first: tuple[str, ...],
    sonames: Mapping[str, str],
    kept: tuple[str, ...],
) -> Search:
    """Return what the variables of a `program` become so that it finds the host's driver.

    `first` are the directories that hold it, `sonames` the SONAMEs of its libraries by their
    names up to `.so`; what is in the directories `kept`, free of links, is meant to win over it.
    """
    changed = {
        LIBRARY_PATH: _library_path(program.get(LIBRARY_PATH, ""), image, first, sonames, kept),
        PRELOAD: _preload(program.get(PRELOAD, ""), image, sonames, kept),
    }
    return Search(
        tuple((name, value) for name, (value, notes) in changed.items() if notes),
        tuple(note for _, notes in changed.values() for note in notes),
    )


def led(search: Search, library_path: str, first: tuple[str, ...]) -> Search:
    """Return `search` with the directories `first` before all others.

    For an image whose loader asks no ld.so.cache.
    """
    variables = dict(search.variables)
    elements = ldconf.elements(variables.get(LIBRARY_PATH, library_path))
    rest = [element for element in elements if element and element not in first]
    variables[LIBRARY_PATH] = ":".join((*first, *rest))
    return Search(tuple(variables.items()), search.notes)


def _library_path(
    text: str,
    image: Root,
    first: tuple[str, ...],
    sonames: Mapping[str, str],
    kept: tuple[str, ...],
) -> tuple[str, list[str]]:
    """Return LD_LIBRARY_PATH without directories that hold another driver, and notes on them.

    One that holds more than a driver stays, behind the directories `first`.
    """
    elements: list[str] = []
    notes: list[str] = []
    given = ldconf.elements(text)
    for element in given[:MAX_ELEMENTS]:
        place = image.locate(element) if element.startswith("/") else None
        names = _misleading(image, place, sonames) if place and place not in kept else ()
        if not place or not names:
            elements.append(element)
        elif _holds_more(image, place, names):
            elements += [*(d for d in first if d not in elements), element]
            notes.append(
                f"gpu: {LIBRARY_PATH}: the host's driver before {element}, with {names[0]}"
            )
        else:
            why = f"its {names[0]} would hide the host's"
            notes.append(f"gpu: {LIBRARY_PATH} without {element}: {why}")
    elements += given[MAX_ELEMENTS:]
    return ":".join(elements), notes


def _preload(
    text: str, image: Root, sonames: Mapping[str, str], kept: tuple[str, ...]
) -> tuple[str, list[str]]:
    """Return LD_PRELOAD with the driver's libraries by name, not by path, and notes on them."""
    elements: list[str] = []
    notes: list[str] = []
    for element in text.replace(":", " ").split():
        directory, _, name = element.rpartition("/")
        soname = sonames.get(name.partition(".so")[0]) if directory and ".so" in name else None
        path = image.locate(element) if soname else None
        if soname is None or (path and os.path.dirname(path) in kept):
            elements.append(element)
            continue
        elements.append(soname)
        notes.append(f"gpu: {PRELOAD}: the host's {soname} in the place of {element}")
    return ":".join(elements), notes


def _misleading(image: Root, place: str, known: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names in a directory that a program would take for the driver."""
    names = image.listdir(place)[: baked.MAX_NAMES]
    return tuple(
        name
        for name in sorted(names, key=_importance)
        if ".so" in name and (baked.is_locked(name) or name.partition(".so")[0] in known)
    )


def _importance(name: str) -> tuple[bool, bool, str]:
    return (name != "libcuda.so.1", not name.startswith("libcuda."), name)


def _holds_more(image: Root, place: str, names: tuple[str, ...]) -> bool:
    held = image.listdir(place)[: baked.MAX_NAMES]
    return any(".so" in name and name not in names for name in held)
