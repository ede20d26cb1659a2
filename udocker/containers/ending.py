"""Signals for running containers, and their end: gently, or by force.

A signal for the program goes to the guard of a supervised run, which passes it on; in a run
without one the recorded process is the program itself. The end is that of all that belongs to
the container.
"""

from __future__ import annotations

import os
import signal
import time

from udocker.containers import state
from udocker.containers.store import announced
from udocker.errors import StoreError, UsageError
from udocker.host import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.state import State
    from udocker.containers.store import ContainerStore
    from udocker.disk import Lock
    from udocker.host.processes import Process

STOP_GRACE_S = 10
"""How long a program has to end after its stop signal. Source: docker-stop(1)."""
_PAUSE_S = 0.02
_FOR_ITSELF = frozenset(
    (
        *(signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE),
        *(signal.SIGILL, signal.SIGTRAP),
    )
)
"""What a guard does not pass on: it cannot, or would take it for a fault of its own."""


def signal_number(text: str) -> int:
    """Return the number of a signal that is written `TERM`, `SIGTERM`, `RTMIN+3` or `15`."""
    name = text.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    base, plus, offset = name.partition("+")
    if text.isdigit():
        number = int(text)
    elif base in signal.Signals.__members__ and (not plus or offset.isdigit()):
        number = int(signal.Signals[base]) + int(offset or 0)
    else:
        raise UsageError(f"no signal {text!r}", hint="kill -l lists the names")
    if number not in signal.valid_signals():
        raise UsageError(f"no signal {text!r}", hint="kill -l lists the names")
    return number


class Running:
    """A running container that is to be signalled or ended. Made by `running`."""

    def __init__(self, store: ContainerStore, container: Container, now: State | None) -> None:
        self._store = store
        self._container = container
        self._state = now if now is not None and now.is_alive() else None
        self._asked_rest = False

    def signal(self, number: int) -> None:
        """Send a signal to the program; where there is none, to all that is left of it."""
        if self._state is None:
            processes.send(self.processes(), number)
        elif number in _FOR_ITSELF or not self._state.guard:
            _kill(self._state.pid, number)
        else:
            _kill(self._state.guard, number)
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self._go_on()

    def kill(self) -> None:
        """Kill the program and all that belongs to it; who waits for it sees it end."""
        pids, found = self._keepers(), self.processes()
        keepers = [process for process in found if process.pid in pids]
        processes.kill((process for process in found if process not in keepers), keepers)

    def stop_processes(self) -> None:
        """Stop all processes of the container, as SIGSTOP does."""
        keepers = self._keepers()
        processes.send((p for p in self.processes() if p.pid not in keepers), signal.SIGSTOP)

    def continue_processes(self) -> None:
        """Let all processes of the container go on."""
        processes.send(self.processes(), signal.SIGCONT)

    def ask_rest(self) -> None:
        """Once the program has ended, ask what it left behind to end too."""
        if not self._asked_rest and self._state is not None and not self._state.is_alive():
            self._asked_rest = True
            if not self._state.guard:
                processes.send(self.processes(), signal.SIGTERM)

    def end(self) -> None:
        """Kill all of it; nothing of the container runs any more."""
        self.kill()
        if not self.has_ended(within_s=3):
            processes.kill(self.processes())

    def has_ended(self, within_s: float) -> bool:
        """Tell whether the container's end has come, or comes within that time."""
        until = time.monotonic() + within_s
        while self._store.is_running(self._container) or (self._state and self._state.is_alive()):
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE_S)
        return True

    def processes(self) -> list[Process]:
        """Return the processes of the container, with those that look after it."""
        lock = self._store.lock(self._container, asks=True)
        try:
            roots = (self._state.guard or self._state.pid,) if self._state else ()
            return processes.of_container(lock.path, announced(lock)[1], roots)
        finally:
            lock.release()

    def programs(self) -> list[Process]:
        """Return the processes of the container without those that look after it."""
        keepers = self._keepers()
        return [process for process in self.processes() if process.pid not in keepers]

    def _keepers(self) -> tuple[int, ...]:
        return (self._state.guard, self._state.keeper) if self._state else ()

    def _go_on(self) -> None:
        """A stopped program learns of its signals when it goes on."""
        now = state.condition_of(self._store, self._container)
        if now.status == state.PAUSED:
            self.continue_processes()


def running(store: ContainerStore, container: Container) -> Running | None:
    """Return the container as one that runs on this host; None when it does not run.

    Raises StoreError when it runs elsewhere.
    """
    now = state.condition_of(store, container)
    here = os.uname().nodename
    begun = now.state if now.state is not None and not now.state.finished_ns else None
    if begun is not None and begun.host != here and now.status in (state.RUNNING, state.UNKNOWN):
        raise StoreError(
            f"container {container.id[:12]} was started on {begun.host}, which is not this host",
            hint=f"do the same on {begun.host}",
        )
    return Running(store, container, now.state) if now.is_running else None


def end_others(lock: Lock) -> None:
    """Kill what belongs to a container beside the processes of who calls, its keeper."""
    namespace = announced(lock)[1]
    processes.kill(processes.of_container(lock.path, namespace))


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # it has just ended
        pass
