"""The containers of a user: one directory each, names as links beside them."""

from __future__ import annotations

import os
import time

from udocker import disk, trees
from udocker.containers.container import Container
from udocker.errors import ContainerNotFound, DiskFull, StoreError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from udocker.images.store import Image
    from udocker.oci import Digest

_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_FIRST | frozenset("_.-")
_RECORD_BYTES = 16 << 20
_PROTECT = "PROTECT"


def announced(lock: disk.Lock) -> tuple[str, str]:
    """Return the first process of a running container and its mount namespace, as it wrote them
    into the container's lock; empty where it has not."""
    words = _words(lock)
    return (words[0], words[1]) if len(words) > 1 and words[0].isdigit() else ("", "")


EXITED = "exited="
"""What a lock says when the program of the container has ended: this word and its exit code."""
_PROBES, _PROBE_PAUSE_S = 5, 0.004


def left_code(lock: disk.Lock) -> int | None:
    """Return the exit code that the last run left in the container's lock; None: it left none."""
    codes = [word[len(EXITED) :] for word in _words(lock) if word.startswith(EXITED)]
    return int(codes[-1]) if codes and codes[-1].isdigit() else None


def _words(lock: disk.Lock) -> list[str]:
    return os.pread(lock.fd, 200, 0).decode("ascii", "replace").split()


class ContainerStore:
    """Containers below a directory. A container is there as soon as its container.json is."""

    def __init__(
        self, directory: str, trees: str, remove_tree: Callable[[str], None] = trees.remove_tree
    ) -> None:
        """`remove_tree` removes what programs may have given to other ids of the user's."""
        self._remove_tree = remove_tree
        self.directory = f"{directory}/containers"
        self.names_directory = f"{self.directory}/names"
        self.locks = f"{directory}/locks"
        self.trees = trees

    def containers(self, broken: Callable[[StoreError], None] | None = None) -> list[Container]:
        """Return all containers, oldest first.

        A broken one is told to `broken` and left out; without that it raises StoreError.
        """
        found = []
        for identifier in self._ids():
            try:
                found.append(self._load(identifier))
            except StoreError as error:
                if broken is None:
                    raise
                broken(error)
        return sorted((c for c in found if c), key=_age)

    def _ids(self) -> list[str]:
        return [n for n in disk.names_in(self.directory) if n != "names" and "." not in n]

    def names(self) -> dict[str, tuple[str, ...]]:
        """Return the names of all containers that have one, by id."""
        names: dict[str, tuple[str, ...]] = {}
        for name in sorted(disk.names_in(self.names_directory)):
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
        begun = [identifier for identifier in self._ids() if identifier.startswith(text)]
        found = begun if len(begun) < 2 else [i for i in begun if self._load(i)]
        if len(found) > 1:
            raise ContainerNotFound(f"{text} begins the ids of {len(found)} containers")
        return self._load(found[0]) if found else None

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

    def plan_directory(
        self,
        location: str,
        *,
        options: tuple[str, ...] = (),
        command: tuple[str, ...] = (),
        ephemeral: bool = False,
    ) -> Container:
        """Return a container, not on the disk yet, whose root is a directory of the user."""
        from udocker.oci import Digest

        identifier = os.urandom(16).hex()
        return Container(
            id=identifier,
            directory=f"{self.directory}/{identifier}",
            image=location,
            manifest=Digest.of(b""),
            config=Digest.of(b""),
            tree=location,
            created=int(time.time()),
            options=options,
            command=command,
            ephemeral=ephemeral,
            location=location,
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
        """Remove the container, its files and its names.

        Raises StoreError while it runs or is protected.
        """
        lock = self.lock(container, asks=True)
        try:
            if self.is_protected(container):
                raise StoreError(
                    f"container {container.id[:12]} is protected",
                    hint=f"udocker unprotect {container.id[:12]}",
                )
            if not got(lock):
                raise StoreError(
                    f"container {container.id[:12]} is running", hint="udocker rm -f ends it"
                )
            for name in self.names().get(container.id, ()):
                os.unlink(f"{self.names_directory}/{name}")
            self._remove_tree(container.directory)
        finally:
            lock.release()

    def remove_leftovers(self) -> None:
        """Remove containers whose run was to remove them and was killed before it could."""
        for container in self.containers(broken=lambda _: None):
            if container.ephemeral:
                try:
                    self.remove(container)
                except (ContainerNotFound, StoreError):  # its run does it, or is still going on
                    continue

    def check_name(self, name: str) -> None:
        """Raise UsageError when `name` is taken, or cannot name a container."""
        _check_grammar(name)
        if self.find(name) is not None:
            raise _taken(name)

    def add_name(self, container: Container, name: str) -> None:
        """Give the container another name. Raises UsageError when it is taken or no name."""
        self._claim_name(name, container.id)

    def remove_name(self, name: str) -> None:
        """Take a name away; its container stays. Raises ContainerNotFound."""
        try:
            if not name or "/" in name or name in (".", ".."):
                raise FileNotFoundError
            os.unlink(f"{self.names_directory}/{name}")
        except OSError:
            hint = "udocker ps lists containers with their names"
            raise ContainerNotFound(f"no container has the name {name!r}", hint=hint) from None

    def rename(self, old: str, new: str) -> None:
        """Let the container that has the name `old` have the name `new` instead."""
        container = self.get(old)
        self.add_name(container, new)
        if old in self.names().get(container.id, ()):  # not its id
            self.remove_name(old)

    def is_protected(self, container: Container) -> bool:
        """Tell whether the container must not be removed."""
        return os.path.lexists(f"{container.directory}/{_PROTECT}")

    def protect(self, container: Container, *, wanted: bool) -> None:
        """Let nobody remove the container, or let them again. Idempotent. Raises StoreError."""
        path = f"{container.directory}/{_PROTECT}"
        if wanted:
            disk.write_whole(path, b"")
            return
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk.store_error(error, path) from error

    def lock(self, container: Container, *, asks: bool = False) -> disk.Lock:
        """Return the lock that a run of the container holds; its program inherits it.

        Who only `asks` about runs is not taken for one. Raises ContainerNotFound when the
        container has been removed meanwhile.
        """
        if not self.is_there(container):
            raise ContainerNotFound(f"container {container.id[:12]} has been removed")
        try:
            return disk.Lock(f"{container.directory}/lock", asks=asks)
        except DiskFull:
            if not asks:
                raise
            # It was never made and cannot be: no run holds it, and removing makes room.
            return disk.Lock(f"{container.directory}/container.json", asks=True)

    def is_there(self, container: Container) -> bool:
        """Tell whether nobody has removed the container; to be asked with its lock held."""
        return os.path.exists(f"{container.directory}/container.json")

    def is_running(self, container: Container) -> bool:
        """Tell whether a program of the container is running, by its lock."""
        if not os.path.exists(f"{container.directory}/lock"):
            return False
        try:
            lock = self.lock(container, asks=True)
        except ContainerNotFound:
            return False
        try:
            return not got(lock)
        finally:
            lock.release()

    def _claim_name(self, name: str, identifier: str) -> None:
        _check_grammar(name)
        disk.make_directory(self.names_directory)
        disk.make_directory(self.locks)
        link = f"{self.names_directory}/{name}"
        try:
            with disk.Lock(f"{self.locks}/names"):
                if self.find(name) is None and os.path.islink(link):
                    os.unlink(link)  # its container is gone: only one that is there has a name
                os.symlink(f"../{identifier}", link)
        except FileExistsError:
            raise _taken(name) from None
        except OSError as error:
            raise disk.store_error(error, link) from error

    def _load(self, identifier: str) -> Container | None:
        directory = f"{self.directory}/{identifier}"
        data = disk.read(f"{directory}/container.json", _RECORD_BYTES)
        return Container.from_json(data, directory, self.trees) if data is not None else None


def _age(container: Container) -> tuple[int, int]:
    """Return what orders containers by age: the record has seconds, its file more."""
    try:
        return container.created, os.stat(f"{container.directory}/container.json").st_mtime_ns
    except OSError:  # it has just been removed
        return container.created, 0


def got(lock: disk.Lock) -> bool:
    """Take a lock that no run holds; who just asks whether one does has it for a moment only."""
    for _ in range(_PROBES):
        if lock.acquire(wait=False):
            return True
        time.sleep(_PROBE_PAUSE_S)
    return False


def _check_grammar(name: str) -> None:
    if not name or name[0] not in _NAME_FIRST or not _NAME_REST.issuperset(name):
        raise UsageError(
            f"{name[:100]!r} cannot name a container",
            hint="a name begins with a letter or digit; letters, digits, _ . - may follow",
        )


def _taken(name: str) -> UsageError:
    return UsageError(f"there is a container {name!r} already", hint=f"udocker rm {name}")
