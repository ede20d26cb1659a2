"""Staying in the place of a program whose parent is another program's process.

This process takes over what it started leaves behind, passes on the signals that it gets, and
ends as the program does.
"""

from __future__ import annotations

import os

from udocker import console
from udocker.engines import supervise
from udocker.errors import UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn, Protocol
else:
    import _signal as signal  # `signal` itself costs 5 ms for the enums that it makes

    Protocol = object

_UNTOUCHED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_PAUSE_S = 0.02
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}


class Starter(Protocol):
    """What is known of a process that starts the program and may be gone before it."""

    has_own_session: bool
    """The program gets no signals of the caller's terminal by itself."""

    heir_may_outlive: bool
    """The heir does not end by itself when the program does."""

    def become(self) -> NoReturn:
        """Become the process that starts the program. Raises UdockerError."""

    def program(self) -> int:
        """Return the program's pid; 0: it is not there yet."""

    def heir(self) -> int:
        """Return the pid of what ends as the program does, when this process is gone; 0: none.

        What would outlive the program is ended now, if the program has ended.
        """

    def ended(self, status: int) -> int | None:
        """Return the exit code, now that this process has ended so; None: the program goes on."""


def stand_in(starter: Starter) -> NoReturn:
    """Have the program started, wait for its end and exit as it does."""
    from udocker.engines.sandbox import kernel

    kernel.adopt_orphans()
    signals = signal.valid_signals() - _UNTOUCHED - _FAULTS
    # one whose caller ignored SIGCHLD is never told that its child has ended
    at_end_of_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    child = os.fork()
    if child == 0:
        _start(starter.become, at_end_of_child, before)
    _close_own_files()
    os._exit(_wait(starter, child, signals))


def _start(become: Callable[[], NoReturn], at_end_of_child: object, mask: set[int]) -> NoReturn:
    try:
        signal.signal(signal.SIGCHLD, at_end_of_child)  # type: ignore[arg-type]
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        become()
    except UdockerError as error:
        console.say_error(error)
    finally:
        os._exit(125)


def _close_own_files() -> None:
    """Close what programs do not inherit, as becoming one would: others wait for that."""
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if number > 2 and not os.get_inheritable(number):
                os.close(number)
        except OSError:  # the one that listed them
            continue


def _wait(starter: Starter, child: int, signals: set[signal.Signals]) -> int:
    """Return the program's exit code at its end; what signals come are passed on to it."""
    ends: dict[int, int] = {}
    waiting: list[int] = []
    while True:
        # what comes before the program is there must not reach who starts it, and is kept
        hurries = waiting or (child in ends and starter.heir_may_outlive)
        came = signal.sigtimedwait(signals, _PAUSE_S) if hurries else signal.sigwaitinfo(signals)
        if hurries or (came and came.si_signo == signal.SIGCHLD):
            ends.update(_reap())
            code = _code(starter, child, ends)
            if code is not None:
                return code
        if came and came.si_signo == signal.SIGCHLD:
            continue
        if came and (starter.has_own_session or came.si_code <= 0):
            waiting.append(came.si_signo)  # others the kernel has sent to the program too
        program = starter.program() if waiting else 0
        for number in waiting if program else ():
            supervise.send((program,), number)
        waiting = [] if program else waiting


def _reap() -> dict[int, int]:
    """Return the wait statuses of the children that have ended, by pid."""
    ends: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ends
        if pid == 0:
            return ends
        ends[pid] = status


def _code(starter: Starter, child: int, ends: dict[int, int]) -> int | None:
    """Return the exit code if it is known from the processes that have ended."""
    if child not in ends:
        return None
    code = starter.ended(ends[child])
    heir = starter.heir()
    if code is None and heir in ends:
        return supervise.exit_code(ends[heir])
    return code
