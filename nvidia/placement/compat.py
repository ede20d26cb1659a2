"""The newer CUDA driver library that an image may bring along (`cuda-compat`), taken or not.

NVIDIA's packages put `libcuda.so.1` and its companions of a newer driver into
`/usr/local/cuda-M.m/compat`. On data-centre GPUs they run on an older kernel module; mixing them
with a newer one is error 803. Source: CUDA Compatibility guide, "Forward Compatibility";
nvidia-container-toolkit 1.20, cudacompat.go.
"""

from __future__ import annotations

import os

from udocker.errors import GpuError
from udocker.nvidia import cuda
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.root import Root

MODES = ("auto", "off", "force")
NOTE_SECTION = ".note.cuda.fwd_compatibility"
NOTE_OWNER = b"NVIDIA Corporation"
_PARENT = "/usr/local"
_DEFAULT = "cuda"
"""The toolkit that programs get; those of other versions have it after a dash."""
_SUBDIRECTORIES = ("", "/lib.real")
"""Where in `compat` the files are; NVIDIA's own images (NGC) keep them in `lib.real`."""
_MAX_TOOLKITS = 32
_MAX_NAMES = 256
_MAX_NOTE_BYTES = 65536
_MAX_BRANCHES = 1024


@dataclass(frozen=True)
class CompatLibrary:
    """A library of the image that can take the place of the driver's."""

    soname: str
    path: str
    """In the image, free of links."""
    host_path: str


@dataclass(frozen=True)
class Decision:
    """Whether the image's compatibility libraries are used, and why."""

    use: bool
    libraries: tuple[CompatLibrary, ...] = ()
    reason: str = ""
    """In one sentence; empty when the image has none."""
    version: str = ""
    """Of the driver that they are from (`590.44.01`)."""
    directories: tuple[str, ...] = ()
    """All directories of the image, free of links, that hold such libraries."""
    cuda: tuple[int, int] | None = None
    """The CUDA version that programs get by them, where they are used and it is known."""


@dataclass(frozen=True)
class Note:
    """What a compatibility libcuda says about itself."""

    cuda: str
    """The CUDA version that it brings (`13.1`)."""
    branches: tuple[int, ...]
    """Major versions of the drivers that it can run on."""


def decide(image: Root, driver_version: str, mode: str = "auto") -> Decision:
    """Return whether `image`'s compatibility libraries run programs better than the driver's own.

    `mode` is `auto` (NVIDIA's rule), `off` or `force`. Raises GpuError for any other word.
    """
    if mode not in MODES:
        raise GpuError(
            f"{mode!r} is not a way to treat cuda-compat", hint=f"the ways are {', '.join(MODES)}"
        )
    directories = _directories(image)
    chosen = _directories(image, (_DEFAULT,)) or directories
    found = {path: name for place in chosen for name, path in _drivers(image, place)}
    if not found:
        return Decision(False, directories=directories)
    path = max(found, key=lambda path: _numbers(_version_of(path)))
    version, note = _version_of(path), _note(image, path)
    use, reason = _judge(version, note, len(found), driver_version, mode)
    return Decision(
        use=use,
        libraries=tuple(_libraries(image, os.path.dirname(path))),
        reason=reason,
        version=version,
        directories=directories,
        cuda=_cuda_of(version, note) if use else None,
    )


def parse_note(data: bytes) -> Note | None:
    """Return the note in the bytes of its ELF section; None for anything else, however odd."""
    from udocker import fastjson

    owner_size = int.from_bytes(data[:4], "little")
    size = int.from_bytes(data[4:8], "little")
    start = 12 + -(-owner_size // 4) * 4
    owner = data[12 : 12 + owner_size].rstrip(b"\0")
    if len(data) > _MAX_NOTE_BYTES or owner != NOTE_OWNER or start + size > len(data):
        return None
    try:
        said = fastjson.loads(data[start : start + size].rstrip(b"\0"))
        cuda, branches = said["CUDA version"], said["driver"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    right = isinstance(cuda, str) and isinstance(branches, list) and len(branches) < _MAX_BRANCHES
    if not right or not all(type(branch) is int for branch in branches):
        return None
    return Note(cuda, tuple(branches))


def _judge(version: str, note: Note | None, count: int, host: str, mode: str) -> tuple[bool, str]:
    name = f"the image's cuda-compat {version}"
    if mode == "off":
        return False, f"{name} is set aside: it was not wanted"
    if mode == "force":
        return True, f"{name} is used: it was wanted, whatever the driver {host}"
    if count > 1:
        return False, f"the image has {count} versions of cuda-compat: none is used"
    ours, theirs = _numbers(host), _numbers(version)
    if note is not None and ours[:1] and ours[0] not in note.branches:
        return False, f"{name} is set aside: it does not run on drivers {ours[0]}"
    if note is not None and theirs > ours:
        return True, f"{name} (CUDA {note.cuda}) is used: it runs on the older driver {host}"
    if note is None and theirs[:1] > ours[:1]:
        return True, f"{name} is used: it is newer than the driver {host}"
    return False, f"{name} is set aside: it is not newer than the driver {host}"


def _cuda_of(version: str, note: Note | None) -> tuple[int, int] | None:
    numbers = _numbers(note.cuda) if note else ()
    return (numbers[0], numbers[1]) if len(numbers) == 2 else cuda.version_of(version)


def _note(image: Root, path: str) -> Note | None:
    from udocker.host import elf

    host_path = image.resolve(path)
    try:
        return (
            parse_note(elf.section(host_path, NOTE_SECTION, _MAX_NOTE_BYTES)) if host_path else None
        )
    except OSError:
        return None


def _directories(image: Root, toolkits: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the directories, free of links, each once: `/usr/local/cuda` is one to a version."""
    toolkits = toolkits or tuple(n for n in image.listdir(_PARENT) if n.startswith(_DEFAULT))
    places = (
        image.locate(f"{_PARENT}/{name}/compat{below}")
        for name in toolkits[:_MAX_TOOLKITS]
        for below in _SUBDIRECTORIES
    )
    found = dict.fromkeys(place for place in places if place)
    return tuple(place for place in found if any(_drivers(image, place)))


def _drivers(image: Root, directory: str) -> list[tuple[str, str]]:
    """Return (name, path) of each libcuda in a directory, as a file free of links."""
    names = [name for name in image.listdir(directory) if name.startswith("libcuda.so.")]
    paths = ((name, image.locate(f"{directory}/{name}")) for name in names[:_MAX_NAMES])
    return [(name, path) for name, path in paths if path and len(_numbers(_version_of(path))) > 1]


def _libraries(image: Root, directory: str) -> list[CompatLibrary]:
    from udocker.host import elffacts

    found: dict[str, CompatLibrary] = {}
    for name in image.listdir(directory)[:_MAX_NAMES]:
        path = image.locate(f"{directory}/{name}")
        host_path = image.resolve(f"{directory}/{name}")
        if not name.startswith("lib") or ".so." not in name or not path or not host_path:
            continue
        try:
            facts = elffacts.scan(host_path) if os.path.isfile(host_path) else None
        except OSError:
            continue
        if facts and facts.soname and "/" not in facts.soname:
            found.setdefault(facts.soname, CompatLibrary(facts.soname, path, host_path))
    return list(found.values())


def _version_of(path: str) -> str:
    return os.path.basename(path).partition(".so.")[2]


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    right = all(p.isascii() and p.isdigit() and len(p) < 8 for p in parts)
    return tuple(map(int, parts)) if right else ()
