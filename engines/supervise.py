"""Staying behind while a program runs in a child, for what is to be done when it ends.

Two processes stay: udocker, and a guard between it and the program. The guard adopts what the
program leaves behind and ends it; when udocker is killed (also by SIGKILL, of which nobody is
told) the kernel tells the guard, which ends the program and all that came from it.
"""

from __future__ import annotations

import os
import time

from udocker import console
from udocker.errors import UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import NoReturn

    from udocker.containers.spec import Attendant
else:
    import _signal as signal  # `signal` itself costs 5 ms for the enums that it makes

_UNTOUCHED = {signal.SIGKILL, signal.SIGSTOP}
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
_KILLED = 128 + signal.SIGKILL


def run(
    start: Callable[[], NoReturn],
    attendant: Attendant | None = None,
    *,
    passes_signals: bool = True,
    timeout_s: float | None = None,
    forsaken: Callable[[], None] | None = None,
) -> int:
    """Call `start` in a grandchild, which becomes the program; return its exit code at its end.

    Killed by signal n: 128+n. A signal that somebody sends to this process goes to the program.
    One that the terminal sends is not passed on, for the program has got it as well. When the
    program stops, so does this process, and the shell takes over. What the program started
    ends with it. `attendant` is the engine's, where its process is not the program itself.
    Without `passes_signals` signals to this process have no effect. A program that runs longer
    than `timeout_s` is killed. `forsaken` is called where this process was killed, after the
    program has been ended, for what it would have done then.
    """
    keeper = os.getpid()

    def guard() -> NoReturn:
        code = _Watch(attendant, signal.SIGKILL, timeout_s=timeout_s).run(start)
        if forsaken and os.getppid() != keeper:
            forsaken()
        os._exit(code)

    return _Watch(None, signal.SIGTERM, passes_signals=passes_signals).run(guard)


def spawn_guarded(
    start: Callable[[], NoReturn],
    attendant: Attendant | None,
    *,
    streams: tuple[int, int, int],
    programs: tuple[int, ...],
    mask: set[int],
    timeout_s: float | None = None,
) -> int:
    """Start a guard that calls `start` in a child, as `run` does; return the guard's pid.

    The guard's standard streams are the descriptors `streams`; those of `programs` are open in
    the program's process only, whose blocked signals are `mask`. When this process ends, all
    of it ends.
    """
    from udocker.engines.sandbox import kernel

    kernel.adopt_orphans()
    parent = os.getpid()

    def guard() -> NoReturn:
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        watch = _Watch(
            attendant, signal.SIGKILL, timeout_s=timeout_s, programs=programs, stops=False
        )
        os._exit(watch.run(start))

    child = os.fork()
    if child == 0:
        kernel.die_with_parent(signal.SIGTERM)
        _become(guard, mask, parent)
    return child


class _Watch:
    """A process that waits for a child, and at its end for all that came from it."""

    def __init__(
        self,
        attendant: Attendant | None,
        at_our_end: int,
        *,
        passes_signals: bool = True,
        timeout_s: float | None = None,
        programs: tuple[int, ...] = (),
        stops: bool = True,
    ) -> None:
        """`at_our_end` is the signal that the child gets when this process ends; `programs` are
        descriptors that only the child keeps. This process `stops` when the child does."""
        self._attendant = attendant
        self._at_our_end = at_our_end
        self._passes_signals = passes_signals
        self._timeout_s = timeout_s
        self._programs = programs
        self._stops = stops
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
        for fd in self._programs:
            os.close(fd)
        try:
            if self._attendant:
                self._attendant.watch(self._child)
            return self._wait(signals)
        finally:
            end_descendants()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _wait(self, signals: set[signal.Signals]) -> int:
        end = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
            came = _next_signal(signals, end)
            if came is None:
                end = None
                self._send(signal.SIGKILL)
                continue
            if os.getppid() != self._parent:  # it was killed, and this process is to end too
                return _KILLED
            if came.si_signo == signal.SIGCHLD:
                code = self._state()
                if code is not None:
                    return code
            elif came.si_code <= 0 and came.si_pid != self._child and self._passes_signals:
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
            if not self._stops:
                continue
            os.kill(os.getpid(), signal.SIGSTOP)
            send((self._child,), signal.SIGCONT)
            if self._attendant:
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


def _next_signal(signals: set[signal.Signals], end: float | None) -> signal.struct_siginfo | None:
    """Wait for a signal; None: the time `end` of the monotonic clock has come first."""
    if end is None:
        return signal.sigwaitinfo(signals)
    return signal.sigtimedwait(signals, max(0.0, end - time.monotonic()))


def exit_code(status: int) -> int:
    """Return what a shell makes of a wait status: the exit code, or 128 and the signal."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def end_descendants() -> None:
    """Kill all processes that come from this one, which has adopted the orphans among them.

    All are stopped first, and parents killed last: processes that one of them traces must not
    run on without their tracer.
    """
    while True:
        found = descendants(os.getpid())
        send(found, signal.SIGSTOP)
        send(found[::-1], signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def send(pids: Iterable[int], number: int) -> None:
    """Send a signal to those of the processes that are there and this user's."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass


def descendants(pid: int) -> tuple[int, ...]:
    """Return the pids of all processes that come from a process, parents before children."""
    found = list(children(pid))
    for one in found:  # the list grows
        found += children(one)
    return tuple(found)


def children(pid: int) -> tuple[int, ...]:
    """Return the pids of a process's children. Source: proc(5), /proc/PID/task/TID/children."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it has ended
        return ()
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except OSError:
            if os.path.exists(f"/proc/{pid}/task/{thread}"):
                return _children_of_all(pid)
    return tuple(found)


def _children_of_all(pid: int) -> tuple[int, ...]:
    """Return the same on a kernel without CONFIG_PROC_CHILDREN."""
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
    except UdockerError as error:
        console.say_error(error)
    except Exception as error:
        console.say(f"udocker: {error!r}")
    finally:
        os._exit(125)
