"""Lists that registries give in pages, each with the way to the next one.

Source: distribution-spec 1.1, "Listing Tags" and "Listing Referrers"; RFC 8288, section 3.
"""

from __future__ import annotations

import re

from udocker.errors import RegistryError
from udocker.registry.route import join, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from udocker.registry.transport import Answer

MAX_PAGES = 1 << 12
_MAX_HEADER_CHARACTERS = 1 << 14
_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|[^",;]*)"""
# Compiled when there is such a header: that takes longer than all the rest of this module.
_LINK = rf"<([^<>]*)>((?:\s*;\s*[^\s,;=]+(?:\s*=\s*{_VALUE})?)*)"
_PARAMETER = rf";\s*([^\s,;=]+)(?:\s*=\s*({_VALUE}))?"


def pages(ask: Callable[[str], Answer], path: str | None, what: str) -> Iterator[Answer]:
    """Yield what `ask` has for `path` and for all the pages after it.

    Raises RegistryError for a list, called `what`, that leads back to a page of its own.
    """
    seen: set[str] = set()
    while path is not None:
        if path in seen or len(seen) >= MAX_PAGES:
            raise RegistryError(f"{what} does not end")
        seen.add(path)
        answer = ask(path)
        yield answer
        path = next_page(answer.headers.get("Link", ""), path)


def next_page(header: str, path: str) -> str | None:
    """Return path and query of the page after `path`, by its header `Link`; None: there is none."""
    for target, parameters in re.findall(_LINK, header[:_MAX_HEADER_CHARACTERS]):
        relations = (value for name, value in re.findall(_PARAMETER, parameters) if name == "rel")
        if "next" in next(relations, "").strip('"').lower().split():
            return _at_the_registry(target, path)
    return None


def _at_the_registry(target: str, path: str) -> str | None:
    """Return what of an address the registry itself is asked for, None for nothing of its API.

    A list does not go on at another server; and one that the registry knows as its own, behind a
    proxy that shows it elsewhere, does not lead there from here.
    """
    parts = split(join(path, target))
    _, start, rest = parts.path.partition("/v2/")
    return f"{start}{rest}?{parts.query}" if start else None
