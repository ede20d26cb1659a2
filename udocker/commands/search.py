"""`udocker search`."""

from __future__ import annotations

import click

from udocker import console
from udocker.commands import reaching
from udocker.commands.templates import put_rows
from udocker.errors import RegistryError, UsageError
from udocker.reference import HUB, is_registry, registry_of
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from udocker.registry.search import Found

TITLES = {
    **{"Index": "INDEX", "Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS"},
    **{"Stars": "STARS", "IsOfficial": "OFFICIAL", "Official": "OFFICIAL"},
    **{"IsAutomated": "AUTOMATED", "Automated": "AUTOMATED", "Tag": "TAG"},
}
"""What stands above the fields of `--format`, in docker's and podman's words."""
_DEFAULT_LIMIT = 25
_DESCRIPTION_CHARACTERS = 45


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Show all results.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Show so many (25; tags: all).")
@click.option("--no-trunc", is_flag=True, help="Show whole descriptions.")
@click.option("--list-tags", is_flag=True, help="TERM is a repository: print its tags.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="stars=N, is-official=BOOL.",
)
@click.option("--format", "template", metavar="TEMPLATE", help="[table] {{.Name}}, or json.")
@click.option("--registry", metavar="HOST", help="Where to look, if TERM does not say.")
@click.option("--index", metavar="URL", help="A server for searches in place of the registry.")
@reaching.options
@click.argument("term")
@click.pass_obj
def command(
    settings: Settings,
    /,
    term: str,
    everything: bool,
    limit: int | None,
    no_trunc: bool,
    list_tags: bool,
    filters: tuple[str, ...],
    template: str | None,
    registry: str | None,
    index: str | None,
    **how: Any,
) -> None:
    """Look for images of which the name or description has TERM, or list the tags of one.

    TERM may begin with a registry: quay.io/TERM.
    """
    from udocker.registry.search import MAX_RESULTS

    settings = reaching.applied(settings, registry=registry, **how)
    if list_tags:
        _put_tags(term, limit, template, settings)
        return
    index = index or settings.environment.get("UDOCKER_INDEX", "")
    limit = MAX_RESULTS if everything else limit or _DEFAULT_LIMIT
    wanted = _wanted(filters)
    rows = [
        _row(host, found, whole=no_trunc or template is not None)
        for host, found in _search(term, limit, settings, index)
        if wanted(found)
    ]
    if template and template != "table":
        put_rows(template, rows, TITLES)
        return
    shown = ("Name", "Description", "Stars", "Official")
    console.table([TITLES[key] for key in shown], [[row[key] for key in shown] for row in rows])


def _search(term: str, limit: int, settings: Settings, index: str) -> Iterable[tuple[str, Found]]:
    """Yield what the registries have, each with its registry.

    Raises the last error where none of them answers.
    """
    from udocker.registry.search import search

    hosts = _registries(settings)
    host, slash, rest = term.partition("/")
    if slash and is_registry(host):
        hosts, term = (registry_of(host),), rest
    if not term:
        raise UsageError("there is no word to look for")
    for number, host in enumerate(hosts, 1):
        try:
            for found in search(host, term, limit, settings, index):
                yield host, found
        except RegistryError as error:
            if number == len(hosts):
                raise
            console.warn(error.message)


def _registries(settings: Settings) -> tuple[str, ...]:
    from udocker.registry import configuration

    if settings.registry:
        return (registry_of(settings.registry),)
    return configuration.load(settings.environment).search or (HUB,)


def _put_tags(name: str, limit: int | None, template: str | None, settings: Settings) -> None:
    from udocker.registry.client import Client
    from udocker.registry.shortnames import meanings

    reference = meanings(name, settings)[0]
    # Not every registry sorts them, as distribution-spec wants it.
    tags = sorted(Client(reference.registry, settings).tags(reference))[:limit]
    if template is None:
        for tag in tags:
            console.put(tag)
        return
    rows = [{"Name": reference.name, "Tag": tag} for tag in tags]
    put_rows("table {{.Name}}\t{{.Tag}}" if template == "table" else template, rows, TITLES)


def _row(registry: str, found: Found, *, whole: bool) -> dict[str, str]:
    text = found.description
    if not whole and len(text) > _DESCRIPTION_CHARACTERS:
        text = text[: _DESCRIPTION_CHARACTERS - 3] + "..."
    official, automated = ("[OK]" if yes else "" for yes in (found.official, found.automated))
    return {
        "Index": registry,
        "Name": found.name if registry == HUB else f"{registry}/{found.name}",
        "Description": text,
        **dict.fromkeys(("StarCount", "Stars"), str(found.stars)),
        **dict.fromkeys(("IsOfficial", "Official"), official),
        **dict.fromkeys(("IsAutomated", "Automated"), automated),
    }


def _wanted(filters: tuple[str, ...]) -> Any:
    """Return the test of `--filter KEY=VALUE` in docker's words. Raises UsageError."""
    known = {"is-official": "official", "is-automated": "automated"}
    least, flags = 0, {}
    for text in filters:
        key, _, value = text.partition("=")
        if key == "stars" and value.isdecimal():
            least = int(value)
        elif key in known and value in ("true", "false"):
            flags[known[key]] = value == "true"
        else:
            raise UsageError(
                f"--filter {text!r} is not known",
                hint="stars=N, is-official=true|false, is-automated=true|false",
            )

    def fits(found: Found) -> bool:
        return found.stars >= least and all(getattr(found, k) == v for k, v in flags.items())

    return fits
