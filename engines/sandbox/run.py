"""Carrying out a plan: this process becomes the program in its container."""

from __future__ import annotations

import os
import sys

from udocker.engines.sandbox.fakeroot import install_fake_root
from udocker.engines.sandbox.kernel import (
    CLONE_NEWNET,
    CLONE_NEWNS,
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
from udocker.engines.sandbox.namespaces import announce, enter_namespaces, raise_loopback
from udocker.engines.sandbox.plan import Plan, parse
from udocker.engines.sandbox.root import Root, build, change_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
    from typing import NoReturn
else:
    import _signal as signal  # `signal` itself costs 5 ms for the enums that it makes


def run(plan: Plan, env: Mapping[str, str]) -> NoReturn:
    """Carry out the plan; on success this process is the program. Raises SandboxError."""
    if plan.join:
        enter_namespaces(plan.join)
        change_directory(plan.cwd)
    else:
        _enter_new_namespaces(plan)
    if plan.announce >= 0:
        announce(plan.announce)
    if plan.die_with_parent:  # after the last change of credentials, which would undo it
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    if plan.fake_root:
        install_fake_root(os.uname().machine)
    execute(plan.program, env)


def _enter_new_namespaces(plan: Plan) -> None:
    assert plan.root is not None
    flags = CLONE_NEWNS
    flags |= CLONE_NEWNET if plan.network == "none" else 0
    flags |= CLONE_NEWUTS if plan.hostname else 0
    enter_user_namespace(flags, (0, 0), (os.geteuid(), os.getegid()))
    if plan.hostname:
        name = os.fsencode(plan.hostname)
        check(libc.sethostname(name, len(name)), f"set the host name {plan.hostname}")
    if plan.network == "none":
        raise_loopback()
    umask = os.umask(0o022)
    build(plan.root, plan.base(), plan.in_order(), plan.cwd)
    os.umask(umask)
    enter_user_namespace(CLONE_NEWNS, (plan.uid, plan.gid), (0, 0))


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
    try:
        run(parse(words), env)
    except SandboxError as error:
        print(f"udocker: {error}", file=sys.stderr)
        os._exit(error.exit_code)
    except (OSError, ValueError) as error:  # ValueError: a word of the image holds a null byte
        print(f"udocker: {error}", file=sys.stderr)
        os._exit(125)
