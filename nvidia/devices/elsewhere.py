"""NVML asked in a process of its own: a broken driver may take that one down, or let it hang.

Nor do NVML's open devices and threads reach the program that is about to start.
"""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.errors import GpuError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_LIMIT_BYTES = 1 << 20


def ask(action: Callable[[], list[list[Any]]], timeout_s: float) -> list[list[Any]]:
    """Return what `action` returns in a child process, as JSON can say it.

    Raises GpuError with the cause: that of `action`, or that the process crashed, or was still
    silent after `timeout_s`.
    """
    import signal
    import time

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
    listed: list[list[Any]] = members["answer"]
    return listed


def _failure(cause: str) -> GpuError:
    return GpuError(
        f"gpu: NVML failed: {cause}",
        hint="run nvidia-smi on the host: when it fails too, tell the administrators",
    )


def _answer(action: Callable[[], list[list[Any]]], writing: int) -> NoReturn:
    """In the child: write what `action` returns, or why it failed, and end without clean-up."""
    try:
        import faulthandler
        import resource

        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        devnull = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(devnull, stream)
        told: dict[str, Any] = {"answer": [], "error": "", "hint": ""}
        try:
            told["answer"] = action()
        except GpuError as error:
            told.update(error=error.message, hint=error.hint or "")
        except Exception as error:  # whatever it is, it is the library's fault
            told.update(error=f"gpu: NVML failed: {error!r}")
        os.write(writing, fastjson.dumps(told).encode())
    finally:
        os._exit(0)


def _read(descriptor: int, deadline: float) -> bytes | None:
    """Return what comes until the other end is closed; None when that is too late."""
    import select
    import time

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
