"""The same work on many items in a few threads: what waits for networks needs no processes."""

from __future__ import annotations

import queue
import threading

from udocker.errors import UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from udocker.console import Progress

    T = TypeVar("T")


def start(target: Callable[[], None], name: str | None = None) -> threading.Thread:
    """Start a thread that ends with the process. Raises UdockerError where there are too many."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise too_many("thread") from error
    return thread


def too_many(what: str) -> UdockerError:
    """Return the error for a process or a thread that the system does not let us have."""
    return UdockerError(
        f"cannot start another {what}: this user has as many as are allowed",
        hint="ulimit -u and the cgroup of the session say how many processes and threads that is",
    )


def each(items: Iterable[T], count: int, work: Callable[[T], None]) -> None:
    """Call `work` for every item, in order, in so many threads.

    Raises the first error; no further item is begun then. Threads that still work end with
    the process.
    """
    waiting = list(items)
    ended: queue.Queue[BaseException | None] = queue.Queue()
    given_up = threading.Event()
    lock = threading.Lock()

    def carry_out() -> None:
        error: BaseException | None = None
        try:
            while not given_up.is_set():
                with lock:
                    if not waiting:
                        break
                    item = waiting.pop(0)
                work(item)
        except BaseException as caught:  # noqa: BLE001 - raised again by the caller
            error = caught
        ended.put(error)

    running = min(count, len(waiting))
    for _ in range(running):
        start(carry_out)
    try:
        for _ in range(running):
            error = ended.get()
            if error is not None:
                raise error
    finally:
        given_up.set()


class Shared:
    """Progress that several threads report to."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()

    def start(self, part: str, total_bytes: int) -> None:
        """A part of that size begins, or begins again."""
        with self._lock:
            self._progress.start(part, total_bytes)

    def advance(self, part: str, size_bytes: int) -> None:
        """So much more of it is through."""
        with self._lock:
            self._progress.advance(part, size_bytes)

    def finish(self, part: str, note: str) -> None:
        """It is done; the note says how."""
        with self._lock:
            self._progress.finish(part, note)

    def close(self) -> None:
        """All are done, or given up."""
        with self._lock:
            self._progress.close()
