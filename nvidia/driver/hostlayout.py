"""Where distributions and container hosts put an NVIDIA driver.

Source: the packages of Debian (`nvidia/current`, alternatives), Ubuntu (`nvidia-384` until 2018),
Fedora, RHEL, SUSE, Arch and NixOS; libnvidia-container 1.18 and nvidia-container-toolkit 1.20
(pkg/lookup/library.go); the installers of GKE (`/home/kubernetes`), Flatcar (`/opt/nvidia`) and
the GPU operator (`/run/nvidia/driver`, a whole root file system); hosted notebooks.
"""

from __future__ import annotations

import os

from udocker.host import ldcache, ldconf
from udocker.host.root import Root
from udocker.nvidia.driver import libraries
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.probe import Host

SMALLER = {"x86_64": "i386", "aarch64": "arm"}
"""The machine whose programs of 32 bits a 64-bit one runs too, as `udocker.host.elffacts` says."""
TREES = ("", "/run/nvidia/driver")
"""Roots in which a driver may be installed: the machine's own, and that of a driver container."""

_TRIPLETS = {
    "x86_64": ("x86_64-linux-gnu", "i386-linux-gnu"),
    "aarch64": ("aarch64-linux-gnu", "arm-linux-gnueabihf"),
}
_LIBRARY_DIRECTORIES = (
    ("/usr/lib/{triplet}", "multiarch"),
    ("/lib/{triplet}", "multiarch"),
    ("/usr/lib64", "lib64"),
    ("/lib64", "lib64"),
    ("/usr/lib", "lib"),
    ("/usr/lib32", "lib32"),
    ("/usr/lib/{triplet}/nvidia/current", "alternatives"),
    ("/usr/lib64/nvidia", "lib64/nvidia"),
    ("/usr/lib32/nvidia", "lib32/nvidia"),
    ("/usr/lib/nvidia", "lib/nvidia"),
    ("/usr/lib/nvidia-{major}", "nvidia-{major}"),
    ("/usr/lib32/nvidia-{major}", "nvidia-{major}"),
    ("/usr/local/nvidia/lib64", "usr-local"),
    ("/usr/local/nvidia/lib32", "usr-local"),
    ("/usr/local/nvidia/lib", "usr-local"),
    ("/usr/local/lib64", "usr-local"),
    ("/usr/local/lib", "usr-local"),
    ("/usr/lib64-nvidia", "notebook"),
    ("/run/opengl-driver/lib", "nix"),
    ("/run/opengl-driver-32/lib", "nix"),
    ("/home/kubernetes/bin/nvidia/lib64", "kubernetes"),
    ("/home/kubernetes/bin/nvidia/lib", "kubernetes"),
    ("/opt/nvidia/current/lib64", "opt"),
    ("/opt/nvidia/current/usr/lib", "opt"),
    ("/opt/nvidia/current/lib", "opt"),
    ("/opt/nvidia/lib64", "opt"),
    ("/opt/nvidia/lib", "opt"),
)
_OUTER_DIRECTORIES = ("/run/udocker/gpu/lib", "/run/udocker/gpu/lib32", "/.singularity.d/libs")
"""Where other tools, and udocker itself, put a driver into the container that we may be in."""
_BINARY_DIRECTORIES = (
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/nvidia/bin",
    "/usr/local/bin",
    "/usr/lib/nvidia/current",
    "/opt/bin",
    "/run/current-system/sw/bin",
    "/home/kubernetes/bin/nvidia/bin",
    "/opt/nvidia/current/bin",
    "/opt/nvidia/bin",
)
_SHARE_DIRECTORIES = (
    "/etc",
    "/usr/share",
    "/usr/local/share",
    "/usr/local/nvidia/share",
    "/usr/local/nvidia",
    "/run/opengl-driver/share",
    "/home/kubernetes/bin/nvidia/share",
    "/home/kubernetes/bin/nvidia",
    "/opt/nvidia/current/share",
    "/opt/nvidia/share",
)
_MAX_ALTERNATIVES = 16
_MAX_DIRECTORIES = 64
"""How many directories of one variable are looked at."""
_CACHE_FLAGS = {"x86_64": (0x0303, 0x0003), "aarch64": (0x0A03, 0x0903)}
"""Entries of 64-bit and of 32-bit libraries. Source: glibc sysdeps/generic/ldconfig.h."""

CDI_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
"""Where specifications lie that count for the whole machine: the registry's, without its import."""

WSL, TEGRA = "wsl", "tegra"
WSL_LIBRARIES = "/usr/lib/wsl/lib"
WSL_NODE = "/dev/dxg"
_SIGNS = {
    WSL: (WSL_NODE, WSL_LIBRARIES),
    TEGRA: ("/etc/nv_tegra_release", "/sys/module/nvgpu"),
}
"""Files by which a platform is known whose driver is not that of servers and workstations."""


@dataclass(frozen=True)
class Place:
    """A directory that may hold libraries of a driver."""

    directory: str
    """Absolute path in the tree; as it was named, links and all."""
    layout: str
    """A word for people."""
    tree: str = ""
    """The root of the driver container that it lies in, one of `TREES`."""
    by_soname: bool = False
    """Files have the names that programs open, without the version, and all are the driver's."""


def foreign_platform(host: Host) -> str:
    """Return `WSL` or `TEGRA`; empty on every other machine."""
    return next((name for name, paths in _SIGNS.items() if any(map(host.exists, paths))), "")


def trees(host: Host) -> tuple[str, ...]:
    """Return those of `TREES` that are there."""
    return tuple(tree for tree in TREES if not tree or host.is_directory(tree))


def library_places(host: Host, version: str, trees: tuple[str, ...]) -> tuple[Place, ...]:
    """Return every place of a known layout in `trees`, be it there or not, in order of choice."""
    major = version.partition(".")[0]
    triplets = _TRIPLETS.get(host.machine, (f"{host.machine}-linux-gnu",))
    found = {}
    for tree in trees:
        for pattern, word in _LIBRARY_DIRECTORIES:
            layout = "driver-container" if tree else word.format(major=major)
            for triplet in triplets:
                directory = pattern.format(triplet=triplet, major=major)
                found[tree, directory] = Place(directory, layout, tree)
    outer = (Place(path, "outer-container", by_soname=True) for path in _OUTER_DIRECTORIES)
    return (*found.values(), *outer)


def alternatives(root: Root, place: Place) -> Iterator[Place]:
    """Yield the drivers beside each other below `place`: `nvidia/current`, `nvidia/tesla-535`."""
    parent = f"{place.directory}/nvidia"
    for name in root.listdir(parent)[:_MAX_ALTERNATIVES]:
        if name not in libraries.PLUGIN_DIRECTORIES:
            yield Place(
                f"{parent}/{name}", place.layout if place.tree else "alternatives", place.tree
            )


def cached_places(host: Host, root: Root) -> Iterator[Place]:
    """Yield the directories in which the machine's loader finds the driver."""
    try:
        known = ldcache.parse(root.read(ldcache.PATH, ldcache.MAX_BYTES))
    except (OSError, ValueError):
        return  # a machine may do without
    for name in libraries.CORE:
        for flags in _CACHE_FLAGS.get(host.machine, ()):
            for path in known.paths(f"{name}.so.1", flags):
                yield Place(os.path.dirname(path), "ld.so.cache")


def variable_places(environment: Mapping[str, str]) -> tuple[Place, ...]:
    """Return the directories of the user's own `LD_LIBRARY_PATH`."""
    directories = ldconf.elements(environment.get("LD_LIBRARY_PATH", ""))[:_MAX_DIRECTORIES]
    return tuple(Place(d, "LD_LIBRARY_PATH") for d in directories if d.startswith("/"))


def binary_directories(trees: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return (tree, directory) of every place of programs, in order of choice."""
    return tuple((tree, directory) for tree in trees for directory in _BINARY_DIRECTORIES)


def share_directories(
    trees: tuple[str, ...], environment: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return (tree, directory) of every place of configuration, `/etc` among them."""
    named = environment.get("XDG_DATA_DIRS", "").split(":")[:_MAX_DIRECTORIES]
    more = (d for d in named if d.startswith("/") and d not in _SHARE_DIRECTORIES)
    known = [(tree, directory) for tree in trees for directory in _SHARE_DIRECTORIES]
    return (*known, *(("", directory) for directory in more))
