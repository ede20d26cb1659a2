"""What every engine can and cannot do, as the table that README prints."""

from __future__ import annotations

from udocker.containers import features
from udocker.engines import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

YES, NO = "yes", "–"


def table() -> Iterator[str]:
    """Yield the lines of a table in Markdown: a row for each feature, a column for each engine."""
    names = select.NAMES
    able = {name: select.make(select.ways(name)[0], "").features for name in names}
    modes = (
        " ".join(dict.fromkeys(way.mode for way in select.WAYS if way.name == name))
        for name in names
    )
    yield _row("", names)
    yield _row("---", (":---:",) * len(names))
    yield _row("modes", modes)
    for feature, text in {**features.PROPERTIES, **_options()}.items():
        yield _row(text, (YES if feature in able[name] else NO for name in names))


def _options() -> dict[str, str]:
    """Return the options that features are for, written as code."""
    return {feature: f"`{text}`" for feature, text in features.OPTIONS.items()}


def _row(first: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([first, *cells])} |"
