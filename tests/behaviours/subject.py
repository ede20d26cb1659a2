"""A container in one of the systems, run by one engine: what every behaviour is tried on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile

from unprivileged import remove_tree

from udocker.engines import select

LIMIT_S = 120


class Subject:
    """`run` and `sh` run programs in the container; `engine` is what carries them out."""

    def __init__(self, user, system, mode, image):
        self.user = user
        self.system = system
        self.mode = mode
        self.image = image
        self.name = f"{system}-{mode}"
        self.way = way_of(mode)
        self.features = select.make(self.way, user.udocker_dir).features
        self.places = 0
        self._hidden = []

    @property
    def is_musl(self):
        return self.system == "musl"

    def can(self, feature):
        """Tell whether the engine has a feature of `udocker.containers.features`."""
        return feature in self.features

    @property
    def asked(self):
        """The word for `--engine`: the mode, or the name where a mode has several engines."""
        return self.way.name if self.way.mode == "R1" else self.way.mode

    def words(self, *args, options=(), container=None):
        """Return the command line of `udocker run`."""
        given = (f"--engine={self.asked}", *options)
        return ["run", *given, container or self.name, *args]

    def run(self, *args, options=(), container=None, **how):
        """Run a program in the container; see `Unprivileged.run`."""
        how.setdefault("timeout", LIMIT_S)
        return self.user.udocker(*self.words(*args, options=options, container=container), **how)

    def sh(self, script, *options, **how):
        """Run a shell script in the container."""
        return self.run("sh", "-c", script, options=options, **how)

    def output(self, script, *options, **how):
        """Return what a shell script in the container writes to standard output."""
        return self.sh(script, *options, **how).stdout

    def code(self, *args, options=(), **how):
        """Return the exit code of a program in the container."""
        status = self.run(*args, options=options, check=False, **how).returncode
        return status if status >= 0 else 128 - status  # what a shell says of a signal

    @contextlib.contextmanager
    def popen(self, *args, options=(), container=None, **how):
        """Start a program in the container, with default signals; end it where that is left."""
        words = self.words(*args, options=options, container=container)
        command = [self.user.python, "-m", "udocker", *words]
        with self.user.popen(command, preexec_fn=_default_signals, **how) as process:
            try:
                yield process
            finally:
                process.kill()

    def shell_popen(self, script, *options, **how):
        """Start a shell script in the container, its output in a pipe."""
        return self.popen(
            *("sh", "-c", script), options=options, stdout=subprocess.PIPE, text=True, **how
        )

    def place(self, **files):
        """Return a new directory of the user with the given files (a dot is written `_dot_`)."""
        self.places += 1
        path = os.path.join(self.user.home, f"place-{self.system}-{self.mode}-{self.places}")
        os.mkdir(path)
        for name, text in files.items():
            with open(os.path.join(path, name.replace("_dot_", ".")), "w") as file:
                file.write(text)
        self.user.own(path)
        return path

    def hidden_place(self):
        """Return an empty directory of the user that lies in none that containers share."""
        path = tempfile.mkdtemp(prefix="udocker-tests-", dir="/var/tmp")
        self.user.own(path)
        self._hidden.append(path)
        return path

    def close(self):
        """Remove what does not lie in the user's home."""
        for path in self._hidden:
            remove_tree(path)

    def refused(self, *args, options=(), says=""):
        """Assert that a run is refused with 125 before it starts, with a sentence."""
        done = self.run(*args, options=options, check=False)
        assert done.returncode == 125, (done.returncode, done.stdout, done.stderr)
        assert says in done.stderr, done.stderr
        assert done.stdout == ""
        return done.stderr


def _default_signals():
    """What started the suite may ignore the interrupt of the terminal, which is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def way_of(mode):
    """Return the way that `N2` or, where a mode has several engines, `runc-R1` means."""
    name, _, code = mode.rpartition("-")
    return next(way for way in select.WAYS if way.mode == code and name in ("", way.name))
