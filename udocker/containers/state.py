"""What became of a container: the program that was started last, and how it ended.

`state.json` says what was; whether it still is, the processes say. Nothing here is believed
that another boot, another host or a process number used again would make wrong.
"""

from __future__ import annotations

import os
import time

from udocker import disk, fastjson
from udocker.errors import StoreError
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.store import ContainerStore

CREATED, RUNNING, PAUSED, EXITED, UNKNOWN = "created", "running", "paused", "exited", "unknown"
STATUSES = (CREATED, RUNNING, PAUSED, EXITED, UNKNOWN)
"""`unknown`: another host began to run it, and only that one knows whether it still does."""
_BYTES = 16 << 20
_WORDS = ("host", "boot_id", "engine", "mode")
_NUMBERS = ("pid", "birth", "guard", "keeper", "started_ns", "finished_ns")


@dataclass(frozen=True)
class State:
    """The last program of a container that did not join another one's run."""

    host: str
    boot_id: str
    pid: int
    """The program, or the engine's process that runs it."""
    birth: int
    """Clock ticks from boot to the start of `pid`. Source: proc_pid_stat(5), starttime."""
    started_ns: int
    """Since 1970."""
    engine: str = ""
    """The engine that runs it."""
    mode: str = ""
    """The execution mode that it runs in."""
    guard: int = 0
    """The process that passes signals on to the program; 0: it gets them itself."""
    keeper: int = 0
    """The udocker that waits for its end; 0: nobody does."""
    options: tuple[str, ...] = ()
    """Words of the options that hold for this run."""
    finished_ns: int = 0
    """0: it runs, or nobody saw its end."""
    exit_code: int | None = None

    def is_alive(self) -> bool:
        """Tell whether the program runs on this host now."""
        return _is_here(self) and 0 < self.birth == birth_of(self.pid)


@dataclass(frozen=True)
class Condition:
    """A container's status now, with the state that it was derived from."""

    status: str
    state: State | None = None

    @property
    def is_running(self) -> bool:
        """Tell whether a program of it is there, going on or stopped."""
        return self.status in (RUNNING, PAUSED)


def begun(
    pid: int,
    *,
    engine: str,
    mode: str,
    guard: int = 0,
    keeper: int = 0,
    options: tuple[str, ...] = (),
) -> State:
    """Return the state of a container whose program is process `pid` from now on."""
    return State(
        host=os.uname().nodename,
        boot_id=_boot_id(),
        pid=pid,
        birth=birth_of(pid),
        started_ns=time.time_ns(),
        engine=engine,
        mode=mode,
        guard=guard,
        keeper=keeper,
        options=options,
    )


def save(container: Container, state: State) -> None:
    """Keep the state; a reader sees the old one or this one. Raises StoreError."""
    members = {name: getattr(state, name) for name in (*_WORDS, *_NUMBERS, "options", "exit_code")}
    data = fastjson.dumps(members).encode("utf-8", "surrogateescape")
    disk.write_whole(_path(container), data, mode=0o600, sync=False)


def load(container: Container) -> State | None:
    """Return what was kept; None when no program was started, or what is there says nothing."""
    try:
        data = disk.read(_path(container), _BYTES)
        return _from_json(data) if data is not None else None
    except (StoreError, ValueError, KeyError, TypeError):
        return None


def _from_json(data: bytes) -> State:
    members = fastjson.loads(data)
    words = {name: members[name] for name in _WORDS}
    numbers = {name: members[name] for name in _NUMBERS}
    code = members["exit_code"]
    if not all(isinstance(word, str) for word in (*words.values(), *members["options"])):
        raise ValueError("not text")
    if not all(isinstance(number, int) for number in (*numbers.values(), code or 0)):
        raise ValueError("not a number")
    return State(**words, **numbers, options=tuple(members["options"]), exit_code=code)


def finish(container: Container, keeper: int, exit_code: int) -> None:
    """Note how the program ended that process `keeper` waited for, unless another has begun."""
    now = load(container)
    if now is not None and now.keeper == keeper and _is_here(now):
        save(container, replace(now, finished_ns=time.time_ns(), exit_code=exit_code))


def condition_of(store: ContainerStore, container: Container) -> Condition:
    """Return the status of a container as it is now."""
    state = load(container)
    if state is not None and not state.finished_ns and state.is_alive():
        return Condition(PAUSED if _is_stopped(state.pid) else RUNNING, state)
    if store.is_running(container):
        return Condition(RUNNING, state)
    if state is None:
        return Condition(CREATED)
    elsewhere = not state.finished_ns and state.host != os.uname().nodename
    return Condition(UNKNOWN if elsewhere else EXITED, state)


def birth_of(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot; 0 when it has ended."""
    words = _stat(pid)
    return int(words[19]) if len(words) > 19 and words[0] not in (b"Z", b"X") else 0


def _is_stopped(pid: int) -> bool:
    return _stat(pid)[:1] == [b"T"]


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat from the third on, `state`; none when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return []


def _is_here(state: State) -> bool:
    return state.host == os.uname().nodename and state.boot_id == _boot_id()


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            return file.read(64).strip()
    except OSError:
        return ""


def _path(container: Container) -> str:
    return f"{container.directory}/state.json"
