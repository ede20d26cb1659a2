"""Many ids in a container, those of /etc/subuid: users are what they seem, files are theirs."""

import os
import subprocess
import tempfile

import pytest
from test_sandbox import Cell

from udocker.engines import subids
from udocker.errors import StartError

FIRST, COUNT = 200_000_000, 65536
"""A range of ids that nobody on this machine has."""


class Named:
    """A user with a name and with many ids, as far as the programs see that this runs.

    /etc/passwd, /etc/subuid and /etc/subgid are other files in a mount namespace; the
    machine's own are not touched.
    """

    def __init__(self, user):
        for path in ("/usr/bin/newuidmap", "/etc/subuid", "/etc/subgid"):
            if not os.path.exists(path):
                pytest.skip(f"needs {path} (package uidmap)")
        self.user = user
        self.directory = tempfile.mkdtemp(dir=user.home)
        os.chmod(self.directory, 0o755)
        with open("/etc/passwd") as file:
            passwd = file.read()
        entry = f"tester:x:{self.user.uid}:{self.user.gid}::{self.user.home}:/bin/sh\n"
        self.write("passwd", passwd + entry)
        for name in ("subuid", "subgid"):
            self.write(
                name, f"other:1:2\ntester:{FIRST}:1000\n{self.user.uid}:{FIRST + 1000}:65000\n"
            )

    def write(self, name, text):
        path = f"{self.directory}/{name}"
        with open(path, "w") as file:
            file.write(text)

    def run(self, command, check=True, **options):
        mounts = [f"mount --bind {self.directory}/{n} /etc/{n}" for n in os.listdir(self.directory)]
        enter = ["unshare", "-m", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]
        become = ["setpriv", f"--reuid={self.user.uid}", f"--regid={self.user.gid}"]
        done = subprocess.run(
            [*enter, *become, "--clear-groups", "--", *command],
            env=self.user.environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            **options,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def python(self, program, *words, **options):
        return self.run([self.user.python, "-c", program, *words], **options)


class Known(Named):
    """Such a user with a tree to run programs in."""

    def __init__(self, cell):
        super().__init__(cell.user)
        self.cell = cell

    def sandbox(self, script, *words, **options):
        """Run a script in a container with the ids that `subids.maps` finds."""
        command = ["/bin/busybox", "sh", "-c", script]
        root = self.cell.overlay()
        program = "import sys; from udocker.engines import subids\n"
        program += "from udocker.engines.sandbox import run\n"
        program += (
            f"run.main(['--map-ids', *subids.maps({self.user.udocker_dir!r}), *sys.argv[1:]],"
        )
        program += " {})"
        return self.python(program, *words, *root, "--", *command, **options)


@pytest.fixture
def known(unprivileged):
    cell = Cell(unprivileged)
    os.makedirs(f"{cell.tree}/etc")
    for name, text in (
        ("passwd", "root:x:0:0::/:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n"),
        ("group", "root:x:0:\nbob:x:1000:\nmore:x:1001:bob\n"),
    ):
        with open(f"{cell.tree}/etc/{name}", "w") as file:
            file.write(text)
    os.symlink("busybox", f"{cell.tree}/bin/sh")
    unprivileged.own(cell.tree)
    return Known(cell)


pytestmark = pytest.mark.root


def test_another_user_is_another_user(known):
    script = "busybox id -u; busybox touch /f; busybox chown bob:more /f; cd /; busybox su bob -c '"
    script += "busybox id; echo x > /f && echo mine; echo x > /bin/busybox'"
    done = known.sandbox(script, check=False)
    assert done.stdout.split() == [
        "0",
        "uid=1000(bob)",
        "gid=1000(bob)",
        "groups=1000(bob),1001(more)",
        "mine",
    ]
    assert "Permission denied" in done.stderr or "busy" in done.stderr
    status = os.stat(f"{known.user.home}/upper/f")
    assert (status.st_uid, status.st_gid) == (FIRST + 999, FIRST + 1000)


def test_a_run_as_another_user_has_no_rights_of_root(known):
    done = known.sandbox("busybox id -u; busybox touch /x", "--ids", "1000", "1001", check=False)
    assert done.stdout == "1000\n"
    assert "Permission denied" in done.stderr


def test_a_user_beyond_the_ranges_is_125(known):
    done = known.sandbox("echo", "--ids", "70000", "0", check=False)
    assert done.returncode == 125
    assert "become user 70000" in done.stderr


def test_what_was_put_over_the_image_cannot_be_taken_away_by_root_of_many_ids(known):
    done = known.sandbox("busybox umount /s; busybox cat /s", "--text", "/s", "injected")
    assert done.stdout == "injected"


def test_processes_and_network_of_its_own_go_with_many_ids(known):
    words = ["--private-pids", "--network", "none", "--hostname", "inside"]
    script = "busybox hostname; cd /proc; echo [0-9]*; busybox su bob -c 'busybox id -u'; exit 4"
    done = known.sandbox(script, *words, check=False)
    assert (done.stdout.split(), done.returncode) == (["inside", "1", "2", "1000"], 4)


def test_files_of_other_ids_are_removed_from_within(known):
    """The plain removal cannot do it."""
    script = (
        "busybox mkdir -p /d/e; busybox touch /d/e/f; busybox chown -R bob /d; busybox chmod 700 /d"
    )
    known.sandbox(script)
    upper = f"{known.user.home}/upper"
    program = "import sys; from udocker import trees; trees.remove_tree(sys.argv[1])"
    assert "PermissionError" in known.python(program, upper, check=False).stderr
    program = "import sys; from udocker import settings\n"
    program += "from udocker.commands.stores import Stores\n"
    program += "stores = Stores(settings.load({'directory': sys.argv[2]}))\n"
    program += "stores._remove_tree(sys.argv[1])"
    known.python(program, upper, known.user.udocker_dir)
    assert not os.path.exists(upper)


def test_a_kernel_that_says_no_is_told(known):
    known.write("subuid", f"tester:{FIRST}:10\n")
    words = ["--map-ids", f"0:{known.user.uid}:1,1:{FIRST}:20", f"0:{known.user.gid}:1"]
    script = f"{known.user.checkout}/udocker/engines/sandbox"
    command = [known.user.python, "-I", "-S", script, *words, *known.cell.overlay(), "--", "true"]
    done = known.run(command, check=False)
    assert done.returncode == 125
    assert "newuidmap" in done.stderr


@pytest.mark.parametrize("name", ["subuid", "subgid"])
def test_a_user_without_ids_learns_what_the_administrator_does(known, name):
    known.write(name, "other:1:2\n")
    done = known.sandbox("echo", check=False)
    assert f"/etc/{name} has no ids for tester" in done.stderr


def test_all_ranges_of_a_user_are_used_and_broken_lines_are_not(tmp_path):
    path = tmp_path / "subuid"
    path.write_bytes(b"me:10:5\nyou:20:5\n7:30:5\nme:x:5\nme:40\nme:50:0\n\xff:1:1\n")
    assert subids.ranges(str(path), ("me", "7")) == ((10, 5), (30, 5))
    assert subids.ranges(str(tmp_path / "none"), ("me",)) == ()


def test_without_newuidmap_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(subids.programs, "find", lambda *_: None)
    with pytest.raises(StartError, match="newuidmap") as caught:
        subids.maps(str(tmp_path))
    assert "uidmap" in caught.value.hint
