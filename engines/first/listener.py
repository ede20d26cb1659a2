"""Hearing from the first process: who the program is, and how it ends."""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import struct
import time

from udocker import console, disk
from udocker.engines import first, supervise

_BYTES = struct.calcsize(first.RECORD)
_OVER = 0
"""A record of our own: nothing more comes."""
_LEAST = (200, 50, 10)
"""Out of the way of the numbers that programs use by habit."""
_BEGIN_S, _PAUSE_S = 10, 0.002


class Listener:
    """An engine's attendant: it knows of the program what the first process tells.

    A thread waits for that, for its process waits for signals. When the program has ended, so
    do the other processes of the container.
    """

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self.fd = _inheritable(writer)
        """What the first process writes to; programs inherit it as far as that."""
        self.program = ""
        """What is told as the name of a program that cannot be run."""
        self._pid = 0
        self._errno = 0
        self._status: int | None = None
        self._begun, self._over = _thread.allocate_lock(), _thread.allocate_lock()

    def close(self) -> None:
        """Give the pipe back: nobody has been told to write to it."""
        os.close(self._reader)
        os.close(self.fd)

    def watch(self, child: int) -> None:
        """Listen, in a thread, from now on. `child` is the engine's own process."""
        self._begun.acquire()
        self._over.acquire()
        _thread.start_new_thread(self._listen, (child,))

    def receiver(self, child: int) -> int:
        """Return the program's pid, waiting for it to begin; `child` if it has ended."""
        if self._begun.acquire(timeout=_BEGIN_S):
            self._begun.release()
        return self._pid or child

    def exit_code(self, child: int, status: int) -> int:
        """Return the program's exit code; 126 or 127 where it could not be executed, which is said.

        Where the first process told nothing the engine has failed, and the code is 125.
        """
        os.write(self.fd, struct.pack(first.RECORD, _OVER, 0))
        self._over.acquire()
        if self._errno:
            console.say(f"udocker: run {self.program}: {os.strerror(self._errno)}")
            return 127 if self._errno in (errno.ENOENT, errno.ENOTDIR) else 126
        if self._status is not None:
            return supervise.exit_code(self._status)
        return supervise.exit_code(status) if os.WIFSIGNALED(status) else 125

    def _listen(self, child: int) -> None:
        while True:
            kind, number = struct.unpack(first.RECORD, os.read(self._reader, _BYTES))
            if kind == first.STARTED:
                self._pid = number
            elif kind == first.FAILED:
                self._errno = number
            elif kind == first.ENDED:
                self._status, self._pid = number, 0
                self._end_others(child)
            else:
                self._over.release()
                return
            if self._begun.locked():
                self._begun.release()

    def _end_others(self, child: int) -> None:
        """Kill what is left in the container until `child`, which traces it, has ended."""
        while disk.is_alive(child):
            others = [pid for pid in supervise.descendants(os.getpid()) if pid != child]
            supervise.send(others, 9)
            time.sleep(_PAUSE_S)


def _inheritable(fd: int) -> int:
    for least in _LEAST:
        try:
            number = fcntl.fcntl(fd, fcntl.F_DUPFD, least)
        except OSError:  # this user may not have that many open files
            continue
        os.close(fd)
        return number
    os.set_inheritable(fd, True)
    return fd
