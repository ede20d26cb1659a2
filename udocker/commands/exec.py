"""`udocker exec`: another program in a container that is running."""

from __future__ import annotations

from udocker.commands import runoptions, words
from udocker.commands.running import Runner
from udocker.commands.stores import Stores
from udocker.commands.words import FLAG, VALUE, Option
from udocker.containers import state
from udocker.engines import select
from udocker.errors import StartError, UsageError
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import Engine
    from udocker.containers.state import Condition
    from udocker.settings import Settings

OPTIONS = (
    Option(("-d", "--detach"), FLAG, "Run in the background; its output is lost."),
    Option(("-i", "--interactive"), FLAG, "Accepted; standard input is always connected."),
    Option(("-t", "--tty"), FLAG, "Accepted; the terminal is always the caller's."),
    Option(
        ("-e", "--env"),
        VALUE,
        "Set a variable; NAME alone takes the caller's value.",
        "NAME[=VALUE]",
    ),
    Option(("--env-file",), VALUE, "Set the variables that a file lists.", "FILE"),
    Option(("-w", "--workdir"), VALUE, "Directory that the program starts in.", "DIR"),
    Option(("-u", "--user"), VALUE, "Who the program believes to be.", "NAME|UID[:GROUP|GID]"),
    Option(("--privileged",), FLAG, "Accepted; nobody gets rights that they do not have."),
    Option(("--detach-keys",), VALUE, "Accepted; there is nothing to detach from.", "KEYS"),
)
ARGUMENTS = "[OPTIONS] CONTAINER PROGRAM [ARG...]"


def main(given: list[str], settings: Settings) -> int:
    """Run the program; returns only when it ran in a child, with its exit code."""
    values, options, rest = words.parse(given, OPTIONS)
    if len(rest) < 2:
        missing = "program" if rest else "container"
        raise UsageError(f"no {missing} was named", hint="udocker exec --help")
    stores = Stores(settings)
    container = stores.containers.get(rest[0])
    condition = state.condition_of(stores.containers, container)
    if condition.status == state.PAUSED:
        raise StartError(
            f"container {rest[0]} is paused", hint=f"udocker unpause {rest[0]} lets it go on"
        )
    if not condition.is_running:
        raise StartError(
            f"container {rest[0]} is not running", hint=f"udocker start {rest[0]}, or udocker run"
        )
    runner = Runner(settings, stores)
    request = _request(container, condition, options, rest[1:], settings)
    engine = _engine(runner, container, condition, request)
    return runner.join(engine, container, request, stores.containers.lock(container))


def _request(
    container: Container,
    condition: Condition,
    options: list[str],
    args: list[str],
    settings: Settings,
) -> RunRequest:
    """Return the request of the running program with this one's options, and its own program."""
    running = condition.state.options if condition.state else container.options
    values, _, _ = runoptions.parse([*running, *options])
    own, _, _ = words.parse(options, OPTIONS)
    return replace(
        runoptions.make_request(values, args, settings.environment),
        args=tuple(args),
        entrypoint="",
        detach=own.flag("detach"),
        joins_as_user=bool(own.last("user")),
        terminal=own.flag("tty"),
        remove=False,
        cidfile=None,
        pidfile=None,
        timeout_s=None,
        signal_proxy=True,
    )


def _engine(
    runner: Runner, container: Container, condition: Condition, request: RunRequest
) -> Engine:
    """Return the engine that runs the container."""
    ran = condition.state
    for way in select.WAYS:
        if ran is not None and (way.name, way.mode) == (ran.engine, ran.mode):
            return select.make(way, runner.settings.directory)
    return runner.engine(request, container)
