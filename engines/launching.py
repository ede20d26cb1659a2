"""From a launch to a process: what all engines do in the same way."""

from __future__ import annotations

import os

from udocker import disk
from udocker.containers.spec import Launch
from udocker.errors import StartError
from udocker.host import ldcache

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn

    from udocker.containers.spec import Limit, RuntimeSpec
else:
    import _signal as signal


def launch(
    spec: RuntimeSpec, argv: tuple[str, ...], files: tuple[tuple[str, str], ...] = ()
) -> Launch:
    """Return the launch of `argv` with the environment and the limits of `spec`."""
    env = environment(spec)
    return Launch(argv, env, files, spec.limits, spec.cpus, umask=spec.umask)


def environment(spec: RuntimeSpec) -> tuple[tuple[str, str], ...]:
    """Return the environment of the program, with what was injected."""
    return tuple({**dict(spec.process.env), **dict(spec.edits.env)}.items())


def prepare_process(launch: Launch) -> None:
    """Write files and copies of a launch and give this process its limits. Raises StartError."""
    for path in launch.directories:
        _make_directory(path)
    for path, text in launch.files:
        disk.make_directory(os.path.dirname(path))
        data = text.encode("utf-8", "surrogateescape")
        disk.write_whole(path, data, sync=False)
    for source, path in launch.copies:
        disk.write_whole(path, disk.read(source, ldcache.MAX_BYTES) or b"", sync=False)
    for limit in launch.limits:
        _set_limit(limit)
    if launch.umask is not None:
        os.umask(launch.umask)
    if launch.cpus:
        try:
            os.sched_setaffinity(0, launch.cpus)
        except OSError as error:
            raise StartError(f"cannot run on the processors {launch.cpus}: {error}") from error


def make_links(launch: Launch) -> None:
    """The links of a launch stand, or what has come into their places. Raises StartError."""
    for path, target in launch.links:
        _make_directory(os.path.dirname(path))
        try:
            os.symlink(target, path)
        except FileExistsError:
            continue
        except OSError as error:
            raise StartError(f"cannot make the link {path}: {error.strerror}") from error


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the directory {path}: {error.strerror}") from error


def become(launch: Launch) -> NoReturn:
    """Become the command of a launch whose first word is a path. Raises StartError."""
    prepare_process(launch)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, its programs must not
        signal.signal(number, signal.SIG_DFL)
    program = launch.program or launch.argv[0]
    try:
        if launch.cwd:
            os.chdir(launch.cwd)
        os.execve(program, list(launch.argv), dict(launch.env))
    except (OSError, ValueError) as error:
        raise StartError(f"cannot run {program}: {error}") from error


def _set_limit(limit: Limit) -> None:
    import resource

    number = getattr(resource, f"RLIMIT_{limit.name.upper()}", None)
    if number is None:
        raise StartError(f"this system has no limit {limit.name!r}")
    try:
        resource.setrlimit(number, (limit.soft, limit.hard))
    except (OSError, ValueError) as error:
        wanted = f"{limit.name}={limit.soft}:{limit.hard}"
        raise StartError(
            f"cannot set the limit {wanted}: {error}",
            hint=f"this user may have at most {resource.getrlimit(number)[1]}",
        ) from error
