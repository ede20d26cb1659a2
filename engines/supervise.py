"""Staying behind while a program runs in a child, for what is to be done when it ends.

Two processes stay: udocker, and a guard between it and the program. The guard adopts what the
program leaves behind and ends it; when udocker is killed (also by SIGKILL, of which nobody is
told) the kernel tells the guard, which ends the program and all that came from it.
"""

from __future__ import annotations

import os

from udocker import console

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn

    from udocker.containers.spec import Attendant
else:
    import _signal as signal  # `signal` itself costs 5 ms for the enums that it makes

_UNTOUCHED = {signal.SIGKILL, signal.SIGSTOP}
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
_KILLED = 128 + signal.SIGKILL


def run(start: Callable[[], NoReturn], attendant: Attendant | None = None) -> int:
    """Call `start` in a grandchild, which becomes the program; return its exit code at its end.

    Killed by signal n: 128+n. A signal that somebody sends to this process goes to the program.
    One that the terminal sends is not passed on, for the program has got it as well. When the
    program stops, so does this process, and the shell takes over. What the program started
    ends with it. `attendant` is the engine's, where its process is not the program itself.
    """

    def guard() -> NoReturn:
        os._exit(_Watch(attendant, signal.SIGKILL).run(start))

    return _Watch(None, signal.SIGTERM).run(guard)


class _Watch:
    """A process that waits for a child, and at its end for all that came from it."""

    def __init__(self, attendant: Attendant | None, at_our_end: int) -> None:
        """`at_our_end` is the signal that the child gets when this process ends."""
        self._attendant = attendant
        self._at_our_end = at_our_end
        self._parent = os.getppid()
        self._child = 0

    def run(self, start: Callable[[], NoReturn]) -> int:
        """Call `start` in a child; return its exit code when nothing of it runs any more."""
        from udocker.engines.sandbox import kernel

        kernel.adopt_orphans()
        signals = signal.valid_signals() - _UNTOUCHED - _FAULTS
        # one whose caller ignored SIGCHLD is never told that its child has ended
        at_end_of_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        parent = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            kernel.die_with_parent(self._at_our_end)
            signal.signal(signal.SIGCHLD, at_end_of_child)
            _become(start, before, parent)
        try:
            return self._wait(signals)
        finally:
            end_descendants()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait(self, signals: set[signal.Signals]) -> int:
        while True:
            came = signal.sigwaitinfo(signals)
            if os.getppid() != self._parent:  # it was killed, and this process is to end too
                return _KILLED
            if came.si_signo == signal.SIGCHLD:
                code = self._state()
                if code is not None:
                    return code
            elif came.si_code <= 0 and came.si_pid != self._child:
                self._send(came.si_signo)  # sent by a process, not by the kernel

    def _state(self) -> int | None:
        """Return the exit code if the child has ended; stop with it if it has stopped."""
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            if pid == 0:
                return None
            if pid != self._child:  # one that it left behind
                continue
            if not os.WIFSTOPPED(status):
                return self._code(status)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._send(signal.SIGCONT)

    def _code(self, status: int) -> int:
        if self._attendant:
            return self._attendant.exit_code(self._child, status)
        return exit_code(status)

    def _send(self, number: int) -> None:
        receiver = self._attendant.receiver(self._child) if self._attendant else self._child
        try:
            os.kill(receiver, number)
        except ProcessLookupError:  # it has just ended
            pass


def exit_code(status: int) -> int:
    """Return what a shell makes of a wait status: the exit code, or 128 and the signal."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def end_descendants() -> None:
    """Kill all processes that come from this one, which has adopted the orphans among them."""
    while True:
        for child in children(os.getpid()):
            try:
                os.kill(child, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children(pid: int) -> tuple[int, ...]:
    """Return the pids of a process's children. Source: proc(5), /proc/PID/task/TID/children."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return tuple(map(int, file.read().split()))
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        others = (int(name) for name in os.listdir("/proc") if name.isdigit())
        return tuple(other for other in others if _parent_of(other) == pid)


def _parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read(4096).rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _become(start: Callable[[], NoReturn], mask: set[int], parent: int) -> NoReturn:
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if os.getppid() != parent:
            os._exit(_KILLED)
        start()
    except Exception as error:
        console.say(f"udocker: {error!r}")
    finally:
        os._exit(125)
