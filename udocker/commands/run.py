"""`udocker run`: a program in a new container of an image, or in a container made before."""

from __future__ import annotations

import os

from udocker import console, disk
from udocker.commands import runoptions
from udocker.commands.options.table import SUBJECTS
from udocker.commands.running import Runner
from udocker.commands.stores import Stores
from udocker.containers import choices
from udocker.containers.spec import Rootfs
from udocker.errors import UsageError
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from udocker.commands.words import Values
    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.settings import Settings

_UNSHARED = ("User", "Files", "Network", "GPUs")
"""Subjects whose options do nothing for a run that joins a running container: they shape what
is shared."""


def main(given: list[str], settings: Settings) -> int:
    """Run what the words say; returns only when the program ran in a child, with its exit code."""
    values, _, rest = runoptions.parse(given)
    target, args = runoptions.split_target(values, rest)
    stores = Stores(runoptions.pull_settings(values, settings))
    runoptions.settle(values, stores)
    kept = None if values.last("location") else _find_kept(stores, values, target)
    runner = Runner(settings, stores)
    runner.unshared = tuple(key for key in values if SUBJECTS.get(key) in _UNSHARED)
    if kept:
        return run_kept(runner, kept, values.as_words(), args)
    options = runoptions.kept_words(values)
    request = runoptions.make_request(values, args, settings.environment)
    runner.tell(request.notes)
    engine = runner.engine(request)
    check_cidfile(request)
    if request.replace and not request.dry_run:
        remove_named(stores, request.name)
    container = stores.plan_container(target, request, options, args)
    if engine.obstacle_of(container):  # known only now that the image is here
        engine = runner.engine(request, container)
    if request.dry_run:
        rootfs = Rootfs(container.tree, flat=bool(container.location))
        console.put(str(engine.plan(runner.spec(engine, container, request, rootfs))))
        return 0
    runner.words = tuple(options)
    lock = stores.containers.add_locked(container, request.name)
    write_cidfile(request, container)
    code = runner.run(engine, container, request, lock, new=True)
    return _told(container, request, code)


def run_kept(
    runner: Runner,
    container: Container,
    options: Sequence[str],
    args: Sequence[str],
    *,
    told: bool = True,
) -> int:
    """Run a container made before: its own options hold too, the words `options` come after
    them. Returns as `main` does. The id of a detached one is `told` to the user."""
    stores = runner.stores
    environment = runner.settings.environment
    values, own = runoptions.parse_kept(container, options, choices.load(container).gpu)
    request = runoptions.make_request(values, args or list(container.command), environment)
    # how its first run was to be looked after says nothing of this one
    request = replace(
        request,
        detach=own.flag("detach"),
        cidfile=own.last("cidfile"),
        pidfile=own.last("pidfile"),
        replace=False,
    )
    runner.tell(request.notes)
    engine = runner.engine(request, container)
    if request.dry_run:
        rootfs = engine.rootfs(runner.host, container)
        console.put(str(engine.plan(runner.spec(engine, container, request, rootfs))))
        return 0
    check_cidfile(request)
    runner.words = tuple(runoptions.kept_words(values))
    lock = stores.containers.lock(container)
    write_cidfile(request, container)
    code = runner.run(engine, container, request, lock, new=False)
    return _told(container, request, code) if told else code


def _find_kept(stores: Stores, values: Values, target: str) -> Container | None:
    """Return the container that is meant: by the target, or by the name it is to be reused by."""
    name = values.last("name") if values.last("pull") == "reuse" else None
    named = stores.containers.find(name) if name else None
    if named is None:
        return stores.containers.find(target)
    image = stores.find_image(target)
    if named.image != (image.name if image else str(stores.reference(target))):
        raise UsageError(
            f"container {name} is not of the image {target}, but of {named.image}",
            hint=f"another --name, or udocker rm {name}",
        )
    return named


def _told(container: Container, request: RunRequest, code: int) -> int:
    """Print the id of a container that has been detached."""
    if request.detach and code == 0:
        console.put(container.id)
    return code


def check_cidfile(request: RunRequest) -> None:
    """Raises UsageError when the file that the id is to be written to is there."""
    if request.cidfile and os.path.lexists(request.cidfile):
        raise UsageError(
            f"--cidfile {request.cidfile}: there is such a file already",
            hint="remove it if its container is not needed any more",
        )


def write_cidfile(request: RunRequest, container: Container) -> None:
    """The file for the container's id has it, if one was asked for."""
    if request.cidfile:
        disk.write_whole(request.cidfile, container.id.encode(), sync=False)


def remove_named(stores: Stores, name: str | None) -> None:
    """Remove the container of that name, running or not, if there is one."""
    if name is None:
        raise UsageError("--replace needs --name, which says what is replaced")
    former = stores.containers.find(name)
    if former is not None and name in stores.containers.names().get(former.id, ()):
        from udocker.commands.rm import remove

        remove(stores, former, force=True)
