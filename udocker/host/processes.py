"""Processes of this machine, found, signalled and shown."""

from __future__ import annotations

import os
import pwd
import signal
import time

import psutil

from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

Process = psutil.Process
"""One process; a number used again by another is not taken for it."""


def of_container(lock: str, namespace: str, roots: Iterable[int] = ()) -> list[psutil.Process]:
    """Return the processes that are of a container: those that hold its file `lock` open, or are
    in its mount namespace, or come from a process of `roots`.

    `namespace` is written as in /proc, `mnt:[4026531841]`. None of the three alone finds all:
    programs close what they inherit, and containers without overlay have a namespace for each
    run or none. This process is never one of them.
    """
    found = {p.pid: p for p in psutil.process_iter() if _is_of(p.pid, lock, namespace)}
    for root in roots:
        found.update({p.pid: p for p in _tree(root)})
    found.pop(os.getpid(), None)
    return list(found.values())


def _is_of(pid: int, lock: str, namespace: str) -> bool:
    directory = f"/proc/{pid}"
    try:
        if os.readlink(f"{directory}/ns/mnt") == namespace:
            return True
        return any(_holds(directory, fd, lock) for fd in os.listdir(f"{directory}/fd"))
    except OSError:  # it has ended, or is not the caller's to look into
        return False


def _holds(directory: str, fd: str, lock: str) -> bool:
    """Tell whether a descriptor is of the lock, and not of one who only asks (`disk.Lock`).

    Source: proc_pid_fdinfo(5): flags are octal.
    """
    try:
        if os.readlink(f"{directory}/fd/{fd}") != lock:
            return False
        with open(f"{directory}/fdinfo/{fd}", "rb") as file:
            words = file.read(4096).split()
        return not int(words[words.index(b"flags:") + 1], 8) & os.O_APPEND
    except (OSError, ValueError):
        return False


def _tree(root: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def send(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to processes; to those that have ended meanwhile, and to whatever has their
    number by now, nothing is sent."""
    for process in processes:
        try:
            process.send_signal(number)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def end(processes: Iterable[psutil.Process], grace_s: float) -> None:
    """Ask processes to end, and kill those that have not after `grace_s` seconds."""
    asked = list(processes)
    send(asked, signal.SIGTERM)
    _, left = psutil.wait_procs(asked, timeout=grace_s)
    kill(left)


def kill(processes: Iterable[psutil.Process], keepers: Iterable[psutil.Process] = ()) -> None:
    """Kill processes, and wait a moment until they are gone.

    `keepers` are those that look after them: one that stops as its program does goes on, to see
    the end of it.

    All are stopped first, and the oldest killed last: what a tracer (PRoot) shows of a container
    must not run on without it, for its names would then be the host's.
    """
    asked = sorted(processes, key=_age, reverse=True)
    send(asked, signal.SIGSTOP)
    send(asked, signal.SIGKILL)
    send(keepers, signal.SIGCONT)
    psutil.wait_procs(asked, timeout=3)


def _age(process: psutil.Process) -> tuple[float, int]:
    try:
        return process.create_time(), process.pid
    except psutil.Error:
        return 0.0, process.pid


@dataclass(frozen=True)
class Row:
    """A process as ps(1) shows it, in its `-f` form."""

    user: str
    pid: int
    parent: int
    started: float
    """Seconds since 1970."""
    terminal: str
    cpu_s: float
    command: str


def rows(processes: Iterable[psutil.Process]) -> list[Row]:
    """Return what is to be shown of processes, by pid; those that have ended are left out."""
    return sorted(filter(None, map(_row, processes)), key=lambda row: row.pid)


def _row(process: psutil.Process) -> Row | None:
    try:
        with process.oneshot():
            times = process.cpu_times()
            return Row(
                user=_user(process.uids().real),
                pid=process.pid,
                parent=process.ppid(),
                started=process.create_time(),
                terminal=(process.terminal() or "?").replace("/dev/", ""),
                cpu_s=times.user + times.system,
                command=" ".join(process.cmdline()) or f"[{process.name()}]",
            )
    except psutil.Error:
        return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def started_text(started: float) -> str:
    """Return a start time as ps(1) writes it: the hour today, else the day."""
    then = time.localtime(started)
    is_today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if is_today else "%b%d", then)
