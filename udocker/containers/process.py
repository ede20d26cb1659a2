"""The program of a container by docker's rules: entrypoint, arguments, environment, directory.

Source: image-spec config.md; docker-run(1) "Overriding image defaults".
"""

from __future__ import annotations

from udocker.containers.spec import Process, User
from udocker.errors import StartError, UsageError
from udocker.host import job
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from udocker.oci import ImageConfig

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class ProcessRequest:
    """What the user wants other than the image says; None and empty: nothing."""

    args: tuple[str, ...] = ()
    entrypoint: str | None = None
    """A program that replaces the image's entrypoint and command; empty: no entrypoint."""
    env: tuple[tuple[str, str | None], ...] = ()
    """Names with values; None: take the caller's value, or take the image's away."""
    working_dir: str | None = None
    all_host_env: bool = False
    unset_env: tuple[str, ...] = ()
    """Variables that nobody but `env` gives."""
    unset_all_env: bool = False
    proxy_env: bool = True
    time_zone: str | None = None
    terminal: bool = False


def make_process(
    config: ImageConfig, request: ProcessRequest, user: User, environment: Mapping[str, str]
) -> Process:
    """Return the program to run. Raises StartError when there is none."""
    working_dir = request.working_dir or config.working_dir or "/"
    if not working_dir.startswith("/"):
        raise StartError(f"the working directory {working_dir!r} is not an absolute path")
    return Process(
        args=arguments(config, request),
        env=tuple(_environment(config, request, user, environment).items()),
        cwd=working_dir,
        user=user,
        terminal=request.terminal,
    )


def arguments(config: ImageConfig, request: ProcessRequest) -> tuple[str, ...]:
    """Return program and arguments: an entrypoint given anew drops the image's command too."""
    if request.entrypoint is None:
        words = config.entrypoint + (request.args or config.cmd)
    else:
        words = ((request.entrypoint,) if request.entrypoint else ()) + request.args
    if not words:
        raise StartError(
            "the image names no program to run", hint="give one: udocker run IMAGE PROGRAM"
        )
    return words


def _environment(
    config: ImageConfig, request: ProcessRequest, user: User, host: Mapping[str, str]
) -> dict[str, str]:
    given = _given_env(config, request, user, host)
    env = {"PATH": given["PATH"]} if request.unset_all_env else given
    for name in request.unset_env:
        env.pop(name, None)
    for name, value in request.env:
        if value is None and name.endswith("*"):
            env.update({n: v for n, v in host.items() if n.startswith(name[:-1])})
            continue
        chosen = host.get(name) if value is None else value
        if chosen is None:
            env.pop(name, None)
        else:
            env[name] = chosen
    return env


def _given_env(
    config: ImageConfig, request: ProcessRequest, user: User, host: Mapping[str, str]
) -> dict[str, str]:
    """Return what the image, the job and udocker itself give."""
    env: dict[str, str] = {"PATH": DEFAULT_PATH, "HOME": user.home, "container": "udocker"}
    if user.name:
        env.update({"USER": user.name, "LOGNAME": user.name})
    env.update(job.passed_under(host))
    env.update(_pairs(config.env))
    if request.all_host_env:
        env.update({name: value for name, value in host.items() if name not in ("PATH", "HOME")})
    env.update(job.passed_over(host))
    if not request.proxy_env:
        env = {name: value for name, value in env.items() if name.lower() not in job.PROXY}
    if request.time_zone:  # told by /etc/localtime
        env.pop("TZ", None)
    return env


def _pairs(lines: Iterable[str]) -> dict[str, str]:
    parts = (line.partition("=") for line in lines)
    return {name: value for name, _, value in parts if name}


def parse_variable(text: str) -> tuple[str, str | None]:
    """Read `NAME=VALUE`, or `NAME` for the caller's value, as docker's `--env`."""
    name, equals, value = text.partition("=")
    if not name:
        raise UsageError(f"--env {text!r}: the variable has no name")
    return name, value if equals else None
