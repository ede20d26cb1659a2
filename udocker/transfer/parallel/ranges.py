"""One large blob over several connections, where one is slow: parts of it, in their order.

Servers and long ways bound what one connection brings (20 to 60 MB/s from the networks behind
the large registries). The first connection shows how fast it is; only then others are opened,
and only for what is still large. Memory holds one part for each connection.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from queue import SimpleQueue

from udocker.errors import RegistryError
from udocker.transfer.parallel.threads import start as start_thread
from udocker.transfer.source import content
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from udocker.oci import Descriptor
    from udocker.transfer.source import Source

    Part = Callable[[Descriptor, int, int], Iterator[bytes]]
    """Yields the bytes of a blob from one position up to another one."""

MAX_CONNECTIONS = 4
"""To fetch one blob."""
MAX_TOGETHER = 6
"""To fetch an image; podman and skopeo have six, too."""


@dataclass(frozen=True)
class Terms:
    """When a blob comes in parts."""

    part_bytes: int = 4 << 20
    least_bytes: int = 24 << 20
    """What is still to come; less is not worth more connections."""
    watched_bytes: int = 4 << 20
    """So much shows how fast a connection is."""
    fast_bytes_s: float = 60e6
    """A connection that brings so much in a second needs no help: unpacking is hardly faster."""


def connections(sizes: Sequence[int], jobs: int) -> int:
    """Return over how many connections each blob may come when `jobs` come at a time.

    `sizes`, in bytes, are those of the blobs that are to come.
    """
    if jobs == 1:
        return 1
    large = sum(size >= Terms().least_bytes for size in sizes)
    return max(1, min(MAX_CONNECTIONS, MAX_TOGETHER // max(1, min(jobs, large))))


def download(
    source: Source, blob: Descriptor, offset: int, count: int, terms: Terms | None = None
) -> Generator[bytes, None, None]:
    """Yield a blob's bytes from `offset` on, over up to `count` connections.

    A source without `part`, and a server that has no ranges or fails at one, give it over one
    connection, from where it is by then.
    """
    part, terms = getattr(source, "part", None), terms or Terms()
    position = offset
    if part is not None and count > 1 and blob.data is None:
        watched = _while_fast(content(source, blob, offset), blob.size_bytes - offset, terms)
        for chunk in watched:
            position += len(chunk)
            yield chunk
        if position < blob.size_bytes:
            try:
                with closing(_in_parts(part, blob, position, count, terms)) as chunks:
                    for chunk in chunks:
                        position += len(chunk)
                        yield chunk
            except RegistryError:
                pass
    if position < blob.size_bytes:
        yield from content(source, blob, position)


def _while_fast(chunks: Iterator[bytes], left: int, terms: Terms) -> Iterator[bytes]:
    """Yield chunks up to the end, or until their source turns out to be slow."""
    seen, waited_s = 0, 0.0
    while True:
        began = time.monotonic()
        chunk = next(chunks, b"")
        waited_s += time.monotonic() - began
        if not chunk:
            return
        seen, left = seen + len(chunk), left - len(chunk)
        yield chunk
        if left < terms.least_bytes:
            yield from chunks
            return
        if seen >= terms.watched_bytes:
            if seen < waited_s * terms.fast_bytes_s:
                chunks.close()  # type: ignore[attr-defined]  # a generator, whose connection ends
                return
            seen, waited_s = 0, 0.0


def _in_parts(
    part: Part, blob: Descriptor, start: int, count: int, terms: Terms
) -> Generator[bytes, None, None]:
    """Yield a blob's bytes from `start` on, fetched by `count` threads. Raises RegistryError."""
    size, step = blob.size_bytes, terms.part_bytes
    parts: dict[int, SimpleQueue[bytes | BaseException | None]]
    parts = {first: SimpleQueue() for first in range(start, size, step)}
    waiting, room, closed = iter(list(parts.items())), threading.Semaphore(count), threading.Event()
    lock = threading.Lock()

    def fetch() -> None:
        while True:
            room.acquire()
            with lock:
                first, fetched = next(waiting, (size, None))
            if fetched is None or closed.is_set():
                return
            try:
                for chunk in part(blob, first, min(first + step, size)):
                    fetched.put(chunk)
                    if closed.is_set():
                        return
                fetched.put(None)
            except BaseException as error:  # noqa: BLE001 - raised again by the reader
                fetched.put(error)
                return

    for _ in range(min(count, len(parts))):
        start_thread(fetch)
    try:
        while parts:
            fetched = parts.pop(next(iter(parts)))
            while isinstance(item := fetched.get(), bytes):
                yield item
            if item is not None:
                raise item
            room.release()
    finally:
        closed.set()
        room.release(count)
