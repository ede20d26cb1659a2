"""Who says which files are the driver's: a CDI specification, the driver's own list, or names.

Each source answers with a claim, or None where it has nothing to say of the loaded version.
"""

from __future__ import annotations

import os

from udocker.host.root import Root
from udocker.nvidia.driver import filelist, hostlayout, libraries
from udocker.nvidia.driver.hostlayout import Place
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from udocker.host.probe import Host


@dataclass(frozen=True)
class Claim:
    """What a source says of the driver's files."""

    source: str
    """Whose word it is, as `Driver.source` tells it."""
    libraries: dict[str, tuple[str, ...]]
    """Base names of libraries and their categories, as the driver has them."""
    configurations: dict[str, tuple[str, ...]]
    """The same of files by which loaders find libraries."""
    links: frozenset[str] = frozenset()
    """Names of symbolic links by which programs open libraries."""
    places: tuple[Place, ...] = ()
    """Where the libraries are looked for first."""
    files: tuple[str, ...] = ()
    """Programs and configuration, as absolute paths of the machine: the first to be taken."""


def from_cdi(host: Host, version: str, shares: tuple[tuple[str, str], ...]) -> Claim | None:
    """Return what a CDI specification says that was made for `version` and whose files are there.

    It knows no categories: what a library is for, the table of names tells.
    """
    if not any(host.exists(directory) for directory in hostlayout.CDI_DIRECTORIES):
        return None
    from udocker.nvidia.cdi import driverfiles

    found = driverfiles.find(host, version)
    if found is None:
        return None
    paths = [path[len(host.root) :] for path in found.libraries]
    files = (path[len(host.root) :] for path in found.binaries + found.files)
    return Claim(
        f"cdi {found.source[len(host.root) :]}",
        {os.path.basename(path): () for path in paths},
        {},
        places=tuple(dict.fromkeys(_place(path) for path in paths)),
        files=tuple(files),
    )


def _place(path: str) -> Place:
    directory, _, name = os.path.dirname(path).rpartition("/")
    if name not in libraries.PLUGIN_DIRECTORIES:
        directory = f"{directory}/{name}"
    inside = [tree for tree in hostlayout.TREES if tree and directory.startswith(f"{tree}/")]
    tree = inside[0] if inside else ""
    return Place(directory[len(tree) :], "cdi", tree)


def from_list(host: Host, version: str, shares: tuple[tuple[str, str], ...]) -> Claim | None:
    """Return what the driver's own list says; None when there is none, or one of another driver."""
    for tree, share in shares:
        try:
            data = Root(host.root + tree).read(f"{share}/{libraries.FILE_LIST}", filelist.MAX_BYTES)
            known = filelist.parse(data)
        except (OSError, ValueError):
            continue  # absent, or not of the form that is known: names tell enough
        cuda = [name for name in known.libraries if name.startswith("libcuda.so.")]
        if not cuda or f"libcuda.so.{version}" in cuda:
            return Claim("filelist", known.libraries, known.configurations, known.links)
    return None


def from_names(host: Host, version: str, shares: tuple[tuple[str, str], ...]) -> Claim:
    """Return the claim that the names of files say everything."""
    return Claim("names", {}, {})


ALL: tuple[Callable[[Host, str, tuple[tuple[str, str], ...]], Claim | None], ...] = (
    from_cdi,
    from_list,
    from_names,
)
"""In the order in which they are asked."""
