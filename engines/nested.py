"""PRoot inside a container of runc or crun (modes R2 and R3).

The container's own root is what programs see anyway: PRoot only makes them believe that they
are root, or another user. R3 lets it stop programs at every call, for kernels where its use of
seccomp fails.

PRoot, its loader, libc and the first process lie in the container's own file system in memory,
so that nothing of them is left in the container's files.
"""

from __future__ import annotations

import os

from udocker import disk, fastjson
from udocker.containers.spec import Bind, ContainerEdits
from udocker.engines import first, loaders, programs
from udocker.engines.layout import OWN
from udocker.errors import StartError
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.spec import RuntimeSpec, User

PLACE = f"{OWN}/proot"
"""In the container: the directory with PRoot and what it needs."""
DEPTH = 2
"""The program is a child of the first process, which is PRoot's."""
_FIRST = f"{PLACE}/first"
_FACTS_BYTES = 1 << 20


@dataclass(frozen=True)
class Nested:
    """PRoot as it lies on the host, and how it is called in the container."""

    binds: tuple[Bind, ...]
    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    """PRoot's own variables."""


def find(directory: str) -> Nested:
    """Return the PRoot to use; what it needs is made in the store. Raises StartError."""
    found = programs.find(directory, "proot")
    if found is None:
        raise StartError("PRoot is not installed (`udocker install proot`, or the package proot)")
    machine, cache = os.uname().machine, f"{directory}/cache"
    if machine not in first.CODE:
        raise StartError(f"there is nothing for processors of the kind {machine}")
    path = f"{cache}/first"
    if not os.path.exists(path):
        disk.make_directory(cache)
        disk.write_whole(path, first.program(machine), mode=0o755, sync=False)
    loaders.make(found.path, cache)
    own = {f"{PLACE}/{name.lower()}": p for name, p in loaders.made(found.path, cache).items()}
    env = tuple((name.rpartition("/")[2].upper(), name) for name in own)
    files = _files(found.path, cache)
    named = {f"{PLACE}/{os.path.basename(name)}": source for name, source in files.items()}
    binds = {**named, **own, _FIRST: path}
    return Nested(
        tuple(Bind(source, name, readonly=True) for name, source in binds.items()),
        _command(files, found.path),
        (*env, ("PROOT_TMP_DIR", OWN)),
    )


def _command(files: dict[str, str], proot: str) -> tuple[str, ...]:
    """Return how PRoot is called: by the host's own loader, unless it needs none."""
    program = f"{PLACE}/{os.path.basename(proot)}"
    loader = [name for name in files if os.path.basename(name).startswith("ld-")]
    if not loader:
        return (program,)
    return (f"{PLACE}/{os.path.basename(loader[0])}", "--library-path", PLACE, program)


def _files(proot: str, cache: str) -> dict[str, str]:
    """Return what PRoot needs to start, remembered for this version of it."""
    status = os.stat(proot)
    path = f"{cache}/proot-needs.{status.st_size:x}.{status.st_mtime_ns:x}"
    known = disk.read(path, _FACTS_BYTES)
    if known is not None:
        found: dict[str, str] = fastjson.loads(known)
        if all(map(os.path.exists, found.values())):
            return found
    from udocker.host.loader import closure
    from udocker.host.root import Root

    found = closure([proot], Root("/"))
    disk.write_whole(path, fastjson.dumps(found).encode(), sync=False)
    return found


def with_files(spec: RuntimeSpec, nested: Nested) -> RuntimeSpec:
    """Return the spec of the container that shows PRoot; who runs in it is its root."""
    root = replace(spec.process.user, uid=0, gid=0)
    process = replace(spec.process, user=root)
    return replace(spec.edited(ContainerEdits(binds=nested.binds)), process=process)


def words(spec: RuntimeSpec, nested: Nested, fd: int) -> tuple[str, ...]:
    """Return the words that run the program of `spec`; the first process tells of it by `fd`."""
    path = dict((*spec.process.env, *spec.edits.env)).get("PATH", "")
    proot = (*nested.command, "-v", "-1", "-w", spec.process.cwd, *_identity(spec.process.user))
    return (*proot, _FIRST, *first.words(fd, path, spec.process.args)[1:])


def _identity(user: User) -> tuple[str, ...]:
    return ("-0",) if user.uid == 0 else ("-i", f"{user.uid}:{user.gid}")


def environment(
    nested: Nested, variables: tuple[tuple[str, str], ...], mode: str
) -> tuple[tuple[str, str], ...]:
    """Return PRoot's own environment, in which the program's is marked as such."""
    unused = (("PROOT_NO_SECCOMP", "1"),) if mode == "R3" else ()
    return (*nested.env, *unused, *first.environment(dict(variables)).items())
