"""Where installed programs lie in the store: a version appears whole or not at all.

`engines/NAME/VERSION/` holds the file NAME (or NAME.so), libraries of its own in `lib/`, and a
record of what it is. The link `engines/NAME/current` names the version in use.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat

from udocker import disk, fastjson, trees
from udocker.engines import programs
from udocker.errors import StoreError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.engines.programs import Installed

LIBRARIES = "lib"
"""Directory of a program's own libraries, beside it."""
ORIGINAL = "original"
"""The program as it came, where it was changed to find its libraries."""
_DRAFT = ".draft."


@dataclass(frozen=True)
class Found:
    """What was put into a draft."""

    name: str
    version: str
    origin: str
    """Where it comes from, in words for the user."""


class Draft:
    """A version that is being made, in a directory of its own that nobody else looks into."""

    def __init__(self, directory: str, name: str) -> None:
        """`directory` is the store's. Raises StoreError, also where others can write to it."""
        self.name = name
        self._engines = _private_directory(directory)
        self.path = f"{self._engines}/{_DRAFT}{disk.owner()}.{os.urandom(4).hex()}"
        disk.make_directory(self.path)

    @property
    def file(self) -> str:
        """The program or library itself."""
        return f"{self.path}/{programs.file_name(self.name)}"

    def target(self, version: str) -> str:
        """Return where the draft will lie as that version."""
        return f"{self._engines}/{self.name}/{_directory_name(version)}"

    def put(self, data: bytes, relative: str = "") -> str:
        """Write a file of the version (empty: the program itself); return its path."""
        path = f"{self.path}/{relative}" if relative else self.file
        disk.make_directory(os.path.dirname(path))
        library = bool(relative) or self.name in programs.LIBRARIES
        disk.write_whole(path, data, mode=0o644 if library else 0o755)
        os.chmod(path, 0o644 if library else 0o755)  # whatever the caller's umask is
        return path

    def commit(self, found: Found) -> Installed:
        """Make the draft the version in use.

        One that is there stays when it has the same files: others may be using it this moment.
        One with other files is replaced.
        """
        record = {
            "name": found.name,
            "version": found.version,
            "origin": found.origin,
            "files": dict(checksums(self.path)),
        }
        data = fastjson.dumps(record).encode()
        disk.write_whole(f"{self.path}/{programs.RECORD}", data)
        target = self.target(found.version)
        disk.make_directory(os.path.dirname(target))
        self._rename(target, record["files"])
        _point(f"{os.path.dirname(target)}/{programs.CURRENT}", os.path.basename(target))
        path = f"{target}/{programs.file_name(self.name)}"
        return programs.Installed(self.name, path, found.origin, os.path.basename(target))

    def discard(self) -> None:
        """Nothing of the draft is left."""
        trees.remove_tree(self.path)

    def _rename(self, target: str, files: object) -> None:
        for _ in range(16):
            if _holds(target, files):
                return
            try:
                os.rename(self.path, target)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise disk.store_error(error, target) from error
            self._set_aside(target)
        raise StoreError(f"{target}: others keep replacing it")

    def _set_aside(self, target: str) -> None:
        """Make room: programs that run from the old files keep them until they end."""
        aside = f"{self._engines}/{_DRAFT}{disk.owner()}.{os.urandom(4).hex()}"
        try:
            os.rename(target, aside)
        except FileNotFoundError:  # another one was quicker
            return
        trees.remove_tree(aside)


def _holds(version: str, files: object) -> bool:
    """Tell whether an installed version has these files, by their checksums, and no others."""
    try:
        return dict(checksums(version)) == files
    except OSError:  # it is being replaced
        return False


def remove(installed: Installed) -> None:
    """Remove an installed version; what is left of its name has its newest version in use."""
    version = os.path.dirname(installed.path)
    place = os.path.dirname(version)
    trees.remove_tree(version)
    link = f"{place}/{programs.CURRENT}"
    left = sorted(
        (n for n in os.listdir(place) if n[0] != "." and n != programs.CURRENT),
        key=programs.version_key,
    )
    if left:
        if not os.path.exists(link):
            _point(link, left[-1])
        return
    trees.remove_tree(place)


def purge(directory: str) -> None:
    """Remove all that was ever installed to the store `directory`."""
    trees.remove_tree(f"{directory}/engines")


def remove_leftovers(directory: str) -> None:
    """Remove the drafts of processes of this host that have ended."""
    host = f"{_DRAFT}{os.uname().nodename}-"
    try:
        names = os.listdir(f"{directory}/engines")
    except OSError:
        return
    for name in names:
        pid = name[len(host) :].partition(".")[0] if name.startswith(host) else ""
        if pid.isdigit() and not disk.is_alive(int(pid)):
            trees.remove_tree(f"{directory}/engines/{name}")


def note_verdict(installed: Installed, verdict: str) -> None:
    """Remember beside a program why it cannot be used here; empty: it can."""
    path = f"{os.path.dirname(installed.path)}/{programs.RECORD}"
    record = fastjson.loads(disk.read(path, 1 << 20) or b"{}")
    data = fastjson.dumps({**record, "verdict": verdict}).encode()
    disk.write_whole(path, data)


def checksums(version: str) -> Iterator[tuple[str, str]]:
    """Yield path and SHA-256 of every file below the directory `version`, sorted."""
    for directory, folders, files in os.walk(version):
        folders.sort()
        for name in sorted(files):
            path = f"{directory}/{name}"
            relative = os.path.relpath(path, version)
            if relative != programs.RECORD and stat.S_ISREG(os.lstat(path).st_mode):
                with open(path, "rb") as file:
                    yield relative, hashlib.sha256(file.read()).hexdigest()


def _private_directory(directory: str) -> str:
    """Make the directory of engines; return it. What others can change is not to be run."""
    engines = disk.make_directory(f"{directory}/engines")
    for path in (directory, engines):
        status = os.stat(path)
        if status.st_uid not in (os.geteuid(), 0):
            raise StoreError(f"{path} belongs to uid {status.st_uid}, who could change programs")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StoreError(
                f"{path} can be written to by others, who could change programs that you run",
                hint=f"chmod go-w {path}",
            )
    return engines


def _directory_name(version: str) -> str:
    """Return the version as a file name; a colon would end a directory in a RUNPATH."""
    return version.replace(":", "%3a")


def _point(link: str, target: str) -> None:
    draft = f"{os.path.dirname(link)}/{_DRAFT}{disk.owner()}.{os.urandom(4).hex()}"
    try:
        os.symlink(target, draft)
        os.rename(draft, link)
    except OSError as error:
        raise disk.store_error(error, link) from error
