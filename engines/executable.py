"""Whether the program of a run can be executed: found out before its engine tries.

Engines that are programs of others say that in words of their own and exit with 1, which could
be the program's own exit code too. Source: execve(2), environ(7); docker-run(1) "Exit Status".
"""

from __future__ import annotations

import stat

from udocker.errors import ProgramNotExecutable, ProgramNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.spec import Process
    from udocker.engines.layout import View

_HEAD_BYTES = 4096
_PT_INTERP, _ELF64, _LITTLE_ENDIAN = 3, 2, 1


def check_program(view: View, process: Process) -> None:
    """Raise ProgramNotFound or ProgramNotExecutable where the container cannot run `process`.

    What cannot be seen from outside (files that only the engine mounts) is left to the engine.
    """
    program = process.args[0]
    denied = False
    for path in _candidates(process):
        try:
            status = view.status(path)
            if status is None:
                continue
            if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
                _check_format(view, path, program)
                return
        except OSError:
            return
        denied = True
    if denied:
        raise ProgramNotExecutable(f"run {program}: Permission denied")
    raise ProgramNotFound(f"run {program}: No such file or directory")


def _candidates(process: Process) -> Iterator[str]:
    """Yield absolute paths that the program may have: its own, or in the directories of PATH."""
    program = process.args[0]
    if "/" in program:
        yield program if program.startswith("/") else f"{process.cwd}/{program}"
    elif program:
        for directory in dict(process.env).get("PATH", "").split(":"):
            absolute = directory.startswith("/")
            yield f"{directory}/{program}" if absolute else f"{process.cwd}/{directory}/{program}"


def _check_format(view: View, path: str, program: str) -> None:
    try:
        head = view.beginning(path, _HEAD_BYTES)
    except PermissionError:  # may be executed, but not be read
        return
    if head.startswith(b"\x7fELF"):
        interpreter = _elf_interpreter(head)
    elif head.startswith(b"#!"):
        interpreter = next(iter(head[2:].split(b"\n")[0].split()), b"")
    else:
        raise ProgramNotExecutable(f"run {program}: Exec format error")
    name = interpreter.decode("utf-8", "surrogateescape")
    if name.startswith("/") and view.status(name) is None:
        raise ProgramNotFound(f"run {program}: its interpreter {name} is not in the container")


def _elf_interpreter(head: bytes) -> bytes:
    """Return the loader that a 64-bit program asks for; empty where it has none or says it late."""
    if head[4:6] != bytes((_ELF64, _LITTLE_ENDIAN)):
        return b""
    table, size, count = _number(head, 32, 8), _number(head, 54, 2), _number(head, 56, 2)
    for entry in range(table, min(table + size * count, len(head)), max(size, 1)):
        if _number(head, entry, 4) == _PT_INTERP:
            offset, length = _number(head, entry + 8, 8), _number(head, entry + 32, 8)
            return head[offset : offset + length].split(b"\0")[0]
    return b""


def _number(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")
