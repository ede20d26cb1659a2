"""An image of the host's own programs: a shell, coreutils, and the libraries that they need.

Files lie in it at the paths that they have on the host, with every symbolic link on the way:
so the loader finds them wherever a distribution keeps them.
"""

from __future__ import annotations

import os
import stat

from udocker.errors import UdockerError
from udocker.host import ldcache, loader
from udocker.host.root import MAX_LINKS, Root
from udocker.images import builder
from udocker.images.builder import Entry, LayoutBuilder
from udocker.images.compression.codecs import has_zstandard
from udocker.oci import Platform
from udocker.selftest import leaks
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "udocker/selftest:1"
DIRECTORY = "/selftest"
"""Where the image keeps what is not the host's."""
PROGRAMS = ("sh", "cat", "id", "ls", "sleep", "true")
_SYSTEM_PATH = "/usr/bin:/bin"
_NVIDIA_SMI = "nvidia-smi"
_SCRIPT_BYTES = 4096


@dataclass(frozen=True)
class Sample:
    """What is in the image, as far as a host decides it."""

    path: str
    """Its `PATH`."""
    has_smi_libraries: bool
    """Whether `nvidia-smi`, once the driver's own is added, finds its libraries."""


def build(layout: str, search_path: str, host: Root | None = None) -> Sample:
    """Write the image into the OCI layout `layout` under `NAME`.

    Programs are taken from the system's directories of `host` (this machine's), else from
    `search_path`. Raises UdockerError for a program or library that is not there.
    """
    host = host or Root("/")
    programs = {name: _program(host, name, search_path) for name in PROGRAMS}
    smi_libraries = _libraries_of(host, _find(host, _NVIDIA_SMI, search_path))
    folders = [f"{DIRECTORY}/bin", *map(os.path.dirname, programs.values())]
    sample = Sample(":".join(dict.fromkeys(folders)), bool(smi_libraries))
    askers = leaks.entries(f"{DIRECTORY[1:]}/bin", programs["sh"], host)
    images = LayoutBuilder(layout)
    compression = "zstd" if has_zstandard() else "gzip"
    layers = [
        images.layer([*_base_entries(programs["sh"]), *askers]),
        images.layer(_host_entries(host, programs.values(), smi_libraries)),
        images.layer(_top_entries(), compression),
    ]
    images.image(
        NAME,
        layers,
        platform=Platform.of_machine(os.uname().machine),
        env=(f"PATH={sample.path}", "SELFTEST=image"),
        cmd=("sh", "-c", "echo the command of the image"),
        working_dir=DIRECTORY,
    )
    return sample


def _program(host: Root, name: str, search_path: str) -> str:
    found = _find(host, name, search_path)
    if found is None:
        raise UdockerError(
            f"this host has no program {name} in {_SYSTEM_PATH} or PATH",
            hint="the self-test makes its image of the host's programs: install coreutils",
        )
    return found


def _find(host: Root, name: str, search_path: str) -> str | None:
    """Return the absolute path of a program of `host`."""
    for directory in f"{_SYSTEM_PATH}:{search_path}".split(":"):
        path = f"{directory.rstrip('/')}/{name}"
        place = host.resolve(path) if directory.startswith("/") else None
        if place and os.path.isfile(place) and os.access(place, os.X_OK):
            return path
    return None


def _base_entries(shell: str) -> list[Entry]:
    """Return the lowest layer: what every image has, and what the top layer changes."""
    passwd = f"root:x:0:0:root:/root:{shell}\nnobody:x:65534:65534:nobody:/:{shell}\n"
    own = DIRECTORY[1:]
    folders = ("dev", "etc", "proc", "sys", own, f"{own}/bin", f"{own}/emptied")
    return [
        *map(builder.directory, folders),
        builder.directory("root", 0o700),
        builder.directory("tmp", 0o1777),
        builder.file("etc/passwd", passwd.encode()),
        builder.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n"),
        builder.file(f"{own}/bin/hello", f'#!{shell}\necho "hello $1"\n'.encode(), 0o755),
        builder.file(f"{own}/bin/plain", b"not a program\n"),
        builder.file(f"{own}/kept", b"base\n"),
        builder.file(f"{own}/changed", b"base\n"),
        builder.file(f"{own}/removed", b"base\n"),
        builder.file(f"{own}/emptied/old", b"base\n"),
    ]


def _top_entries() -> list[Entry]:
    """Return the highest layer, which changes and hides what lies below it."""
    own = DIRECTORY[1:]
    return [
        builder.file(f"{own}/changed", b"top\n"),
        builder.whiteout(f"{own}/removed"),
        builder.opaque(f"{own}/emptied"),
        builder.file(f"{own}/emptied/new", b"top\n"),
    ]


def _host_entries(host: Root, programs: Iterable[str], libraries: Iterable[str]) -> list[Entry]:
    """Return `programs` and all that they need to start, and further `libraries`."""
    copy = _HostCopy(host)
    binaries = [binary for program in programs for binary in copy.add_program(program)]
    files = [*loader.closure(dict.fromkeys(binaries), host), *libraries]
    for path in dict.fromkeys(files):
        copy.add(path)
    cache = _loader_cache(host, files)
    return [*copy.entries, cache] if cache else copy.entries


def _libraries_of(host: Root, program: str | None) -> tuple[str, ...]:
    """Return what a program needs beside itself; nothing where it is not there or broken."""
    if program is None:
        return ()
    try:
        return tuple(path for path in loader.closure([program], host) if path != program)
    except UdockerError:
        return ()


def _loader_cache(host: Root, files: Iterable[str]) -> Entry | None:
    """Return what the host's ld.so.cache says of `files`; None where the loader uses none."""
    try:
        cache = ldcache.parse(host.read(ldcache.PATH, ldcache.MAX_BYTES))
    except (OSError, ValueError):
        return None
    wanted = set(files)
    entries = tuple(entry for entry in cache.entries if entry.path in wanted)
    data = ldcache.serialize(ldcache.LdCache(entries, cache.hwcaps))
    return builder.file(ldcache.PATH[1:], data)


class _HostCopy:
    """Entries for files of the host, for the directories above and the links that lead there."""

    def __init__(self, host: Root) -> None:
        self._host = host
        self._entries: dict[str, Entry] = {}

    @property
    def entries(self) -> list[Entry]:
        """All entries, directories before what is in them."""
        return list(self._entries.values())

    def add_program(self, path: str) -> tuple[str, ...]:
        """Add a program; return the binaries that it needs: itself, or its script's interpreter.

        On RHEL, coreutils can be scripts of one line that name one common binary.
        """
        data = self.add(path)
        if not data.startswith(b"#!"):
            return (path,)
        words = data[2:_SCRIPT_BYTES].partition(b"\n")[0].split()
        return (os.fsdecode(words[0]),) if words else ()

    def add(self, path: str) -> bytes:
        """Add the file at `path` and return its content. Raises UdockerError."""
        try:
            return self._follow(path)
        except OSError as error:
            raise UdockerError(f"cannot copy {path}: {error.strerror or error}") from error

    def _follow(self, path: str) -> bytes:
        pending = _components(path)
        here = ""
        links = 0
        while pending:
            name = pending.pop()
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            below = f"{here}/{name}"
            mode = os.lstat(self._host.path + below).st_mode
            if stat.S_ISLNK(mode) and links < MAX_LINKS:
                links += 1
                target = os.readlink(self._host.path + below)
                self._keep(builder.symlink(below[1:], target))
                pending += _components(target)
                here = "" if target.startswith("/") else here
            elif stat.S_ISDIR(mode):
                self._keep(builder.directory(below[1:]))
                here = below
            else:
                return self._copy(below)
        raise UdockerError(f"{path} is not a file")

    def _copy(self, path: str) -> bytes:
        if path[1:] not in self._entries:
            with open(self._host.path + path, "rb") as file:
                self._keep(builder.file(path[1:], file.read(), 0o755))
        return self._entries[path[1:]].data

    def _keep(self, entry: Entry) -> None:
        self._entries.setdefault(entry.path, entry)


def _components(path: str) -> list[str]:
    """Return the components of `path`, last first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
