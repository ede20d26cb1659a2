"""Changes to files of a container that can all be undone, also after a kill in the middle.

What a change overwrites is written to a journal before the change is made; undoing reads it
backwards. Paths in it are relative to the root, so that a store can move. What a program changed
after us stays as the program made it: only our own bytes are taken back.
"""

from __future__ import annotations

import os
import stat

from udocker import disk, fastjson
from udocker.engines.rebase.elfwriter import Change, Edit
from udocker.errors import StoreError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Union

    Record = Union["FileRecord", "LinkRecord", "TextRecord", "ModeRecord"]

_MAX_BYTES = 1 << 30
_CHUNK = 1 << 20
_DRAFT = ".udocker.link"
"""A new link before it takes the place of the old one."""
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class FileRecord:
    """A file whose bytes were changed: what was where before, and what is there now."""

    path: str
    inode: int
    size: int
    grown: int
    mtime_ns: int
    edits: tuple[Edit, ...]

    def members(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        edits = [[e.offset, e.old.hex(), e.new.hex()] for e in self.edits]
        facts = [self.inode, self.size, self.grown, self.mtime_ns]
        return {"file": self.path, "facts": facts, "edits": edits}

    def undo(self, root: str, path: str | None = None) -> bool:
        """Bring the file back; `path` is where it lies now if it was renamed.

        Tell whether it was ours still: a program may have written another one in its place.
        """
        place = f"{root}/{path or self.path}"
        before = os.lstat(place)
        if before.st_ino != self.inode or not stat.S_ISREG(before.st_mode):
            return False
        with Opened(place) as file:
            return self._undo(file, before)

    def _undo(self, file: int, before: os.stat_result) -> bool:
        if not all(_is_of(os.pread(file, len(e.old), e.offset), e) for e in self.edits):
            return False
        for edit in self.edits:
            os.pwrite(file, edit.old, edit.offset)
        if self.size <= before.st_size <= self.grown:
            os.ftruncate(file, self.size)
        mtime_ns = self.mtime_ns if before.st_size <= self.grown else before.st_mtime_ns
        os.utime(file, ns=(before.st_atime_ns, mtime_ns))
        return True


@dataclass(frozen=True)
class LinkRecord:
    """A symbolic link that leads elsewhere now."""

    path: str
    old: str
    new: str
    mtime_ns: int
    directory_mtime_ns: int

    def members(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        times = [self.mtime_ns, self.directory_mtime_ns]
        return {"link": self.path, "old": self.old, "new": self.new, "mtimes": times}

    def undo(self, root: str) -> None:
        """Let the link lead where it led."""
        path = f"{root}/{self.path}"
        directory = os.path.dirname(path)
        if os.path.islink(f"{directory}/{_DRAFT}"):
            with Unlocked(directory):
                os.unlink(f"{directory}/{_DRAFT}")
        if os.path.islink(path) and os.readlink(path) == self.new:
            replace_link(path, self.old, self.mtime_ns)

    def restore_directory(self, root: str) -> None:
        """Give the link's directory the time that it had, which a kill has changed."""
        directory = os.path.dirname(f"{root}/{self.path}")
        if os.path.isdir(directory):
            times = (os.stat(directory).st_atime_ns, self.directory_mtime_ns)
            os.utime(directory, ns=times)


@dataclass(frozen=True)
class TextRecord:
    """A line that was added to the end of a text."""

    path: str
    inode: int
    size: int
    mtime_ns: int
    added: str

    def members(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {"text": self.path, "facts": [self.inode, self.size, self.mtime_ns], "a": self.added}

    def undo(self, root: str) -> None:
        """Take the line away, wherever in the text it stands by now."""
        path = f"{root}/{self.path}"
        before = os.lstat(path)
        if not stat.S_ISREG(before.st_mode) or before.st_size > _CHUNK * 16:
            return
        with Opened(path) as file:
            data = os.pread(file, before.st_size, 0)
            added = os.fsencode(self.added)
            ours = before.st_ino == self.inode and before.st_size <= self.size + len(added)
            if ours:
                os.ftruncate(file, min(self.size, before.st_size))
                os.utime(file, ns=(before.st_atime_ns, self.mtime_ns))
            elif added.lstrip(b"\n") in data:
                rest = data.replace(added.lstrip(b"\n"), b"", 1)
                os.pwrite(file, rest, 0)
                os.ftruncate(file, len(rest))


@dataclass(frozen=True)
class ModeRecord:
    """A file or directory that is made writable for a moment."""

    path: str
    old: int
    new: int

    def members(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {"mode": self.path, "old": self.old, "new": self.new}

    def undo(self, root: str) -> None:
        """Take the permission back, if it is still there."""
        path = f"{root}/{self.path}"
        if stat.S_IMODE(os.lstat(path).st_mode) == self.new:
            os.chmod(path, self.old)


class Opened:
    """A regular file open for writing, also one that is read-only: its mode is as it was then."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._mode: int | None = None
        self._file = -1

    def __enter__(self) -> int:
        try:
            self._file = os.open(self.path, _OPEN)
        except PermissionError:
            self._mode = stat.S_IMODE(os.lstat(self.path).st_mode)
            os.chmod(self.path, self._mode | stat.S_IRUSR | stat.S_IWUSR)
            self._file = os.open(self.path, _OPEN)
        return self._file

    def __exit__(self, *_: object) -> None:
        if self._mode is not None:
            os.fchmod(self._file, self._mode)
        os.close(self._file)


class Unlocked:
    """A directory in which names may be changed, even a read-only one; its times stay."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._before = os.stat(self._path)
        if self._before.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(self._path, stat.S_IMODE(self._before.st_mode) | stat.S_IRWXU)

    def __exit__(self, *_: object) -> None:
        mode = stat.S_IMODE(self._before.st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(self._path, mode)
        os.utime(self._path, ns=(self._before.st_atime_ns, self._before.st_mtime_ns))


class Journal:
    """The changes made to the files below `root`, in the file `path`."""

    def __init__(self, path: str, root: str) -> None:
        self.path = path
        self.root = root
        self._file = -1

    def open(self, relative: str) -> Opened:
        """Return the file to be opened for writing; that it is made writable is noted."""
        path = f"{self.root}/{relative}"
        self._note_mode(relative, stat.S_IRUSR | stat.S_IWUSR)
        return Opened(path)

    def change_file(self, relative: str, change: Change) -> None:
        """Apply `change` to the file; its times and mode stay. Raises OSError."""
        with self.open(relative) as file:
            status = os.fstat(file)
            sizes, mtime_ns = (change.size, change.grown), status.st_mtime_ns
            record = FileRecord(relative, status.st_ino, *sizes, mtime_ns, change.edits)
            self._note(record.members())
            change.apply(file)
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    def change_link(self, relative: str, old: str, new: str) -> None:
        """Let the symbolic link lead to `new`; its times and its directory's stay."""
        path = f"{self.root}/{relative}"
        self._note_mode(os.path.dirname(relative), stat.S_IRWXU)
        mtime_ns = os.lstat(path).st_mtime_ns
        directory_mtime_ns = os.stat(os.path.dirname(path)).st_mtime_ns
        self._note(LinkRecord(relative, old, new, mtime_ns, directory_mtime_ns).members())
        replace_link(path, new, mtime_ns)

    def add_line(self, relative: str, line: str) -> None:
        """Add a line to the end of a text of the container."""
        with self.open(relative) as file:
            status = os.fstat(file)
            last = os.pread(file, 1, max(status.st_size - 1, 0))
            added = line if last in (b"", b"\n") else f"\n{line}"
            inode, size, mtime_ns = status.st_ino, status.st_size, status.st_mtime_ns
            self._note(TextRecord(relative, inode, size, mtime_ns, added).members())
            os.pwrite(file, os.fsencode(added), status.st_size)

    def close(self) -> None:
        """Nothing more is written by this object."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def undo(self, *, interrupted: bool) -> frozenset[int]:
        """Bring back all that was changed, and remove the journal. Raises StoreError.

        After a kill (`interrupted`) the times of directories are brought back as well. Return the
        inodes of the files that are as they were; others have been written by programs since.
        """
        self.close()
        records = [_record(members) for members in self._lines()]
        moved = _Inodes(self.root)
        back: set[int] = set()
        lost: set[int] = set()
        for record in reversed(records):
            try:
                done = self._undo(record, moved)
            except OSError as error:
                raise disk.store_error(error, f"{self.root}/{record.path}") from error
            if isinstance(record, FileRecord):
                (back if done else lost).add(record.inode)
        for record in reversed(records) if interrupted else ():
            if isinstance(record, LinkRecord):
                record.restore_directory(self.root)
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        return frozenset(back - lost)

    def _undo(self, record: Record, moved: _Inodes) -> bool:
        """Undo one change; tell whether that could be done, for a file also where it lies now."""
        try:
            if record.undo(self.root) is not False:
                return True
        except (FileNotFoundError, NotADirectoryError):  # removed, or renamed
            pass
        if not isinstance(record, FileRecord) or record.inode not in moved:
            return False
        return record.undo(self.root, moved[record.inode])

    def _note_mode(self, relative: str, needed: int) -> None:
        mode = stat.S_IMODE(os.lstat(f"{self.root}/{relative}").st_mode)
        if mode & needed != needed:
            self._note(ModeRecord(relative, mode, mode | needed).members())

    def _note(self, members: dict[str, Any]) -> None:
        if self._file < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o600)
            if os.fstat(self._file).st_size:
                os.write(self._file, b"\n")  # what a kill left of a line ends here
        line = f"{fastjson.dumps(members)}\n".encode()
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self.path}: the disk is full")

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yield the notes; one that was cut off by a kill came before its change."""
        data = disk.read(self.path, _MAX_BYTES) or b""
        for line in data.split(b"\n"):
            try:
                members = fastjson.loads(line) if line else None
            except ValueError:
                continue
            if members is not None:
                yield members


class _Inodes:
    """Where files lie by inode, found out when it is first asked for."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._paths: dict[int, str] | None = None

    def __contains__(self, inode: int) -> bool:
        return inode in self._known()

    def __getitem__(self, inode: int) -> str:
        return self._known()[inode]

    def _known(self) -> dict[int, str]:
        if self._paths is None:
            self._paths = {}
            for directory, _, names in os.walk(self._root):
                for name in names:
                    path = f"{directory}/{name}"
                    self._paths[os.lstat(path).st_ino] = path[len(self._root) + 1 :]
        return self._paths


def replace_link(path: str, target: str, mtime_ns: int | None = None) -> None:
    """The symbolic link `path` leads to `target`; the times of its directory stay.

    A reader sees the old link or the new one. Raises OSError.
    """
    directory = os.path.dirname(path)
    with Unlocked(directory):
        draft = f"{directory}/{_DRAFT}"
        if os.path.islink(draft):  # a kill left it
            os.unlink(draft)
        os.symlink(target, draft)
        if mtime_ns is not None:
            os.utime(draft, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
        os.rename(draft, path)


def _is_of(found: bytes, edit: Edit) -> bool:
    """Tell whether bytes are the old ones, the new ones, or new ones that a kill cut off."""
    return len(found) == len(edit.old) and all(
        byte in pair for byte, *pair in zip(found, edit.old, edit.new)
    )


def _record(members: dict[str, Any]) -> Record:
    try:
        if "file" in members:
            rows = members["edits"]
            edits = tuple(Edit(n, bytes.fromhex(old), bytes.fromhex(new)) for n, old, new in rows)
            inode, size, grown, mtime_ns = members["facts"]
            return FileRecord(members["file"], inode, size, grown, mtime_ns, edits)
        if "link" in members:
            old, new, times = members["old"], members["new"], members["mtimes"]
            return LinkRecord(members["link"], old, new, *times)
        if "mode" in members:
            return ModeRecord(members["mode"], members["old"], members["new"])
        inode, size, mtime_ns = members["facts"]
        return TextRecord(members["text"], inode, size, mtime_ns, members["a"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"the journal of a container's changed files is broken: {error!r}",
            hint="remove the container (udocker rm) and make it anew of its image",
        ) from error
