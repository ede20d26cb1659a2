"""What a user sets for a container after it was made, and mending its files."""

import os

import pytest
from unprivileged import Unprivileged

from udocker.registry.loopback import LoopbackRegistry


@pytest.fixture(scope="module")
def session(account, busybox_image):
    user = Unprivileged(account)
    with LoopbackRegistry(busybox_image.path) as address:
        user.image = f"{address}/library/{busybox_image.reference}"
        user.udocker("pull", user.image)
        yield user
    user.close()


@pytest.fixture
def user(session):
    session.udocker("create", "--name=c", session.image)
    yield session
    session.udocker("rm", "-f", "c")


def setup(user, *words, **options):
    return user.udocker("setup", *words, "c", **options)


def test_without_options_it_shows_what_was_chosen(user):
    shown = setup(user).stdout.splitlines()
    assert (shown[0].partition(": ")[0], shown[1]) == ("execmode", "nvidiamode: False")


def test_a_mode_holds_for_later_runs_and_can_be_taken_back(user):
    before = setup(user).stdout
    setup(user, "--execmode=n1")
    assert setup(user).stdout.startswith("execmode: N1\n")
    user.udocker("run", "c", "true")
    assert os.path.isdir(os.path.realpath(f"{user.udocker_dir}/containers/names/c") + "/rootfs")
    setup(user, "--execmode=auto")
    assert setup(user).stdout == before


@pytest.mark.parametrize(("mode", "code"), [("X9", 2), ("S1", 1), ("", 0)])
def test_a_mode_that_cannot_be_used_is_refused(user, mode, code):
    before = setup(user).stdout
    done = setup(user, f"--execmode={mode}", check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert setup(user).stdout == before


def test_a_mode_that_cannot_be_used_here_is_set_by_force(user):
    assert "S1" in setup(user, "--force", "--execmode=S1").stderr
    assert setup(user).stdout.startswith("execmode: S1\n")


def test_gpus_are_used_in_every_run_once_they_are_set_up(user):
    told = setup(user, "--nvidia", "--force").stderr
    assert "the GPUs of its node; nothing was copied" in told
    assert setup(user).stdout.endswith("nvidiamode: True\n")
    if not os.path.exists("/dev/nvidiactl"):
        assert user.udocker("run", "c", "true", check=False).returncode == 125
    assert user.udocker("run", "--gpu=none", "c", "echo", "without").stdout == "without\n"
    assert "only when asked for" in setup(user, "--no-nvidia").stderr
    assert user.udocker("run", "c", "echo", "without").stdout == "without\n"


def test_what_mounts_have_left_is_purged_and_nothing_else(user):
    mount = f"{user.home}/tmp:/mnt/a/b"
    user.udocker("run", "-v", mount, "c", "sh", "-c", "touch /empty; echo x > /full; mkdir /mine")
    user.udocker("run", "-v", f"{user.home}/tmp:/mine", "c", "true")
    user.udocker("run", "-v", f"{user.home}/tmp:/used", "c", "true")
    user.udocker("run", "c", "sh", "-c", "echo kept > /used/x")
    assert "removed /mnt/a/b" in setup(user, "--purge").stdout
    changed = [line for line in user.udocker("diff", "c").stdout.splitlines() if line != "C /etc"]
    assert changed == ["A /empty", "A /full", "A /used", "A /used/x"]
    assert setup(user, "--purge").stdout == ""


def test_what_udocker_itself_has_put_into_a_container_is_no_change_of_it(user):
    lists = "/etc/ld.so.conf.d"
    script = f"mkdir -p {lists} && echo /x >{lists}/00-udocker.conf && : >/.udocker"
    user.udocker("run", "c", "sh", "-c", script)
    assert "udocker" not in user.udocker("diff", "c").stdout
    assert f"removed {lists}/00-udocker.conf" in setup(user, "--purge").stdout


def test_what_mounts_have_left_is_no_change_of_the_container(user):
    before = user.udocker("diff", "c").stdout
    user.udocker("run", "-v", f"{user.home}/tmp:/mnt/c/d", "c", "true")
    assert user.udocker("diff", "c").stdout == before


def test_files_that_their_modes_close_are_opened_on_demand(user):
    user.udocker("run", "c", "sh", "-c", "mkdir -p /d/e; echo x > /d/e/f; chmod -R 0 /d")
    assert "3 files" in setup(user, "--fixperm").stderr
    upper = os.path.realpath(f"{user.udocker_dir}/containers/names/c") + "/upper"
    modes = [os.stat(f"{upper}/{path}").st_mode & 0o777 for path in ("d", "d/e", "d/e/f")]
    assert modes == [0o700, 0o700, 0o600]
    assert setup(user, "--fixperm").stderr == ""
