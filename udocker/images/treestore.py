"""The unpacked trees of images, each under the ChainID of its layers, and a record of each.

    trees/HEX      all layers of an image, unpacked and merged
    records/HEX    what the tree holds, and since which boot it has been there
    owners/HEX     owners and modes, where files cannot have attributes, see `sidefile`

Files are not flushed to the disk one by one before a tree gets its name: that would take longer
than the pull itself. Until the kernel has written them (half a minute) a power failure can leave
some of them empty. So the record says in which boot the tree was made; after another boot its
files are counted once before it is used, and a tree that lost some is made again from the blobs,
which are flushed. Where other hosts share the file system it is flushed as a whole instead.
"""

from __future__ import annotations

import errno
import os
import stat

from udocker import disk, fastjson, filesystems, trees
from udocker.errors import StoreError, UdockerError, UnpackError
from udocker.images import override
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.oci import Digest

_RECORD_BYTES = 4096
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_SAFE = ""
"""In place of a boot: the tree is on the disk, whatever happens."""


@dataclass(frozen=True)
class Extent:
    """What a tree holds: regular files, the sum of their sizes, what they take on the disk."""

    files: int
    size_bytes: int
    disk_bytes: int


class TreeStore:
    """Trees below a directory. A tree is there when its record is, too."""

    def __init__(self, directory: str, partial: str) -> None:
        self.directory = f"{directory}/trees"
        self.records = f"{directory}/records"
        self.owners = f"{directory}/owners"
        self._partial = partial

    def path(self, chain_id: Digest) -> str:
        """Return where the tree of those layers lies or would lie."""
        return f"{self.directory}/{chain_id.hex}"

    def names(self) -> list[str]:
        """Return the ChainIDs, as hex, of which something is here."""
        found: set[str] = set()
        for directory in (self.directory, self.records, self.owners):
            found.update(disk.names_in(directory))
        return sorted(found)

    def extent(self, name: str) -> Extent | None:
        """Return what the tree of that ChainID (hex) held when it was made; None: unknown."""
        record = self._read(name)
        return record[1] if record else None

    def is_whole(self, chain_id: Digest) -> bool:
        """Tell whether the tree is here with all its files. Counts them after a boot, once."""
        record = self._read(chain_id.hex)
        if record is None or not os.path.isdir(self.path(chain_id)):
            return False
        boot, extent = record
        if boot in (_SAFE, _boot_id()) or not os.access(self.records, os.W_OK):
            return True
        found = measure(self.path(chain_id))
        if (found.files, found.size_bytes) != (extent.files, extent.size_bytes):
            return False
        self._write(chain_id.hex, _SAFE, extent)
        return True

    def publish(self, prepared: str, chain_id: Digest, *, public: bool) -> None:
        """Give a finished tree its name; where another process was first, its tree stays.

        With `public` other users may read all of it, and nothing in it is setuid or may be
        written by others than its owner.
        """
        if public:
            open_to_readers(prepared)
        extent = measure(prepared)
        boot = _SAFE if _is_flushed(prepared) else _boot_id()
        if self.is_whole(chain_id):
            trees.remove_tree(prepared)
            return
        self.discard(chain_id.hex)  # one that lost files, or whose record was never written
        try:
            self._give_owners(prepared, chain_id, public=public)
            os.rename(prepared, self.path(chain_id))
        except OSError as error:
            if not os.path.isdir(self.path(chain_id)):
                raise disk.store_error(error, self.directory) from error
            trees.remove_tree(prepared)
        self._write(chain_id.hex, boot, extent)

    def _give_owners(self, prepared: str, chain_id: Digest, *, public: bool) -> None:
        from udocker.images import sidefile

        if os.path.exists(sidefile.beside(prepared)):
            disk.make_directory(self.owners, 0o755 if public else 0o700)
            os.rename(sidefile.beside(prepared), f"{self.owners}/{chain_id.hex}")

    def take_over(self, chain_id: Digest) -> None:
        """Record a tree of a version that kept no records: its name said that it was whole."""
        if self._read(chain_id.hex) is None and os.path.isdir(self.path(chain_id)):
            self._write(chain_id.hex, _SAFE, measure(self.path(chain_id)))

    def discard(self, name: str) -> None:
        """Remove a tree and its record, if there are any; they lose their names first."""
        record, tree = f"{self.records}/{name}", f"{self.directory}/{name}"
        gone = f"{self._partial}/tree.{disk.owner()}.{os.urandom(4).hex()}"
        try:
            trees.remove_tree(record)
            trees.remove_tree(f"{self.owners}/{name}")
            os.rename(tree, gone)
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk.store_error(error, tree) from error
        trees.remove_tree(gone)

    def _read(self, name: str) -> tuple[str, Extent] | None:
        try:
            data = disk.read(f"{self.records}/{name}", _RECORD_BYTES)
        except StoreError as error:
            if disk.is_of_no_file(error.__cause__):
                return None
            raise
        if not data:
            return None
        try:
            boot, files, size, taken = fastjson.loads(data)
            return str(boot), Extent(int(files), int(size), int(taken))
        except (ValueError, TypeError):
            return None

    def _write(self, name: str, boot: str, extent: Extent) -> None:
        members = (boot, extent.files, extent.size_bytes, extent.disk_bytes)
        data = fastjson.dumps(members).encode()
        path = f"{self.records}/{name}"
        disk.write_whole(path, data, sync=boot == _SAFE, drafts=self._partial)


def _is_flushed(path: str) -> bool:
    """Flush a tree where other hosts may see it; tell whether it is on the disk."""
    return filesystems.is_shared(path) and filesystems.flush(path)


def measure(path: str) -> Extent:
    """Return what a tree holds; a file with several names takes space once.

    Raises StoreError; UnpackError when a path in it is longer than Linux takes.
    """
    files = size = blocks = 0
    seen: set[int] = set()
    for status in _statuses(path):
        if stat.S_ISREG(status.st_mode):
            files += 1
            size += status.st_size
            if status.st_nlink > 1:
                if status.st_ino in seen:
                    continue
                seen.add(status.st_ino)
        blocks += status.st_blocks
    return Extent(files, size, blocks * 512)


def _statuses(path: str) -> Iterator[os.stat_result]:
    directories = [path]
    while directories:
        directory = directories.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    yield status
                    if stat.S_ISDIR(status.st_mode):
                        directories.append(entry.path)
        except OSError as error:
            raise _failure(error, directory) from error


def _failure(error: OSError, path: str) -> UdockerError:
    if error.errno == errno.ENAMETOOLONG:
        return UnpackError(f"the path {path[:200]!r}... has {len(path)} bytes, too many for Linux")
    return disk.store_error(error, path)


def open_to_readers(path: str) -> None:
    """Let every user read the tree and nobody but its owner write to it.

    What the image says of modes is remembered as it is of what a user cannot make.
    """
    noted: dict[bytes, bytes] = {}
    try:
        for directory, _, names, descriptor in os.fwalk(path):
            within = directory[len(path) + 1 :]
            status = os.fstat(descriptor)
            _open_one(f"/proc/self/fd/{descriptor}", status.st_mode, within, noted)
            for name in names:
                mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
                if stat.S_ISREG(mode):
                    _open_one(f"{directory}/{name}", mode, os.path.join(within, name), noted)
    except OSError as error:
        raise _failure(error, error.filename or path) from error
    if noted:
        from udocker.images import sidefile

        sidefile.add(path, noted)


def _open_one(path: str, mode: int, within: str, noted: dict[bytes, bytes]) -> None:
    mode = stat.S_IMODE(mode)
    wanted = override.readable_mode(mode)
    if wanted == mode:
        return
    value = override.encode((0, 0), mode)
    os.chmod(path, wanted | 0o200)
    try:
        os.setxattr(path, override.ATTRIBUTE, value, os.XATTR_CREATE)
    except OSError as error:  # it has one, with its owner; or the file system has none
        if error.errno == errno.ENOTSUP:
            noted[os.fsencode(within)] = value
    os.chmod(path, wanted)


def _boot_id() -> str:
    try:
        with open(_BOOT_ID, encoding="utf-8") as file:
            return file.read(64).strip()
    except OSError:  # pragma: no cover - /proc is always there
        return "unknown"
