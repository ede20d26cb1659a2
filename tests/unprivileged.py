"""A user without privileges, for tests of what users do, however the suite itself is run.

As root every worker of the suite claims a user id of its own, so that tests run side by side
and what a test leaves running can be told apart and ended. As any other user it is that user.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UIDS = range(61000, 61184)
"""Ids that no distribution hands out. Source: systemd, docs/UIDS-GIDS.md."""
SYSTEM_PYTHON = "/usr/bin/python3"
IMPORTS = "import click, requests, elftools, psutil, pynvml, tqdm, zstandard, cryptography, yaml"
ROOM_BYTES = 1 << 30


class Account:
    """A user id, a directory of its own, and a Python in which udocker runs for it.

    Made once for each worker. As root, `directory` holds a copy of the checkout, which may
    itself lie where the user cannot look.
    """

    def __init__(self, shared: str) -> None:
        """`shared` is a directory that all workers of this run have in common."""
        self._claim: socket.socket | None = None
        self.uid, self.gid = os.getuid(), os.getgid()
        if self.uid == 0:
            self.uid, self._claim = _claimed_uid()
            self.gid = self.uid
        self.directory = tempfile.mkdtemp(prefix="udocker-tests-", dir=_scratch())
        os.chmod(self.directory, 0o755)
        self.checkout = self._reachable_checkout()
        self.python = self._reachable_python()
        self.python_path = [self.checkout, *self._dependencies(shared)]
        self.own(self.directory)

    @property
    def other(self) -> bool:
        """Tell whether this is another user than the one that runs the suite."""
        return self._claim is not None

    def own(self, path: str) -> None:
        """Give `path` and all below it to this user."""
        if not self.other:
            return
        os.lchown(path, self.uid, self.gid)
        for directory, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.lchown(os.path.join(directory, name), self.uid, self.gid)

    def become(self) -> dict[str, object]:
        """Return what `subprocess` needs to start a program as this user."""
        if not self.other:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def end_processes(self) -> None:
        """Nothing of this user runs any more; only for an id that is this worker's own."""
        for _ in range(100 if self.other else 0):
            left = _processes_of(self.uid)
            if not left:
                return
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def close(self) -> None:
        """Leave nothing behind."""
        self.end_processes()
        remove_tree(self.directory)
        if self._claim:
            self._claim.close()

    def _reachable_checkout(self) -> str:
        if not self.other:
            return ROOT
        copy = os.path.join(self.directory, "checkout")
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(f"{ROOT}/udocker", f"{copy}/udocker", ignore=unwanted)
        return copy

    def _reachable_python(self) -> str:
        for python in (sys.executable, SYSTEM_PYTHON):
            if self._works(python, "pass", []):
                return python
        raise RuntimeError(f"user {self.uid} can run neither {sys.executable} nor {SYSTEM_PYTHON}")

    def _dependencies(self, shared: str) -> list[str]:
        """Return what must be on PYTHONPATH so that udocker's dependencies are found."""
        named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        installed = [*named, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
        for paths in ([], list(dict.fromkeys(filter(None, installed)))):
            if self._works(self.python, IMPORTS, paths):
                return paths
        copy = os.path.join(self.directory, "dependencies")
        shutil.copytree(_installed_dependencies(self.python, shared), copy)
        return [copy]

    def _works(self, python: str, program: str, paths: list[str]) -> bool:
        command = [python, "-c", program]
        env = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, env=env, cwd="/", capture_output=True, check=False, **self.become()
            )
        except PermissionError:
            return False
        return done.returncode == 0


class Unprivileged:
    """Runs programs as a user without privileges whose home is empty at first.

    `home`, `uid`, `gid`, `python` (an interpreter in which udocker runs) and `checkout` (where
    the package `udocker` lies) may be read.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self.uid, self.gid, self.python = account.uid, account.gid, account.python
        self.checkout = account.checkout
        self.home = tempfile.mkdtemp(prefix="home-", dir=account.directory)
        self.udocker_dir = os.path.join(self.home, ".udocker")
        os.mkdir(os.path.join(self.home, "tmp"))
        self.own(self.home)

    def own(self, path: str) -> None:
        """Give `path`, and all below it, to the user."""
        self._account.own(path)

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """Return the user's environment: nothing of the suite's own but PATH."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": self.home,
            "TMPDIR": os.path.join(self.home, "tmp"),
            "UDOCKER_DIR": self.udocker_dir,
            "PYTHONPATH": os.pathsep.join(self._account.python_path),
            **(extra or {}),
        }

    def popen(self, argv, *, env=None, cwd=None, **options) -> subprocess.Popen:
        """Start a program as the user; `env` is added to the user's environment."""
        return subprocess.Popen(
            list(argv),
            env=self.environment(env),
            cwd=cwd or self.home,
            **self._account.become(),
            **options,
        )

    def run(
        self, argv, *, env=None, input=None, check=True, timeout=120, text=True, cwd=None
    ) -> subprocess.CompletedProcess:
        """Run a program as the user to its end and return what it said.

        With `check`, a status other than 0 is an AssertionError that shows all of it.
        """
        done = subprocess.run(
            list(argv),
            env=self.environment(env),
            cwd=cwd or self.home,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=text,
            timeout=timeout,
            check=False,
            **self._account.become(),
        )
        if check and done.returncode:
            raise AssertionError(f"{argv}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def udocker(self, *args, **options) -> subprocess.CompletedProcess:
        """Run this checkout's udocker as the user, as `run` does."""
        return self.run([self.python, "-m", "udocker", *args], **options)

    def close(self) -> None:
        """Nothing runs and nothing lies on disk any more."""
        self._account.end_processes()
        remove_tree(self.home)


def remove_tree(path: str) -> None:
    """Remove a tree, whatever the modes in it say."""

    def opened(function, failed, _):
        parent = os.path.dirname(failed)
        os.chmod(parent, 0o700)
        if not os.path.islink(failed):
            os.chmod(failed, 0o700)
        if function in (os.unlink, os.rmdir):
            function(failed)
        else:
            remove_tree(failed)

    if os.path.lexists(path):
        shutil.rmtree(path, onerror=opened)


def scratch_directory() -> str:
    """Make a directory that every user can read, where making files is quick."""
    path = tempfile.mkdtemp(prefix="udocker-tests-", dir=_scratch())
    os.chmod(path, 0o755)
    return path


def _scratch() -> str:
    """Return where trees are made: in memory where that is roomy and programs may run from it."""
    memory = "/dev/shm"
    try:
        facts = os.statvfs(memory)
    except OSError:
        return tempfile.gettempdir()
    roomy = facts.f_bavail * facts.f_frsize >= ROOM_BYTES
    usable = os.access(memory, os.W_OK | os.X_OK) and not facts.f_flag & os.ST_NOEXEC
    return memory if roomy and usable else tempfile.gettempdir()


def _claimed_uid() -> tuple[int, socket.socket]:
    """Return a user id that no other worker on this machine uses while the socket is open."""
    for uid in UIDS:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0udocker-tests-{uid}")
        except OSError:
            claim.close()
        else:
            return uid, claim
    raise RuntimeError(f"every user id from {UIDS.start} to {UIDS.stop - 1} is in use")


def _processes_of(uid: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/status") as file:
            fields = dict(line.split(":", 1) for line in file)
            real = int(fields["Uid"].split()[0])
            if real == uid and fields["State"].split()[0] not in "ZX":
                found.append(int(name))
    return found


def _installed_dependencies(python: str, shared: str) -> str:
    """Return a directory with udocker's dependencies for `python`, installed once for a run."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    minor = version.stdout.strip()
    target = os.path.join(shared, f"dependencies-{minor}")
    with open(f"{target}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(target):
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", f"{target}.new"]
            wheels = ["--only-binary", ":all:", "--python-version", minor]
            subprocess.run([*pip, *wheels, *_requirements()], check=True)
            os.rename(f"{target}.new", target)
    return target


def _requirements() -> list[str]:
    """Return what setup.py names as dependencies, with what checks signatures."""
    with open(f"{ROOT}/setup.py", encoding="utf-8") as file:
        tree = ast.parse(file.read())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
            "DEPENDENCIES",
            "EXTRAS",
        ):
            found[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    return [*found["DEPENDENCIES"], *found["EXTRAS"]["trust"]]
