"""Whether an image's own RDMA libraries drive the adapters of a host.

libibverbs opens one provider for each line `driver NAME` below `/etc/libibverbs.d`, and only a
provider made for the same private ABI, which is in its file's name (`libmlx5-rdmav34.so`) and is
a version of symbols that libibverbs defines (`IBVERBS_PRIVATE_34`). The kernel's side has been
one for all since 2005, so an image's libraries work with any host's devices.
Source: rdma-core, libibverbs/dynamic_driver.c and libibverbs.map.in.
"""

from __future__ import annotations

import os
import re

from udocker.diagnosis.finding import OK, WARN, Finding
from udocker.host.ldcache import default_directories
from udocker.host.loader import library_path, search_path
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.diagnosis.hcas import Hca
    from udocker.host.loader import Library, Loader
    from udocker.host.root import Root

CORE = "libibverbs.so.1"
CONFIG = "/etc/libibverbs.d"
_PRIVATE = "IBVERBS_PRIVATE_"
_PROVIDER = re.compile(r"lib([\w-]{1,32})-rdmav(\d{1,4})\.so")
_MAX_NAMES = 4096
_MAX_CONFIGS = 64
_CONFIG_BYTES = 4096
_INSTALL = "install ibverbs-providers (Debian, Ubuntu) or rdma-core (RHEL, SUSE, Alpine) in it"
_REINSTALL = "install libibverbs and its providers in it from one release of rdma-core or MOFED"


@dataclass(frozen=True)
class _Set:
    """An image's libibverbs, and the providers beside it."""

    core: Library
    abi: str
    """`34`; empty: it defines no private versions."""
    providers: dict[tuple[str, str], str]
    """(name, ABI in the file's name) -> path in the image."""
    configured: frozenset[str]


def of_image(hcas: tuple[Hca, ...], loader: Loader, environment: Mapping[str, str]) -> Finding:
    """Return what is to be said of an image's RDMA libraries beside these adapters.

    `loader` is the image's, `environment` that of its programs.
    """
    first = library_path(environment)
    core = loader.find(CORE, first)
    wanted = tuple(dict.fromkeys(hca.provider for hca in hcas if hca.provider))
    if core is None:
        if not hcas:
            return Finding("image_rdma", OK, "none, and no adapter here")
        names = ", ".join(hca.name for hca in hcas)
        text = f"the image has no RDMA libraries ({CORE}): {names} will not be used"
        return Finding("image_rdma", WARN, text, _INSTALL)
    found = _read(loader, core, environment)
    fault = _missing_needs(loader, core, first)
    if hcas and fault:
        return Finding("image_rdma", WARN, fault, _INSTALL)
    for provider in wanted:
        problem = _problem(loader, found, provider, first)
        if problem:
            return problem
    return Finding("image_rdma", OK, _sound(found, hcas, wanted))


def _sound(found: _Set, hcas: tuple[Hca, ...], wanted: tuple[str, ...]) -> str:
    made_for = f"rdmav{found.abi}" if found.abi else "no private ABI"
    if wanted:
        cards = ", ".join(hca.name for hca in hcas)
        return f"the image's own libibverbs ({made_for}) drives {cards}: {', '.join(wanted)}"
    names = sorted(name for name, abi in found.providers if abi == found.abi)
    text = f"libibverbs ({made_for}), providers: {', '.join(names) or 'none'}"
    return text + ("; no adapter here" if not hcas else "; which these adapters need is not known")


def _problem(loader: Loader, found: _Set, provider: str, first: tuple[str, ...]) -> Finding | None:
    """Return what keeps `provider` from working; None: nothing that can be seen."""
    others = sorted(abi for name, abi in found.providers if name == provider)
    path = found.providers.get((provider, found.abi or next(iter(others), "")))
    if path is None and others:
        text = (
            f"its {provider} provider is for rdmav{', rdmav'.join(others)}, "
            f"but its libibverbs wants rdmav{found.abi}"
        )
        return Finding("image_rdma", WARN, text, _REINSTALL)
    if path is None:
        text = f"the image's libibverbs has no {provider} provider: the adapters stay unseen"
        return Finding("image_rdma", WARN, text, _INSTALL)
    fault = _misfit(loader, found, path, first)
    if fault:
        return Finding("image_rdma", WARN, fault, _REINSTALL)
    if provider not in found.configured:
        text = f"nothing in the image's {CONFIG} names {provider}: libibverbs does not load it"
        return Finding("image_rdma", WARN, text, f"echo driver {provider} > {CONFIG}/{provider}")
    return None


def _misfit(loader: Loader, found: _Set, path: str, first: tuple[str, ...]) -> str:
    """Return why the provider at `path` cannot be loaded; empty: it can."""
    library = loader.open(path)
    if library is None:
        return f"{path} is no library for this machine"
    needs = dict(library.facts.version_needs).get(CORE, ())
    defined = found.core.facts.version_definitions
    lost = [version for version, weak in needs if not weak and version not in defined]
    if lost:
        return f"{path} needs {lost[0]}, which the image's libibverbs does not define"
    return _missing_needs(loader, library, first, loaded=(CORE,))


def _missing_needs(
    loader: Loader, library: Library, first: tuple[str, ...], loaded: tuple[str, ...] = ()
) -> str:
    """Return what `library` needs and nobody has, as a sentence; `loaded` is there already."""
    place = loader.root.locate(library.path) or library.path
    own, _ = search_path(library.facts, os.path.dirname(place), ())
    needed = (name for name in library.facts.needed if name not in loaded)
    lost = [name for name in needed if loader.find(name, (*first, *own)) is None]
    return f"the image has no {', '.join(lost[:3])}, which {library.path} needs" if lost else ""


def _read(loader: Loader, core: Library, environment: Mapping[str, str]) -> _Set:
    versions = core.facts.version_definitions
    abis = [version[len(_PRIVATE) :] for version in versions if version.startswith(_PRIVATE)]
    return _Set(
        core,
        abis[-1] if abis else "",
        dict(_providers(loader, core)),
        frozenset(_configured(loader.root, environment)),
    )


def _providers(loader: Loader, core: Library) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield providers, those that count last: beside libibverbs, else where all libraries are."""
    place = os.path.dirname(loader.root.locate(core.path) or core.path)
    common = default_directories(loader.machine)
    beside = [f"{directory}/libibverbs" for directory in (*common, place)]
    for entry in loader.cache.entries:
        match = _PROVIDER.fullmatch(entry.name)
        if match:
            yield (match[1], match[2]), entry.path
    for directory in (*common, place, *beside):
        for name in loader.root.listdir(directory)[:_MAX_NAMES]:
            match = _PROVIDER.fullmatch(name)
            if match:
                yield (match[1], match[2]), f"{directory}/{name}"


def _configured(root: Root, environment: Mapping[str, str]) -> Iterator[str]:
    for variable in ("RDMAV_DRIVERS", "IBV_DRIVERS"):
        yield from environment.get(variable, "").replace(";", ":").split(":")
    for name in root.listdir(CONFIG)[:_MAX_CONFIGS]:
        try:
            text = root.read(f"{CONFIG}/{name}", _CONFIG_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
        for line in text.splitlines():
            words = line.split()
            if words[:1] == ["driver"] and len(words) > 1:
                yield words[1].rpartition("/lib")[2]  # a path without its end is said too
