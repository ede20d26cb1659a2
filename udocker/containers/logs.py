"""The output of detached programs, kept as docker's json-file driver does.

A line of the file is an object: `log` (the text, with its newline unless it goes on in the next
object), `stream` and `time`. Bytes that are not UTF-8 become U+FFFD, as in docker.
Source: docker, daemon/logger/jsonfilelog; daemon/logger/copier.go (16 KiB of a line at most).
"""

from __future__ import annotations

import os
import time

from udocker import disk, fastjson
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PIECE_BYTES = 16 << 10
"""What of a line without end is kept in memory, and goes into one object."""
_BLOCK_BYTES = 64 << 10
_LINE_BYTES = 8 * PIECE_BYTES
"""More than the object of a piece can be: every byte escaped, and its frame."""


def path_of(directory: str) -> str:
    """Return the host path of the log of the container in `directory`."""
    return f"{directory}/log.json"


class LogWriter:
    """Appends output to a log. A full disk loses output, it never stops the program."""

    def __init__(self, path: str) -> None:
        """The file is the owner's alone; it is made now. Raises OSError."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._rest: dict[str, bytes] = {}

    def write(self, stream: str, data: bytes) -> None:
        """Take what the program wrote to a stream; only whole lines reach the file at once."""
        *lines, rest = (self._rest.get(stream, b"") + data).split(b"\n")
        now = moment(time.time_ns())
        texts = [piece for line in lines for piece in _pieces(line + b"\n")]
        while len(rest) > PIECE_BYTES:
            end = _end_of_text(rest, PIECE_BYTES)
            texts.append(rest[:end])
            rest = rest[end:]
        self._rest[stream] = rest
        self._put(stream, texts, now)

    def close(self) -> None:
        """Write the lines that did not end."""
        now = moment(time.time_ns())
        for stream, rest in self._rest.items():
            self._put(stream, [rest] if rest else [], now)
        os.close(self._fd)

    def _put(self, stream: str, texts: Iterable[bytes], now: str) -> None:
        tail = f',"stream":"{stream}","time":"{now}"}}\n'
        dumps = fastjson.dumps
        lines = ['{"log":' + dumps(text.decode("utf-8", "replace")) + tail for text in texts]
        data = "".join(lines).encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            pass


def _pieces(line: bytes) -> Iterator[bytes]:
    while len(line) > PIECE_BYTES + 1:
        end = _end_of_text(line, PIECE_BYTES)
        yield line[:end]
        line = line[end:]
    yield line


def _end_of_text(data: bytes, end: int) -> int:
    """Return the last place up to `end` that is not within a character of UTF-8."""
    for back in range(4):
        if data[end - back] & 0xC0 != 0x80:
            return end - back
    return end


def moment(time_ns: int) -> str:
    """Return a time in UTC as RFC 3339 writes it, with nanoseconds."""
    seconds, nanoseconds = divmod(time_ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


@dataclass(frozen=True)
class Entry:
    """A piece of output."""

    text: str
    stream: str
    time: str
    """As `moment` writes it; such texts have the order of the times."""


class LogReader:
    """Reads a log from the beginning, or from its last lines; goes on where it stopped."""

    def __init__(self, path: str) -> None:
        """Raises OSError when there is no log."""
        opener = disk.open_at_once
        self._file = open(path, "rb", _BLOCK_BYTES, opener=opener)  # noqa: SIM115
        self._rest = b""

    def skip_to_last(self, lines: int) -> None:
        """Leave out all but the last `lines` lines of output."""
        position = end = self._file.seek(0, os.SEEK_END)
        while position > 0 and lines:
            start = max(0, position - _BLOCK_BYTES)
            self._file.seek(start)
            block = self._file.read(position - start)
            for at in _newlines_from_end(block):
                # objects whose text goes on in the next are one line of output with it
                if start + at + 1 < end and self._ends_line(start + at):
                    lines -= 1
                    if not lines:
                        self._file.seek(start + at + 1)
                        return
            position = start
        self._file.seek(0 if lines else end)

    def _ends_line(self, newline: int) -> bool:
        """Tell whether the object before the newline at that offset ends a line of output."""
        begin = max(0, newline - 200)
        self._file.seek(begin)
        frame = self._file.read(newline - begin)
        return frame.rpartition(b'","stream":')[0].endswith(b"\\n")

    def entries(self) -> Iterator[Entry]:
        """Return what is there now and was not read before; what is broken is left out."""
        while True:
            block = self._file.read(_BLOCK_BYTES)
            if not block:
                return
            *lines, rest = (self._rest + block).split(b"\n")
            self._rest = rest if len(rest) < _LINE_BYTES else b""
            yield from filter(None, map(_entry, lines))

    def close(self) -> None:
        """The file is closed."""
        self._file.close()


def _newlines_from_end(block: bytes) -> Iterator[int]:
    at = block.rfind(b"\n")
    while at >= 0:
        yield at
        at = block.rfind(b"\n", 0, at)


def _entry(line: bytes) -> Entry | None:
    try:
        members = fastjson.loads(line)
        values = (members["log"], members["stream"], members["time"])
    except (ValueError, KeyError, TypeError):
        return None
    return Entry(*values) if all(isinstance(value, str) for value in values) else None
