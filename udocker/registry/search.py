"""Looking for images by a word, with what registries offer for it.

Docker Hub has a search of its own. Others are asked in the way of docker's first API, which
quay.io and Artifactory still answer, or else for the list of all their repositories, of which
those with the word in their names are taken. Source: docs.docker.com, "Docker Hub API"; docker's
Registry API 1, "Search"; distribution, docs/spec/api.md, "Listing Repositories".
"""

from __future__ import annotations

from functools import partial
from urllib.parse import urlencode

from udocker import fastjson
from udocker.errors import RegistryError
from udocker.oci import MAX_DOCUMENT_BYTES
from udocker.reference import HUB
from udocker.registry.client import Client
from udocker.registry.connection import Trust
from udocker.registry.faults import printable
from udocker.registry.pages import pages
from udocker.registry.route import harmless
from udocker.registry.transport import Request, Transport
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from udocker.registry.transport import Answer
    from udocker.settings import Settings

HUB_SITE, HUB_FIRST_API = "https://hub.docker.com", "https://index.docker.io"
MAX_RESULTS = 10_000
_PAGE, _CATALOG_PAGE, _MAX_PAGES = 100, 1000, 1 << 10
_UNKNOWN = (400, 404, 405, 406, 410, 501)
"""What servers answer to a path that they do not know."""


@dataclass(frozen=True)
class Found:
    """A repository that was found; texts are fit for a terminal."""

    name: str
    """Below its registry; Docker Hub's own images are without `library/`."""
    description: str = ""
    stars: int = 0
    official: bool = False
    automated: bool = False


class _Unknown(RegistryError):
    """The server does not know this way to search."""


def search(
    registry: str, term: str, limit: int, settings: Settings, index: str = ""
) -> tuple[Found, ...]:
    """Return at most `limit` repositories of a registry that have to do with `term`, the best
    first. `index` is the address of a server that is asked in place of the registry.

    Raises RegistryError, also where a registry has no search at all.
    """
    for at, way in _ways(registry, settings, index):
        try:
            # `zip` asks for one too many where the limit stands second.
            return tuple(found for _, found in zip(range(limit), way(at, term, limit)))
        except _Unknown:
            continue
    where = harmless(index) or registry
    raise RegistryError(f"{where} has no search", hint="look at its web pages")


def _ways(
    registry: str, settings: Settings, index: str
) -> tuple[tuple[Transport, Callable[[Transport, str, int], Iterator[Found]]], ...]:
    if index:
        at = _site(index, settings)
        return (at, _hub), (at, _first_api), (at, _catalog)
    if registry == HUB:
        return (_site(HUB_SITE, settings), _hub), (_site(HUB_FIRST_API, settings), _first_api)
    at = Client(registry, settings).transport
    return (at, _first_api), (at, _catalog)


def _site(address: str, settings: Settings) -> Transport:
    """Return the way to a server for everybody, by its URL or host."""
    scheme, _, host = address.rpartition("://")
    host = host.partition("/")[0]
    return Transport(
        harmless(host),
        settings.environment,
        lambda _: None,
        trust=Trust(settings.insecure, settings.cert_dir),
        base=f"{scheme}://{host}" if scheme else "",
        debug=settings.debug,
    )


def _hub(at: Transport, term: str, limit: int) -> Iterator[Found]:
    for page in range(1, _MAX_PAGES):
        query = urlencode({"query": term, "page": page, "page_size": min(limit, _PAGE)})
        members = _members(_ask(at, f"/v2/search/repositories/?{query}"), at)
        yield from _results(members, at, "repo_name", "short_description")
        if not members.get("next") or not members.get("results"):
            return


def _first_api(at: Transport, term: str, limit: int) -> Iterator[Found]:
    for page in range(1, _MAX_PAGES):
        query = urlencode({"q": term, "page": page, "n": min(limit, _PAGE)})
        members = _members(_ask(at, f"/v1/search?{query}"), at)
        yield from _results(members, at, "name", "description")
        count = members.get("num_pages")
        if not isinstance(count, int) or page >= count or not members.get("results"):
            return


def _catalog(at: Transport, term: str, _: int) -> Iterator[Found]:
    what = f"{at.host}: the registry's list of repositories"
    for answer in pages(partial(_ask, at), f"/v2/_catalog?n={_CATALOG_PAGE}", what):
        for name in _list(_members(answer, at).get("repositories"), at):
            if isinstance(name, str) and term.lower() in name:
                yield Found(printable(name))


def _results(members: dict[str, Any], at: Transport, name: str, text: str) -> Iterator[Found]:
    for result in _list(members.get("results"), at):
        if isinstance(result, dict) and isinstance(result.get(name), str):
            stars, words = result.get("star_count"), result.get(text)
            yield Found(
                printable(result[name].removeprefix("library/")),
                " ".join(printable(words).split()) if isinstance(words, str) else "",
                stars if isinstance(stars, int) else 0,
                result.get("is_official") is True,
                result.get("is_automated") is True,
            )


def _ask(at: Transport, path: str) -> Answer:
    subject, accepts = f"search at {at.host}", (("Accept", "application/json"),)
    request = Request("GET", path, "", subject, accepts, (200, *_UNKNOWN))
    answer = at.fetch(request, MAX_DOCUMENT_BYTES)
    if answer.status != 200:
        raise _Unknown(f"{at.host} answers {answer.status}")
    return answer


def _members(answer: Answer, at: Transport) -> dict[str, Any]:
    try:
        members = fastjson.loads(answer.body)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        # A server that knows nothing may answer everything with a page for people.
        raise _Unknown(f"{at.host} does not answer a search with a JSON object")
    return members


def _list(value: Any, at: Transport) -> list[Any]:
    if not isinstance(value or [], list):
        raise RegistryError(f"{at.host}: what it found is no list")
    return value or []
