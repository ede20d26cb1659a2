"""Processes of this machine, found and ended."""

from __future__ import annotations

import os

import psutil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def of_container(lock: str, namespace: str) -> list[psutil.Process]:
    """Return the processes that hold the file `lock` open or are in a mount namespace.

    `namespace` is written as in /proc, `mnt:[4026531841]`. Neither alone finds all: programs
    close what they inherit, and containers without overlay have a namespace for each run.
    """
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _is_of(p, lock, namespace)]


def _is_of(process: psutil.Process, lock: str, namespace: str) -> bool:
    directory = f"/proc/{process.pid}"
    try:
        if os.readlink(f"{directory}/ns/mnt") == namespace:
            return True
        return any(_leads_to(f"{directory}/fd/{fd}", lock) for fd in os.listdir(f"{directory}/fd"))
    except OSError:  # it has ended, or is not the caller's to look into
        return False


def _leads_to(link: str, path: str) -> bool:
    try:
        return os.readlink(link) == path
    except OSError:
        return False


def end(processes: Iterable[psutil.Process], grace_s: float) -> None:
    """Ask processes to end, and kill those that have not after `grace_s` seconds."""
    asked = list(processes)
    _signal(asked, psutil.Process.terminate)
    _, left = psutil.wait_procs(asked, timeout=grace_s)
    _signal(left, psutil.Process.kill)
    psutil.wait_procs(left, timeout=grace_s)


def _signal(processes: Iterable[psutil.Process], how: object) -> None:
    for process in processes:
        try:
            how(process)  # type: ignore[operator]
        except psutil.NoSuchProcess:
            continue
