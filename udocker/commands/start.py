"""`udocker start`: run containers made before, in the background unless asked otherwise."""

from __future__ import annotations

from udocker import console
from udocker.commands import words
from udocker.commands.run import run_kept
from udocker.commands.running import Runner
from udocker.commands.stores import Stores
from udocker.commands.words import FLAG, VALUE, Option
from udocker.containers import state
from udocker.errors import UdockerError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.settings import Settings

OPTIONS = (
    Option(("-a", "--attach"), FLAG, "Stay with the program; its streams are the caller's."),
    Option(("-i", "--interactive"), FLAG, "The same; standard input is connected too."),
    Option(("--detach-keys",), VALUE, "Accepted; there is nothing to detach from.", "KEYS"),
)
ARGUMENTS = "[OPTIONS] CONTAINER..."


def main(given: list[str], settings: Settings) -> int:
    """Start containers and print their names; of an attached one, return the exit code."""
    values, _, names = words.parse(given, OPTIONS)
    if not names:
        raise UsageError("no container was named", hint="udocker start --help")
    stores = Stores(settings)
    if values.flag("attach") or values.flag("interactive"):
        if len(names) > 1:
            raise UsageError("only one container can be attached to", hint="start the others first")
        return run_kept(Runner(settings, stores), stores.containers.get(names[0]), [], [])
    code = 0
    for name in names:
        try:
            code = _start(Runner(settings, stores), name) or code
        except UdockerError as error:
            console.say_error(error)
            code = 1
    return code


def _start(runner: Runner, name: str) -> int:
    """Start one container; it is no error when it runs already."""
    container = runner.stores.containers.get(name)
    is_running = state.condition_of(runner.stores.containers, container).is_running
    if not is_running and run_kept(runner, container, ["--detach"], [], told=False):
        return 1
    console.put(name)
    return 0
