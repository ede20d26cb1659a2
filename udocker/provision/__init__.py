"""Bringing the programs of other engines, without root: from Debian's mirrors, or from a file."""
