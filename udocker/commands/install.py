"""`udocker install`."""

from __future__ import annotations

import click

from udocker import console
from udocker.engines import programs, select
from udocker.errors import StartError
from udocker.host.probe import Host
from udocker.provision import catalogue, trial
from udocker.provision.install import Installer
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.provision.install import Outcome

_HEADER = ("NAME", "VERSION", "FROM", "PATH")


@click.command()
@click.option(
    "--from",
    "origin",
    metavar="FILE|DIR|URL",
    help="Take them from a bundle, or from a tarball of udocker 1.3.",
)
@click.option("--sha256", metavar="HEX", help="Checksum that the file of --from must have.")
@click.option(
    "--sources",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Debian repositories to take them from, as in sources.list(5), not this machine's.",
)
@click.option("-f", "--force", is_flag=True, help="Bring them although they are here.")
@click.option("--purge", is_flag=True, help="Remove what was installed.")
@click.option("-l", "--list", "list_only", is_flag=True, help="Show what is here.")
@click.option("--insecure", is_flag=True, help="Believe what is not signed.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.pass_obj
def command(
    settings: Settings,
    names: tuple[str, ...],
    origin: str | None,
    sha256: str | None,
    sources: str | None,
    force: bool,
    purge: bool,
    list_only: bool,
    insecure: bool,
) -> int:
    """Bring the programs of other engines, without root.

    Names are proot, crun, libfakechroot, runc and bwrap; without any, the first three. What this
    machine has is used as it is. What it lacks comes from the Debian or Ubuntu repositories that
    it is configured for: verified from the signed index on, unpacked in the store, tried out. The
    embedded engine (user namespaces) needs none of them.
    """
    if sum(map(bool, (origin, sources, purge, list_only))) > 1:
        raise click.UsageError("--from, --sources, --purge and --list exclude each other")
    if sha256 and not origin:
        raise click.UsageError("--sha256 is the checksum of what --from names")
    items = tuple(catalogue.item(name) for name in dict.fromkeys(names))
    host = Host()
    installer = Installer(settings, host, insecure=insecure or settings.insecure)
    if purge:
        installer.purge(items)
        return 0
    if list_only:
        _show(settings.directory, items)
        return 0
    if origin:
        outcomes = installer.from_archive(origin, items, sha256)
    else:
        usual = tuple(map(catalogue.item, catalogue.USUAL))
        outcomes = installer.from_repositories(items or usual, force=force, sources_file=sources)
    _tell(outcomes)
    if items or origin or sources:
        return 1 if any(outcome.fault for outcome in outcomes) else 0
    return _usable(settings, host)


def _show(directory: str, items: tuple[catalogue.Item, ...]) -> None:
    """List every program that is here, those first that are used."""
    rows = []
    for item in items or catalogue.ITEMS:
        for found in map(trial.with_version, programs.candidates(directory, item.name)):
            rows.append((item.name, found.version or "-", found.origin, found.path))
    console.table(_HEADER, rows)


def _tell(outcomes: list[Outcome]) -> None:
    rows = [
        (outcome.name, found.version or "-", found.origin, found.path)
        for outcome in outcomes
        for found in [outcome.installed]
        if found
    ]
    if rows:
        console.table(_HEADER, rows)
    for outcome in outcomes:
        if outcome.note:
            version = outcome.installed.version if outcome.installed else ""
            console.say(f"{' '.join(filter(None, (outcome.name, version)))}: {outcome.note}")
        if outcome.fault:
            console.say(f"udocker: {outcome.name}: {outcome.fault.message}")
            if outcome.fault.hint:
                console.say(f"  {outcome.fault.hint}")


def _usable(settings: Settings, host: Host) -> int:
    """Return 0 when containers can be run here, with what is there now."""
    try:
        engine = select.choose(host, settings.directory)
    except StartError as error:
        console.say_error(error)
        return 1
    if not settings.quiet:
        console.say(f"containers run here by {engine.name} ({engine.mode}): udocker doctor")
    return 0
