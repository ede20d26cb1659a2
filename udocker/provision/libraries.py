"""Which libraries a program finds on this host, and in which versions."""

from __future__ import annotations

from udocker.errors import UdockerError
from udocker.host.loader import Loader
from udocker.host.root import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.elf import ElfFacts
    from udocker.host.probe import Host

_C_LIBRARY = (
    *("libc.so.", "libm.so.", "libdl.so.", "libpthread.so.", "librt.so.", "ld-linux"),
    *("libresolv.so.", "libutil.so.", "libnsl.so.1"),
)
"""What belongs to the C library of a host: another one cannot be put beside it."""


def is_of_c_library(soname: str) -> bool:
    """Tell whether a library belongs to the host's C library, and cannot come with a program."""
    return soname.startswith(_C_LIBRARY)


class HostLibraries:
    """The libraries that the loader of this host finds by itself. Source: ld.so(8)."""

    def __init__(self, host: Host) -> None:
        self._loader = Loader(Root(host.root or "/"), host.machine)

    def lacking(self, user: ElfFacts) -> tuple[str, ...]:
        """Return the libraries that `user` needs and that are not here, or are too old.

        Raises UdockerError where it is the C library that does not fit: no other can be brought.
        """
        versions = dict(user.version_needs)
        lacking = []
        for soname in user.needed:
            found = self._loader.find(soname)
            facts = found.facts if found else None
            wanted = [name for name, weak in versions.get(soname, ()) if not weak]
            missing = [name for name in wanted if not facts or not _defines(facts, name)]
            if facts and not missing:
                continue
            if is_of_c_library(soname):
                raise UdockerError(_too_old(soname, facts, missing))
            lacking.append(soname)
        return tuple(lacking)


def newest_glibc(facts: ElfFacts) -> tuple[int, ...]:
    """Return the version of glibc that a file needs, as numbers; empty when it needs none."""
    names = (name for _, versions in facts.version_needs for name, weak in versions if not weak)
    found = [_numbers(name) for name in names if name.startswith("GLIBC_2.")]
    return max(found, default=())


def _too_old(soname: str, facts: ElfFacts | None, missing: list[str]) -> str:
    if facts is None:
        return f"it needs {soname}, which only a system with glibc has"
    newest = max(missing, key=_numbers)
    defined = [name for name in facts.version_definitions if name.startswith("GLIBC_2.")]
    has = max(defined, key=_numbers, default="an unknown version")
    return f"it needs {newest} of this host's C library, which is {has}"


def _defines(facts: ElfFacts, version: str) -> bool:
    """Tell whether a library has a version; one that names none has all, as for the loader."""
    return not facts.version_definitions or version in facts.version_definitions


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.rpartition("_")[2].split(".")
    return tuple(int(part) for part in parts if part.isdigit())
