"""Staying behind while the program runs in a child: for a process namespace, for its ports.

    caller -- this process -+- init      the first process of the namespace: reaps, passes signals
                            +- a proxy   between the host's network and the container's
                            `- program

The program is this process's own child: its exit code, its stops and the terminal are known
without asking anybody. It does not see this process, which is outside of its namespace. When
this process ends, however it ends, the kernel ends the init, and with it the whole namespace.
Source: pid_namespaces(7), prctl(2) PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import os
import sys

from udocker.engines.sandbox.kernel import die_with_parent, hide_from_debuggers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence
    from typing import NoReturn
else:
    import _signal as signal  # `signal` itself costs 5 ms for the enums that it makes

_UNTOUCHED = {signal.SIGKILL, signal.SIGSTOP}
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
_SIGNALS = frozenset(signal.valid_signals() - _UNTOUCHED - _FAULTS)


def stay_behind(
    companions: Sequence[Callable[[], None]] = (),
    *,
    init: bool = False,
    mortal: bool = False,
    lock: int = -1,
) -> int:
    """Return in a child, which is to become the program: the child's pid as this process sees it.

    This process stays behind and exits as the program does: with its code, or 128 and the
    number of the signal that ended it. `companions` run beside the program and end with it.
    With `init` there is a new process namespace, whose first process is made here. A `mortal`
    one ends with its parent. `lock` is a descriptor that only the program and this process keep.
    """
    terminal = _own_terminal()
    # one whose caller ignored SIGCHLD is never told that its child has ended
    at_end_of_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    if mortal:
        die_with_parent(signal.SIGKILL)
    first = os.pipe() if init else (-1, -1)
    helpers = [_fork(lambda: _be_init(*first), lock)] if init else []
    helpers += [_fork(companion, lock) for companion in companions]
    outside, inside = os.pipe(), os.pipe()
    program = os.fork()
    if program == 0:
        os.write(inside[1], b"%d" % os.getpid())
        os.close(outside[1])
        number = os.read(outside[0], 20)
        for fd in {outside[0], *inside, *first} - {-1}:
            os.close(fd)
        if not number:  # the one that was to stay behind is gone
            os._exit(128 + signal.SIGKILL)
        signal.signal(signal.SIGCHLD, at_end_of_child)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return int(number)
    hide_from_debuggers()
    _close_words()
    os.close(inside[1])
    own_number = os.read(inside[0], 20)
    os.write(outside[1], b"%d" % program)
    if init:
        os.write(first[1], own_number)
    for fd in {inside[0], *outside, *first} - {-1}:
        os.close(fd)
    code = _watch(program, int(own_number or 0))
    _end(helpers)
    if terminal >= 0:
        _take_back(terminal)
    os._exit(code)


def _fork(action: Callable[[], None], lock: int) -> int:
    """Start a child that does `action`, and ends with this process."""
    child = os.fork()
    if child == 0:
        try:
            die_with_parent(signal.SIGKILL)
            hide_from_debuggers()
            _close_words()
            if lock >= 0:
                os.close(lock)
            action()
        except Exception as error:
            if sys.stderr is not None and not sys.stderr.closed:
                print(f"udocker: {error!r}", file=sys.stderr)
        finally:
            os._exit(125)
    return child


def _be_init(told: int, tell: int) -> NoReturn:
    """Reap what is left behind in this namespace; pass signals from within it to the program.

    Signals from outside are not for this process; the kernel sends what the terminal has to say
    to the program as well.
    """
    os.close(tell)
    text = os.read(told, 20)
    if not text:  # nobody is left to become the program
        os._exit(0)
    os.close(told)
    program = int(text)
    while True:
        came = signal.sigwaitinfo(_SIGNALS)
        if came.si_signo == signal.SIGCHLD:
            _reap()
        elif came.si_code <= 0 and came.si_pid not in (0, program):
            _send(program, came.si_signo)


def _close_words() -> None:
    """Close where the program would say why it cannot start, unless it is standard error: who
    reads there waits until only the program could write, and has become another."""
    if sys.stderr is not None and sys.stderr.fileno() > 2:
        sys.stderr.close()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _watch(program: int, own_number: int) -> int:
    """Return the exit code of the program when it has ended; pass signals on, stop as it stops.

    What the program sends to its process group comes here too, from its `own_number`: the kernel
    does not translate that to the number that it has here.
    """
    while True:
        came = signal.sigwaitinfo(_SIGNALS)
        if came.si_signo == signal.SIGCHLD:
            code = _state(program)
            if code is not None:
                return code
        elif came.si_code <= 0 and came.si_pid not in (program, own_number):
            _send(program, came.si_signo)  # sent by a process: the terminal's it has got itself


def _state(program: int) -> int | None:
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return None
        if pid != program:  # a companion
            continue
        if os.WIFSIGNALED(status):
            return 128 + os.WTERMSIG(status)
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status)
        os.kill(os.getpid(), signal.SIGSTOP)
        _send(program, signal.SIGCONT)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has just ended
        pass


def _end(helpers: Sequence[int]) -> None:
    """End the companions; with the init all that is left of its namespace ends.

    The init, the first of them, is gone only when all others of its namespace have been reaped.
    """
    for helper in helpers:
        _send(helper, signal.SIGKILL)
    for helper in reversed(helpers):
        try:
            os.waitpid(helper, 0)
        except ChildProcessError:  # it had ended before
            pass


def _own_terminal() -> int:
    """Return a descriptor of the terminal if this process is in its foreground; -1: it is not."""
    for fd in (0, 1, 2):
        try:
            if os.tcgetpgrp(fd) == os.getpgrp():
                return fd
        except OSError:  # no terminal
            continue
    return -1


def _take_back(terminal: int) -> None:
    """This process group is in the foreground again.

    A shell in a namespace cannot name the group that it took the terminal from.
    """
    try:
        os.tcsetpgrp(terminal, os.getpgrp())
    except OSError:
        pass
