"""A container of nothing but the host's own programs, to find out whether an engine works here."""

from __future__ import annotations

import os
import time

from udocker import console, disk, trees
from udocker.containers.spec import Bind, ContainerEdits, Process, Rootfs, RuntimeSpec, User
from udocker.engines import facts, launching
from udocker.errors import UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from udocker.containers.spec import Engine, Launch
    from udocker.engines.programs import Installed
    from udocker.host.probe import Host
else:
    import _signal as signal

LIMIT_S = 10.0
_PAUSE_S = 0.01
_SAID_BYTES = 65536
_TOP = ("bin", "sbin", "lib", "lib64", "lib32", "libx32", "usr", "nix", "gnu")
"""Directories of the host in which its shell and the libraries of that lie."""


def reason_against(
    host: Host, directory: str, engine: Engine, program: Installed, *, uid: int = 0
) -> str:
    """Return why `engine`, which is `program`, cannot run a container here; empty when it can.

    It is tried, with a program that has the id `uid` in there, and success is remembered until
    the program or the machine changes.
    """
    status = os.stat(program.path)
    key = f"{program.path} {status.st_mtime_ns} {status.st_size}"
    name = f"{engine.name}-{engine.mode}-{uid}"
    found = facts.remember(
        host, directory, name, key, lambda: rehearse(engine, directory, uid), failed=bool
    )
    return str(found)


def rehearse(engine: Engine, directory: str, uid: int) -> str:
    """Run the host's /bin/sh in a container by `engine`; return why that failed, or nothing."""
    place = disk.make_directory(f"{directory}/cache/probe.{disk.owner()}.{os.urandom(4).hex()}")
    try:
        launch = engine.plan(_spec(place, uid))
        code, said = _run(launch, f"{place}/said")
        said += _cause(f"{place}/scratch/log")
    except UdockerError as error:
        return error.message
    finally:
        trees.remove_tree(place)
    return "" if code == 0 else _last_words(said) or f"it ends with status {code}"


def _spec(place: str, uid: int) -> RuntimeSpec:
    rootfs = disk.make_directory(f"{place}/rootfs")
    binds = []
    for name in _TOP:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{rootfs}/{name}")
        elif os.path.isdir(f"/{name}"):
            binds.append(Bind(f"/{name}", f"/{name}", readonly=True))
    user = User(uid, uid and os.getegid(), "", "/")
    process = Process(("/bin/sh", "-c", "exit 0"), (("PATH", "/bin"),), "/", user)
    return RuntimeSpec(
        Rootfs(rootfs, flat=True),
        process,
        edits=ContainerEdits(binds=tuple(binds)),
        scratch=f"{place}/scratch",
    )


def _run(launch: Launch, output: str) -> tuple[int, str]:
    """Return the exit code of a launch and what it said."""
    child = os.fork()
    if child == 0:
        _become(launch, output)
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            said = (disk.read(output, _SAID_BYTES) or b"").decode("utf-8", "replace")
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1, said
        time.sleep(_PAUSE_S)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1, f"it did not answer in {LIMIT_S:.0f} seconds"


def _become(launch: Launch, output: str) -> NoReturn:
    try:
        os.setsid()
        empty = os.open(os.devnull, os.O_RDONLY)
        said = os.open(output, os.O_WRONLY | os.O_CREAT, 0o600)
        for source, target in ((empty, 0), (said, 1), (said, 2)):
            os.dup2(source, target)
        launching.become(launch)
    except UdockerError as error:
        console.say_error(error)
    finally:
        os._exit(125)


def _cause(log: str) -> str:
    """Return the first fatal line of a runtime's log, which says more than its last words."""
    lines = (disk.read(log, _SAID_BYTES) or b"").decode("utf-8", "replace").splitlines()
    return next((f"\n{line}" for line in lines if "level=fatal" in line), "")


def _last_words(said: str) -> str:
    """Return the last line of what a program said, without colours, time and level of a log."""
    head, *rest = said.split("\x1b[")
    plain = head + "".join(part.partition("m")[2] for part in rest)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if last.startswith("time=") and 'msg="' in last:
        last = last.partition('msg="')[2].rstrip('"')
    return last[:500]
