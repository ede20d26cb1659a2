"""A container's files changed so that kernel and loader, which know of no new root, stay in it.

libfakechroot changes the names that programs give to libc. It is not asked when the kernel
follows a symbolic link or starts a program's loader, and when the loader looks for libraries.
So absolute links lead below the root by their full host path, programs name the container's
loader by its full host path, and that loader no longer looks into the host's directories. All
is noted in a journal first, and undone by `restore`.
"""

from __future__ import annotations

import errno
import os

from udocker import disk, fastjson
from udocker.engines.rebase import elfwriter
from udocker.engines.rebase.blinding import blinding
from udocker.engines.rebase.elffile import MACHINES, ElfFile
from udocker.engines.rebase.elfwriter import Change
from udocker.engines.rebase.journal import Journal, Opened, replace_link
from udocker.errors import StartError, UdockerError
from udocker.host.root import Root
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OUTSIDE = ("/proc", "/sys", "/dev")
"""Directories of the host that programs see; links to them lead to the host's."""
_MAX_LOADER = 16 << 20
_MIN_ELF = 52
_STATE_BYTES = 65536
_YOUNG_S = 2.0
"""A file that was changed so short a time ago may still be being written by another run."""


@dataclass(frozen=True)
class State:
    """How far a container's files have been changed."""

    root: str
    """Host path of the root that they were changed for; a store may have moved since."""
    mode: str
    complete: bool = False
    until_ns: int = 0
    """Files whose status changed later than this have not been looked at."""


class Rebasing:
    """The changes of one container, for one mode of fakechroot."""

    def __init__(self, directory: str, root: str, mode: str, loader: str) -> None:
        """`directory` is the container's; `loader` the container's path of its loader.

        `root` is a host path without links.
        """
        self.root = root
        self.mode = mode
        self._loader = loader
        self._state_path = f"{directory}/fakechroot.json"
        self._journal = Journal(f"{directory}/fakechroot.journal", root)
        self._seen: set[int] = set()
        self._volumes: frozenset[str] = frozenset()
        self.failures: list[str] = []
        """What could not be changed, each as a sentence."""

    @property
    def interpreter(self) -> str:
        """Host path of the container's loader, as programs name it."""
        return self.root + self._loader

    def state(self) -> State | None:
        """Return how far the files have been changed; None: they are as the image has them."""
        data = disk.read(self._state_path, _STATE_BYTES)
        if data is None:
            return None
        try:
            members = fastjson.loads(data)
            return State(
                str(members["root"]), str(members["mode"]), members["complete"], members["until"]
            )
        except (ValueError, KeyError, TypeError):  # then the journal alone counts
            return State("", "")

    def apply(self, accounts: str = "", group: str = "") -> None:
        """The files are changed for this root and mode; nothing happens where they are.

        `accounts` and `group` are lines for /etc/passwd and /etc/group, or empty.
        """
        state = self.state()
        if state and (state.root, state.mode, state.complete) == (self.root, self.mode, True):
            return
        if state:
            self.restore()
        self._save(State(self.root, self.mode))
        self._change_all(0)
        self._add_lines(accounts, group)
        self._save(State(self.root, self.mode, complete=True, until_ns=self._clock()))

    def refresh(self, *, alone: bool, volumes: frozenset[str] = frozenset()) -> None:
        """Change what was made since, after `apply`; links at `volumes` are not the container's.

        Unless the container is ours `alone`, files younger than a moment are left for later:
        another run may still be writing them.
        """
        self._volumes = volumes
        state = self.state()
        if state is None:
            return
        until = self._clock()
        if not alone:
            until -= int(_YOUNG_S * 1e9)
        self._change_all(state.until_ns, None if alone else until)
        self._save(replace(state, until_ns=min(until, self._clock())))

    def restore(self) -> None:
        """All files are as they were, byte for byte, but for what programs have changed since."""
        state = self.state()
        if state is None:
            return
        self._save(replace(state, complete=False))
        back = self._journal.undo(interrupted=not state.complete)
        for root in {state.root, self.root} - {""}:
            self._narrow(root, state.until_ns, back)
        os.unlink(self._state_path)

    def _save(self, state: State) -> None:
        members = {"root": state.root, "mode": state.mode}
        times = {"complete": state.complete, "until": state.until_ns}
        disk.write_whole(self._state_path, fastjson.dumps({**members, **times}).encode())

    def _clock(self) -> int:
        """Return the time as the file system of the container has it, in ns."""
        disk.write_whole(f"{self._state_path}.clock", b"", sync=False)
        try:
            return os.stat(f"{self._state_path}.clock").st_ctime_ns
        finally:
            os.unlink(f"{self._state_path}.clock")

    def _change_all(self, since_ns: int, before_ns: int | None = None) -> None:
        """Change links and files whose status changed at `since_ns` or later."""
        try:
            if self.mode != "F1":
                self._blind_loader(since_ns)
            for path, entry in walk(self.root):
                if path in self._volumes:
                    continue
                if entry.is_symlink():
                    self._change_link(path, entry)
                elif self.mode in ("F3", "F4") and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    young = before_ns is not None and status.st_ctime_ns > before_ns
                    if status.st_ctime_ns >= since_ns and not young:
                        self._change_file(path, status)
        except OSError as error:
            raise disk.store_error(error, error.filename or self.root) from error
        finally:
            self._journal.close()

    def _change_link(self, path: str, entry: os.DirEntry[str]) -> None:
        target = os.readlink(entry.path)
        wanted = self._target(path, target)
        if wanted != target:
            self._journal.change_link(path, target, wanted)

    def _target(self, path: str, target: str) -> str:
        """Return where a link at `path`, relative to the root, has to lead."""
        if _is_in(target, self.root):
            return target
        if target.startswith("/"):
            whole = os.path.normpath(target).replace("//", "/")
            if any(_is_in(whole, outside) for outside in OUTSIDE):
                return target
            return self.root if whole == "/" else self.root + whole
        directory = os.path.dirname(path)
        whole = os.path.normpath(f"/{directory}/{target}")
        if any(_is_in(whole, outside) for outside in OUTSIDE):
            return whole
        if _climbs(directory, target):  # above the root, where the kernel would go on
            return self.root if whole == "/" else self.root + whole
        return target

    def _change_file(self, path: str, status: os.stat_result) -> None:
        if status.st_size < _MIN_ELF or status.st_ino in self._seen:
            return
        if status.st_nlink > 1:
            self._seen.add(status.st_ino)
        try:
            change = self._change_of(path)
            if change:
                self._journal.change_file(path, change)
        except OSError as error:
            if error.errno != errno.ETXTBSY:  # it runs: so it has been started by a loader
                self.failures.append(f"/{path}: {error.strerror or error}")
        except ValueError as error:
            self.failures.append(f"/{path}: {error}")

    def _change_of(self, path: str) -> Change | None:
        """Return what has to change in a file, which is opened for reading only."""
        try:
            return _read(f"{self.root}/{path}", self._redirected)
        except PermissionError:
            with self._journal.open(path) as file:
                return self._redirected(file)

    def _redirected(self, file: int) -> Change | None:
        elf = _program(file)
        if elf is None:
            return None
        old = elf.interpreter
        if old is None or _is_in(old, self.root):
            loader = old
        else:
            loader = self.root + old if os.path.lexists(self.root + old) else self.interpreter
        return elfwriter.redirected(elf, loader, self._library_path)

    def _library_path(self, path: str) -> str:
        return path if _is_in(path, self.root) else self.root + os.path.normpath(path)

    def _blind_loader(self, since_ns: int) -> None:
        """The container's loader finds none of the host's caches and directories any more."""
        place = _resolved(self.root, self._loader)
        status = os.stat(place)
        if status.st_ctime_ns < since_ns:
            return
        with open(place, "rb") as file:
            edits = tuple(blinding(file.read(_MAX_LOADER)))
        if edits:
            relative = os.path.relpath(place, self.root)
            self._journal.change_file(relative, Change(status.st_size, edits))
        elif not since_ns:
            raise StartError(
                f"{self._loader} of the container is no loader that is known here",
                hint="--engine F1 takes it as it is; or another engine: userns, proot",
            )

    def _add_lines(self, accounts: str, group: str) -> None:
        for path, line in (("/etc/passwd", accounts), ("/etc/group", group)):
            place = Root(self.root).resolve(path)
            if line and place and os.path.isfile(place):
                self._journal.add_line(os.path.relpath(place, self.root), line)
        self._journal.close()

    def _narrow(self, root: str, since_ns: int, back: frozenset[int]) -> None:
        """Take `root` out of links and programs that were made, or copied, in the container.

        Files `back` are as the journal says that they were.
        """
        for path, entry in walk(self.root):
            place = f"{self.root}/{path}"
            if entry.is_symlink():
                target = os.readlink(place)
                if _is_in(target, root):
                    replace_link(place, target[len(root) :] or "/")
            elif entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                new = status.st_ctime_ns >= since_ns and status.st_ino not in back
                if new and status.st_size >= _MIN_ELF:
                    self._narrow_file(place, root)

    def _narrow_file(self, place: str, root: str) -> None:
        def path(text: str) -> str:
            return text[len(root) :] if _is_in(text, root) else text

        def change_of(file: int) -> Change | None:
            elf = _program(file)
            old = elf.interpreter if elf else None
            new = path(old) if old else None
            return elfwriter.redirected(elf, new, path, shrink=True) if elf else None

        try:
            if _read(place, change_of) is None:
                return
            with Opened(place) as file:
                change = change_of(file)
                times = os.fstat(file)
                if change:
                    change.apply(file)
                os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        except PermissionError:  # what cannot be read was not copied by a program
            pass
        except (OSError, ValueError) as error:
            self.failures.append(f"{place}: {error}")


def _read(place: str, look: Callable[[int], Change | None]) -> Change | None:
    """Return what `look` says of a file that is opened for reading."""
    file = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return look(file)
    finally:
        os.close(file)


def walk(root: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield what lies below `root`, with its relative path; directories before what is in them.

    Links are not followed. What the user may not list, programs of the user cannot either.
    """
    pending = [""]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(f"{root}/{directory}") as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except (PermissionError, FileNotFoundError):
            continue
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            yield path, entry
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)


def _program(file: int) -> ElfFile | None:
    """Return the program or library of this machine that `file` is; None: something else."""
    if os.pread(file, 4, 0) != b"\x7fELF":
        return None
    try:
        elf = ElfFile(file)
    except ValueError:  # nothing that could be run here
        return None
    return elf if elf.shape.bits == 64 and elf.machine == MACHINES.get(os.uname().machine) else None


def _resolved(root: str, path: str) -> str:
    found = Root(root).resolve(path)
    if found is None:
        raise UdockerError(f"{path} of the container leads nowhere")
    return found


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


def _climbs(directory: str, target: str) -> bool:
    """Tell whether a relative target leads above the root, read as text."""
    depth = len(directory.split("/")) if directory else 0
    for part in target.split("/"):
        if part == "..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in ("", "."):
            depth += 1
    return False
