"""Which MPI a machine or an image has, and whether two have one binary interface.

A name alone does not tell: Open MPI 1.10 and MPICH both have a `libmpi.so.12`, so the symbols that
a library defines are asked. Within a family libraries differ in which functions they have: Intel
MPI 2021.19 lacks 20 of MPICH 5's 700.
Source: MPICH ABI Compatibility Initiative (libmpi.so.12); MPI 5.0, chapter 20 (libmpi_abi.so.1).
"""

from __future__ import annotations

import itertools
import os
import re

from udocker.diagnosis.finding import OK, WARN, Finding
from udocker.host import elf
from udocker.host.ldcache import default_directories
from udocker.host.loader import library_path, search_path
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.loader import Loader
    from udocker.host.root import Root

OPEN_MPI, MPICH, STANDARD, OTHER = "Open MPI", "MPICH ABI", "MPI-5 ABI", "another"

_OPEN_MPI_SYMBOL = "ompi_mpi_comm_world"
_MPI_SYMBOL = "MPI_Init"
_COMPILERS = "cray|gnu|intel|nvidia|amd|aocc|pgi"
_NAME = re.compile(
    rf"lib(mpi|mpich|mpi_abi|mpi_ibm|mpi_(?:{_COMPILERS})(?:_\d{{1,4}})?)\.so\.(\d{{1,3}})"
)
"""SONAMEs: Debian's MPICH is `libmpich.so.12`, Cray's `libmpi_gnu_123.so.12`."""
_VARIABLES = (
    "MPI_HOME",
    "MPI_ROOT",
    "MPI_DIR",
    "OPAL_PREFIX",
    "OMPI_DIR",
    "HPCX_MPI_DIR",
    "EBROOTOPENMPI",
    "EBROOTMPICH",
    "MPICH_DIR",
    "CRAY_MPICH_DIR",
    "CRAY_MPICH_PREFIX",
    "I_MPI_ROOT",
)
"""Variables in which modules and installations name the directory of an MPI."""
_BELOW = ("lib", "lib64", "lib/release")
_PLACES = (
    "/usr/lib64/openmpi/lib",
    "/usr/lib64/mpich/lib",
    "/usr/lib64/mpi/gcc/*/lib64",
    "/usr/lib/*/openmpi/lib",
    "/usr/mpi/gcc/*/lib64",
    "/usr/local/lib",
    "/usr/local/mpi/lib",
    "/opt/cray/pe/lib64",
    "/opt/cray/pe/mpich/*/ofi/*/*/lib-abi-mpich",
    "/opt/intel/oneapi/mpi/*/lib",
    "/opt/intel/oneapi/mpi/*/lib/release",
    "/opt/hpcx/ompi/lib",
    "/opt/amazon/openmpi/lib64",
    "/opt/*/lib",
    "/opt/*/lib64",
    "/opt/*/*/lib",
)
"""Where distributions, vendors and people put one that the loader does not look for."""
_MAX_MATCHES = 32
_MAX_DIRECTORIES = 256
_MAX_NAMES = 1 << 14
_MAX_FOUND = 16


@dataclass(frozen=True)
class Mpi:
    """A library of MPI."""

    path: str
    """In its tree, free of links."""
    host_path: str
    soname: str
    family: str
    """Which binary interface it has: `OPEN_MPI`, `MPICH`, `STANDARD` or `OTHER`."""
    product: str
    """Whose it is, as far as its family, name and place tell."""
    needed: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    """Where the loader looks first for what it needs."""

    def __str__(self) -> str:
        return f"{self.product} ({self.soname})"


def find(loader: Loader, environment: Mapping[str, str]) -> tuple[Mpi, ...]:
    """Return the MPI libraries of a tree: those first that programs with `environment` find."""
    found: dict[str, Mpi] = {}
    for path in _candidates(loader, environment):
        place = loader.root.locate(path)
        if place and place not in found and len(found) < _MAX_FOUND:
            mpi = _recognize(loader, path, place)
            if mpi:
                found[place] = mpi
    return tuple(found.values())


def have_one_abi(one: Mpi, other: Mpi) -> bool:
    """Tell whether programs made for `one` run with `other`."""
    if one.family != other.family or one.family == OTHER:
        return False
    return one.family != OPEN_MPI or one.soname == other.soname


def of_host(found: tuple[Mpi, ...]) -> Finding:
    """Return what is to be said of a host's MPI libraries."""
    told = [f"{mpi} in {os.path.dirname(mpi.path)}" for mpi in found[:4]]
    more = [f"and {len(found) - 4} more"] if len(found) > 4 else []
    return Finding("mpi", OK, "; ".join(told + more) or "none found on this host")


def of_image(own: tuple[Mpi, ...], host: tuple[Mpi, ...]) -> Finding:
    """Return what is to be said of an image's MPI beside the host's."""
    if not own:
        return Finding("image_mpi", OK, "the image has no MPI")
    names = ", ".join(dict.fromkeys(map(str, own)))
    if not host:
        return Finding("image_mpi", OK, f"{names}; this host has none to compare with")
    for one, other in itertools.product(own, host):
        if have_one_abi(one, other):
            text = f"{one} is used; the host's {other} has the same ABI"
            also = "" if one.soname == other.soname else " by another name"
            return Finding("image_mpi", OK, f"{text} ({one.family}){also}{_lack(one, other)}")
    offered = ", ".join(dict.fromkeys(map(str, host)))
    text = (
        f"programs of the image use {names}, the host offers {offered}: not ABI compatible; "
        "the image's own is kept, with the host's fabric devices"
    )
    return Finding("image_mpi", WARN, text, f"{launcher(own)}, not the host's mpirun")


def _lack(own: Mpi, other: Mpi) -> str:
    """Return which functions of MPI a program of the image may use that `other` has not."""
    try:
        functions = elf.defined(own.host_path, "MPI_")
        missing = sorted(functions - (elf.exported(other.host_path, functions) or functions))
    except OSError:
        return ""
    if not missing:
        return ""
    names = ", ".join(missing[:3]) + f" and {len(missing) - 3} more" * (len(missing) > 3)
    return f", but lacks {len(missing)} of its {len(functions)} functions: {names}"


def launcher(own: tuple[Mpi, ...]) -> str:
    """Return the words that start programs of an image with these libraries on many nodes."""
    return f"srun --mpi={'pmix' if own[0].family == OPEN_MPI else 'pmi2'} udocker run ..."


def _candidates(loader: Loader, environment: Mapping[str, str]) -> Iterator[str]:
    directories = dict.fromkeys(_directories(loader, environment))
    for directory in itertools.islice(directories, _MAX_DIRECTORIES):
        for name in loader.root.listdir(directory)[:_MAX_NAMES]:
            if _NAME.fullmatch(name):
                yield f"{directory}/{name}"


def _directories(loader: Loader, environment: Mapping[str, str]) -> Iterator[str]:
    yield from _named(environment)
    for entry in loader.cache.entries:
        if _NAME.fullmatch(entry.name):
            yield os.path.dirname(entry.path)
    yield from default_directories(loader.machine)
    for place in _PLACES:
        yield from _matches(loader.root, place.split("/")[1:])


def _named(environment: Mapping[str, str]) -> Iterator[str]:
    yield from library_path(environment)
    for variable in _VARIABLES:
        top = environment.get(variable, "")
        if top.startswith("/"):
            yield from (f"{top}/{name}" for name in _BELOW)


def _matches(root: Root, parts: list[str], top: str = "") -> Iterator[str]:
    """Yield the directories that a path with `*` means, few for each."""
    if "*" not in parts:
        yield "/".join([top, *parts])
        return
    star = parts.index("*")
    top = "/".join([top, *parts[:star]])
    for name in root.listdir(top)[:_MAX_MATCHES]:
        yield from _matches(root, parts[star + 1 :], f"{top}/{name}")


def _recognize(loader: Loader, path: str, place: str) -> Mpi | None:
    """Return the MPI at `path`, that lies at `place`; None: it is none for this machine."""
    library = loader.open(path)
    if library is None:
        return None
    soname = library.facts.soname or os.path.basename(path)
    match = _NAME.fullmatch(soname)
    if match is None:
        return None
    try:
        symbols = elf.exported(library.host_path, (_OPEN_MPI_SYMBOL, _MPI_SYMBOL))
    except OSError:
        return None
    if symbols is not None and _MPI_SYMBOL not in symbols:
        return None
    family = _family(match[1], match[2], symbols)
    first, _ = search_path(library.facts, os.path.dirname(place), ())
    product = _product(family, f"{place} {soname}".lower())
    return Mpi(place, library.host_path, soname, family, product, library.facts.needed, first)


def _family(stem: str, number: str, symbols: frozenset[str] | None) -> str:
    if symbols is not None and _OPEN_MPI_SYMBOL in symbols:
        return OPEN_MPI
    if stem == "mpi_abi":
        return STANDARD
    if symbols is None and number in ("20", "40"):
        return OPEN_MPI
    return MPICH if number == "12" else OTHER


def _product(family: str, words: str) -> str:
    if family == OPEN_MPI:
        return OPEN_MPI
    if "cray" in words or re.search(rf"libmpi_({_COMPILERS})", words):
        return "Cray MPICH"
    if "intel" in words or "impi" in words:
        return "Intel MPI"
    if "mvapich" in words:
        return "MVAPICH"
    return {MPICH: "MPICH", STANDARD: "MPI-5 ABI"}.get(family, "an MPI of unknown kind")
