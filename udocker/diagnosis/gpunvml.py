"""NVML asked in a process of its own: a broken driver may take that one down, or let it hang."""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
import time

from udocker import fastjson
from udocker.errors import GpuError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from udocker.nvidia.driver import Driver

_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Seen:
    """A GPU that NVML lists in this job."""

    uuid: str
    minor: int
    name: str
    memory_bytes: int


def ask(driver: Driver, timeout_s: float = 60) -> tuple[Seen, ...]:
    """Return the GPUs that NVML of `driver` sees here, in its order.

    Raises GpuError with the cause: its own, or that it crashed, or was still silent after
    `timeout_s` (a GPU that nobody keeps awake takes seconds).
    """

    def list_them() -> list[list[Any]]:
        from udocker.nvidia import nvml

        return [[g.uuid, g.minor, g.name, g.memory_bytes] for g in nvml.list_gpus(driver)]

    return tuple(Seen(*fields) for fields in _elsewhere(list_them, timeout_s))


def _elsewhere(action: Callable[[], list[list[Any]]], timeout_s: float) -> list[list[Any]]:
    """Return what `action` returns in a child process. Raises GpuError."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(action, writing)
    os.close(writing)
    try:
        data = _read(reading, time.monotonic() + timeout_s)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
    if data is None:  # perhaps it cannot even be killed while it waits for the kernel module
        os.waitpid(child, os.WNOHANG)
        raise _failure(f"no answer within {timeout_s:.0f} s")
    _, status = os.waitpid(child, 0)
    if not data:
        raise _failure(f"its library ended the process (status {status})")
    members = fastjson.loads(data)
    if members["error"]:
        raise GpuError(members["error"], hint=members["hint"])
    listed: list[list[Any]] = members["gpus"]
    return listed


def _failure(cause: str) -> GpuError:
    return GpuError(
        f"gpu: NVML failed: {cause}",
        hint="run nvidia-smi on the host: when it fails too, tell the administrators",
    )


def _answer(action: Callable[[], list[list[Any]]], writing: int) -> NoReturn:
    """In the child: write what `action` returns, or why it failed, and end without clean-up."""
    try:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        devnull = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(devnull, stream)
        told: dict[str, Any] = {"gpus": [], "error": "", "hint": ""}
        try:
            told["gpus"] = action()
        except GpuError as error:
            told.update(error=error.message, hint=error.hint or "")
        except Exception as error:  # whatever it is, it is the library's fault
            told.update(error=f"gpu: NVML failed: {error!r}")
        os.write(writing, fastjson.dumps(told).encode())
    finally:
        os._exit(0)


def _read(descriptor: int, deadline: float) -> bytes | None:
    """Return what comes until the other end is closed; None when that is too late."""
    data = b""
    while len(data) < _LIMIT_BYTES:
        left = max(0, deadline - time.monotonic())
        if not select.select([descriptor], [], [], left)[0]:
            return None
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            break
        data += piece
    return data
