"""One fact of a machine and what it means for containers."""

from __future__ import annotations

from udocker.values import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"
"""Nothing to do; something is slower or missing; containers fail because of it."""


@dataclass(frozen=True)
class Finding:
    """A fact."""

    key: str
    """Which fact: a stable word, for programs that read it."""
    status: str
    text: str
    fix: str = ""
    """What would make it better, and who can do that; empty: nothing need be done."""
