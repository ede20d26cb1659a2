"""Running udocker as users do: in child processes, with a store that is thrown away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

from udocker.errors import UdockerError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

TIMEOUT_S = 30
UNBLOCK = "import _signal; _signal.pthread_sigmask(_signal.SIG_SETMASK, ())"
"""What a Python program that a bench starts does first."""
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOWN = 300


class CheckFailed(UdockerError):
    """An engine did something else than it should; the message says what."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it said."""

    code: int
    output: bytes
    errors: bytes

    def expect(self, output: bytes | None = None, *, code: int = 0) -> None:
        """Raise CheckFailed unless the exit code is `code`, and the output just `output`."""
        if self.code != code:
            raise CheckFailed(f"exit code {self.code}, not {code}: {_shown(self.errors)}")
        if output is not None and self.output != output:
            raise CheckFailed(f"output {_shown(self.output)}, not {_shown(output)}")


def launcher() -> tuple[str, ...]:
    """Return the command that runs the udocker of this process, however it was installed.

    What is on `sys.path` here need not be there in a new interpreter: its path is given to it.
    A bench starts it with signals blocked, so it begins by taking them again.
    """
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = list(dict.fromkeys([package, *map(os.path.abspath, sys.path)]))
    program = f"{UNBLOCK}; import sys; sys.path[:] = {path!r}; from udocker.cli import main; main()"
    return (sys.executable or "python3", "-I", "-S", "-c", program)


@dataclass(frozen=True)
class Bench:
    """An engine and a store: what is needed to run programs of the image as users do."""

    directory: str
    """It exists and is the bench's own; the store lies in it."""
    image: str
    environment: Mapping[str, str]
    """The caller's; settings in it do not count."""
    launcher: tuple[str, ...]
    """The command that is udocker."""
    engine: str = ""
    features: frozenset[str] = frozenset()
    """What of `udocker.containers.features` the engine has."""

    @property
    def store(self) -> str:
        """Where images and containers lie."""
        return f"{self.directory}/store"

    def run(
        self, *args: str, options: Sequence[str] = ("--rm",), container: str = "", data: bytes = b""
    ) -> Outcome:
        """Run a program of the image, or in `container`; `data` goes to its standard input."""
        return self.udocker(*self._words(args, options, container), data=data)

    def shell(self, script: str, *options: str) -> Outcome:
        """Run a shell script of the image, in a container that is removed at its end."""
        return self.run("sh", "-c", script, options=("--rm", *options))

    def side_by_side(self, scripts: Sequence[str]) -> list[Outcome]:
        """Run shell scripts at the same time."""
        words = [self._words(("sh", "-c", script), ("--rm",), "") for script in scripts]
        with self._running(words) as running:
            return [_finish(process, b"") for process in running]

    def udocker(self, *words: str, data: bytes = b"") -> Outcome:
        """Run udocker with `words`."""
        with self._running([words]) as (process,):
            return _finish(process, data)

    def pull(self, *, quiet: bool) -> None:
        """Bring the image into the store, showing the user how far that is.

        Raises UdockerError when it does not come; udocker itself has said why.
        """
        words = (*(("--quiet",) if quiet else ()), "pull", self.image)
        silence = subprocess.DEVNULL
        with self._running([words], stdin=silence, stdout=silence, stderr=None) as (process,):
            code = process.wait()
        if code:
            raise UdockerError(f"udocker {' '.join(words)} failed (exit code {code})")

    def new_directory(self) -> str:
        """Make an empty directory of the host and return its path."""
        path = f"{self.directory}/{os.urandom(8).hex()}"
        os.mkdir(path, 0o755)
        return path

    def _words(
        self, args: Sequence[str], options: Sequence[str], container: str
    ) -> tuple[str, ...]:
        fixed = ("run", "--pull=never", f"--engine={self.engine}")
        return (*fixed, *options, container or self.image, *args)

    def _variables(self) -> dict[str, str]:
        settings = [name for name in self.environment if name.startswith("UDOCKER_")]
        own = {name: text for name, text in self.environment.items() if name not in settings}
        return {**own, "UDOCKER_DIR": self.store}

    @contextmanager
    def _running(
        self, commands: Sequence[Sequence[str]], **streams: Any
    ) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Start udocker with each of `commands`; none of them runs any more at the end.

        An interrupt waits until all have started: one that came while `Popen` is at work would
        leave a child that nobody knows, which goes on in a store that is being removed.
        """
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        running: list[subprocess.Popen[bytes]] = []
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            for words in commands:
                command, options = [*self.launcher, *words], {**pipes, **streams}
                running.append(subprocess.Popen(command, env=self._variables(), **options))
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield running
        finally:
            for process in running:
                with process:
                    process.kill()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _finish(process: subprocess.Popen[bytes], data: bytes) -> Outcome:
    try:
        output, errors = process.communicate(data, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise CheckFailed(f"no end after {TIMEOUT_S} s") from None
    return Outcome(process.returncode, output, errors)


def _shown(data: bytes) -> str:
    text = data[:_SHOWN].decode(errors="replace").strip().replace("\n", "; ")
    return (text + " ...") if len(data) > _SHOWN else (text or "nothing")
