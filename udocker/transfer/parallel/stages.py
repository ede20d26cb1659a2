"""Steps of one piece of work, each in a thread of its own and a little ahead of the next.

Receiving, hashing, inflating and writing all let other threads run (they release the
interpreter's lock), so one layer can keep several cores busy.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue

from udocker.transfer.parallel.threads import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

AHEAD = 8
"""Chunks that one thread is ahead of the other, of 256 KiB each."""
NAME = "ahead"
LITTLE_BYTES = 4 << 20
"""What is worth no threads, and no processes: they take as long to start as all the rest, and
meanwhile the rest comes into the buffers of the connection."""


def in_step(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Yield the chunks as they are wanted. Closed before its end, it leaves the rest of them."""
    for chunk in chunks:  # not `yield from`, which would close them  # noqa: UP028
        yield chunk


def ahead(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Yield the chunks, made by another thread that is a few of them ahead.

    Closed before its end, it leaves `chunks` where the other thread was, which has ended.
    """
    # Two queues without locks of Python: `queue.Queue` costs twenty times as much a chunk.
    made: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
    room: SimpleQueue[None] = SimpleQueue()
    closed = threading.Event()
    for _ in range(AHEAD):
        room.put(None)

    def produce() -> None:
        try:
            for chunk in chunks:
                made.put(chunk)
                room.get()
                if closed.is_set():
                    break
            made.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            made.put(error)

    thread = start(produce, NAME)
    item: bytes | BaseException | None = b""
    try:
        while isinstance(item := made.get(), bytes):
            room.put(None)
            yield item
        if item is not None:
            raise item
    finally:
        closed.set()
        room.put(None)
        while isinstance(item, bytes):
            item = made.get()
        thread.join()
