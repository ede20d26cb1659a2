"""How long a server is waited for, and how often it is asked again."""

from __future__ import annotations

import random
import socket
import time

from udocker import console
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.registry.faults import Unavailable

_TOLD_FAILURES = 3
"""So many in a row are told: they may have taken long, one by one."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to try again."""

    attempts: int = 5
    first_delay_s: float = 0.5
    """Doubled with every failure, then shortened at random by up to a half."""
    longest_delay_s: float = 30.0
    longest_retry_after_s: float = 60.0
    """A server that asks for more (`Retry-After`) gets this much."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    """Longest silence in the middle of an answer."""
    window_s: float = 60.0
    least_bytes_per_s: float = 1000.0
    """A connection that brings less than this over a window of waiting is given up: dead, not
    slow."""
    told_from_s: float = 5.0
    """Waits as long as this are told, with their reason; and every silence of a server."""

    def wait(self, failures: int, error: Unavailable) -> None:
        """Sleep before the next attempt, after `failures` (1 or more) in a row."""
        delay_s = min(self.first_delay_s * 2 ** min(failures - 1, 30), self.longest_delay_s)
        # Many jobs of a cluster fail at the same moment: they must not come back at the same one.
        delay_s *= random.uniform(0.5, 1)
        if error.retry_after_s is not None:
            delay_s += min(error.retry_after_s, self.longest_retry_after_s)
        was_silent = isinstance(error.__cause__, socket.timeout)
        if was_silent or delay_s >= self.told_from_s or failures >= _TOLD_FAILURES:
            console.warn(f"{error.message}; trying again in {delay_s:.0f} s")
        time.sleep(delay_s)


class Pace:
    """Tells a slow connection from a dead one; only time spent waiting for it is counted."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._waited_s = 0.0
        self._came_bytes = 0

    def is_dead(self, waited_s: float, came_bytes: int) -> bool:
        """Count a wait and what it brought; tell whether too little came in a whole window."""
        self._waited_s += waited_s
        self._came_bytes += came_bytes
        if self._waited_s < self._patience.window_s:
            return False
        dead = self._came_bytes < self._patience.least_bytes_per_s * self._waited_s
        self._waited_s, self._came_bytes = 0.0, 0
        return dead
