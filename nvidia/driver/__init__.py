"""The NVIDIA driver of this host: its version and the files that programs need of it.

Nothing of it is run. Finding it lists some hundred directories and reads the ELF headers of some
fifty libraries, so the answer is kept under a name made of everything that can change it.
"""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.errors import StoreError
from udocker.host import ldcache
from udocker.nvidia import cache
from udocker.nvidia.driver import hostlayout, kernelmodule, libraries
from udocker.nvidia.driver.installation import Driver as Driver
from udocker.nvidia.driver.installation import DriverFile as DriverFile
from udocker.nvidia.driver.installation import DriverLibrary as DriverLibrary
from udocker.nvidia.driver.installation import from_json, to_json
from udocker.nvidia.driver.installation import glibc_version as glibc_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from udocker.host.probe import Host
    from udocker.nvidia.driver.kernelmodule import KernelModule

_FORMAT = 3
_MAX_SPECIFICATIONS = 64


def load(
    host: Host, cache_directory: str, environment: Mapping[str, str] | None = None
) -> Driver | None:
    """Return `find(host, environment)`, from `cache_directory` when nothing has changed since.

    Warm it takes below a millisecond, facts for the library policy included.
    """

    def remembered(module: KernelModule, named: Mapping[str, str]) -> Driver:
        name = f"driver-{_key(host, module, named)}.json"
        driver = from_json(cache.load(cache_directory, name))
        if driver is None:
            driver = _found(host, module, named)
            try:
                cache.save(cache_directory, name, fastjson.dumps(to_json(driver)).encode())
                cache.forget_unused(cache_directory)
            except StoreError:
                return driver  # only the next start is slower
        return driver

    return _first_usable(host, environment or {}, remembered)


def find(host: Host, environment: Mapping[str, str] | None = None) -> Driver | None:
    """Return the driver of `host`; None when none is loaded (`absence.why` says more).

    `environment` is the user's: `XDG_DATA_DIRS` names directories of configuration, and those of
    `LD_LIBRARY_PATH` are looked at last, when the driver is nowhere else.
    """
    return _first_usable(host, environment or {}, lambda *words: _found(host, *words))


def _first_usable(
    host: Host,
    environment: Mapping[str, str],
    attempt: Callable[[KernelModule, Mapping[str, str]], Driver],
) -> Driver | None:
    module = kernelmodule.read(host)
    if module is None:
        return None
    # every job has other library directories: what is remembered must not depend on them
    shares = {"XDG_DATA_DIRS": environment.get("XDG_DATA_DIRS", "")}
    driver = attempt(module, shares)
    libraries_of_user = environment.get("LD_LIBRARY_PATH", "")
    if driver.obstacle and libraries_of_user:
        driver = attempt(module, {**shares, "LD_LIBRARY_PATH": libraries_of_user})
    # a Jetson has a module of this name for its displays alone
    return None if driver.obstacle and hostlayout.foreign_platform(host) else driver


def _found(host: Host, module: KernelModule, environment: Mapping[str, str]) -> Driver:
    from udocker.nvidia.driver import discovery

    return discovery.find(host, module, _key(host, module, environment), environment)


def _key(host: Host, module: KernelModule, environment: Mapping[str, str]) -> str:
    """Return a name for everything that the driver's files depend on.

    The boot is part of it: systems that keep no times of files change only by booting anew. The
    directories of variables are known by name alone: they may lie on slow file systems.
    """
    trees = hostlayout.trees(host)
    watched = [p.tree + p.directory for p in hostlayout.library_places(host, module.version, trees)]
    watched += [ldcache.PATH, *libraries.SOCKET_DIRECTORIES]
    watched += [tree + path for tree, path in hostlayout.binary_directories(trees)]
    below = sorted(
        {os.path.dirname(name) for name in (*libraries.CONFIG_FILES, libraries.FILE_LIST)}
    )
    for tree, share in hostlayout.share_directories(trees, {}):
        if host.is_directory(tree + share):
            watched += [f"{tree}{share}/{name}" for name in below]
    times = [host.state(path) for path in watched]
    return cache.digest(
        [_FORMAT, module.version, module.flavour, module.other_version, host.machine],
        [host.boot_id, host.root, watched, times, _specifications(host)],
        sorted(environment.items()),
    )


def _specifications(host: Host) -> list[list[int]]:
    """Return the state of every CDI specification: one that is rewritten keeps its directory's."""
    return [
        host.state(f"{directory}/{name}")
        for directory in hostlayout.CDI_DIRECTORIES
        for name in host.names(directory)[:_MAX_SPECIFICATIONS]
    ]
