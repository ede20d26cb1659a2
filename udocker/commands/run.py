"""`udocker run`: a program in a new container of an image, or in a container made before."""

from __future__ import annotations

from udocker import console
from udocker.commands import runoptions, words
from udocker.commands.running import Runner
from udocker.commands.stores import Stores
from udocker.containers.spec import Rootfs
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.settings import Settings

_UNSHARED = (
    *("volume", "bindhome", "device", "gpu", "gpus", "nv", "tmpfs", "hostname", "network"),
    *("read_only", "user", "userns", "hostauth"),
)
"""Options that do nothing for a run that joins a running container: they shape what is shared."""


def main(given: list[str], settings: Settings) -> int:
    """Run what the words say; returns only when the program ran in a child, with its exit code."""
    values, options, rest = words.parse(given, runoptions.OPTIONS)
    if not rest:
        raise UsageError("no image or container was named", hint="udocker run --help")
    target, args = rest[0], rest[1:]
    stores = Stores(settings)
    kept = stores.containers.find(target)
    runner = Runner(settings, stores)
    runner.unshared = tuple(key for key in _UNSHARED if values.all(key))
    if kept:  # its own options hold too, those given now come after them
        values, options, _ = words.parse([*kept.options, *options], runoptions.OPTIONS)
        args = args or list(kept.command)
    request = runoptions.make_request(values, args, settings.environment)
    runner.tell(request.notes)
    engine = runner.engine(request, kept)
    container = kept or stores.plan_container(target, request, options, args)
    if engine.obstacle_of(container):  # known only now that the image is here
        engine = runner.engine(request, container)
    if request.dry_run:
        rootfs = engine.rootfs(runner.host, container) if kept else Rootfs(container.tree)
        console.put(str(engine.plan(runner.spec(engine, container, request, rootfs))))
        return 0
    if kept:
        lock = stores.containers.lock(kept)
    else:
        lock = stores.containers.add_locked(container, request.name)
    return runner.run(engine, container, request, lock, new=kept is None)
