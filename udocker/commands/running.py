"""Running a program in a container: the engine chosen, files prepared, the program started."""

from __future__ import annotations

import os
import time

from udocker import console, disk
from udocker.commands import withgpus
from udocker.commands.recording import Record
from udocker.containers import choices, features, mountpoints
from udocker.containers.assemble import make_spec
from udocker.containers.hostfiles import files_of
from udocker.containers.logs import LogWriter, path_of
from udocker.containers.volumes import make_volumes
from udocker.engines import select, supervise
from udocker.errors import ContainerNotFound, StartError, UdockerError
from udocker.host.probe import Host
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from udocker.commands.stores import Stores
    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import Engine, Launch, Rootfs, RuntimeSpec
    from udocker.disk import Lock
    from udocker.engines.detached import Monitor
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
        self.words: tuple[str, ...] = ()
        """The options in force, for who looks after the container while it runs."""

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
            with_gpu=withgpus.wants_any(request, self.settings),
        )

    def run(
        self, engine: Engine, container: Container, request: RunRequest, lock: Lock, *, new: bool
    ) -> int:
        """Run the program; return its exit code if this process has not become the program.

        A detached one runs on when this returns 0; other codes say that it did not start.
        """
        if request.pidfile:
            request = replace(request, pidfile=os.path.abspath(request.pidfile))
        if not request.detach:
            return self._attached(engine, container, request, lock, new=new)
        from udocker.engines import detached

        return detached.in_background(
            lambda report: self._detached(engine, container, request, lock, report, new=new),
            keep=(lock.fd,),
        )

    def join(self, engine: Engine, container: Container, request: RunRequest, lock: Lock) -> int:
        """Run the program beside the one that the container runs already; return its exit code.

        Raises StartError when the container is not running.
        """
        if request.detach:
            from udocker.engines import detached

            def action(report: Callable[[int], None]) -> None:
                launch = self._beside(engine, container, request, lock)
                monitor = detached.Monitor(None, terminal=request.terminal, interactive=False)
                monitor.give(lock.fd)
                code = self._monitored(monitor, engine, launch, request, lambda *_: report(0))
                report(code)

            return detached.in_background(action, keep=(lock.fd,))
        launch = self._beside(engine, container, request, lock)
        if engine.attendant() is None:
            engine.start(launch)
        return supervise.run(lambda: engine.start(launch), engine.attendant())

    def _attached(
        self, engine: Engine, container: Container, request: RunRequest, lock: Lock, *, new: bool
    ) -> int:
        record = Record(engine, container, request, self.words)
        try:
            launch, joined = self._prepare(engine, container, request, lock)
            supervised = _is_supervised(engine, request)
            keeper = os.getpid() if supervised else 0

            def start() -> NoReturn:
                if not joined:
                    guard = os.getppid() if supervised else 0
                    record.begins(os.getpid(), guard=guard, keeper=keeper)
                engine.start(launch)

            if not supervised:
                start()
            code = supervise.run(
                start,
                engine.attendant(),
                passes_signals=request.signal_proxy,
                timeout_s=request.timeout_s,
                forsaken=(lambda: self._remove(container, lock)) if request.remove else None,
            )
        except BaseException:
            if new:
                self._remove(container, lock)
            raise
        if not joined:
            record.ends(lock, keeper, code)
        if request.remove:
            self._remove(container, lock)
        return code

    def _detached(
        self,
        engine: Engine,
        container: Container,
        request: RunRequest,
        lock: Lock,
        report: Callable[[int], None],
        *,
        new: bool,
    ) -> None:
        """In the daemon: run the program, report when it is there, note how it ended."""
        from udocker.engines.detached import Monitor

        record = Record(engine, container, request, self.words)
        try:
            launch, joined = self._prepare(engine, container, request, lock)
            monitor = Monitor(
                _log(container, request), terminal=request.terminal, interactive=request.interactive
            )
        except BaseException:
            if new:
                self._remove(container, lock)
            raise

        def started(pid: int, guard: int) -> None:
            if not joined:
                record.begins(pid, guard=guard, keeper=os.getpid())
            report(0)

        code = self._monitored(monitor, engine, launch, request, started)
        if monitor.has_started and not joined:
            from udocker.containers import ending

            ending.end_others(lock)  # what was started beside the program ends with it
            record.ends(lock, os.getpid(), code)
        if request.remove:
            self._remove(container, lock)
        report(code)

    def _monitored(
        self,
        monitor: Monitor,
        engine: Engine,
        launch: Launch,
        request: RunRequest,
        started: Callable[[int, int], None],
    ) -> int:
        return monitor.run(
            lambda: engine.start(launch), engine.attendant(), started, timeout_s=request.timeout_s
        )

    def spec(
        self,
        engine: Engine,
        container: Container,
        request: RunRequest,
        rootfs: Rootfs,
        *,
        joins: bool = False,
    ) -> RuntimeSpec:
        """Return what will run, with the GPUs and devices of this node. Changes nothing.

        One that `joins` a running program has been told of its GPUs already.
        """
        config = self.stores.config_of(container)
        environment = self.settings.environment
        spec = make_spec(self.host, container, config, request, rootfs, environment)
        supervised = _is_supervised(engine, request)
        spec = replace(spec, supervised=supervised, joins_as_user=request.joins_as_user)
        image = files_of(container)
        give = withgpus.with_gpus
        if request.cdi_devices:
            from udocker.commands.withdevices import with_devices as give
        spec, notes = give(spec, engine, self.host, request, self.settings, image, config)
        self.tell(() if joins else notes)
        return spec

    def tell(self, notes: tuple[str, ...]) -> None:
        """Show notes to the user, unless they want quiet."""
        for note in notes if not self.settings.quiet else ():
            console.warn(note)

    def _prepare(
        self, engine: Engine, container: Container, request: RunRequest, lock: Lock
    ) -> tuple[Launch, bool]:
        """Return the launch, and whether it goes into the sandbox that runs the container."""
        rootfs = engine.rootfs(self.host, container)
        for _ in range(_LOCK_TRIES):
            changes = _would_change(engine, container, rootfs)
            alone = lock.acquire(wait=False)
            if alone or (rootfs.flat and not changes and lock.acquire(shared=True, wait=False)):
                if not self.stores.containers.is_there(container):
                    raise ContainerNotFound(f"container {container.id[:12]} has been removed")
                if alone:
                    lock.forget()
                self._prepare_files(engine, container, rootfs)
                make_volumes(container, request.volumes)
                if rootfs.flat:
                    lock.acquire(shared=True)
                lock.pass_on()
                spec = self.spec(engine, container, request, rootfs)
                if not container.ephemeral:
                    mountpoints.note(container, spec)
                return engine.plan(spec, lock.fd), False
            lock.acquire(shared=True)  # got when the other run has come to its program
            namespaces = engine.namespaces(lock)
            if namespaces:
                self._tell_unshared(container)
                lock.pass_on()
                spec = self.spec(engine, container, request, rootfs, joins=True)
                return engine.join(spec, namespaces), True
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

    def _beside(
        self, engine: Engine, container: Container, request: RunRequest, lock: Lock
    ) -> Launch:
        """Return the launch of a program beside the one that the container runs."""
        alone = lock.acquire(wait=False)
        lock.acquire(shared=True)  # waits for a run that is about to start
        namespaces = () if alone else engine.namespaces(lock)
        rootfs = engine.rootfs(self.host, container)
        if alone or not (namespaces or rootfs.flat):
            raise StartError(
                f"container {container.id[:12]} is not running",
                hint=f"udocker start {container.id[:12]}",
            )
        lock.pass_on()
        if namespaces:  # with the mounts that are there
            request = replace(request, binds=(), volumes=(), devices=(), tmpfs=(), volumes_from=())
            spec = self.spec(engine, container, request, rootfs, joins=True)
            return engine.join(spec, namespaces)
        return engine.plan(self.spec(engine, container, request, rootfs), None)

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


def _log(container: Container, request: RunRequest) -> LogWriter | None:
    if request.log_driver == "none":
        return None
    path = path_of(container.directory)
    try:
        return LogWriter(path)
    except OSError as error:
        raise disk.store_error(error, path) from error


def _is_supervised(engine: Engine, request: RunRequest) -> bool:
    """Tell whether a process stays behind, for what the program's own cannot do."""
    wished = request.remove or request.detach or request.timeout_s or not request.signal_proxy
    return bool(wished) or engine.attendant() is not None


def _would_change(engine: Engine, container: Container, rootfs: Rootfs) -> bool:
    """Tell whether preparing the container changes its files, which nobody may use meanwhile."""
    if rootfs.flat and not os.path.isdir(container.rootfs):
        return True
    return choices.load(container).prepared != (engine.mode if engine.alters else "")
