"""Noting that the program of a container has begun, and how it ended."""

from __future__ import annotations

from udocker import console, disk
from udocker.containers import state
from udocker.containers.store import EXITED
from udocker.errors import UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import Engine
    from udocker.disk import Lock


class Record:
    """What is noted of one run. On a full disk programs run all the same: the user is told."""

    def __init__(
        self, engine: Engine, container: Container, request: RunRequest, words: tuple[str, ...]
    ) -> None:
        """`words` are the options that hold for the run."""
        self._engine = engine
        self._container = container
        self._pidfile = request.pidfile
        self._words = words

    def begins(self, pid: int, *, guard: int = 0, keeper: int = 0) -> None:
        """Note which process the program is, unless another run of the container is going on.

        Raises StoreError when the user's own file of the pid cannot be written.
        """
        if self._pidfile:
            disk.write_whole(self._pidfile, f"{pid}\n".encode(), sync=False)
        before = state.load(self._container)
        if before is not None and before.is_alive() and before.pid != pid:
            return
        now = state.begun(
            pid,
            engine=self._engine.name,
            mode=self._engine.mode,
            guard=guard,
            keeper=keeper,
            options=self._words,
        )
        try:
            state.save(self._container, now)
        except UdockerError as error:
            self._tell("runs", error)

    def ends(self, lock: Lock, keeper: int, code: int) -> None:
        """Note how the program ended that process `keeper` waited for; the lock says it as well,
        for those who wait until the container is removed."""
        try:
            lock.note(f"{EXITED}{code}")
            state.finish(self._container, keeper, code)
        except UdockerError as error:
            self._tell("ended", error)

    def _tell(self, what: str, error: UdockerError) -> None:
        console.warn(
            f"that container {self._container.id[:12]} {what} was not noted: {error.message}"
        )
