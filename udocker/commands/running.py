"""Running a program in a container: the engine chosen, files prepared, the program started."""

from __future__ import annotations

import os
import time

from udocker import console
from udocker.containers import choices, features
from udocker.containers.assemble import make_spec
from udocker.containers.hostfiles import files_of
from udocker.engines import select, supervise
from udocker.errors import ContainerNotFound, StartError, UdockerError
from udocker.host.probe import Host
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.commands.stores import Stores
    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import Engine, Launch, Rootfs, RuntimeSpec
    from udocker.disk import Lock
    from udocker.settings import Settings

_LOCK_TRIES, _LOCK_PAUSE_S = 500, 0.02


class Runner:
    """Runs programs in containers of the user's store."""

    def __init__(self, settings: Settings, stores: Stores) -> None:
        self.settings = settings
        self.stores = stores
        self.host = Host()
        self.unshared: tuple[str, ...] = ()
        """Options that do nothing when the run joins one that is going on."""

    def engine(self, request: RunRequest, container: Container | None = None) -> Engine:
        """Return the engine for a run: the run's own wish, the container's, the user's, the best.

        Raises StartError.
        """
        chosen = choices.load(container).mode if container else ""
        return select.choose(
            self.host,
            self.settings.directory,
            request.engine or chosen or self.settings.engine,
            demanded=features.demanded(request),
            container=container,
            with_gpu=request.gpu is not None,
        )

    def run(
        self, engine: Engine, container: Container, request: RunRequest, lock: Lock, *, new: bool
    ) -> int:
        """Run the program; return its exit code if this process has not become the program."""
        try:
            launch = self._prepare(engine, container, request, lock)
            if engine.attendant() is None and not request.remove:
                engine.start(launch)
            code = supervise.run(lambda: engine.start(launch), engine.attendant())
        except BaseException:
            if new:
                self._remove(container, lock)
            raise
        if request.remove:
            self._remove(container, lock)
        return code

    def spec(
        self, engine: Engine, container: Container, request: RunRequest, rootfs: Rootfs
    ) -> RuntimeSpec:
        """Return what will run, with the GPUs of this node. Changes nothing."""
        config = self.stores.config_of(container)
        environment = self.settings.environment
        spec = make_spec(self.host, container, config, request, rootfs, environment)
        supervised = request.remove or engine.attendant() is not None
        return self._with_gpu(replace(spec, supervised=supervised), container, request)

    def tell(self, notes: tuple[str, ...]) -> None:
        """Show notes to the user, unless they want quiet."""
        for note in notes if not self.settings.quiet else ():
            console.warn(note)

    def _prepare(
        self, engine: Engine, container: Container, request: RunRequest, lock: Lock
    ) -> Launch:
        """Return the launch: of a new sandbox, or into the one that runs the container already."""
        rootfs = engine.rootfs(self.host, container)
        for _ in range(_LOCK_TRIES):
            changes = _would_change(engine, container, rootfs)
            if lock.acquire(shared=rootfs.flat and not changes, wait=False):
                if not self.stores.containers.is_there(container):
                    raise ContainerNotFound(f"container {container.id[:12]} has been removed")
                self._prepare_files(engine, container, rootfs)
                if rootfs.flat:
                    lock.acquire(shared=True)
                lock.pass_on()
                return engine.plan(self.spec(engine, container, request, rootfs), lock.fd)
            lock.acquire(shared=True)  # got when the other run has come to its program
            namespaces = engine.namespaces(lock)
            if namespaces:
                self._tell_unshared(container)
                lock.pass_on()
                return engine.join(self.spec(engine, container, request, rootfs), namespaces)
            if _would_change(engine, container, rootfs) and changes:
                raise StartError(
                    f"container {container.id[:12]} is running by another engine",
                    hint=f"udocker stop {container.id[:12]}, or the same --engine",
                )
            lock.let_go()
            time.sleep(_LOCK_PAUSE_S)
        raise StartError(
            f"container {container.id[:12]} is in use, but by no program of this host",
            hint="run the image instead of the container to have several at once",
        )

    def _prepare_files(self, engine: Engine, container: Container, rootfs: Rootfs) -> None:
        """Undo what another engine changed in the container's files; make what this one needs.

        Who has changed them is noted before anything changes, so that nothing is forgotten.
        """
        chosen = choices.load(container)
        wanted = engine.mode if engine.alters else ""
        if chosen.prepared not in ("", wanted):
            by = select.make(select.ways(chosen.prepared)[0], self.settings.directory)
            by.restore(container)
        if chosen.prepared != wanted:
            choices.save(container, replace(chosen, prepared=wanted))
        engine.prepare(container, rootfs)

    def _with_gpu(
        self, spec: RuntimeSpec, container: Container, request: RunRequest
    ) -> RuntimeSpec:
        if request.gpu is None:
            return spec
        from udocker.nvidia.edits import GpuRequest, gpu_edits

        capabilities = tuple(filter(None, request.gpu_capabilities.split(",")))
        wish = GpuRequest(request.gpu, capabilities, spec.process.env)
        image = files_of(container)
        plan = gpu_edits(self.host, wish, image, self.stores.cache, self.settings.environment)
        self.tell(plan.notes)
        return spec.edited(plan.edits)

    def _remove(self, container: Container, lock: Lock) -> None:
        lock.release()
        try:
            self.stores.containers.remove(container)
        except ContainerNotFound:  # `udocker ps` was faster
            pass
        except UdockerError as error:  # the program's exit code matters more
            console.warn(f"container {container.id[:12]} was not removed: {error.message}")

    def _tell_unshared(self, container: Container) -> None:
        if self.unshared:
            names = ", ".join("--" + key.replace("_", "-") for key in self.unshared)
            begun = f"container {container.id[:12]} is running already, as its first run began it"
            self.tell((f"{begun}: {names} has no effect",))


def _would_change(engine: Engine, container: Container, rootfs: Rootfs) -> bool:
    """Tell whether preparing the container changes its files, which nobody may use meanwhile."""
    if rootfs.flat and not os.path.isdir(container.rootfs):
        return True
    return choices.load(container).prepared != (engine.mode if engine.alters else "")
