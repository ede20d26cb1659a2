"""The same GPU edits in few binds, for engines to which every bind is dear.

PRoot compares each name of each call of a program with all its binds: sixty cost 19 ms at the
start and a quarter of the speed of `find`. So one directory of symbolic links, made once in the
cache and shown as `/run/udocker/gpu`, stands for all files of the driver; where an engine cannot
follow links to the host, the host's directories show below it. Nothing of the driver is copied.

What a path outside of that directory would have to show is found in it by other means: programs
by PATH, configuration by the variables of those who read it.
"""

from __future__ import annotations

import os

from udocker import disk, trees
from udocker.containers.spec import Bind, ContainerEdits, Symlink
from udocker.errors import GpuError, StoreError
from udocker.host import ldcache
from udocker.nvidia import cache, relocation
from udocker.nvidia.relocation import DIRECTORY
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from udocker.host.root import Root

MOST_BINDS = 4
"""Binds that a GPU may cost an engine which compares names with them."""
_HOST = f"{DIRECTORY}/host"
_FORMAT = 1
_TEXT_BYTES = 1 << 16
_LOADERS = {
    "x86_64": "/lib64/ld-linux-x86-64.so.2",
    "aarch64": "/lib/ld-linux-aarch64.so.1",
}
"""The container's, by `uname -m`."""
_WRAPPER = """#!/bin/sh
exec {loader} '{path}' "$@"
"""
_UNREACHABLE = ("/dev/", "/proc/", "/sys/")
"""The host's own show here in every container without mounts."""
_OPTIONAL = ("/run/", "/var/run/", "/tmp/", "/proc/", "/sys/", "/usr/share/nvidia/", "/etc/nvidia/")
"""Below these lie what a program can do without: services' sockets, hints."""
_DATA = "/usr/share/nvidia/"


@dataclass(frozen=True)
class Ways:
    """How programs of a container come to the host's files, where not by mounts."""

    links: bool = False
    """A link with a path of the host leads there."""
    loader: bool = False
    """A program of the host that another one starts gets the host's loader, which is wrong."""


@dataclass(frozen=True)
class Gathered:
    """Edits with few binds, and what the user may want to know of what they leave out."""

    edits: ContainerEdits
    notes: tuple[str, ...] = ()


def gather(
    edits: ContainerEdits,
    cache_directory: str,
    program_env: Mapping[str, str],
    image: Root,
    ways: Ways,
) -> Gathered:
    """Return `edits` with at most `MOST_BINDS` binds, beside those for which there is no other way.

    `program_env` is the program's environment. Where links lead to the host one bind is enough;
    the loader is then expected to be told the directories of libraries. The directory of links
    is made in `cache_directory`. Raises GpuError.
    """
    stage = _Stage()
    kept = [bind for bind in edits.binds if not stage.takes(bind)]
    links = tuple(link for link in edits.symlinks if not stage.takes_link(link.path, link.target))
    if not stage.sources and not stage.links:
        return Gathered(replace(edits, symlinks=links))
    stage.add_vendors(image)
    if ways.links:
        kept = [bind for bind in kept if not _is_needless(bind)]
        shown: dict[str, int] = {}
        without: tuple[str, ...] = ()
        made = stage.made(cache_directory, {}, wrapped=ways.loader)
    else:
        mps = dict(edits.env).get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")
        needed, foreign, missed = _by_need(kept, mps)
        room = MOST_BINDS - 1 - len(needed)  # one for the links, at least one for libraries
        taken, directories = missed[: room - 1], stage.directories()
        shown, lost = _host_directories(directories, room - len(taken))
        while lost and taken and taken[-1].destination != mps:  # programs before services
            taken = taken[:-1]
            shown, lost = _host_directories(directories, room - len(taken))
        without = (*(bind.destination for bind in missed[len(taken) :]), *stage.dropped(lost))
        kept = [*needed, *foreign, *taken]
        made = stage.made(cache_directory, shown)
    binds = _directory_binds(made, shown)
    env = relocation.variables(stage.sources, {**program_env, **dict(edits.env)})
    notes = (f"gpu: left out, for this engine has few binds: {', '.join(without)}",)
    return Gathered(
        replace(edits, env=edits.env + env, binds=(*binds, *kept), symlinks=links),
        notes if without else (),
    )


def gather_libraries(
    edits: ContainerEdits, cache_directory: str, *, linked: bool = False
) -> ContainerEdits:
    """Return `edits` in which one bind of links and those of the host's directories show libraries.

    For programs that mount for us, which look at all mounts for each new one; all other files
    keep their paths. With `linked`, links lead from these to the directory of links where they
    have a place in it. Raises GpuError.
    """
    stage, inside = _Stage(), f"{DIRECTORY}/"
    kept, links = [], []
    for bind in edits.binds:
        within = bind.destination.startswith(inside)
        if not ((within or linked) and stage.takes(bind)):
            kept.append(bind)
        elif not within:
            place = relocation.place_of(bind.destination)
            links.append(Symlink(bind.destination, f"{DIRECTORY}/{place}"))
    links += [
        link
        for link in edits.symlinks
        if not (link.path.startswith(inside) and stage.takes_link(link.path, link.target))
    ]
    if not stage.sources:
        return edits
    directories = stage.directories()
    shown, _ = _host_directories(directories, len(directories))
    binds = _directory_binds(stage.made(cache_directory, shown), shown)
    return replace(edits, binds=(*binds, *kept), symlinks=tuple(links))


def _directory_binds(made: str, shown: Mapping[str, int]) -> list[Bind]:
    binds = [Bind(made, DIRECTORY, readonly=True)]
    return binds + [Bind(d, f"{_HOST}/{number}", readonly=True) for d, number in shown.items()]


class _Stage:
    """What goes into a directory of links, as it comes together."""

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}
        """Paths relative to the directory -> host paths."""
        self.links: dict[str, str] = {}
        """The same -> what a link says that leads to something in the container."""

    def takes(self, bind: Bind) -> bool:
        """Take a bind where it has a place; tell whether it has."""
        place = relocation.place_of(bind.destination) if bind.readonly else None
        if place is None or os.path.isdir(bind.source):
            return False
        source = bind.source
        self.sources[place] = os.path.realpath(source) if os.path.islink(source) else source
        return True

    def takes_link(self, path: str, target: str) -> bool:
        """Take a symbolic link of the directory, or one that is the host's own; tell if it is."""
        if path.startswith(DIRECTORY + "/"):
            self.links[path[len(DIRECTORY) + 1 :]] = target
            return True
        return path.startswith(_UNREACHABLE)

    def add_vendors(self, image: Root) -> None:
        """The image's own OpenCL drivers are found beside the host's."""
        place = relocation.OPENCL[1:]
        if any(path.startswith(place + "/") for path in self.sources):
            for name in image.listdir(relocation.OPENCL):
                if f"{place}/{name}" not in self.sources:
                    self.links[f"{place}/{name}"] = f"{relocation.OPENCL}/{name}"

    def directories(self) -> list[str]:
        """Return the host's directories that must show, the most important ones first."""
        ordered = sorted(
            (place for place, source in self.sources.items() if not _is_text(place, source)),
            key=lambda place: not place.startswith("lib"),
        )
        return list(dict.fromkeys(os.path.dirname(self.sources[place]) for place in ordered))

    def dropped(self, directories: list[str]) -> tuple[str, ...]:
        """Do without what lies in host directories that cannot show; return its names."""
        lost = [
            place
            for place, source in self.sources.items()
            if os.path.dirname(source) in directories and not _is_text(place, source)
        ]
        return tuple(self.sources.pop(place) for place in lost)

    def made(self, cache_directory: str, shown: Mapping[str, int], *, wrapped: bool = False) -> str:
        """Return the host path of the directory of links, which is there and whole.

        Programs that are `wrapped` are started by the container's loader. Raises GpuError.
        """
        texts = {
            place: _text(source)
            for place, source in self.sources.items()
            if shown and _is_text(place, source)
        }
        links = {place: _shown_path(self.sources[place], shown) for place in self.sources}
        links.update(self.links)
        key = cache.digest(_FORMAT, links, texts, shown, wrapped, os.uname().machine)
        path = os.path.join(cache_directory, f"gpu-{key}.links")
        if cache.is_kept(path):
            return path
        try:
            texts.update(_wrappers(self.sources) if wrapped else {})
            links = {place: target for place, target in links.items() if place not in texts}
            _make(path, links, texts, [f"host/{number}" for number in shown.values()])
        except (OSError, StoreError) as error:
            raise GpuError(f"gpu: cannot write to {cache_directory}: {error}") from error
        return path


def _is_text(place: str, source: str) -> bool:
    """Tell whether a file is configuration of a few bytes, for which no directory need show."""
    return place.startswith(("etc/", "share/")) and os.path.getsize(source) <= _TEXT_BYTES


def _wrappers(sources: Mapping[str, str]) -> dict[str, str]:
    """Return scripts in place of the dynamically linked programs among `sources`."""
    from udocker.host import elffacts

    loader = _LOADERS[os.uname().machine]
    programs = {place: path for place, path in sources.items() if place.startswith("bin/")}
    facts = {place: elffacts.scan(path) for place, path in programs.items() if "'" not in path}
    return {
        place: _WRAPPER.format(loader=loader, path=programs[place])
        for place, found in facts.items()
        if found and found.interpreter
    }


def _text(source: str) -> str:
    data = disk.read(source, _TEXT_BYTES) or b""
    return data.decode("utf-8", "surrogateescape")


def _shown_path(source: str, shown: Mapping[str, int]) -> str:
    """Return the path by which a program of the container reaches a host path."""
    for directory, number in shown.items():
        if source.startswith(directory + "/"):
            return f"{_HOST}/{number}{source[len(directory) :]}"
    return source


def _is_needless(bind: Bind) -> bool:
    """Tell whether a bind does nothing where names are links: the loader asks the host's cache."""
    return bind.destination == ldcache.PATH or bind.destination.startswith(_UNREACHABLE)


def _by_need(binds: list[Bind], mps: str) -> tuple[list[Bind], list[Bind], tuple[Bind, ...]]:
    """Return binds without which nothing works, those of other vendors, and what can be missed.

    The last begin with the most useful: the directory `mps`, by which programs share GPUs; then
    the driver's own data, what programs talk to, and mere hints.
    """
    needed = [bind for bind in binds if bind.destination == ldcache.PATH]
    missed = [
        bind for bind in binds if bind.destination == mps or bind.destination.startswith(_OPTIONAL)
    ]
    foreign = [bind for bind in binds if bind not in needed and bind not in missed]
    missed.sort(key=lambda bind: (not bind.destination.startswith(_DATA), bind.readonly))
    missed.sort(key=lambda bind: bind.destination != mps)
    return needed, foreign, tuple(missed)


def _host_directories(directories: list[str], most: int) -> tuple[dict[str, int], list[str]]:
    """Return at most `most` host directories that hold `directories`, numbered, and the rest.

    Two become their common parent, the closest two first, but never `/`.
    """
    chosen = _outermost(directories)
    lost: list[str] = []
    while len(chosen) > most:
        pairs = [(a, b) for n, a in enumerate(chosen) for b in chosen[n + 1 :]]
        parent = max((os.path.commonpath(pair) for pair in pairs), key=len)
        if parent == "/":
            lost.append(chosen.pop())
        else:
            chosen = _outermost([parent, *chosen])
    held = [d for d in directories if any(_is_in(d, top) for top in chosen)]
    missing = [d for d in directories if d not in held]
    return {directory: number for number, directory in enumerate(chosen)}, missing


def _outermost(directories: list[str]) -> list[str]:
    unlike = dict.fromkeys(directories)
    return [d for d in unlike if not any(d != other and _is_in(d, other) for other in unlike)]


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


def _make(
    path: str, links: Mapping[str, str], texts: Mapping[str, str], directories: Iterable[str]
) -> None:
    """Make a directory of links; it appears whole, and programs of the container leave it so."""
    disk.make_directory(os.path.dirname(path))
    draft = f"{path}.{disk.owner()}.{os.urandom(4).hex()}"
    try:
        for place in directories:
            os.makedirs(f"{draft}/{place}")
        for place, target in links.items():
            os.makedirs(os.path.dirname(f"{draft}/{place}"), exist_ok=True)
            os.symlink(target, f"{draft}/{place}")
        for place, text in texts.items():
            os.makedirs(os.path.dirname(f"{draft}/{place}"), exist_ok=True)
            data = text.encode("utf-8", "surrogateescape")
            mode = 0o555 if place.startswith("bin/") else 0o444
            disk.write_whole(f"{draft}/{place}", data, mode=mode, sync=False)
        for directory, _, _ in os.walk(draft, topdown=False):
            os.chmod(directory, 0o555)
        try:
            os.rename(draft, path)
        except OSError:
            if not os.path.isdir(path):  # else another start was faster
                raise
    finally:
        trees.remove_tree(draft)
