"""A terminal of 33 lines and 77 columns, for programs in tests."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
import time


class Terminal:
    """`expect` what the program writes, `type` to it, `resize` it; `end` returns the exit code.

    `start` is called with the options for subprocess.Popen.
    """

    def __init__(self, start):
        self._master, slave = pty.openpty()
        os.fchmod(slave, 0o666)
        self.resize(33, 77)
        self.text = ""
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.process = start(start_new_session=True, preexec_fn=_take_terminal, **streams)
        os.close(slave)

    def resize(self, lines, columns):
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def expect(self, text):
        end = time.monotonic() + 20
        while text not in self.text:
            ready, _, _ = select.select([self._master], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{text!r} did not come: {self.text!r}"
            try:
                self.text += os.read(self._master, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended before {text!r}: {self.text!r}") from None

    def type(self, text):
        os.write(self._master, text.encode())

    def end(self):
        end = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.text!r}"
            ready, _, _ = select.select([self._master], [], [], 0.05)
            with contextlib.suppress(OSError):
                self.text += os.read(self._master, 4096).decode(errors="replace") if ready else ""
        os.close(self._master)
        return self.process.returncode


def _take_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
