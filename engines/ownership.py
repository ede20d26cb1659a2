"""Files that a container gave to other ids of the user's, given back to the user."""

from __future__ import annotations

import os

from udocker.containers import permissions
from udocker.engines import subids
from udocker.errors import StoreError


def take_over(path: str, directory: str) -> None:
    """All files below `path` belong to the caller. `directory` is the store's.

    Done from within a user namespace that has the ids of /etc/subuid. Raises StartError where
    there are none, StoreError when it did not succeed.
    """
    given = subids.maps(directory)
    from udocker.engines.sandbox import ids

    child = os.fork()
    if child == 0:
        code = 1
        try:
            ids.enter_with_ranges(0, *map(ids.parse_ranges, given))
            permissions.take_over(path)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise StoreError(f"{path} holds files of ids that are not of this user's /etc/subuid")
