"""`udocker logs`."""

from __future__ import annotations

import sys
import time

import click

from udocker.commands.moments import parse_moment
from udocker.commands.stores import Stores
from udocker.containers import state
from udocker.containers.logs import Entry, LogReader, path_of
from udocker.errors import StoreError, UsageError
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.container import Container

_PAUSE_S = 0.1


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends.")
@click.option("-n", "--tail", metavar="N", default="all", help="Show the last N lines only.")
@click.option("-t", "--timestamps", is_flag=True, help="Show when each line was written.")
@click.option("--since", metavar="TIME", help="Leave out what is older: a time, or 10m for ago.")
@click.option("--until", metavar="TIME", help="Leave out what is newer.")
@click.option("--details", is_flag=True, help="Accepted; there are no details.")
@click.argument("container")
@click.pass_obj
def command(
    settings: Settings,
    follow: bool,
    tail: str,
    timestamps: bool,
    since: str | None,
    until: str | None,
    details: bool,
    container: str,
) -> None:
    """Show what the program of a detached container wrote, each stream on its own."""
    begin = parse_moment(since, "--since") if since else ""
    end = parse_moment(until, "--until") if until else ""
    stores = Stores(settings)
    found = stores.containers.get(container)
    reader = _reader(found)
    if reader is None:
        return
    printer = _Printer(timestamps=timestamps)
    try:
        _skip(reader, tail)
        for entries in _batches(stores, found, reader, follow=follow):
            for entry in entries:
                if end and entry.time > end:
                    return
                if entry.time >= begin:
                    printer.put(entry)
            printer.flush()
    finally:
        printer.flush()
        reader.close()


def _reader(container: Container) -> LogReader | None:
    """Return the container's log; None when nothing was started. Raises StoreError."""
    try:
        return LogReader(path_of(container.directory))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StoreError(f"cannot read the log: {error}") from error
    if state.load(container) is None:
        return None
    raise StoreError(
        f"container {container.id[:12]} has no log",
        hint="udocker run -d and udocker start keep one, unless there was --log-driver none",
    )


def _skip(reader: LogReader, tail: str) -> None:
    if tail.isdigit():
        reader.skip_to_last(int(tail))
    elif tail != "all" and not (tail.startswith("-") and tail[1:].isdigit()):
        raise UsageError(f"--tail {tail!r} is not a number", hint="a number of lines, or all")


def _batches(
    stores: Stores, container: Container, reader: LogReader, *, follow: bool
) -> Iterator[Iterator[Entry]]:
    """Yield what the log holds and, to `follow` it, what comes until the container has ended."""
    is_over = not follow
    while True:
        yield reader.entries()
        if is_over:
            return
        is_over = not state.condition_of(stores.containers, container).is_running
        if not is_over:
            time.sleep(_PAUSE_S)


class _Printer:
    """Writes output as the program wrote it: bytes, not words of ours."""

    def __init__(self, *, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._last = ""
        """The stream that was written to last: the order of the streams is kept."""
        self._unfinished: dict[str, bool] = {}
        """Streams whose last line goes on in the next entry."""

    def put(self, entry: Entry) -> None:
        """Write an entry to the stream that it came from."""
        begins = not self._unfinished.get(entry.stream, False)
        self._unfinished[entry.stream] = not entry.text.endswith("\n")
        text = f"{entry.time} {entry.text}" if self._timestamps and begins else entry.text
        if entry.stream != self._last:
            self.flush()
            self._last = entry.stream
        stream = sys.stderr if entry.stream == "stderr" else sys.stdout
        if stream is not None:
            stream.buffer.write(text.encode("utf-8", "surrogatepass"))

    def flush(self) -> None:
        """All that was put is written."""
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
