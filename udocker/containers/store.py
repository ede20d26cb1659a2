"""The containers of a user: one directory each, names as links beside them."""

from __future__ import annotations

import os
import time

from udocker import disk, trees
from udocker.containers.container import Container
from udocker.errors import ContainerNotFound, StoreError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.images.store import Image
    from udocker.oci import Digest

_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_FIRST | frozenset("_.-")
_RECORD_BYTES = 16 << 20


def announced(lock: disk.Lock) -> tuple[str, str]:
    """Return the first process of a running container and its mount namespace, as it wrote them
    into the container's lock; empty where it has not."""
    words = os.pread(lock.fd, 100, 0).decode("ascii", "replace").split()
    return (words[0], words[1]) if len(words) == 2 else ("", "")


class ContainerStore:
    """Containers below a directory. A container is there as soon as its container.json is."""

    def __init__(self, directory: str, trees: str) -> None:
        self.directory = f"{directory}/containers"
        self.names_directory = f"{self.directory}/names"
        self.locks = f"{directory}/locks"
        self.trees = trees

    def containers(self) -> list[Container]:
        """Return all containers, oldest first."""
        try:
            ids = [name for name in os.listdir(self.directory) if name != "names"]
        except FileNotFoundError:
            return []
        found = (self._load(identifier) for identifier in ids)
        return sorted((c for c in found if c), key=lambda container: container.created)

    def names(self) -> dict[str, tuple[str, ...]]:
        """Return the names of all containers that have one, by id."""
        names: dict[str, tuple[str, ...]] = {}
        try:
            links = sorted(os.listdir(self.names_directory))
        except FileNotFoundError:
            return names
        for name in links:
            try:
                identifier = os.path.basename(os.readlink(f"{self.names_directory}/{name}"))
            except OSError:  # removed just now, or no link
                continue
            names[identifier] = (*names.get(identifier, ()), name)
        return names

    def find(self, text: str) -> Container | None:
        """Return the container of that name, id, or unique beginning of an id (4 or more)."""
        if not text or "/" in text:
            return None
        try:
            return self._load(os.path.basename(os.readlink(f"{self.names_directory}/{text}")))
        except OSError:
            pass
        if not set(text) <= set("0123456789abcdef") or len(text) < 4:
            return None
        if len(text) == 32:
            return self._load(text)
        ids = [c.id for c in self.containers() if c.id.startswith(text)]
        if len(ids) > 1:
            raise ContainerNotFound(f"{text} begins the ids of {len(ids)} containers")
        return self._load(ids[0]) if ids else None

    def get(self, text: str) -> Container:
        """Return what `find` finds. Raises ContainerNotFound when that is nothing."""
        container = self.find(text)
        if container is None:
            raise ContainerNotFound(f"no container {text!r}", hint="udocker ps lists containers")
        return container

    def plan(
        self,
        image: Image,
        config: Digest,
        *,
        options: tuple[str, ...] = (),
        command: tuple[str, ...] = (),
        ephemeral: bool = False,
    ) -> Container:
        """Return a container of `image` that is not on the disk yet."""
        identifier = os.urandom(16).hex()
        return Container(
            id=identifier,
            directory=f"{self.directory}/{identifier}",
            image=image.name,
            manifest=image.manifest.digest,
            config=config,
            tree=image.tree,
            created=int(time.time()),
            options=options,
            command=command,
            ephemeral=ephemeral,
        )

    def add(self, container: Container, name: str | None = None) -> None:
        """Put the container on the disk. Raises UsageError when `name` is taken or no name."""
        self.add_locked(container, name).release()

    def add_locked(self, container: Container, name: str | None = None) -> disk.Lock:
        """Put the container on the disk as `add` does; return its lock, held from the beginning:
        nobody takes the container for one that a killed run has left."""
        disk.make_directory(container.directory)
        record = container.to_json().encode()
        path = f"{container.directory}/container.json"
        lock = disk.Lock(f"{container.directory}/lock")
        try:
            lock.acquire()
            disk.write_whole(path, record, mode=0o600, sync=not container.ephemeral)
            if name is not None:
                self._claim_name(name, container.id)
        except BaseException:
            lock.release()
            trees.remove_tree(container.directory)
            raise
        return lock

    def remove(self, container: Container) -> None:
        """Remove the container, its files and its names. Raises StoreError while it runs."""
        lock = self.lock(container)
        try:
            if not lock.acquire(wait=False):
                raise StoreError(
                    f"container {container.id[:12]} is running", hint="udocker rm -f ends it"
                )
            for name in self.names().get(container.id, ()):
                os.unlink(f"{self.names_directory}/{name}")
            trees.remove_tree(container.directory)
        finally:
            lock.release()

    def remove_leftovers(self) -> None:
        """Remove containers whose run was to remove them and was killed before it could."""
        for container in self.containers():
            if container.ephemeral:
                try:
                    self.remove(container)
                except (ContainerNotFound, StoreError):  # its run does it, or is still going on
                    continue

    def lock(self, container: Container) -> disk.Lock:
        """Return the lock that a run of the container holds; its program inherits it.

        Raises ContainerNotFound when the container has been removed meanwhile.
        """
        if not self.is_there(container):
            raise ContainerNotFound(f"container {container.id[:12]} has been removed")
        return disk.Lock(f"{container.directory}/lock")

    def is_there(self, container: Container) -> bool:
        """Tell whether nobody has removed the container; to be asked with its lock held."""
        return os.path.exists(f"{container.directory}/container.json")

    def is_running(self, container: Container) -> bool:
        """Tell whether a program of the container is running on this host."""
        try:
            lock = self.lock(container)
        except ContainerNotFound:
            return False
        try:
            return not lock.acquire(wait=False)
        finally:
            lock.release()

    def _claim_name(self, name: str, identifier: str) -> None:
        if not name or name[0] not in _NAME_FIRST or not _NAME_REST.issuperset(name):
            raise UsageError(
                f"{name[:100]!r} cannot name a container",
                hint="a name begins with a letter or digit; letters, digits, _ . - may follow",
            )
        disk.make_directory(self.names_directory)
        disk.make_directory(self.locks)
        link = f"{self.names_directory}/{name}"
        try:
            with disk.Lock(f"{self.locks}/names"):
                if self.find(name) is None and os.path.islink(link):
                    os.unlink(link)  # its container is gone: only one that is there has a name
                os.symlink(f"../{identifier}", link)
        except FileExistsError:
            raise UsageError(
                f"there is a container {name!r} already", hint=f"udocker rm {name}"
            ) from None
        except OSError as error:
            raise disk.store_error(error, link) from error

    def _load(self, identifier: str) -> Container | None:
        directory = f"{self.directory}/{identifier}"
        data = disk.read(f"{directory}/container.json", _RECORD_BYTES)
        return Container.from_json(data, directory, self.trees) if data is not None else None
