"""Staying behind while a program runs in a child, for what is to be done when it ends."""

from __future__ import annotations

import os

from udocker import console

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn
else:
    import _signal as signal  # `signal` itself costs 5 ms for the enums that it makes

_UNTOUCHED = {signal.SIGKILL, signal.SIGSTOP}
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}


def run(start: Callable[[], NoReturn]) -> int:
    """Call `start` in a child, which becomes the program; return its exit code when it ends.

    Killed by signal n: 128+n. A signal that somebody sends to this process goes to the program.
    One that the terminal sends is not passed on, for the program has got it as well. When the
    program stops, so does this process, and the shell takes over; the program dies with it.
    """
    signals = signal.valid_signals() - _UNTOUCHED - _FAULTS
    # one whose caller ignored SIGCHLD is never told that its child has ended
    at_end_of_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, at_end_of_child)
        _become(start, before, parent)
    try:
        return _wait(child, signals)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become(start: Callable[[], NoReturn], mask: set[int], parent: int) -> NoReturn:
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if os.getppid() != parent:
            os._exit(137)
        start()
    except Exception as error:
        console.say(f"udocker: {error!r}")
    finally:
        os._exit(125)


def _wait(child: int, signals: set[signal.Signals]) -> int:
    while True:
        came = signal.sigwaitinfo(signals)
        if came.si_signo == signal.SIGCHLD:
            code = _state(child)
            if code is not None:
                return code
        elif came.si_code <= 0 and came.si_pid != child:  # sent by a process, not by the kernel
            _send(child, came.si_signo)


def _state(child: int) -> int | None:
    """Return the exit code if the child has ended; stop with it if it has stopped."""
    pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
    if pid == 0:
        return None
    if os.WIFSTOPPED(status):
        os.kill(os.getpid(), signal.SIGSTOP)
        _send(child, signal.SIGCONT)
        return None
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _send(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:  # it has just ended
        pass
