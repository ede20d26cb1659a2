"""What engines have in common that are programs of others and run a container's own files."""

from __future__ import annotations

import os

from udocker import disk, trees
from udocker.containers.rootfs import own_copy
from udocker.containers.spec import Rootfs
from udocker.engines import launching
from udocker.errors import UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from udocker.containers.container import Container
    from udocker.containers.spec import Attendant, Launch, RuntimeSpec
    from udocker.disk import Lock
    from udocker.host.probe import Host


class ExternalEngine:
    """An engine whose containers are directories, in which any number of programs may run."""

    name = ""
    mode = ""
    features: frozenset[str] = frozenset()
    alters = False

    def __init__(self, directory: str, mode: str = "") -> None:
        """`directory` is the store's, `mode` udocker's code; empty: the engine's usual one."""
        self.directory = directory
        self.mode = mode or self.mode

    def obstacle(self, host: Host) -> str | None:
        """Return why this engine cannot run here."""
        raise NotImplementedError

    def stops_every_call(self, host: Host) -> bool:
        """Programs run at their own speed."""
        return False

    def obstacle_of(self, container: Container) -> str | None:
        """Every container can run."""
        return None

    def obstacle_to_mode(self, host: Host, container: Container | None) -> str | None:
        """Its modes are what they are, for every container."""
        return None

    def rootfs(self, host: Host, container: Container) -> Rootfs:
        """Return the container's own copy of its files."""
        return Rootfs(container.rootfs, flat=True)

    def prepare(self, container: Container, rootfs: Rootfs) -> None:
        """Make the copy; remove what runs that have ended left for their programs."""
        own_copy(container)
        remove_ended_runs(container)

    def restore(self, container: Container) -> None:
        """Nothing was changed in the container's files."""

    def plan(self, spec: RuntimeSpec, lock: int | None = None) -> Launch:
        """Return the command that runs `spec`."""
        raise NotImplementedError

    def namespaces(self, lock: Lock) -> tuple[int, ...]:
        """There is nothing to join."""
        return ()

    def join(self, spec: RuntimeSpec, namespaces: tuple[int, ...]) -> Launch:
        """Return the launch of another program in the same root."""
        return self.plan(spec)

    def start(self, launch: Launch) -> NoReturn:
        """Become the command of the launch, or say why not and exit."""
        from udocker import console

        try:
            launching.become(launch)
        except UdockerError as error:
            console.say_error(error)
            os._exit(125)

    def attendant(self) -> Attendant | None:
        """The process is the program itself."""
        return None


def remove_ended_runs(container: Container) -> None:
    """Remove the files of runs whose udocker has ended."""
    runs = f"{container.directory}/runs"
    try:
        names = os.listdir(runs)
    except FileNotFoundError:
        return
    for name in names:
        if not (name.isdigit() and disk.is_alive(int(name))):
            trees.remove_tree(f"{runs}/{name}")
