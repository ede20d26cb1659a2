"""Which CUDA a driver brings, and which programs of newer CUDA it runs all the same.

Source: NVIDIA, CUDA Toolkit Release Notes, table "CUDA Toolkit and Corresponding Driver
Versions"; CUDA Compatibility, "Minor Version Compatibility", table 1.
"""

from __future__ import annotations

_OF_BRANCH = {
    346: (7, 0),
    352: (7, 5),
    361: (8, 0),
    384: (9, 0),
    387: (9, 1),
    396: (9, 2),
    410: (10, 0),
    418: (10, 1),
    440: (10, 2),
    450: (11, 0),
    455: (11, 1),
    460: (11, 2),
    465: (11, 3),
    470: (11, 4),
    495: (11, 5),
    510: (11, 6),
    515: (11, 7),
    520: (11, 8),
    525: (12, 0),
    530: (12, 1),
    535: (12, 2),
    545: (12, 3),
    550: (12, 4),
    555: (12, 5),
    560: (12, 6),
    565: (12, 7),
    570: (12, 8),
    575: (12, 9),
    580: (13, 0),
    590: (13, 1),
    595: (13, 2),
}
"""First driver branch -> the CUDA version that its libcuda reports."""
_FIRST_WITH_MINORS = 11
"""From CUDA 11 on, a driver runs programs of every CUDA of its own major version."""


def numbers(version: str) -> tuple[int, ...] | None:
    """Return (580, 159, 4) for `580.159.04`; None for what is no version."""
    parts = version.split(".")
    if not all(p.isascii() and p.isdigit() and len(p) < 8 for p in parts) or len(parts) > 8:
        return None
    return tuple(map(int, parts))


def version_of(driver_version: str) -> tuple[int, int] | None:
    """Return the CUDA version of a driver; of one newer than the table, the least it can be.

    None for what is no version of a driver, or one from before CUDA 7.
    """
    found = numbers(driver_version)
    branches = [branch for branch in _OF_BRANCH if found and branch <= found[0]]
    return _OF_BRANCH[max(branches)] if branches else None


def is_newer_than_known(driver_version: str) -> bool:
    """Tell whether `version_of` a driver is only the least that it can be."""
    found = numbers(driver_version)
    return found is not None and found[0] > max(_OF_BRANCH)


def runs_minor(wanted: tuple[int, ...], has: tuple[int, int]) -> bool:
    """Tell whether a driver of CUDA `has` runs programs of the newer `wanted`.

    It does within a major version, but for what a program compiles at run time from PTX of the
    newer one, and functions that the older driver has not.
    """
    return bool(wanted) and wanted[0] == has[0] >= _FIRST_WITH_MINORS
