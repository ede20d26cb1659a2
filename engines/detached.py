"""Programs in the background: a daemon stays with each, keeps its log and sees how it ends.

Who asked for it waits until the program is there, or until it is known why not. From then on
nothing ties the daemon to its caller: another session, no terminal, no directory, no open file.
"""

from __future__ import annotations

import os
import select
import sys
import time

from udocker import console
from udocker.engines import supervise
from udocker.errors import UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn

    from udocker.containers.logs import LogWriter
    from udocker.containers.spec import Attendant
else:
    import _signal as signal

_READ_BYTES = 64 << 10
_KEPT_BYTES = 8 << 10
_SETTLED_S = 0.3
"""When an engine's own process is still there after this time, the program has been started."""
_SCREEN = b"".join(number.to_bytes(2, sys.byteorder) for number in (24, 80, 0, 0))
"""Lines and columns of a terminal that nobody looks at. Source: TIOCSWINSZ(2const)."""
_NOT_STARTED = (125, 126, 127)


def in_background(action: Callable[[Callable[[int], None]], None], keep: tuple[int, ...]) -> int:
    """Call `action` in a daemon; return the exit code that it reports, once.

    What `action` raises before is told to the user, and makes 125. Its standard error is the
    caller's until it reports. Of all other open files it has those of `keep`, which are closed
    here.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        if os.fork() == 0:
            _be_daemon(action, writer, keep)
        os._exit(0)
    for fd in (writer, *keep):
        os.close(fd)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:  # the caller ignores the ends of children
        pass
    with os.fdopen(reader, "rb") as file:
        answer = file.readline()
    if not answer:
        raise UdockerError("the process that was to stay in the background has been killed")
    return int(answer)


def _be_daemon(
    action: Callable[[Callable[[int], None]], None], writer: int, keep: tuple[int, ...]
) -> NoReturn:
    reported: list[int] = []

    def report(code: int) -> None:
        if not reported:
            reported.append(code)
            try:
                os.write(writer, b"%d\n" % code)
            except OSError:  # who asked has been interrupted
                pass
            os.dup2(0, 2)
            os.close(writer)

    code = 125
    try:
        _leave_caller((writer, *keep))
        action(report)
        code = 0
    except UdockerError as error:
        console.say_error(error)
        code = max(error.exit_code, 125)
    except BaseException as error:
        console.say(f"udocker: {error!r}")
    finally:
        try:
            report(code)
        finally:
            os._exit(code)


def _leave_caller(keep: tuple[int, ...]) -> None:
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nowhere, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:  # the one that listed them
                pass


class Monitor:
    """The daemon's work for one program, from its start to its end."""

    def __init__(self, log: LogWriter | None, *, terminal: bool, interactive: bool) -> None:
        """Without a log the output is lost. With `terminal` the program gets one of its own,
        with `interactive` its standard input is open, though nothing ever comes."""
        self._log = log
        self._terminal = terminal
        self._early = b""
        """The beginning of what an engine said, until it is known that the program runs."""
        self._pid = 0
        self._failure = b""
        self._launched = 0.0
        """When the program's process became another one; 0: it has not yet."""
        self._started: Callable[[int, int], None] | None = None
        self._guard = 0
        self._code: int | None = None
        self._sources: dict[int, str] = {}
        self._stdin = self._stdout = self._stderr = -1
        self._kept: tuple[int, ...] = ()
        self._given: tuple[int, ...] = ()
        self._open_streams(interactive)

    def _open_streams(self, interactive: bool) -> None:
        if self._terminal:
            outer, inner = os.openpty()
            self._sources[outer] = "stdout"
            self._stdin = self._stdout = self._stderr = inner
            return
        if interactive:
            self._stdin, kept = os.pipe()
            self._kept = (kept,)
        else:
            self._stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        out, self._stdout = os.pipe()
        err, self._stderr = os.pipe()
        self._sources.update({out: "stdout", err: "stderr"})

    def run(
        self,
        start: Callable[[], NoReturn],
        attendant: Attendant | None,
        started: Callable[[int, int], None],
        *,
        timeout_s: float | None = None,
    ) -> int:
        """Call `start` in a child below a guard; return the program's exit code at its end.

        `started` is called with the pids of program and guard when the program is there. When
        it never was, what kept it from starting has been written to standard error.
        """
        self._started = started
        words, words_writer = os.pipe()
        self._sources[words] = ""
        wakeup = self._catch_signals()
        # a caller that blocks SIGCHLD would keep the end of the program from being seen
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())
        theirs = {self._stdin, self._stdout, self._stderr, words_writer, *self._given}
        self._guard = supervise.spawn_guarded(
            lambda: self._become(start, words_writer),
            attendant,
            streams=(0, 0, self._stderr),  # engines' guards may have something to say
            programs=tuple(theirs),
            mask=mask,
            timeout_s=timeout_s,
        )
        for fd in theirs:
            os.close(fd)
        try:
            return self._watch(wakeup, attendant)
        finally:
            if self._log:
                self._log.close()

    def give(self, fd: int) -> None:
        """The program gets a descriptor that this process and the guard do not keep."""
        self._given = (*self._given, fd)

    @property
    def has_started(self) -> bool:
        """Tell whether the program was there."""
        return self._started is None

    def _become(self, start: Callable[[], NoReturn], words_writer: int) -> NoReturn:
        """In the child: leave the daemon's session, take the streams, become the program.

        What keeps it from doing so is written to a pipe that closes when it succeeds.
        """
        os.setsid()
        for number, fd in enumerate((self._stdin, self._stdout, self._stderr)):
            os.dup2(fd, number)
        if self._terminal:
            import fcntl
            import termios

            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, _SCREEN)
        sys.stderr = os.fdopen(words_writer, "w", 1, errors="backslashreplace")
        sys.stderr.write(f"{os.getpid()}\n")
        signal.set_wakeup_fd(-1)
        for number in _CAUGHT:
            signal.signal(number, signal.SIG_DFL)
        start()

    def _catch_signals(self) -> int:
        """Return a descriptor from which the numbers of the signals that come can be read."""
        reader, writer = os.pipe()
        for fd in (reader, writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (*_CAUGHT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        return reader

    def _watch(self, wakeup: int, attendant: Attendant | None) -> int:
        poll = select.poll()
        for fd in (wakeup, *self._sources):
            poll.register(fd, select.POLLIN)
        while self._code is None:
            settles = self._launched and not self.has_started
            for fd, _ in poll.poll(20 if settles else None):
                if fd == wakeup:
                    self._answer_signals(os.read(fd, 512))
                elif not self._take(fd):
                    poll.unregister(fd)
            if not self.has_started and self._is_settled(attendant):
                self._tell_started()
        self._drain()
        if not self.has_started and not self._failure and not self._failed_late(attendant):
            self._tell_started()
        if not self.has_started:
            os.write(2, self._failure or self._early)
        return self._code

    def _take(self, fd: int) -> bool:
        """Read what a stream has; tell whether more may come."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:  # the last program of a terminal has ended
            data = b""
        stream = self._sources[fd]
        if not data:
            self._launched = self._launched or (0.0 if stream else time.monotonic())
            return False
        if not stream:
            self._hear(data)
        else:
            if not self.has_started:
                self._early = (self._early + data)[-_KEPT_BYTES:]
            if self._log:
                self._log.write(stream, data)
        return True

    def _hear(self, data: bytes) -> None:
        """Take the words of the child: its pid, and perhaps why it cannot become the program."""
        if not self._pid:
            number, _, data = data.partition(b"\n")
            self._pid = int(number)
        self._failure = (self._failure + data)[:_KEPT_BYTES]

    def _is_settled(self, attendant: Attendant | None) -> bool:
        if not self._launched or self._failure:
            return False
        if attendant is None or time.monotonic() - self._launched > _SETTLED_S:
            return True
        return attendant.receiver(self._pid) != self._pid and self._seen_twice()

    def _seen_twice(self) -> bool:
        """An engine's child that cannot become the program is seen once, and then no more."""
        return time.monotonic() - self._launched > _SETTLED_S / 3

    def _failed_late(self, attendant: Attendant | None) -> bool:
        """Tell whether an engine has ended at once because it could not start the program.

        A program may end with these codes too; but udocker says something when it does not run.
        """
        if not self._launched or attendant is None:
            return not self._launched
        return self._code == 125 or (self._code in _NOT_STARTED and b"udocker: " in self._early)

    def _tell_started(self) -> None:
        assert self._started
        started, self._started = self._started, None
        self._early = b""
        started(self._pid, self._guard)

    def _answer_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number != signal.SIGCHLD:
                os.kill(self._guard, number)
        while self._code is None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._guard:
                self._code = supervise.exit_code(status)

    def _drain(self) -> None:
        """Take what was written before the end; nobody writes any more."""
        supervise.end_descendants()
        for fd in self._sources:
            os.set_blocking(fd, False)
            limit_bytes = 1 << 20  # what a pipe holds at most, unless root changed that
            while limit_bytes > 0 and self._take_some(fd):
                limit_bytes -= _READ_BYTES

    def _take_some(self, fd: int) -> bool:
        ready = select.poll()
        ready.register(fd, select.POLLIN)
        return bool(ready.poll(0)) and self._take(fd)


_CAUGHT = (
    *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1),
    *(signal.SIGUSR2, signal.SIGALRM, signal.SIGCONT, signal.SIGWINCH),
)
