"""Copies of containers, and own copies for engines without an overlay."""

import os
import signal
import time

import pytest
from unprivileged import Unprivileged

from udocker.registry.loopback import LoopbackRegistry

CHANGES = """
echo data > /file; ln /file /hard; rm /etc/greeting; chmod 0 /file
mkdir /closed; echo secret > /closed/x; chmod 0 /closed
rm -r /root; mkdir /root; echo new > /root/new; mkdir -m 555 /fixed
"""


@pytest.fixture(scope="module")
def user(account, busybox_image):
    user = Unprivileged(account)
    with LoopbackRegistry(busybox_image.path) as address:
        image = f"{address}/library/{busybox_image.reference}"
        user.udocker("pull", image)
        user.image = image
        user.udocker("run", "--name=changed", image, "sh", "-c", CHANGES)
        yield user
    user.close()


def directory(user, name):
    link = f"{user.udocker_dir}/containers/names/{name}"
    return os.path.realpath(link)


def changes(user, name):
    return user.udocker("diff", name).stdout


def test_a_clone_has_the_same_changes_and_goes_its_own_way(user):
    made = user.udocker("clone", "--name=twin", "changed").stdout.strip()
    assert len(made) == 32 and f"{directory(user, 'twin')}".endswith(made)
    assert changes(user, "twin") == changes(user, "changed") != ""
    show = "cat /file /closed/x; ls /root; ls -d /etc/greeting"
    done = user.udocker("run", "twin", "sh", "-c", show, check=False)
    assert done.stdout == "data\nsecret\nnew\n"
    user.udocker("run", "twin", "sh", "-c", "rm /file")
    assert "A /file\n" in changes(user, "changed")
    user.udocker("rm", "twin")


def test_files_that_their_modes_close_keep_them(user):
    for name in ("changed",):
        upper = f"{directory(user, name)}/upper"
        changes(user, name)
        assert os.stat(f"{upper}/file").st_mode & 0o777 == 0
        assert os.stat(f"{upper}/closed").st_mode & 0o777 == 0


def test_an_own_copy_takes_over_what_the_overlay_had(user):
    user.udocker("clone", "--name=flat", "changed")
    before = changes(user, "flat")
    show = "cat /file /closed/x; ls /root; stat -c %a /file /closed /fixed"
    done = user.udocker("run", "--engine=N1", "flat", "sh", "-c", show)
    assert done.stdout == "data\nsecret\nnew\n0\n0\n555\n"
    assert not os.path.exists(f"{directory(user, 'flat')}/upper")
    assert changes(user, "flat") == before
    user.udocker("clone", "--name=flat2", "flat")
    assert changes(user, "flat2") == before
    user.udocker("rm", "flat", "flat2")


def test_a_running_container_is_not_cloned(user):
    user.udocker("create", "--name=busy", user.image, "sh", "-c", "touch /begun; sleep 60")
    program = user.popen([user.python, "-m", "udocker", "run", "busy"])
    wait_for(f"{directory(user, 'busy')}/upper/begun")
    done = user.udocker("clone", "busy", check=False)
    assert (done.returncode, "is running" in done.stderr) == (1, True)
    user.udocker("rm", "-f", "busy")
    program.wait(20)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nowhere"], 1),
        (["--name=changed", "changed"], 2),
        (["--name=a/b", "changed"], 2),
        ([], 2),
        (["changed", "more"], 2),
    ],
)
def test_what_cannot_be_cloned_leaves_nothing(user, words, code):
    before = os.listdir(f"{user.udocker_dir}/containers")
    done = user.udocker("clone", *words, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert os.listdir(f"{user.udocker_dir}/containers") == before


@pytest.mark.parametrize("delay", [0.08, 0.12, 0.16])
def test_a_clone_that_was_killed_leaves_no_part_of_a_container(user, delay):
    before = user.udocker("ps", "-q").stdout.split()
    program = user.popen([user.python, "-m", "udocker", "clone", "changed"])
    time.sleep(delay)
    program.send_signal(signal.SIGKILL)
    program.wait()
    made = set(user.udocker("ps", "-q").stdout.split()) - set(before)
    for identifier in made:  # it was quicker, and whole
        assert changes(user, identifier) == changes(user, "changed")
        user.udocker("rm", identifier)
    identifier = user.udocker("clone", "changed").stdout.strip()
    user.udocker("rm", identifier)
    left = os.listdir(f"{user.udocker_dir}/containers")
    assert not [name for name in left if name.startswith("draft.")]


def wait_for(path):
    for _ in range(200):
        if os.path.exists(path):
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")
