"""The program that a container will run, found before it starts as its own kernel would find it.

For engines that make no new root: the kernel would find the host's program, or a script's
interpreter on the host. And for those that change names inside of libc: a program that asks the
kernel itself would see the host's files.
"""

from __future__ import annotations

import os
import stat

from udocker.engines.rebase.elffile import MACHINES, PT_INTERP, ElfFile
from udocker.errors import ProgramNotExecutable, ProgramNotFound
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.root import Root

_SCRIPTS = 5
"""Scripts whose interpreter is a script, as many as Linux takes. Source: execve(2)."""
_LINE_BYTES = 256
"""What Linux reads of a script for its first line. Source: execve(2)."""


@dataclass(frozen=True)
class Program:
    """A program that the kernel can execute, and how it is to be started."""

    path: str
    """Host path."""
    argv: tuple[str, ...]
    """What it is told, its own name first: for a script, the interpreter's words."""


class View:
    """A container's files as its programs see them: a root, and host paths that show over it."""

    def __init__(self, files: Root, shown: Mapping[str, str]) -> None:
        """`shown` has host paths by path of the container; that of the longest path holds."""
        self.files = files
        self._shown = sorted(shown.items(), key=lambda pair: -len(pair[0]))

    def host_path(self, path: str) -> str | None:
        """Return where the absolute `path` lies on the host; None where nothing is there."""
        whole = os.path.normpath(path).replace("//", "/")
        for place, source in self._shown:
            if whole == place or whole.startswith(f"{place}/"):
                found = source + whole[len(place) :]
                return found if os.path.exists(found) else None
        return self.files.resolve(path)

    def rebased(self, path: str) -> str:
        """Return the host path that `path` has or would have; relative ones stay."""
        if not path.startswith("/"):
            return path
        whole = os.path.normpath(path).replace("//", "/")
        return self.host_path(path) or self.files.path + whole


def find(view: View, args: tuple[str, ...], search: str, cwd: str) -> Program:
    """Return the program that `args` start, by the PATH `search`; scripts by their interpreter.

    Raises ProgramNotFound or ProgramNotExecutable, with docker's exit codes.
    """
    path = _searched(view, args[0], search, cwd)
    argv = args
    for _ in range(_SCRIPTS):
        host_path = _executable(view, path)
        line = _first_line(host_path, path)
        if line is None:
            return Program(host_path, argv)
        interpreter, _, option = line.partition(" ")
        words = (interpreter, option.strip()) if option.strip() else (interpreter,)
        argv = (*words, path, *argv[1:])
        path = os.path.join(cwd, interpreter)
    raise ProgramNotExecutable(f"{args[0]}: its interpreter is a script without end")


def blind_spot(path: str) -> str | None:
    """Return why the program at host path `path` would not ask libfakechroot, or None.

    Raises ProgramNotExecutable where the kernel could not run it at all.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        elf = ElfFile(file)
        if elf.shape.bits == 32:
            return "a 32-bit program"
        if elf.machine != MACHINES.get(os.uname().machine):
            raise ProgramNotExecutable(f"{path} is for another kind of processor")
        if elf.first(PT_INTERP) is None:
            return "linked statically"
        if any(owner == b"Go" for owner in elf.notes()):
            return "a Go program, which calls the kernel itself"
        status = os.fstat(file)
        if status.st_mode & stat.S_ISUID and status.st_uid != os.geteuid():
            return "run as another user (setuid)"
    except ValueError as error:
        raise ProgramNotExecutable(f"{path} is no program: {error}") from error
    finally:
        os.close(file)
    return None


def _searched(view: View, name: str, search: str, cwd: str) -> str:
    """Return the container's path of the program `name`."""
    if "/" in name:
        return os.path.join(cwd, name)
    refused = None
    for path in _candidates(name, search, cwd):
        try:
            _executable(view, path)
            return path
        except ProgramNotFound:
            continue
        except ProgramNotExecutable as error:
            refused = refused or error
    raise refused or ProgramNotFound(
        f"{name!r}: no such program in the container's PATH ({search})",
        hint="name one that the image has: udocker run IMAGE PROGRAM",
    )


def _candidates(name: str, search: str, cwd: str) -> Iterator[str]:
    for directory in search.split(":") if name else ():
        yield os.path.join(cwd, directory, name)


def _executable(view: View, path: str) -> str:
    host_path = view.host_path(path)
    if host_path is None:
        raise ProgramNotFound(f"{path}: no such file in the container")
    if not os.path.isfile(host_path):
        raise ProgramNotExecutable(f"{path} of the container is not a file")
    if not os.access(host_path, os.X_OK):
        raise ProgramNotExecutable(f"{path} of the container may not be executed")
    return host_path


def _first_line(host_path: str, path: str) -> str | None:
    """Return what follows `#!`; None for programs that are not scripts."""
    try:
        with open(host_path, "rb") as file:
            beginning = file.read(_LINE_BYTES)
    except PermissionError:  # a program that may be executed, but not read
        return None
    except OSError as error:
        raise ProgramNotExecutable(f"{path}: {error.strerror}") from error
    if beginning.startswith(b"\x7fELF"):
        return None
    line = beginning.partition(b"\n")[0]
    words = os.fsdecode(line[2:]).replace("\t", " ").strip()
    if not line.startswith(b"#!") or not words:
        raise ProgramNotExecutable(f"{path} of the container is neither a program nor a script")
    return words
