"""Carrying out a plan: this process becomes the program in its container."""

from __future__ import annotations

import os
import sys

from udocker.engines.sandbox import seccomp
from udocker.engines.sandbox.fakeroot import install_fake_root
from udocker.engines.sandbox.kernel import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    MS_REC,
    MS_SLAVE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    SIGKILL,
    ProgramError,
    SandboxError,
    check,
    enter_user_namespace,
    libc,
    mount,
)
from udocker.engines.sandbox.namespaces import announce, enter_namespaces, set_up_network
from udocker.engines.sandbox.plan import Plan, parse
from udocker.engines.sandbox.root import Root, build, change_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn
else:
    import _signal as signal  # `signal` itself costs 5 ms for the enums that it makes


_FULL = (28, 122)
"""ENOSPC and EDQUOT."""


def run(plan: Plan, env: Mapping[str, str]) -> NoReturn:
    """Carry out the plan; on success this process is the program. Raises SandboxError."""
    pid = os.getpid()
    if plan.join:
        pid = _join(plan)
    elif not plan.no_root:
        pid = _enter_new_namespaces(plan)
    if plan.announce >= 0:
        announce(plan.announce, pid)
    if plan.set_ids and (plan.uid, plan.gid) != (0, 0):
        from udocker.engines.sandbox.ids import become

        become(plan.uid, plan.gid)
    if plan.die_with_parent:  # after the last change of credentials, which would undo it
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    if plan.fake_root:
        install_fake_root()
    if plan.refuse:
        seccomp.refuse(plan.refuse)
    execute(plan.program, env)


def _join(plan: Plan) -> int:
    """Enter the namespaces of another run; return the pid of the program for the caller."""
    # these are not to be found any more when the container has been entered
    from udocker.engines.sandbox import attend, ids  # noqa: F401

    pid = os.getpid()
    if enter_namespaces(plan.join):
        pid = attend.stay_behind(mortal=plan.die_with_parent, lock=plan.announce)
        plan.die_with_parent = True
    if plan.map_self and plan.map_self != (os.getuid(), os.getgid()):
        enter_user_namespace(0, plan.map_self, (os.getuid(), os.getgid()))
    change_directory(plan.cwd)
    return pid


def _enter_new_namespaces(plan: Plan) -> int:
    """Enter new namespaces with the root in them; return the pid of the program for the caller."""
    assert plan.root is not None
    proxies = _proxies(plan)
    _enter_first(plan)
    if plan.hostname:
        name = os.fsencode(plan.hostname)
        check(libc.sethostname(name, len(name)), f"set the host name {plan.hostname}")
    if plan.network == "none":
        set_up_network()
    enter_second = _second(plan)
    pid = os.getpid()
    if plan.private_pids or proxies:
        from udocker.engines.sandbox import attend

        options = {"init": plan.private_pids, "mortal": plan.die_with_parent}
        pid = attend.stay_behind(proxies, lock=plan.announce, **options)
        plan.die_with_parent = True
    umask = os.umask(0o022)
    fresh = plan.private_pids
    build(plan.root, plan.base(), plan.in_order(), plan.cwd, fresh_proc=fresh)
    os.umask(umask)
    enter_second()
    return pid


def _enter_first(plan: Plan) -> None:
    """Enter a user namespace that owns all others, in which this process is root."""
    flags = CLONE_NEWNS
    flags |= CLONE_NEWNET if plan.network == "none" else 0
    flags |= CLONE_NEWUTS if plan.hostname else 0
    flags |= CLONE_NEWPID if plan.private_pids else 0
    if plan.uid_ranges:
        from udocker.engines.sandbox.ids import enter_with_ranges

        enter_with_ranges(flags, plan.uid_ranges, plan.gid_ranges)
    else:
        enter_user_namespace(flags, (0, 0), (os.geteuid(), os.getegid()))


def _second(plan: Plan) -> Callable[[], None]:
    """Return what enters the second user namespace, which locks the mounts made in the first."""
    if not plan.uid_ranges:
        return lambda: enter_user_namespace(CLONE_NEWNS, (plan.uid, plan.gid), (0, 0))
    from udocker.engines.sandbox.ids import enter_with_same  # not to be found from the new root

    return lambda: enter_with_same(CLONE_NEWNS, plan.uid_ranges, plan.gid_ranges)


def _proxies(plan: Plan) -> list[Callable[[], None]]:
    """Open the published ports on the host; return what serves them from within."""
    if not plan.published:
        return []
    from udocker.engines.sandbox import ports

    opened = [ports.Port(*published) for published in plan.published]
    return [lambda: ports.serve(opened)]


def execute(argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Become the program. Raises ProgramError: 127 if it is not there, 126 if not executable."""
    if not argv[0]:
        raise ProgramError("run ''", 2, 127)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, its programs must not
        signal.signal(number, signal.SIG_DFL)
    denied = None
    for path in _candidates(argv[0], env):
        try:
            os.execve(path, list(argv), dict(env))
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.isfile(path):
                reason = f"run {argv[0]}: its interpreter is not in the container"
                raise ProgramError(reason, error.errno or 2, 127) from error
        except PermissionError as error:
            denied = error
        except OSError as error:
            raise ProgramError(f"run {argv[0]}", error.errno or 8, 126) from error
    if denied:
        raise ProgramError(f"run {argv[0]}", denied.errno or 13, 126)
    raise ProgramError(f"run {argv[0]}", 2, 127)


def _candidates(program: str, env: Mapping[str, str]) -> list[str]:
    if "/" in program:
        return [program]
    return [f"{directory or '.'}/{program}" for directory in env.get("PATH", "").split(":")]


def probe(directory: str) -> tuple[str, int]:
    """Try the engine in a child process: `("", 0)`, or the step that failed and its errno.

    `directory` is where writable layers will lie; an overlay is mounted there. Steps:
    `namespaces`, `mount`, `overlay`.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, "{} {}".format(*_try(directory)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    answer = os.read(reader, 100).decode().split()
    os.close(reader)
    os.waitpid(child, 0)
    return (answer[0].strip("-"), int(answer[1])) if len(answer) == 2 else ("namespaces", 0)


def _try(directory: str) -> tuple[str, int]:
    step = "namespaces"
    try:
        enter_user_namespace(CLONE_NEWNS, (0, 0), (os.geteuid(), os.getegid()))
        step = "mount"
        mount("", "/", "", MS_REC | MS_SLAVE)
        mount("tmpfs", "/tmp", "tmpfs", 0, "size=64k")
        step = "overlay"
        for name in ("tree", "upper", "work"):
            os.makedirs(f"{directory}/{name}", exist_ok=True)
        Root(f"{directory}/tree", f"{directory}/upper", f"{directory}/work").mount()
        os.mkdir(f"{directory}/tree/made")
        os.rmdir(f"{directory}/tree/made")
    except SandboxError as error:
        return step, error.errno or 0
    except OSError as error:
        return step, error.errno or 0
    return "-", 0


def main(words: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Do what `words` say and become the program, or say what failed and exit (125, 126, 127)."""
    writable = ""
    try:
        plan = parse(words)
        writable = plan.root.upper or plan.root.tree if plan.root else ""
        run(plan, env)
    except (SandboxError, OSError, ValueError) as error:  # ValueError: a word holds a null byte
        print(f"udocker: {error}", file=sys.stderr)
        if writable and getattr(error, "errno", None) in _FULL:
            print(f"  what the container writes lies in {writable}", file=sys.stderr)
            print("  udocker prune, rmi or rm make room", file=sys.stderr)
        os._exit(getattr(error, "exit_code", 125))
