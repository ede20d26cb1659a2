"""Work done inside a running container, in a process that has joined it and runs no program.

A layer that is mounted must be changed through its mount only; what happens to it otherwise is
undefined (overlayfs.rst, "Changes to underlying filesystems").
"""

from __future__ import annotations

import os
import sys

from udocker.engines.sandbox import kernel, namespaces
from udocker.errors import StoreError, UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

_ANSWER_BYTES = 65536


def feed(
    joined: Sequence[int], write: Callable[[int], None], take: Callable[[int], list[str]]
) -> list[str]:
    """Let `take(descriptor)` read in the container what `write(descriptor)` writes outside of it.

    `joined` are the namespaces of the container (`Engine.namespaces`). Whatever `take` needs must
    be imported before, for in the container nothing is. Returns what it returns. Raises StoreError
    with what kept it from succeeding.
    """
    data, source = os.pipe()
    answer, answers = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        os.close(answer)
        _serve(joined, data, answers, take)
    os.close(data)
    os.close(answers)
    try:
        write(source)
    except BrokenPipeError:  # the other side has failed, and says why
        pass
    finally:
        os.close(source)
        said = _read_all(answer)
        os.close(answer)
        status = os.waitpid(child, 0)[1]
    if status:
        raise StoreError(said or "the process in the container ended before its work")
    return said.splitlines()


def _serve(
    joined: Sequence[int], data: int, answers: int, take: Callable[[int], list[str]]
) -> NoReturn:
    code, text = 1, ""
    try:
        namespaces.enter_namespaces(joined)
        kernel.hide_from_debuggers()
        _refuse_imports()
        _close_others((data, answers))
        text, code = "\n".join(take(data)), 0
    except UdockerError as error:
        text = error.message
    except OSError as error:
        where = os.fsdecode(error.filename) if error.filename else ""
        text = f"/{where.lstrip('/')} in the container: {error.strerror or error}"
    except BaseException as error:  # noqa: BLE001 - the process ends here
        text = f"{type(error).__name__}: {error}"
    finally:
        os.write(answers, text.encode("utf-8", "surrogateescape")[:_ANSWER_BYTES])
        os._exit(code)


def _refuse_imports() -> None:
    """No module is taken from the container's files, where Python would look for them now."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_importer_cache.clear()


def _close_others(kept: Sequence[int]) -> None:
    """Close all files of the host but those `kept`, and standard error."""
    start = 0
    for number in sorted((2, *kept)):
        os.closerange(start, number)
        start = number + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def _read_all(descriptor: int) -> str:
    parts = []
    while data := os.read(descriptor, _ANSWER_BYTES):
        parts.append(data)
    return b"".join(parts).decode("utf-8", "surrogateescape")
