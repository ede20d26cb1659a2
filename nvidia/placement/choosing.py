"""The choice of libraries for an image made whole: places, library cache, shadows and notes."""

from __future__ import annotations

import os

from udocker.errors import GpuError
from udocker.host import ldcache, ldconf
from udocker.host.ldcache import Entry, LdCache
from udocker.host.loader import Loader
from udocker.nvidia.driver import libraries
from udocker.nvidia.placement import baked, compat, policy, searchpath
from udocker.nvidia.placement.placed import DIRECTORY, FALLBACK, Placed, Placement
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from udocker.host.root import Root
    from udocker.nvidia.driver.installation import Driver, DriverLibrary
    from udocker.nvidia.placement.policy import Selection, Verdict

_PLUGINS = "gbm"
"""A plug-in directory whose files no loader looks for."""
_MAX_DIRECTORIES = 64
_MAX_NAMES = 1 << 14
_E_MACHINE = {"x86_64": 62, "aarch64": 183, "i386": 3, "arm": 40}


def choose(
    driver: Driver,
    capabilities: tuple[str, ...],
    image: Root,
    machine: str,
    host_root: str,
    mode: str,
    library_path: str,
    preload: str,
) -> tuple[Placement, bytes]:
    """Return what goes into `image`, and the bytes of its new ld.so.cache (nothing: it needs none).

    Parameters as of `placement.place`. Raises GpuError when it cannot load the driver at all.
    """
    loader = Loader(image, machine)
    selection = policy.select(driver, capabilities, loader, host_root)
    _refuse(selection.verdicts)
    if not selection.first and not selection.fallback:
        return Placement(notes=_notes(selection.verdicts)), b""
    decision = compat.decide(image, driver.version, mode)
    stale = baked.find(loader, driver, library_path, decision.directories)
    first = _first_directories(selection, decision)
    search = searchpath.cleaned(
        {searchpath.LIBRARY_PATH: library_path, searchpath.PRELOAD: preload},
        image,
        first,
        baked.sonames(driver),
        decision.directories if decision.use else (),
    )
    if policy.is_stored(loader):
        search = searchpath.led(search, library_path, first)
    made = Placement(
        libraries=(*_placed(selection.first, first=True), *_placed(selection.fallback)),
        shadows=tuple(_shadows(stale, selection, decision)),
        first=first,
        search=search.variables,
        variables=tuple(_variables(selection, image, machine)),
        cuda=decision.cuda,
        notes=(
            *_notes(selection.verdicts),
            *_smaller_notes(driver, capabilities),
            *_baked_notes(stale, driver.version),
            *_compat_notes(decision, mode),
            *search.notes,
        ),
    )
    return made, ldcache.serialize(merged(loader, selection, decision))


def with_cache(made: Placement, cache_file: str) -> Placement:
    """Return `made` with the host path of its ld.so.cache."""
    return replace(made, cache_file=cache_file)


def destination(library: DriverLibrary, *, first: bool) -> str:
    """Return the path of `library` in the container."""
    place = (DIRECTORY if first else FALLBACK) + ("32" if library.bits == 32 else "")
    return "/".join(filter(None, (place, library.plugin_directory, library.soname)))


def merged(loader: Loader, selection: Selection, decision: compat.Decision) -> LdCache:
    """Return the image's library cache with what is injected, in the order of precedence.

    Names that the host's driver has are taken from the image's own entries, compatibility
    libraries that are set aside too: among entries of one name a loader prefers those for its
    processor to earlier ones. An image without a cache gets what its ld.so.conf names.
    """
    image, machine = loader.root, loader.machine
    known = loader.cache if loader.cache.entries else LdCache(tuple(_configured(image, machine)))
    flags = ldcache.FLAGS[machine]
    locked = [*_compat_entries(decision, flags, selection.first)]
    locked += _entries(selection.first, machine, first=True)
    taken = {(entry.name, entry.flags) for entry in locked}
    own = [e for e in known.entries if (e.name, e.flags) not in taken]
    if not decision.use and decision.directories:
        places = {directory: image.locate(directory) for directory in map(_directory_of, own)}
        own = [e for e in own if places[_directory_of(e)] not in decision.directories]
    present = {(entry.name, entry.flags) for entry in own}
    last = _entries(selection.fallback, machine, first=False)
    missing = [entry for entry in last if (entry.name, entry.flags) not in present]
    return LdCache((*locked, *own, *missing), known.hwcaps)


def _directory_of(entry: Entry) -> str:
    return os.path.dirname(entry.path)


def _refuse(verdicts: tuple[Verdict, ...]) -> None:
    for verdict in verdicts:
        if verdict.decision == policy.FATAL:
            raise GpuError(f"gpu: {verdict.reason}", hint=verdict.hint)


def _first_directories(selection: Selection, decision: compat.Decision) -> tuple[str, ...]:
    used = [os.path.dirname(a.path) for a in decision.libraries] if decision.use else []
    places = [
        os.path.dirname(destination(a, first=True))
        for a in selection.first
        if a.plugin_directory != _PLUGINS
    ]
    return tuple(dict.fromkeys(used + places))


def _placed(chosen: Iterable[DriverLibrary], *, first: bool = False) -> Iterator[Placed]:
    for library in chosen:
        yield Placed(library.path, destination(library, first=first), library.extra_names)


def _variables(selection: Selection, image: Root, machine: str) -> Iterator[tuple[str, str]]:
    """Yield what leads to plug-ins, which their users look for in one directory of the image.

    Source: Mesa docs/envvars.rst; README of libvdpau.
    """
    held = {a.plugin_directory for a in selection.first if a.bits == 64}
    if "gbm" in held:
        places = [f"{place}/gbm" for place in ldcache.default_directories(machine)]
        own = dict.fromkeys(filter(None, map(image.locate, places)))
        yield "GBM_BACKENDS_PATH", ":".join((f"{DIRECTORY}/gbm", *own))
    if "vdpau" in held:
        yield "VDPAU_DRIVER_PATH", f"{DIRECTORY}/vdpau"


def _shadows(
    stale: tuple[baked.BakedFile, ...], selection: Selection, decision: compat.Decision
) -> Iterator[Placed]:
    """Yield the host's file for each stale one of the same SONAME, wherever programs find that."""
    sources = {library.soname: library.path for library in selection.first if library.bits == 64}
    if decision.use:
        sources.update((library.soname, library.host_path) for library in decision.libraries)
    for file in stale:
        if file.soname in sources:
            yield Placed(sources[file.soname], file.path)


def _configured(image: Root, machine: str) -> Iterator[Entry]:
    """Yield the libraries in the directories of ld.so.conf, as ldconfig would list them."""
    flags = ldcache.FLAGS[machine]
    defaults = {image.locate(place) for place in ldcache.default_directories(machine)}
    named = dict.fromkeys(ldconf.directories(image))
    for directory in [d for d in named if image.locate(d) not in defaults][:_MAX_DIRECTORIES]:
        for name in image.listdir(directory)[:_MAX_NAMES]:
            path = f"{directory}/{name}"
            right = name.startswith(("lib", "ld-")) and ".so" in name
            if right and _machine_of(image.resolve(path)) == _E_MACHINE[machine]:
                yield Entry(name, path, flags)


def _machine_of(host_path: str | None) -> int:
    """Return `e_machine` of an ELF file; 0 for anything else."""
    if host_path is None or not os.path.isfile(host_path):
        return 0
    try:
        with open(host_path, "rb") as file:
            head = file.read(20)
    except OSError:
        return 0
    return int.from_bytes(head[18:20], "little") if head.startswith(b"\x7fELF") else 0


def _compat_entries(
    decision: compat.Decision, flags: int, driver: tuple[DriverLibrary, ...]
) -> Iterator[Entry]:
    """Yield the image's newer libraries by all names of those whose place they take."""
    names = {a.soname: (a.soname, *a.extra_names) for a in driver if a.bits == 64}
    for library in decision.libraries if decision.use else ():
        for name in names.get(library.soname, (library.soname,)):
            yield Entry(name, library.path, flags)


def _entries(chosen: Iterable[DriverLibrary], machine: str, *, first: bool) -> Iterator[Entry]:
    for library in chosen:
        size = ldcache.COMPAT32[machine] if library.bits == 32 else machine
        for name in (library.soname, *library.extra_names):
            if library.plugin_directory != _PLUGINS:
                yield Entry(name, destination(library, first=first), ldcache.FLAGS[size])


def _notes(verdicts: tuple[Verdict, ...]) -> tuple[str, ...]:
    """Return notes on libraries that are left out because the image is too old for them.

    What only lacks company (X11 in an image without any) is told by `udocker gpu explain`.
    """
    reasons = dict.fromkeys(v.reason for v in verdicts if _is_worth_a_note(v))
    return tuple(
        f"gpu: {reason}" if reason.startswith("the image has no C ") else f"gpu: {reason}: left out"
        for reason in reasons
    )


def _is_worth_a_note(verdict: Verdict) -> bool:
    if verdict.decision != policy.SKIP:
        return False
    if verdict.kind == policy.LOCKED:
        return " needs " not in verdict.reason
    return verdict.kind == policy.NEUTRAL and "too old for" in verdict.reason


def _smaller_notes(driver: Driver, capabilities: tuple[str, ...]) -> tuple[str, ...]:
    if libraries.COMPAT32 not in capabilities or driver.libraries32:
        return ()
    return ("gpu: the host's driver has no 32-bit libraries (compat32)",)


def _compat_notes(decision: compat.Decision, mode: str) -> tuple[str, ...]:
    if decision.use:
        hint = "CUDA error 804 says that this GPU cannot: --cuda-compat=off"
        return (f"gpu: {decision.reason} ({hint})",)
    missing = mode == "force" and not decision.libraries
    return ("gpu: the image has no cuda-compat: the driver's own CUDA is used",) * missing


def _baked_notes(stale: tuple[baked.BakedFile, ...], version: str) -> tuple[str, ...]:
    other = [file for file in stale if file.version != version]
    if not other:
        return ()
    first = min(other, key=lambda file: not file.soname.startswith("libcuda.so"))
    place = f"{first.version}, {os.path.dirname(first.path)}"
    more = f" and {len(other) - 1} other driver files" if len(other) > 1 else ""
    return (
        f"gpu: image contains its own {first.soname} ({place}){more}"
        f" – hidden by the host's {version}",
    )
