"""The command line: global options, which module has which command, errors to exit codes."""

from __future__ import annotations

import os
import sys

from udocker import console, settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from udocker.errors import UdockerError
    from udocker.settings import Settings

COMMANDS = {
    "pull": "Pull an image from a registry.",
    "push": "Send an image to a registry.",
    "run": "Run a program in a container.",
    "create": "Make a container of an image.",
    "exec": "Run another program in a running container.",
    "start": "Run containers made before, in the background.",
    "stop": "Ask running containers to end, then end them.",
    "restart": "Stop containers and start them again.",
    "kill": "Send a signal to running containers.",
    "pause": "Let all processes of containers stand still.",
    "unpause": "Let paused containers go on.",
    "wait": "Wait until containers end; print their exit codes.",
    "logs": "Show what a detached container has written.",
    "top": "Show the processes of a running container.",
    "ps": "List containers.",
    "images": "List images.",
    "verify": "Check images, their signatures too; mend them.",
    "inspect": "Show what is known of an image or container.",
    "manifest": "Show what a registry has of an image.",
    "copy": "Copy images between registries, layouts and archives.",
    "rm": "Remove containers.",
    "rmi": "Remove images.",
    "tag": "Give an image another name.",
    "du": "Show what takes how much of the disk.",
    "prune": "Remove what nothing needs any more.",
    "import": "Make an image of a tar archive of files.",
    "load": "Load images from an archive.",
    "save": "Save images as an archive.",
    "clone": "Copy a container.",
    "cp": "Copy files into a container, or out of it.",
    "diff": "List what a container changed of its image.",
    "commit": "Make an image of a container.",
    "export": "Write a container's files as a tar archive.",
    "rename": "Give a container another name.",
    "name": "Give a container one more name.",
    "rmname": "Take a name away from its container.",
    "protect": "Keep images or containers from being removed.",
    "unprotect": "Let images or containers be removed again.",
    "setup": "Choose how a container runs; mend its files.",
    "mkrepo": "Make an empty store.",
    "showconf": "Show the settings in force.",
    "search": "Look for images in a registry, or list tags.",
    "login": "Log in to a registry.",
    "logout": "Forget the credentials for a registry.",
    "install": "Bring the programs of other engines.",
    "bundle": "Pack installed programs for another machine.",
    "gpu": "Show the GPUs, and what containers get of them.",
    "doctor": "Say what this machine can do, and what would help.",
    "selftest": "Find out what works on this machine.",
    "version": "Show the version.",
    "help": "Show the help of a command.",
}
"""Name and help of every command; each is `udocker.commands.NAME`, imported when it is used."""
WITHOUT_CLICK = {
    "run": "udocker.commands.run",
    "create": "udocker.commands.create",
    "exec": "udocker.commands.exec",
    "start": "udocker.commands.start",
}
"""Commands whose words are read without click, for its import costs more than all the rest."""


def main(words: Sequence[str] | None = None) -> None:
    """Carry out the command line and exit."""
    words = sys.argv[1:] if words is None else list(words)
    code = 125
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _occupy_standard_descriptors()
    try:
        done = _quick(words)
        if done < 0:
            code = 1
            done = _with_click(words)
        code = done
    except KeyboardInterrupt:
        console.say("udocker: interrupted")
        code = 130
    except BrokenPipeError:
        code = _broken_pipe()
    except OSError as error:
        console.say_error(_refused(error))
    _leave(code)


def _refused(error: OSError) -> UdockerError:
    """Return what the kernel refused where nobody expected it: a stale handle of NFS, say."""
    from udocker import disk
    from udocker.errors import UdockerError

    told = UdockerError(error.strerror or str(error) or type(error).__name__)
    if isinstance(error.filename, str):
        told = disk.store_error(error, error.filename)
    told.__cause__ = error
    return told


def _occupy_standard_descriptors() -> None:
    """Nothing opened from now on gets the number of a standard stream that the caller closed:
    programs, and C libraries of ours, write their errors there."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _leave(code: int) -> NoReturn:
    """Exit. What is written is flushed at once, so where no thread was there is nothing to undo.

    Taking the interpreter down in order costs 2 ms, a tenth of a start.
    """
    if "threading" not in sys.modules:
        os._exit(code)
    sys.exit(code)


def _quick(words: Sequence[str]) -> int:
    """Carry out `udocker [global options] COMMAND ...`; -1 when click has to be asked."""
    found = split_global_options(words)
    if found is None or not found[1] or found[1][0] not in WITHOUT_CLICK:
        return -1
    flags, rest = found
    from udocker.commands import words as words_of_run

    def carry_out() -> int:
        in_force = settings.load(flags)
        console.show_origins(wanted=in_force.debug)
        return _main_of(rest[0])(rest[1:], in_force)

    return words_of_run.guarded(carry_out)


def _main_of(command: str) -> Callable[[list[str], Settings], int]:
    from importlib import import_module

    function: Callable[[list[str], Settings], int] = import_module(WITHOUT_CLICK[command]).main
    return function


def split_global_options(words: Sequence[str]) -> tuple[dict[str, Any], list[str]] | None:
    """Return the global options before the command, and the rest; None when not sure."""
    flags: dict[str, Any] = {}
    switches = {"-q": "quiet", "--quiet": "quiet", "-D": "debug", "--debug": "debug"}
    switches["--insecure"] = "insecure"
    for position, word in enumerate(words):
        if word in switches:
            flags[switches[word]] = True
        elif word.startswith("--repo="):
            flags["directory"] = word[len("--repo=") :]
        elif word.startswith("--config="):
            flags["config"] = word[len("--config=") :]
        elif word == "--allow-root":
            continue
        elif word.startswith("-"):
            return None
        else:
            return flags, list(words[position:])
    return None


def _with_click(words: Sequence[str]) -> int:
    from udocker.commands import group

    return group.main(list(words), COMMANDS)


def _broken_pipe() -> int:
    """End quietly when the reader of our output has gone, as `yes | head` does."""
    console.drop_output()
    return 141
