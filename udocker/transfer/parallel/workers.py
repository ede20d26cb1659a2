"""The same work on many items in a few processes: two cores unpack layers faster than one.

Processes, not threads: unpacking is system calls made one after the other by Python, which
threads take turns at (2.17 GB image: 3.0 s with two processes, 4.1 s with two threads).
"""

from __future__ import annotations

import os
import select
import selectors
import signal
from contextlib import closing, contextmanager

from udocker import disk, errors, fastjson
from udocker.errors import UdockerError
from udocker.transfer.parallel import threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from udocker.console import Progress

    Work = Callable[[int, "Report"], None]
    """What to do with the item of that number, reporting how far it is."""

_EVENT_BYTES = 4096
"""Shorter writes to a pipe are never mixed with others. Source: pipe(7), PIPE_BUF."""
_REPORT_BYTES = 1 << 20
_NUMBER_BYTES = 4


class Report:
    """What is told of the work: how far its current item is."""

    def __init__(self, tell: Callable[..., None]) -> None:
        """`tell` gets what happens and the values that go with it, as `_tell` takes them."""
        self._tell = tell
        self._part = ""
        self._unsaid = 0

    def start(self, part: str, total_bytes: int) -> None:
        """An item of that size begins."""
        self._part, self._unsaid = part, 0
        self._tell("start", part, total_bytes)

    def advance(self, size_bytes: int) -> None:
        """So much more of it has come."""
        self._unsaid += size_bytes
        if self._unsaid >= _REPORT_BYTES:
            self._tell("advance", self._part, self._unsaid)
            self._unsaid = 0

    def finish(self, note: str) -> None:
        """The item is done."""
        self._tell("finish", self._part, note)

    def fail(self, error: UdockerError) -> None:
        """The item cannot be done."""
        message, hint = error.message, error.hint or ""
        while len(fastjson.dumps((message, hint))) > _EVENT_BYTES - 100:
            message, hint = message[: len(message) * 3 // 4], hint[: len(hint) * 3 // 4]
        self._tell("fail", type(error).__name__, message, hint)


def run_here(work: Work, order: Sequence[int], progress: Progress) -> None:
    """Call `work(item, report)` for the items in `order` in this process, one after the other.

    Raises the first error as `run` does.
    """
    report = Report(lambda *event: _tell(progress, *event))
    with _own_errors():
        for item in order:
            work(item, report)


def run(
    count: int,
    processes: int,
    work: Work,
    order: Sequence[int],
    progress: Progress,
) -> None:
    """Call `work(item, report)` for the items 0 to count-1, in `order`, in so many processes.

    Raises the first error that a worker meets; the others are ended then.
    """
    queue, feed = os.pipe()
    listen, pipe = os.pipe()
    children = _forked(min(processes, count), lambda: _fork(work, queue, pipe, (listen, feed)))
    os.close(queue)
    os.close(pipe)
    try:
        _listen(listen, _Feed(feed, order), progress)
        while children:
            status = os.waitpid(children[0], 0)[1]
            children.pop(0)
            if status:
                raise UdockerError("a worker process ended before its work was done")
    finally:
        os.close(listen)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _forked(count: int, fork: Callable[[], int]) -> list[int]:
    """Return the workers, fewer than wanted where the user may not have so many processes."""
    children: list[int] = []
    for _ in range(count):
        try:
            children.append(fork())
        except OSError as error:
            if not children:
                raise threads.too_many("process") from error
            break
    return children


def _fork(work: Work, queue: int, pipe: int, close: Sequence[int]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for descriptor in close:
            os.close(descriptor)
        code = _work(work, queue, pipe)
    finally:
        os._exit(code)


def _end_with_parent(pipe: int) -> None:
    """End this process as soon as nobody reads the pipe any more: the parent was killed."""
    poll = select.poll()
    poll.register(pipe, 0)  # only for the error that a pipe without reader has
    poll.poll()
    os._exit(1)


def _work(work: Work, queue: int, pipe: int) -> int:
    report = Report(lambda *event: _write(pipe, event))
    try:
        with _own_errors():
            threads.start(lambda: _end_with_parent(pipe))
            # the queue is a pipe of whole numbers: each read takes the next one
            while item := os.read(queue, _NUMBER_BYTES):
                work(int.from_bytes(item, "little"), report)
    except UdockerError as error:
        report.fail(error)
    return 0


def _write(pipe: int, event: tuple[Any, ...]) -> None:
    os.write(pipe, fastjson.dumps(event).encode() + b"\n")


@contextmanager
def _own_errors() -> Iterator[None]:
    """What the system refuses is an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise disk.store_error(error, error.filename or "a file") from error
    except MemoryError as error:
        raise UdockerError("out of memory") from error


class _Feed:
    """The queue's end for writing: a pipe holds some thousands of items, the rest follow."""

    def __init__(self, pipe: int, order: Sequence[int]) -> None:
        self._file = os.fdopen(pipe, "wb", 0)
        os.set_blocking(pipe, False)
        self._left = memoryview(b"".join(n.to_bytes(_NUMBER_BYTES, "little") for n in order))

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self) -> bool:
        """Write what there is room for; tell whether more is left."""
        try:
            # so much is written whole or not at all, so that no reader gets half a number
            while self._left and self._file.write(self._left[:_EVENT_BYTES]):
                self._left = self._left[_EVENT_BYTES:]
        except BrokenPipeError:  # the workers are gone, and `run` says so
            return False
        return bool(self._left)

    def close(self) -> None:
        """No items follow."""
        self._file.close()


def _listen(pipe: int, feed: _Feed, progress: Progress) -> None:
    """Give out the items and pass on what the workers tell until the last has closed the pipe."""
    left = b""
    with selectors.DefaultSelector() as selector, closing(feed):
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(feed, selectors.EVENT_WRITE)
        while ready := selector.select():
            if any(key.fileobj is feed for key, _ in ready) and not feed.write():
                selector.unregister(feed)
                feed.close()
            if all(key.fileobj is feed for key, _ in ready):
                continue
            data = os.read(pipe, 1 << 16)
            if not data:
                return
            *lines, left = (left + data).split(b"\n")
            for line in lines:
                _tell(progress, *fastjson.loads(line))


def _tell(progress: Progress, kind: str, *values: Any) -> None:
    if kind == "fail":
        name, message, hint = values
        raise getattr(errors, name, UdockerError)(message, hint=hint or None)
    getattr(progress, kind)(*values)
