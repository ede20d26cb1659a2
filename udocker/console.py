"""Talking to the user: data goes to stdout, everything else to stderr."""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Protocol

    from udocker.errors import UdockerError
else:
    Protocol = object


_origins = False


def show_origins(*, wanted: bool) -> None:
    """Let errors be written with where they came from, or not any more."""
    global _origins
    _origins = wanted


def say(text: str) -> None:
    """Write a line of talk."""
    _write(sys.stderr, text)


def warn(text: str) -> None:
    """Write what the user should know although it stops nothing."""
    _write(sys.stderr, f"udocker: note: {text}")


def say_error(error: UdockerError) -> None:
    """Write what went wrong and the way out."""
    if _origins:
        import traceback

        say("".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip())
    say(f"udocker: {error.message}")
    if error.hint:
        say(f"  {error.hint}")


def put(text: str) -> None:
    """Write a line of data. Raises UdockerError where it cannot be written, on a full disk say."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "it is closed")
        _write(sys.stdout, text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritten(error) from error


def _unwritten(error: OSError) -> UdockerError:
    from udocker.errors import UdockerError

    drop_output()
    return UdockerError(f"cannot write to standard output: {error.strerror}")


def put_bytes(data: bytes) -> None:
    """Write data as they are. Raises UdockerError as `put` does."""
    if sys.stdout is None:
        put("")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritten(error) from error


def put_lines(lines: Iterable[str]) -> None:
    """Write lines of data at once, if there are any."""
    text = "\n".join(lines)
    if text:
        put(text)


def drop_output() -> None:
    """What is left of the output goes nowhere: Python's own attempt at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _write(stream: Any, text: str) -> None:
    """Write printable text: names from outside must not drive the terminal."""
    if stream is None:  # the caller closed standard error, and wants no talk
        return
    clean = text.encode("utf-8", "backslashreplace").decode() if not text.isascii() else text
    stream.write(clean.translate(_CONTROLS) + "\n")
    stream.flush()


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write rows in columns as wide as their widest cell, the last one ragged."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    put_lines("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def human_size(size_bytes: float) -> str:
    """Return a size in the unit that suits it, decimal, as docker prints sizes."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


class Progress(Protocol):
    """How far a transfer of several parts is; parts are named by short words."""

    def start(self, part: str, total_bytes: int) -> None:
        """A part of that size begins (or begins again)."""

    def advance(self, part: str, size_bytes: int) -> None:
        """So much more of a part has come."""

    def finish(self, part: str, note: str) -> None:
        """A part has ended; `note` says how."""

    def close(self) -> None:
        """All parts have ended, or were given up."""


class Silence:
    """Progress for nobody."""

    def start(self, part: str, total_bytes: int) -> None:
        """Say nothing."""

    def advance(self, part: str, size_bytes: int) -> None:
        """Say nothing."""

    def finish(self, part: str, note: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class Lines(Silence):
    """One line for each part when it ends: for logs and pipes."""

    def __init__(self) -> None:
        self._total: dict[str, int] = {}

    def start(self, part: str, total_bytes: int) -> None:
        """Remember the size."""
        self._total[part] = total_bytes

    def finish(self, part: str, note: str) -> None:
        """Say how the part ended."""
        say(f"{part}: {note} ({human_size(self._total.get(part, 0))})")


class Bars(Silence):
    """A bar for each part, on a terminal."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def start(self, part: str, total_bytes: int) -> None:
        """Show an empty bar."""
        from tqdm import tqdm

        if part in self._bars:
            self._bars[part].reset(total_bytes)
            return
        self._bars[part] = tqdm(
            total=total_bytes,
            desc=part,
            unit="B",
            unit_scale=True,
            position=len(self._bars),
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format="{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {rate_fmt}{postfix}",
        )

    def advance(self, part: str, size_bytes: int) -> None:
        """Let the bar grow."""
        self._bars[part].update(size_bytes)

    def finish(self, part: str, note: str) -> None:
        """Fill the bar."""
        bar = self._bars[part]
        bar.update(max(0, (bar.total or 0) - bar.n))
        bar.set_postfix_str(note)

    def close(self) -> None:
        """Leave the bars as they are and go on below them."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()


def progress(*, quiet: bool) -> Progress:
    """Return the progress that suits where stderr goes."""
    if quiet or sys.stderr is None:
        return Silence()
    if sys.stderr.isatty():
        return Bars()
    return Lines()
