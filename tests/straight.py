"""Runs of containers given straight to an engine, without images, stores and command line.

As the user without privileges, in a tree with busybox: what an engine does is seen in 50 ms.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile

import pytest

START = """
import json, os, sys
from udocker.containers.spec import *
from udocker.engines import select, supervise
from udocker.host.probe import Host
name, mode, store, how = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
way = next(way for way in select.WAYS if (way.name, way.mode) == (name, mode))
engine = select.make(way, store)
obstacle = engine.obstacle(Host())
if obstacle:
    sys.exit(f"no engine: {obstacle}")
uid = how.pop("uid", 0)
env = {"PATH": "/bin", "HOME": "/root", "TERM": "dumb", **how.pop("env", {})}
edits = ContainerEdits(
    binds=tuple(Bind(*words) for words in how.pop("binds", ())),
    device_nodes=tuple(DeviceNode(*words) for words in how.pop("nodes", ())),
    symlinks=tuple(Symlink(*words) for words in how.pop("links", ())),
)
process = Process(
    tuple(sys.argv[5:]), tuple(env.items()), how.pop("cwd", "/"), User(uid, uid, "", "/root"),
    how.pop("terminal", False),
)
spec = RuntimeSpec(
    Rootfs(how.pop("root"), flat=True), process, edits=edits, supervised=True,
    files=tuple(TextFile(*words) for words in how.pop("files", ())),
    tmpfs=tuple(Tmpfs(*words) for words in how.pop("tmpfs", ())),
    scratch=f"{store}/containers/c/runs/{os.getpid()}", **how,
)
try:
    launch = engine.plan(spec)
except Exception as error:
    print(error, file=sys.stderr)
    sys.exit(125)
sys.exit(supervise.run(lambda: engine.start(launch), engine.attendant()))
"""
PURE = (
    "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup || exit 99; "
    'exec setpriv --reuid=$0 --regid=$0 --clear-groups "$@"'
)
"""Where cgroups of both versions are mounted, crun 1.8 needs to see the second alone."""
FOLDERS = ("bin", "dev", "etc", "proc", "root", "srv/real", "sys", "tmp")


class Straight:
    """Runs programs by one engine in one tree, `root`."""

    def __init__(self, user, name, mode="R1"):
        self.user = user
        self.name = name
        self.mode = mode
        self.store = f"{user.home}/store"
        self.root = tempfile.mkdtemp(prefix="root-", dir=user.home)
        os.chmod(self.root, 0o755)
        _fill(self.root)
        user.own(self.root)

    def words(self, *args, **how):
        """Return the command line that runs `args`; `how` are fields of the spec."""
        given = json.dumps({"root": self.root, **how})
        python = (self.user.python, "-c", START)
        return [*python, self.name, self.mode, self.store, given, *args]

    def popen(self, *args, how=None, **options):
        """Start a program in the container."""
        words = self.words(*args, **(how or {}))
        if self.name == "crun" and os.geteuid() == 0:
            inside = ["unshare", "-m", "sh", "-c", PURE, str(self.user.uid), *words]
            env = self.user.environment()
            return subprocess.Popen(inside, env=env, cwd=self.user.home, **options)
        return self.user.popen(words, **options)

    def run(self, *args, input=None, text=True, **how):
        """Run a program in the container to its end; skip the test where the engine cannot run."""
        streams = {"stdin": subprocess.PIPE if input is not None else subprocess.DEVNULL}
        streams.update(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=text)
        process = self.popen(*args, how=how, **streams)
        out, err = process.communicate(input, timeout=60)
        if process.returncode == 1 and "no engine: " in str(err):
            pytest.skip(f"needs {self.name} to work here: {err}")
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def sh(self, script, **how):
        """Run a shell script in the container; it must succeed."""
        done = self.run("sh", "-c", script, **how)
        assert done.returncode == 0, done
        return done.stdout

    def place(self, **files):
        """Return a new directory of the user with the given files."""
        path = tempfile.mkdtemp(prefix="place-", dir=self.user.home)
        for name, text in files.items():
            with open(f"{path}/{name}", "w") as file:
                file.write(text)
        self.user.own(path)
        return path

    def elsewhere(self):
        """Return a new directory of the user that no container shows."""
        path = tempfile.mkdtemp(prefix="udocker-tests-", dir="/var/tmp")
        self.user.own(path)
        return path

    def left(self):
        """Return what runs have left in the store."""
        runs = f"{self.store}/containers/c/runs"
        return os.listdir(runs) if os.path.isdir(runs) else []


def _fill(root):
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox (package busybox-static)")
    for folder in FOLDERS:
        os.makedirs(f"{root}/{folder}")
    shutil.copy(busybox, f"{root}/bin/busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for applet in listed.stdout.split():
        if applet != "busybox":
            os.symlink("busybox", f"{root}/bin/{applet}")
    with open(f"{root}/etc/passwd", "w") as file:
        file.write("root:x:0:0:root:/root:/bin/sh\n")
    with open(f"{root}/etc/greeting", "w") as file:
        file.write("hello\n")
    with open(f"{root}/srv/orphan", "w") as file:
        file.write("#!/no/such/interpreter\n")
    os.chmod(f"{root}/srv/orphan", 0o755)
    os.symlink("/srv/real", f"{root}/srv/link")
