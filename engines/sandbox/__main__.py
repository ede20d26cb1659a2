"""`python3 -I -S .../sandbox OPTIONS -- PROGRAM ARG...`."""

from __future__ import annotations

import os
import sys

# a directory that is run stands alone: make the package it belongs to importable
sys.path[0] = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))

from udocker.engines.sandbox.run import main  # noqa: E402


def environment() -> dict[str, str]:
    """Return the environment as it was before Python set LC_CTYPE in it (PEP 538)."""
    with open("/proc/self/environ", "rb") as file:
        pairs = (os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0") if entry)
        return {name: value for name, _, value in pairs}


if __name__ == "__main__":
    main(sys.argv[1:], environment())
