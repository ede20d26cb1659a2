"""Whether PRoot works here, found out by running a program of a few instructions with it."""

from __future__ import annotations

import errno
import os
import select
import struct
import time

from udocker import disk, trees
from udocker.engines import first, supervise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from udocker.host.probe import Host

YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_LIMIT_S = 10
_SAID_BYTES = 4096
_RECORD_BYTES = struct.calcsize(first.RECORD)
_ADMINISTRATORS = 2
"""From this value on ptrace(2) is theirs. Source: Documentation/admin-guide/LSM/Yama.rst."""


def attempt(cache: str, words: Sequence[str], env: Mapping[str, str]) -> str:
    """Run the first process with PRoot; return what was said when it failed, empty when it works.

    `words` are the sandbox's up to PRoot's own options. In a root with nothing else the first
    process starts a child, which finds no program and says so: what all programs need works.
    """
    scratch = disk.make_directory(f"{cache}/probe.{os.urandom(4).hex()}")
    try:
        os.mkdir(f"{scratch}/root")
        first.install(f"{scratch}/root")
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        options = ("-r", f"{scratch}/root", "-w", "/")
        whole = (*words, *options, *first.words(writer, "", ("",)))
        child = _start(whole, {**env, "PROOT_TMP_DIR": scratch}, f"{scratch}/said")
        os.close(writer)
        try:
            if (first.FAILED, errno.ENOENT) in _records(reader):
                return ""
        finally:
            os.close(reader)
            _end(child)
        said = disk.read(f"{scratch}/said", _SAID_BYTES) or b""
        return said.decode(errors="replace").strip() or f"it did not answer within {_LIMIT_S} s"
    finally:
        trees.remove_tree(scratch)


def has_seccomp(program: str) -> bool:
    """Tell whether a PRoot was built to let calls without names pass: it says so itself."""
    import subprocess

    try:
        done = subprocess.run(
            [program, "-V"], env={}, capture_output=True, timeout=_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"seccomp_filter = yes" in done.stdout + done.stderr


def explain(host: Host, said: str) -> str:
    """Return in one sentence why PRoot does not work, and what an administrator would set."""
    scope = host.text(YAMA).strip()
    if scope.isdigit() and int(scope) >= _ADMINISTRATORS:
        return (
            f"only administrators may trace processes (sysctl kernel.yama.ptrace_scope = {scope})"
        )
    if "ptrace" in said and os.strerror(errno.EPERM) in said:
        return (
            "tracing processes is not permitted: a container around this process forbids it "
            "(Docker, Kubernetes: capability SYS_PTRACE, or a seccomp profile with ptrace)"
        )
    return f"PRoot does not work here: {' '.join(said.split())[:300]}"


def _start(words: Sequence[str], env: Mapping[str, str], said: str) -> int:
    from udocker.engines.sandbox import run

    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            streams = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for number in (1, 2):
                os.dup2(streams, number)
            run.main(words, env)
        finally:
            os._exit(125)
    return child


def _records(reader: int) -> list[tuple[int, ...]]:
    """Return what the first process tells until it is told no more, or time is up."""
    end = time.monotonic() + _LIMIT_S
    found: list[tuple[int, ...]] = []
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, end - time.monotonic()))
        data = os.read(reader, _RECORD_BYTES) if ready else b""
        if len(data) < _RECORD_BYTES:
            return found
        found.append(struct.unpack(first.RECORD, data))


def _end(child: int) -> None:
    """Kill what is left of the trial; those that PRoot traces before it."""
    found = (child, *supervise.descendants(child))
    supervise.send(found[:1], 19)
    supervise.send(found[::-1], 9)
    try:
        os.waitpid(child, 0)
    except ChildProcessError:  # the caller ignores the ends of its children
        pass
