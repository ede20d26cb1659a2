"""The directories of an image's tree that belongs to somebody else, made in a writable layer.

In a container whoever runs it is root, but not over files of an account that has no id there: in
a tree of the site's store nothing could be made, not even a file in /tmp. A layer that has all
its directories, owned by the user, lets files be made, replaced and removed; only what is in a
file of the image cannot be changed in place.
"""

from __future__ import annotations

import os
import stat

from udocker import disk, trees
from udocker.images import override

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container


def is_foreign(tree: str) -> bool:
    """Tell whether the tree belongs to another account, whose rights this user does not have."""
    try:
        return os.geteuid() not in (0, os.stat(tree).st_uid)
    except OSError:
        return False


def make_upper(container: Container) -> None:
    """The container has a writable layer; over a foreign tree it has all its directories."""
    if os.path.isdir(container.upper):
        return
    if not is_foreign(container.tree):
        mode = stat.S_IMODE(os.stat(container.tree).st_mode)
        os.mkdir(container.upper, 0o700)
        os.chmod(container.upper, mode)  # whatever the umask is
        return
    draft = f"{container.upper}.{disk.owner()}"
    try:
        _copy_directories(container.tree, draft)
        os.rename(draft, container.upper)
    except BaseException:
        trees.remove_tree(draft)
        raise


def _copy_directories(tree: str, copy: str) -> None:
    """Make `copy` a tree of the same directories, with modes and times. Raises OSError."""
    from udocker.containers.remembered import noted_of

    waiting, made = [(tree, copy)], []
    noted = noted_of(tree)
    while waiting:
        source, target = waiting.pop()
        os.mkdir(target, 0o700)
        made.append((source, target))
        with os.scandir(source) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{target}/{entry.name}"))
    for source, target in reversed(made):
        _copy_attributes(source, target, noted.get(os.fsencode(source[len(tree) + 1 :]), b""))


def _copy_attributes(source: str, target: str, value: bytes) -> None:
    """`value` is what is remembered of a directory that has no attribute."""
    status = os.stat(source, follow_symlinks=False)
    mode = stat.S_IMODE(status.st_mode) | 0o700
    try:
        value = os.getxattr(source, override.ATTRIBUTE, follow_symlinks=False)
    except OSError:  # it has none, or cannot have any
        pass
    try:
        if value:
            os.setxattr(target, override.ATTRIBUTE, value)
    except OSError:
        pass
    remembered = override.decode(value)
    if remembered:  # the mode on the disk is one for all to read
        mode = override.directory_mode(remembered[1])
    os.chmod(target, mode)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
