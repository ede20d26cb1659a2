"""Which libraries of the host an image can load, and what else of the host they need for that.

A library fits when everything that it is linked to is there, in the image or brought along, and
defines the versions of symbols that it asks for. Source: ld.so(8); glibc elf/dl-version.c.
"""

from __future__ import annotations

import os

from udocker.host.loader import Loader, search_path
from udocker.nvidia.driver.installation import DriverLibrary, glibc_version
from udocker.nvidia.driver.libraries import C_LIBRARY, FORBIDDEN, IMAGES_OWN
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from udocker.host.loader import Library

_MAX_LIBC_BYTES = 8 << 20
_BANNER = b" release version "
MAX_BROUGHT = 256
"""Libraries that one image may need of the host, beside the driver's."""


@dataclass(frozen=True)
class _Search:
    """Where a library's needs are looked for on the host before all else."""

    first: tuple[str, ...]
    inherited: tuple[str, ...]


class Fitting:
    """The host's libraries laid against one image, for one machine."""

    def __init__(
        self,
        locked: Iterable[DriverLibrary],
        neutral: Iterable[DriverLibrary],
        image: Loader,
        host: Loader,
    ) -> None:
        """`locked` win over the image's own, `neutral` serve where the image has none."""
        self._locked = _by_soname(locked)
        self._neutral = _by_soname(neutral)
        self._image = image
        self._host = host
        self._searches: dict[str, _Search] = {}
        self._brought: dict[str, DriverLibrary] = {}
        self._faults: dict[str, str] = {}
        self.glibc = glibc_of(image)
        """The version of the image's; empty: it has none."""

    def misfit(self, library: DriverLibrary) -> str:
        """Return why the image cannot load `library`, as a sentence; empty when it can."""
        if library.path not in self._faults:
            self._faults[library.path] = ""  # of two that need each other, none fails by that
            self._faults[library.path] = self._missing(library) or self._outdated(library)
        return self._faults[library.path]

    def needs(self, chosen: Iterable[DriverLibrary]) -> dict[str, tuple[DriverLibrary, str]]:
        """Return what of the host must come along for `chosen`, by path, with one that needs it."""
        found: dict[str, tuple[DriverLibrary, str]] = {}
        pending = list(chosen)
        seen = {library.path for library in pending}
        while pending:
            user = pending.pop()
            for name in user.needed:
                provider = self._provider(user, name)
                if isinstance(provider, DriverLibrary) and provider.path not in seen:
                    seen.add(provider.path)
                    found[provider.path] = (provider, user.soname)
                    pending.append(provider)
        return found

    def _missing(self, library: DriverLibrary) -> str:
        for name in library.needed:
            provider = self._provider(library, name)
            if provider is None:
                own = name.startswith(FORBIDDEN + IMAGES_OWN)
                who = "the image has not" if own else "neither the image nor the host has"
                return f"{library.soname} needs {name}, which {who}"
            if isinstance(provider, DriverLibrary) and self.misfit(provider):
                fault = self.misfit(provider)
                return f"{library.soname} needs {name}, and the host's does not fit: {fault}"
        return ""

    def _outdated(self, library: DriverLibrary) -> str:
        for file, versions in library.version_needs:
            provider = self._provider(library, file)
            if provider is None:
                continue  # not linked to: whoever brings it answers for it
            own = isinstance(provider, DriverLibrary)
            defined = _definitions(provider)
            # a library without any versions counts as one that has all
            missing = [version for version in versions if defined and version not in defined]
            if missing:
                need = max(missing, key=_numbers)
                text = f"is too old for {library.soname} (needs {need})"
                if file.startswith(C_LIBRARY) and not own:
                    return f"image glibc {self.glibc} {text}"
                return f"{'the host' if own else 'the image'}'s {file} {text}"
        return ""

    def _provider(self, user: DriverLibrary, name: str) -> DriverLibrary | Library | None:
        """Return what gives `name` in the container: the driver, the image, or else the host."""
        if name in self._locked:
            return self._locked[name]
        of_image = self._image.find(name)
        if of_image or name.startswith(FORBIDDEN + IMAGES_OWN):
            return of_image
        if name in self._neutral:
            return self._neutral[name]
        return self._bring(user, name)

    def _bring(self, user: DriverLibrary, name: str) -> DriverLibrary | None:
        search = self._searches.get(user.path) or self._search_of(user)
        found = self._host.find(name, search.first)
        if found is None or len(self._brought) >= MAX_BROUGHT:
            return None
        if found.host_path not in self._brought:
            first, inherited = search_path(
                found.facts, os.path.dirname(found.path), search.inherited
            )
            self._searches[found.host_path] = _Search(first, inherited)
            self._brought[found.host_path] = _as_candidate(found, name, self._host)
        return self._brought[found.host_path]

    def _search_of(self, library: DriverLibrary) -> _Search:
        origin = os.path.dirname(library.path[len(self._host.root.path) :])
        places = (place.replace("${ORIGIN}", "$ORIGIN") for place in library.runpath)
        return _Search(tuple(place.replace("$ORIGIN", origin) for place in places), ())


def glibc_of(image: Loader) -> str:
    """Return the version of the image's glibc (`2.36`); empty when it has none.

    Not every release defines a version of symbols: 2.31 has none later than GLIBC_2.30.
    """
    found = image.find("libc.so.6")
    numbers = max(map(glibc_version, found.facts.version_definitions if found else ()), default=())
    told = _told_version(found.host_path) if found and numbers else ()
    return ".".join(map(str, max(numbers, told)))


def _told_version(libc: str) -> tuple[int, ...]:
    """Return the version that a glibc prints when it is run as a program; none: it has no such."""
    try:
        with open(libc, "rb") as file:
            data = file.read(_MAX_LIBC_BYTES)
    except OSError:
        return ()
    start = data.find(_BANNER)
    rest = data[start + len(_BANNER) : start + len(_BANNER) + 16] if start >= 0 else b""
    words = rest.split(b".")[:2] if rest else []
    return tuple(map(int, words)) if all(word.isdigit() for word in words) else ()


def _by_soname(offered: Iterable[DriverLibrary]) -> dict[str, DriverLibrary]:
    named: dict[str, DriverLibrary] = {}
    for library in offered:
        if library.plugin_directory != "gbm":
            named.setdefault(library.soname, library)
    return named


def _definitions(provider: DriverLibrary | Library) -> tuple[str, ...]:
    if isinstance(provider, DriverLibrary):
        return provider.version_definitions
    return provider.facts.version_definitions


def _as_candidate(found: Library, name: str, host: Loader) -> DriverLibrary:
    facts = found.facts
    needs = (
        (file, tuple(version for version, weak in versions if not weak))
        for file, versions in facts.version_needs
    )
    return DriverLibrary(
        path=found.host_path,
        soname=name,
        extra_names=(),
        capabilities=(),
        bits=facts.bits,
        needed=facts.needed,
        version_needs=tuple(needs),
        version_definitions=facts.version_definitions,
        runpath=facts.runpath or facts.rpath,
    )


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.rpartition("_")[2].split(".")
    return tuple(int(part) for part in parts if part.isascii() and part.isdigit())
