"""Points in time as users write and read them."""

from __future__ import annotations

import datetime
import re
import time

from udocker.containers.logs import moment
from udocker.errors import UsageError

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|us|µs|ns|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")
_FORMS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d")
_AGES = (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400), ("week", 604800))


def parse_moment(text: str, option: str) -> str:
    """Return the time that a user wrote, as logs write it: RFC 3339, a date, seconds since 1970,
    or how long ago (`1h30m`). Raises UsageError naming the option.

    Source: docker-logs(1), --since.
    """
    if _DURATION.fullmatch(text):
        ago = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        return moment(time.time_ns() - int(ago * 1e9))
    seconds, _, fraction = text.partition(".")
    if seconds.isdigit() and len(seconds) > 4 and (not fraction or fraction.isdigit()):
        return moment(int(seconds) * 10**9 + int(f"{fraction:0<9}"[:9]))
    found = re.fullmatch(r"(.+?)(\.\d+)?(Z|[+-]\d\d:\d\d)?", text)
    for form in _FORMS if found else ():
        assert found
        try:
            then = datetime.datetime.strptime(found[1], form)
        except ValueError:
            continue
        return moment(_with_zone(then, found[3]) * 10**9 + _nanoseconds(found[2]))
    raise UsageError(
        f"{option} {text!r} is not a time", hint="as 2024-05-31T12:00:00Z, 1717156800, or 10m"
    )


def _with_zone(then: datetime.datetime, zone: str | None) -> int:
    """Return seconds since 1970; without a zone it is the one of this machine."""
    if zone is None:
        return int(then.timestamp())
    offset = datetime.timedelta()
    if zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        offset = datetime.timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)
    return int((then - offset).replace(tzinfo=datetime.timezone.utc).timestamp())


def _nanoseconds(fraction: str | None) -> int:
    return int(f"{(fraction or '.')[1:]:0<9}"[:9])


def age(seconds: float) -> str:
    """Return how long something takes or is ago in one unit, `3 minutes`, as docker says it."""
    unit, size = next((u for u in reversed(_AGES) if seconds >= 2 * u[1]), _AGES[0])
    count = max(0, int(seconds // size))
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
