"""Which symbols the host's libraries use that nothing in an image defines: for the doctor.

What every start asks for are versions of symbols. Libraries that have none (libwayland, libxcb,
libX11) are told apart from older ones by their symbols alone, which takes a second for a driver.
Source: ld.so(8), dlsym(3); ELF, "Dynamic Linking".
"""

from __future__ import annotations

import os

from udocker.host import elf
from udocker.host.loader import search_path
from udocker.nvidia.placement import policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from udocker.host.loader import Loader
    from udocker.nvidia.placement.policy import Verdict

_EVERYWHERE = "libc.so.6"
"""In every process, whether a library is linked to it or not; so is the loader, which it needs."""
_MAX_FILES = 256


def unresolved(
    verdicts: Iterable[Verdict], image: Loader
) -> Iterator[tuple[Verdict, tuple[str, ...]]]:
    """Yield each 64-bit library that goes into an image and lacks symbols there, with these.

    What a broken library, or one without a table of hashes, would define counts as defined.
    """
    brought = {
        verdict.soname: verdict
        for verdict in verdicts
        if verdict.decision == policy.OK and verdict.kind != policy.COMPAT and verdict.bits == 64
    }
    for verdict in brought.values():
        missing = _missing(verdict.source, {v.soname: v.source for v in brought.values()}, image)
        if missing:
            yield verdict, tuple(sorted(missing))


def _missing(path: str, brought: dict[str, str], image: Loader) -> frozenset[str]:
    try:
        left = elf.undefined(path)
        for provider in _closure(path, brought, image):
            if not left:
                break
            defined = elf.exported(provider, left)
            if defined is None:
                return frozenset()
            left -= defined
    except OSError:
        return frozenset()
    return left


def _closure(path: str, brought: dict[str, str], image: Loader) -> Iterator[str]:
    """Yield the host paths of a library, of all that it is linked to, and of the C library."""
    seen = {path}
    pending = [path]
    while pending and len(seen) < _MAX_FILES:
        current = pending.pop(0)
        yield current
        facts = image.facts(current)
        for name in (*(facts.needed if facts else ()), _EVERYWHERE):
            found = brought.get(name) or _in_image(current, name, image)
            if found and found not in seen:
                seen.add(found)
                pending.append(found)


def _in_image(user: str, name: str, image: Loader) -> str | None:
    """Return what the image gives for `name` to a library at host path `user`."""
    facts = image.facts(user)
    inside = user.startswith(f"{image.root.path}/")
    place = os.path.dirname(user[len(image.root.path) :]) if inside else ""
    first = search_path(facts, place, ())[0] if facts and inside else ()
    found = image.find(name, first)
    return found.host_path if found else None
