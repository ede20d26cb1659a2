"""Install this checkout for one user, without root, compiler or network service of our own.

    sh utils/bootstrap.sh [--prefix DIR] [--python PY] [--find-links DIR] [--with EXTRA,...]
        [--] ARGS...
    sh utils/bootstrap.sh [--prefix DIR] --uninstall

Makes the environment `$UDOCKER_DIR/env` (default `~/.udocker/env`), links it as
`~/.local/bin/udocker` (`--prefix DIR`: `DIR/bin/udocker`) and runs `udocker ARGS`.

`env` is a link to the directory `env-...` that is current. A new one is built beside it and
becomes current by one rename, so a bootstrap that is killed, or two at once, leave an
environment that is whole. When nothing of the checkout has changed, nothing is done.

`--with trust` adds what signatures are checked with, `--with socks` what SOCKS proxies need; later
bootstraps keep what was added.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

CHECKOUT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
MAPPED = ("engines", "nvidia")
"""Top-level folders that are packages of `udocker`; setup.py says the same."""
OPTIONAL = ("isal",)
"""Dependencies that make things faster, and are missing for some machines."""
EXTRAS = ("trust", "socks")
"""What `--with` can add, by its name in setup.py."""
SHEBANG_BYTES = 120
"""Longer ones are cut by kernels before 5.1. Source: execve(2)."""
VALUED = ("--prefix", "--python", "--find-links", "--with")
KEPT_S = 24 * 3600
"""A replaced environment stays so long, for the sake of a udocker that still runs from it."""


class Failure(Exception):
    """What went wrong and, below it, the way out."""


class Options:
    """The words of the command line; from the first one that is not ours on, they are udocker's."""

    def __init__(self, words: Sequence[str]) -> None:
        self.prefix: str | None = None
        self.find_links: str | None = None
        self.extras: tuple[str, ...] = ()
        self.uninstall = False
        self.arguments = self._read(list(words))

    def _read(self, words: list[str]) -> list[str]:
        while words:
            if words[0] == "--":
                return words[1:]
            if words[0] == "--uninstall":
                self.uninstall = True
            elif words[0] in ("-h", "--help"):
                self._help()
            elif words[0].partition("=")[0] in VALUED:
                option, equals, value = words[0].partition("=")
                words = words if equals else words[1:]
                self._take(option, [value] if equals else words[:1])
            else:
                return words
            words = words[1:]
        return []

    def _take(self, option: str, value: list[str]) -> None:
        if not value:
            raise Failure(f"{option} needs a value")
        if option == "--prefix":
            self.prefix = os.path.abspath(value[0])
        elif option == "--find-links":
            self.find_links = os.path.abspath(value[0])
        elif option == "--with":
            self.extras = tuple(value[0].split(","))
            unknown = [name for name in self.extras if name not in EXTRAS]
            if unknown:
                raise Failure(f"--with {unknown[0]}: not one of {', '.join(EXTRAS)}")

    def _help(self) -> NoReturn:
        print(__doc__)
        raise SystemExit(0)


class Environment:
    """The environment of a user: where it lies, whether it is this checkout's, its making."""

    def __init__(self, extras: tuple[str, ...] = ()) -> None:
        home = _in_home(os.environ.get("UDOCKER_DIR") or "~/.udocker")
        if home is None:
            raise Failure("this user has no home directory: set HOME or UDOCKER_DIR")
        self.home = os.path.abspath(home)
        self.path = os.path.join(self.home, "env")
        self.launcher = os.path.join(self.path, "bin", "udocker")
        # the interpreter behind a virtual environment outlives it
        self.python = getattr(sys, "_base_executable", None) or sys.executable
        self.extras = tuple(sorted({*extras, *self._present_extras()}))

    def is_current(self) -> bool:
        """Tell whether it was made of this checkout, as it is now, for this machine."""
        try:
            with open(os.path.join(self.path, "stamp"), encoding="utf-8") as file:
                return file.read() == self._stamp()
        except OSError:
            return False

    def make(self, find_links: str | None) -> None:
        """It is this checkout's: built aside, then put in place by one rename."""
        os.makedirs(self.home, exist_ok=True)
        with open(os.path.join(self.home, "env.lock"), "a") as lock:
            alone = _locked(lock.fileno())
            if self.is_current():
                return
            self._sweep(alone=alone)
            new = self._new_directory()
            try:
                self._fill(new, find_links, lock.fileno())
                self._become_current(new)
            except BaseException:
                _remove(new)
                raise

    def remove(self) -> None:
        """No environment is left; images and containers are."""
        for name in ("env", "env.lock"):
            _unlink(os.path.join(self.home, name))
        for path in self._directories():
            _remove(path)

    def _present_extras(self) -> list[str]:
        """Return what earlier bootstraps were told to add."""
        try:
            with open(os.path.join(self.path, "extras"), encoding="utf-8") as file:
                return [name for name in file.read().split() if name in EXTRAS]
        except OSError:
            return []

    def _stamp(self) -> str:
        """Return what the environment depends on, as text: no digest, whose import costs more."""
        lines = [f"{self.python} {sys.version} {os.uname().machine}", *self.extras]
        for path in _sources():
            facts = os.stat(path)
            lines.append(f"{facts.st_size} {facts.st_mtime_ns} {path}")
        return "\n".join(lines)

    def _new_directory(self) -> str:
        from tempfile import mkdtemp

        path = mkdtemp(prefix="env-", dir=self.home)
        os.chmod(path, 0o755)
        return path

    def _fill(self, new: str, find_links: str | None, lock: int) -> None:
        from compileall import compile_dir

        stamp = self._stamp()  # before the copy: a file changed meanwhile is found next time
        library = os.path.join(new, "lib")
        _install_dependencies(library, _required(self.extras), find_links, lock)
        _copy_packages(library)
        compile_dir(os.path.join(library, "udocker"), quiet=2)
        _write_launcher(os.path.join(new, "bin"), self.python, library)
        _write(os.path.join(new, "python"), f"{self.python}\n")
        _write(os.path.join(new, "extras"), " ".join(self.extras))
        _write(os.path.join(new, "stamp"), stamp)

    def _become_current(self, new: str) -> None:
        old = os.path.realpath(self.path)
        link = f"{new}.link"
        os.symlink(os.path.basename(new), link)
        try:
            os.replace(link, self.path)
        except OSError:
            os.unlink(link)
            raise
        if os.path.isdir(old):
            os.utime(old)  # replaced now: KEPT_S begins

    def _sweep(self, *, alone: bool) -> None:
        """Remove what killed bootstraps left, and environments that were replaced long ago.

        Where locks do not work an unfinished one may be under way on another node.
        """
        current = os.path.realpath(self.path)
        for path in self._directories():
            finished = os.path.exists(os.path.join(path, "stamp"))
            if path != current and (_is_old(path) or (alone and not finished)):
                _remove(path)

    def _directories(self) -> Iterator[str]:
        if not os.path.isdir(self.home):
            return
        home = os.path.realpath(self.home)
        for name in os.listdir(home):
            path = os.path.join(home, name)
            if name.startswith("env-") and os.path.isdir(path):
                yield path
            elif name.startswith("env-"):
                _unlink(path)


def main(words: Sequence[str]) -> None:
    """Install, or uninstall, and become udocker where there is something to do for it."""
    if os.environ.get("HOME") == "":
        del os.environ["HOME"]  # as for udocker itself: the account's home counts
    options = Options(words)
    environment = Environment(options.extras)
    prefixes = [options.prefix, _in_home("~/.local")]
    links = [os.path.join(prefix, "bin", "udocker") for prefix in prefixes if prefix]
    if options.uninstall:
        _uninstall(environment, links)
        return
    if not environment.is_current():
        _say(f"installing udocker in {environment.path}")
        environment.make(options.find_links)
    if links:
        _link(links[0], environment.launcher)
    if options.arguments:
        os.execv(environment.launcher, [environment.launcher, *options.arguments])


def _uninstall(environment: Environment, links: list[str]) -> None:
    removed = [link for link in links if _points_to(link, environment.launcher)]
    for link in removed:
        os.unlink(link)
    environment.remove()
    names = " and ".join([*removed, environment.path])
    _say(f"removed {names}; images and containers stay in {environment.home}")


def _in_home(path: str) -> str | None:
    """Return `path` with a `~` that begins it replaced; None where there is no home directory."""
    expanded = os.path.expanduser(path)
    return None if expanded.startswith("~") else expanded


def _sources() -> Iterator[str]:
    """Yield every file that the environment is made of, in a fixed order."""
    for folder in ("udocker", *MAPPED):
        for directory, folders, files in os.walk(os.path.join(CHECKOUT, folder)):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            yield from (os.path.join(directory, name) for name in sorted(files))
    yield os.path.join(CHECKOUT, "setup.py")


def _copy_packages(library: str) -> None:
    """Copy the packages as setup.py maps them, whatever the links in the checkout became."""
    from shutil import copytree, ignore_patterns

    source = os.path.join(CHECKOUT, "udocker")
    unwanted = ignore_patterns("__pycache__", *MAPPED)
    copytree(source, os.path.join(library, "udocker"), ignore=unwanted)
    for folder in MAPPED:
        target = os.path.join(library, "udocker", folder)
        copytree(os.path.join(CHECKOUT, folder), target, ignore=unwanted)


def _install_dependencies(
    library: str, required: list[str], find_links: str | None, lock: int
) -> None:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from find_pip import NoPip, pip_command

    try:
        pip = pip_command(os.path.dirname(library), find_links)
    except NoPip as error:
        raise Failure(
            f"this Python ({sys.executable}) has no pip, and none can be fetched: {error}\n"
            "  Any one of these helps:\n"
            "  - install pip for it (package python3-pip or python3-venv), or load another Python\n"
            "  - set PIP_INDEX_URL to the package index of your site\n"
            "  - name a directory with wheels of pip and of what udocker needs:\n"
            f"{_offline_hint(required)}"
        ) from None
    words = ["install", "--quiet", "--no-input", "--disable-pip-version-check"]
    # the prefix that a user's settings may name cannot go with a target
    words += ["--only-binary", ":all:", "--target", library, "--prefix="]
    words += ["--no-index", "--find-links", find_links] if find_links else []
    said = _run_pip([*pip, *words, *required], lock)
    if said is not None:
        raise Failure(
            f"pip cannot install what udocker needs:\n{said}\n"
            "  Without a network, or behind a site's own index: set PIP_INDEX_URL (and\n"
            "  https_proxy), or bring the wheels along:\n"
            f"{_offline_hint(required)}"
        )
    for name in OPTIONAL:
        _run_pip([*pip, *words, "--no-deps", name], lock)


def _offline_hint(required: list[str]) -> str:
    words = " ".join(f"'{word}'" for word in required)
    return (
        "      python3 -m pip download --only-binary :all: -d wheels pip \\\n"
        f"          {words}\n"
        "    on a machine like this one that has a network, and then here\n"
        "      sh utils/bootstrap.sh --find-links wheels"
    )


def _run_pip(command: list[str], lock: int) -> str | None:
    """Run pip to its end. Return None, or what it said where it failed."""
    from subprocess import PIPE, STDOUT, run

    unwanted = ("PYTHONPATH", "PYTHONHOME")
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    # beat what the user's pip.conf says
    env.update(PIP_USER="0", PIP_REQUIRE_VIRTUALENV="0")
    # pip keeps the lock: when this process is killed, no other one sweeps below its hands
    done = run(
        command, stdout=PIPE, stderr=STDOUT, env=env, text=True, check=False, pass_fds=[lock]
    )
    return done.stdout.strip() if done.returncode else None


def _required(extras: Sequence[str] = ()) -> list[str]:
    """Return the dependencies that setup.py names, with those of `extras`, without setuptools."""
    import ast

    path = os.path.join(CHECKOUT, "setup.py")
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read(), path)
    found = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) in ("DEPENDENCIES", "EXTRAS")
    }
    if len(found) < 2:
        raise Failure(f"{path} has no DEPENDENCIES or no EXTRAS")
    more = [word for name in extras for word in found["EXTRAS"][name]]
    return [*found["DEPENDENCIES"], *more]


def _write_launcher(directory: str, python: str, library: str) -> None:
    """Write bin/udocker, which starts Python isolated and without `site`: half the time."""
    os.mkdir(directory)
    path = os.path.join(directory, "udocker")
    program = (
        f"import sys\n\nsys.path.append({library!r})\nfrom udocker.__main__ import main\n\nmain()\n"
    )
    first = f"#!{python} -IS\n"
    if len(os.fsencode(first)) > SHEBANG_BYTES or any(map(str.isspace, python)):
        from shlex import quote

        _write(f"{path}.py", program)
        program = f'exec {quote(python)} -IS {quote(path + ".py")} "$@"\n'
        first = "#!/bin/sh\n"
    _write(path, first + program)
    os.chmod(path, 0o755)


def _link(link: str, launcher: str) -> None:
    """`link` leads to the launcher, unless something of someone else's has that name."""
    if _points_to(link, launcher):
        return
    if os.path.lexists(link):
        _say(f"{link} is there already and not of this environment: left as it is")
        return
    try:
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(launcher, link)
    except OSError as error:
        _say(f"cannot link {link}: {error.strerror}; the command is {launcher}")
        return
    directory = os.path.dirname(link)
    if directory in os.environ.get("PATH", "").split(os.pathsep):
        _say(f"linked as {link}")
    else:
        from shlex import quote

        _say(f"linked as {link}, which is not on PATH: export PATH={quote(directory)}:$PATH")


def _points_to(link: str, target: str) -> bool:
    return os.path.islink(link) and os.readlink(link) == target


def _locked(file: int) -> bool:
    """Wait for other bootstraps to end; False where the file system has no locks."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        _say("waiting for another bootstrap to end")
    except OSError:
        return False
    fcntl.flock(file, fcntl.LOCK_EX)
    return True


def _is_old(path: str) -> bool:
    from time import time

    try:
        return os.stat(path).st_mtime < time() - KEPT_S
    except FileNotFoundError:  # another bootstrap sweeps, too
        return False


def _remove(path: str) -> None:
    from shutil import rmtree

    rmtree(path, ignore_errors=True)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _say(text: str) -> None:
    print(f"bootstrap: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failure as failure:
        sys.exit(f"bootstrap: {failure}")
    except OSError as failure:
        sys.exit(f"bootstrap: {failure}\n  UDOCKER_DIR names another place for the environment")
    except KeyboardInterrupt:
        sys.exit(130)
