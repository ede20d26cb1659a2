"""Whether a container's programs ever get an answer about the host's files.

Some engines show a container by changing the names that programs use. A call that they do not
know of is answered from the host: the program sees a file that is not there, misses one that is,
or sees the host's under the same name, and nobody is told. So a directory is made on both sides,
and all that can be asked is asked: by a program of raw system calls, and by the shell through libc.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager

from udocker.containers import features
from udocker.engines.machinecode import Loader
from udocker.host import elf
from udocker.images import builder
from udocker.selftest import asker
from udocker.selftest.bench import CheckFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.root import Root
    from udocker.images.builder import Entry
    from udocker.selftest.asker import Answer
    from udocker.selftest.bench import Bench

STATIC, DYNAMIC = "asker", "asker-dynamic"
"""The programs of raw system calls, in the image's directory of programs."""
_SHOWN = ("/dev", "/proc", "/sys")
"""Directories of the host that containers have."""
_PLACES = ("/var/tmp", "/tmp")
_OURS, _THEIRS = b"container\n", b"this is the host\n"
_UNANSWERED = (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY)
"""These say nothing of the file: the call is not there, or not for this file system."""
_MAKE = "printf 'container\\n' >mine; printf 'container\\n' >same; echo found=inside >same.sh; "
_ASK = r"""
cd / && for path in "$1/mine" "$1/same"; do
    [ -e "$path" ] || echo "test -e misses $path"
    [ -r "$path" ] || echo "test -r misses $path"
    [ "$(cat "$path")" = container ] || echo "cat reads something else from $path"
    read -r line <"$path"; [ "$line" = container ] || echo "read reads something else from $path"
    set -- "$1" $(ls -ln "$path"); [ "$6" = 10 ] || echo "ls says of $path: size $6"
done
[ ! -e "$1/hosts" ] || echo "test -e finds $1/hosts"
cat "$1/hosts" 2>/dev/null && echo "cat reads $1/hosts"
ls "$1/hosts" 2>/dev/null && echo "ls finds $1/hosts"
. "$1/same.sh"; [ "$found" = inside ] || echo "the shell runs something else from $1/same.sh"
cd "$1" && for name in *; do
    case $name in mine|same|same.sh) ;; *) echo "the directory has $name";; esac
done
[ "$(cat same)" = container ] || echo "a name in the current directory leads elsewhere"
[ "$(pwd -P)" = "$1" ] || echo "the current directory is said to be $(pwd -P)"
"""


def entries(directory: str, shell: str, host: Root) -> list[Entry]:
    """Return the askers as files of an image; `shell` is the host's, whose loader one uses."""
    machine = os.uname().machine
    if machine not in asker.CODE:
        return []
    found = [builder.file(f"{directory}/{STATIC}", asker.program(machine), 0o755)]
    loader = _loader(shell, host)
    if loader:
        found.append(builder.file(f"{directory}/{DYNAMIC}", asker.program(machine, loader), 0o755))
    return found


def _loader(shell: str, host: Root) -> Loader | None:
    place = host.resolve(shell)
    facts = elf.read(place) if place else None
    if facts is None or facts.interpreter is None:
        return None
    return Loader(facts.interpreter, facts.needed[-1:])


def nothing_that_libc_asks_is_answered_by_the_host(bench: Bench) -> None:
    """The shell, which asks through libc, sees the container's files and none of the host's."""
    with _both_sides(bench) as directory:
        done = bench.run(
            "sh", "-c", _MAKE + _ASK, "sh", directory, options=("--rm", "-w", directory)
        )
        done.expect()
        if done.output:
            raise CheckFailed(done.output.decode(errors="replace").strip().replace("\n", "; "))


def no_system_call_is_answered_by_the_host(bench: Bench) -> None:
    """A static program gets every answer from the container; or the engine refuses to start it."""
    if features.STATIC_PROGRAMS in bench.features:
        _ask(bench, STATIC)
        return
    done = bench.run(STATIC, "/", "/", "/", "/")
    if done.output or done.code == 0:
        raise CheckFailed("a static program, for which this engine is not, was started")


def no_system_call_of_a_dynamic_program_is_answered_by_the_host(bench: Bench) -> None:
    """A dynamic program gets every answer from the container, also without asking libc.

    Engines that are not for static programs cannot know of calls that do not pass through libc.
    """
    if features.STATIC_PROGRAMS in bench.features:
        _ask(bench, DYNAMIC)


CHECKS = (
    nothing_that_libc_asks_is_answered_by_the_host,
    no_system_call_is_answered_by_the_host,
    no_system_call_of_a_dynamic_program_is_answered_by_the_host,
)


def _ask(bench: Bench, program: str) -> None:
    """Let one of the askers ask. Raises CheckFailed with the calls that the host answered."""
    machine = os.uname().machine
    with _both_sides(bench) as directory:
        paths = [f"{directory}/{target}" for target in asker.TARGETS]
        script = f'{_MAKE} command -v {program} >/dev/null || exit 0; exec {program} "$@"'
        options = ("--rm", "-w", directory)
        done = bench.run("sh", "-c", script, "sh", *paths, directory, options=options)
    done.expect()
    if not done.output:  # nothing was made for this machine, or its shell is static
        return
    try:
        found = asker.answers(machine, done.output)
    except ValueError as error:
        raise CheckFailed(str(error)) from error
    leaks = leaking(found)
    if leaks:
        raise CheckFailed("; ".join(leaks))


def leaking(found: Mapping[str, Mapping[str, Answer]]) -> list[str]:
    """Return sentences that name the calls whose answers are not the container's.

    `found` is by file and by call. Where nothing can be opened at all nothing leaks either; that
    is told as well.
    """
    mine, hosts, same = (found[target].items() for target in asker.TARGETS)
    missing = [call for call, answer in (*mine, *same) if answer.result == -errno.ENOENT]
    seen = [call for call, answer in hosts if _is_seen(answer)]
    confused = [call for call, answer in same if answer.size not in (None, len(_OURS))]
    kinds = {
        "miss a file of the container": missing,
        "find a file of the host": seen,
        "find the host's file under the same name": confused,
        "open nothing": [] if _is_seen(found["mine"]["openat"]) else ["openat"],
    }
    return [f"{', '.join(dict.fromkeys(calls))} {text}" for text, calls in kinds.items() if calls]


def _is_seen(answer: Answer) -> bool:
    return -answer.result not in (errno.ENOENT, *_UNANSWERED)


@contextmanager
def _both_sides(bench: Bench) -> Iterator[str]:
    """Give a directory of the host with files; a container may make one of the same name."""
    own = os.path.realpath(bench.directory)
    inside = any(f"{own}/".startswith(f"{shown}/") for shown in _SHOWN)
    places = [place for place in _PLACES if os.access(place, os.W_OK)] if inside else [own]
    if not places:
        raise CheckFailed(
            f"there is no directory for it: neither {own} nor {' nor '.join(_PLACES)}"
        )
    directory = tempfile.mkdtemp(prefix="selftest-", dir=places[0])
    try:
        for name in ("hosts", "same", "same.sh"):
            with open(f"{directory}/{name}", "wb") as file:
                file.write(_THEIRS)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
