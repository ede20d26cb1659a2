"""A program's LD_LIBRARY_PATH, without what would lead it past the host's driver."""

from __future__ import annotations

from udocker.nvidia.placement import baked
from udocker.nvidia.placement.placed import MAX_ELEMENTS
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.root import Root

VARIABLE = "LD_LIBRARY_PATH"


@dataclass(frozen=True)
class SearchPath:
    """The value that the variable gets in the container, and why it is another one."""

    value: str | None = None
    """None: it stays as it is."""
    notes: tuple[str, ...] = ()


def cleaned(
    text: str, image: Root, first: tuple[str, ...], known: frozenset[str], kept: tuple[str, ...]
) -> SearchPath:
    """Return the LD_LIBRARY_PATH `text` without directories that hold another driver.

    One that holds more than a driver stays, behind the directories `first`, which hold the
    host's. `known` are names of its libraries up to `.so`; the directories `kept`, free of
    links, are meant to win over it.
    """
    elements: list[str] = []
    notes: list[str] = []
    given = text.split(":")
    for element in given[:MAX_ELEMENTS]:
        place = image.locate(element) if element.startswith("/") else None
        names = _misleading(image, place, known) if place and place not in kept else ()
        if not place or not names:
            elements.append(element)
        elif _holds_more(image, place, names):
            elements += [*(d for d in first if d not in elements), element]
            notes.append(f"gpu: {VARIABLE}: the host's driver before {element}, with {names[0]}")
        else:
            notes.append(f"gpu: {VARIABLE} without {element}: its {names[0]} would hide the host's")
    elements += given[MAX_ELEMENTS:]
    return SearchPath(":".join(elements), tuple(notes)) if notes else SearchPath()


def _misleading(image: Root, place: str, known: frozenset[str]) -> tuple[str, ...]:
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
