"""`udocker run`: a program in a new container of an image, or in a container made before."""

from __future__ import annotations

import time

from udocker import console
from udocker.commands import runoptions, words
from udocker.commands.stores import Stores
from udocker.containers.assemble import make_spec
from udocker.containers.hostfiles import files_of
from udocker.containers.spec import Rootfs
from udocker.engines import select, supervise
from udocker.errors import ContainerNotFound, StartError, UdockerError, UsageError
from udocker.host.probe import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import Engine, Launch, RuntimeSpec
    from udocker.disk import Lock
    from udocker.settings import Settings

_UNSHARED = (
    *("volume", "bindhome", "device", "gpu", "gpus", "nv", "tmpfs", "hostname", "network"),
    *("read_only", "user", "userns", "hostauth"),
)
"""Options that do nothing for a run that joins a running container: they shape what is shared."""
_LOCK_TRIES, _LOCK_PAUSE_S = 500, 0.02


def main(given: list[str], settings: Settings) -> int:
    """Run what the words say; returns only when the program ran in a child, with its exit code."""
    return _Run(settings).carry_out(given)


class _Run:
    """One `udocker run`, with what all its steps need."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.host = Host()
        self.stores = Stores(settings)
        self.unshared: list[str] = []

    def carry_out(self, given: list[str]) -> int:
        values, options, rest = words.parse(given, runoptions.OPTIONS)
        if not rest:
            raise UsageError("no image or container was named", hint="udocker run --help")
        target, args = rest[0], rest[1:]
        kept = self.stores.containers.find(target)
        self.unshared = [key for key in _UNSHARED if values.all(key)]
        if kept:  # its own options hold too, those given now come after them
            values, options, _ = words.parse([*kept.options, *options], runoptions.OPTIONS)
            args = args or list(kept.command)
        request = runoptions.make_request(values, args, self.settings.environment)
        self._tell(request.notes)
        engine = select.choose(
            self.host, self.settings.directory, request.engine or self.settings.engine
        )
        container = kept or self.stores.plan_container(target, request, options, args)
        if request.dry_run:
            rootfs = engine.rootfs(self.host, container) if kept else Rootfs(container.tree)
            console.put(str(engine.plan(self._spec(container, request, rootfs))))
            return 0
        if kept:
            lock = self.stores.containers.lock(kept)
        else:
            lock = self.stores.containers.add_locked(container, request.name)
        return self._run(engine, container, request, lock, new=kept is None)

    def _run(
        self, engine: Engine, container: Container, request: RunRequest, lock: Lock, *, new: bool
    ) -> int:
        try:
            launch = self._prepare(engine, container, request, lock)
            if not request.remove:
                engine.start(launch)
            code = supervise.run(lambda: engine.start(launch))
        except BaseException:
            if new:
                self._remove(container, lock)
            raise
        self._remove(container, lock)
        return code

    def _prepare(
        self, engine: Engine, container: Container, request: RunRequest, lock: Lock
    ) -> Launch:
        """Return the launch: of a new sandbox, or into the one that runs the container already."""
        rootfs = engine.rootfs(self.host, container)
        spec = self._spec(container, request, rootfs)
        for _ in range(_LOCK_TRIES):
            if lock.acquire(shared=rootfs.flat, wait=False):
                if not self.stores.containers.is_there(container):
                    raise ContainerNotFound(f"container {container.id[:12]} has been removed")
                engine.prepare(container, rootfs)
                lock.pass_on()
                return engine.plan(spec, lock.fd)
            lock.acquire(shared=True)  # got when the other run has come to its program
            namespaces = engine.namespaces(lock)
            if namespaces:
                self._tell_unshared(container)
                lock.pass_on()
                return engine.join(spec, namespaces)
            lock.let_go()
            time.sleep(_LOCK_PAUSE_S)
        raise StartError(
            f"container {container.id[:12]} is in use, but by no program of this host",
            hint="run the image instead of the container to have several at once",
        )

    def _spec(self, container: Container, request: RunRequest, rootfs: Rootfs) -> RuntimeSpec:
        config = self.stores.config_of(container)
        environment = self.settings.environment
        spec = make_spec(self.host, container, config, request, rootfs, environment)
        return self._with_gpu(spec, container, request)

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
        self._tell(plan.notes)
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
            self._tell((f"{begun}: {names} has no effect",))

    def _tell(self, notes: tuple[str, ...]) -> None:
        for note in notes if not self.settings.quiet else ():
            console.warn(note)
