"""Modes of a container's files that let their owner read, copy and remove all of them."""

from __future__ import annotations

import os
import stat

from udocker import disk
from udocker.containers.files import Files
from udocker.containers.layer import ForeignFileError, open_layer
from udocker.images.tree import split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.files import Found

_DIRECTORY, _FILE = 0o700, 0o600


def own_directories(container: Container) -> tuple[str, ...]:
    """Return the directories that hold what the container wrote; never its image's tree."""
    return tuple(path for path in (container.upper, container.rootfs) if os.path.isdir(path))


def mend(directory: str) -> int:
    """Files below `directory` have 0600 at least, directories 0700; return how many had not.

    Files of other users stay as they are. Raises StoreError.
    """
    try:
        layer = open_layer(directory)
        layer.added = _DIRECTORY
        with Files(layer) as files:
            return sum(map(_mend, files.walk(files.root())))
    except OSError as error:
        raise disk.store_error(error, directory) from error


def _mend(found: Found) -> bool:
    wanted = _DIRECTORY if found.is_directory else _FILE
    mode = stat.S_IMODE(found.mode)
    known = found.is_directory or found.is_file or stat.S_ISFIFO(found.mode)
    if not known or mode & wanted == wanted or found.status.st_uid != os.geteuid():
        return False
    above, name = split(found.path)
    through = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, through, dir_fd=found.layer.make_writable(above))
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", mode | wanted)
    finally:
        os.close(descriptor)
    return True


def has_strangers(directory: str) -> bool:
    """Tell whether any file below `directory` belongs to another user. Raises StoreError."""
    own = os.geteuid()
    try:
        with Files(open_layer(directory)) as files:
            return any(found.status.st_uid != own for found in files.walk(files.root()))
    except ForeignFileError:
        return True
    except OSError as error:
        raise disk.store_error(error, directory) from error


def take_over(directory: str) -> None:
    """All files below `directory` belong to user and group 0: to be called where all of their
    ids are mapped and 0 is the user outside. Raises OSError."""
    with Files(open_layer(directory, own=False)) as files:
        for found in files.walk(files.root()):
            if (found.status.st_uid, found.status.st_gid) != (0, 0):
                above, name = split(found.path)
                os.chown(name, 0, 0, dir_fd=found.layer.descriptor(above), follow_symlinks=False)
