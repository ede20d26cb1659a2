"""`udocker setup`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands.atrest import held
from udocker.commands.stores import Stores
from udocker.containers import choices, permissions
from udocker.containers.leftovers import remove_leftovers
from udocker.engines import select
from udocker.engines.external import remove_ended_runs
from udocker.errors import StartError, StoreError, UdockerError
from udocker.host.probe import Host
from udocker.settings import Settings
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container

_AUTOMATIC = "auto"


@click.command()
@click.option("--execmode", metavar="MODE", help="Engine or mode to run it with; auto: the best.")
@click.option("--force", is_flag=True, help="Set a mode that cannot be used here, or now.")
@click.option(
    "--nvidia/--no-nvidia",
    default=None,
    help="Use the node's GPUs in every run; only the wish is kept.",
)
@click.option("--purge", is_flag=True, help="Remove what mounts and ended runs have left.")
@click.option("--fixperm", is_flag=True, help="Make all of its files yours, to read and remove.")
@click.argument("container", metavar="CONTAINER")
@click.pass_obj
def command(
    settings: Settings,
    execmode: str | None,
    force: bool,
    nvidia: bool | None,
    purge: bool,
    fixperm: bool,
    container: str,
) -> None:
    """Choose how a container runs, mend its files; without options, show what was chosen."""
    stores = Stores(settings)
    found = stores.containers.get(container)
    if execmode is None and nvidia is None and not purge and not fixperm:
        _show(settings, found)
        return
    if execmode is not None:
        _choose(stores, found, execmode, force=force)
    if nvidia is not None:
        choices.save(found, replace(choices.load(found), gpu="all" if nvidia else ""))
        if not settings.quiet:
            _tell_wish(found, wanted=nvidia)
    if fixperm:
        _mend(stores, found)
    if purge:
        _purge(stores, found)


def _tell_wish(container: Container, *, wanted: bool) -> None:
    which = "the GPUs of its node" if wanted else "GPUs only when asked for"
    console.say(f"udocker: every run of {container.id[:12]} has {which}; nothing was copied")


def _show(settings: Settings, container: Container) -> None:
    chosen = choices.load(container)
    console.put(f"execmode: {chosen.mode or settings.engine or _best(settings, container)}")
    console.put(f"nvidiamode: {bool(chosen.gpu)}")


def _best(settings: Settings, container: Container) -> str:
    """Return the mode that a run would have now."""
    try:
        return select.choose(Host(), settings.directory, container=container).mode
    except StartError:
        return "none"


def _choose(stores: Stores, container: Container, asked: str, *, force: bool) -> None:
    """Keep the mode; what another one changed in the files is undone now."""
    wanted = "" if asked.lower() == _AUTOMATIC else asked
    if wanted:
        select.ways(wanted)  # raises for a word that is none
        _check(stores, container, wanted, force=force)
    with held(stores, container):
        choices.save(container, replace(choices.load(container), mode=_spelled(wanted)))


def _check(stores: Stores, container: Container, wanted: str, *, force: bool) -> None:
    directory = stores.settings.directory
    try:
        select.choose(Host(), directory, wanted, container=container)
    except StartError as error:
        if not force:
            hint = "--force sets it nevertheless; udocker doctor explains every engine"
            raise UdockerError(error.message, hint=hint) from error
        console.warn(error.message)


def _spelled(wanted: str) -> str:
    """Return the mode as it is shown: `P1` for `p1`, an engine's name as it is."""
    return wanted.upper() if wanted.upper() in select.MODES else wanted.lower()


def _mend(stores: Stores, container: Container) -> None:
    with held(stores, container):
        for directory in permissions.own_directories(container):
            if permissions.has_strangers(directory):
                from udocker.engines import ownership

                ownership.take_over(directory, stores.settings.directory)
            changed = permissions.mend(directory)
            if changed:
                console.warn(f"{changed} files have got modes that let you read them")


def _purge(stores: Stores, container: Container) -> None:
    if stores.containers.is_protected(container):
        short = container.id[:12]
        raise StoreError(f"container {short} is protected", hint=f"udocker unprotect {short}")
    with held(stores, container):
        remove_ended_runs(container)
        for path in remove_leftovers(container):
            console.put(f"removed {path}")
