"""Archives on their way to a file, which appears whole, or to standard output."""

from __future__ import annotations

import os
import stat
import sys

from udocker import disk
from udocker.errors import UdockerError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[[int, bool], None]
    """Writes to a descriptor; the flag says whether it is a new file, to be written anywhere."""


def write(path: str | None, hint: str, action: Write) -> None:
    """Let `action` write to a file, or without one, or to `-`, to standard output.

    Raises UsageError, with `hint`, rather than write to a terminal.
    """
    if path in (None, "-"):
        _to_standard_output(hint, action)
    else:
        _to_file(str(path), action)


def _to_standard_output(hint: str, action: Write) -> None:
    if sys.stdout is None or sys.stdout.isatty():
        raise UsageError("an archive does not suit a terminal", hint=hint)
    try:
        action(sys.stdout.fileno(), False)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UdockerError(f"cannot write to standard output: {error.strerror}") from error


def _to_file(path: str, action: Write) -> None:
    """Write the file, which appears whole; a pipe or device that is there is written to."""
    try:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                action(descriptor, False)
            finally:
                os.close(descriptor)
            return
        draft = f"{path}.{disk.owner()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            action(descriptor, True)
            os.fsync(descriptor)
            os.rename(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk.output_error(error, path) from error
