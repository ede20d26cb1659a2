"""Options that every engine honours, tried by each of those that can run here."""

import os

import pytest
from unprivileged import Unprivileged

from udocker.containers import features
from udocker.engines import select
from udocker.registry.loopback import LoopbackRegistry

MODES = ("N1", "N2", "bwrap", "P1")


@pytest.fixture(scope="module")
def image(busybox_image):
    with LoopbackRegistry(busybox_image.path) as address:
        yield f"{address}/library/{busybox_image.reference}"


@pytest.fixture(scope="module")
def user(account, image):
    user = Unprivileged(account)
    user.udocker("pull", image)
    yield user
    user.close()


@pytest.fixture(params=MODES)
def sh(request, user, image):
    """Runs a script by one engine; a class of its features stands beside it."""
    mode = request.param
    probe = user.udocker("run", "--rm", f"--engine={mode}", image, "true", check=False)
    if probe.returncode:
        pytest.skip(f"{mode} cannot run here: {probe.stderr.strip()}")

    def run(script, *options, **how):
        words = ["run", "--rm", f"--engine={mode}", *options, image, "sh", "-c", script]
        done = user.udocker(*words, **{**how, "check": False})
        assert done.returncode == 0 or not how.get("check", True), done.stderr
        return done

    run.can = select.make(select.ways(mode)[0], "").features
    return run


def test_names_accounts_limits_and_files_are_as_asked(sh, user):
    mine = min(os.sched_getaffinity(0))
    options = [
        *("--add-host=db:10.0.0.9", "--dns=192.0.2.1", "--umask=0027", "--ulimit=nofile=100"),
        *(f"--cpuset-cpus={mine}", "-v", "shared:/shared", "--unsetenv=GREETING", "--hostauth"),
    ]
    script = """
        grep db /etc/hosts; cat /etc/resolv.conf; umask; ulimit -n
        grep Cpus_allowed_list /proc/self/status; echo ok >>/shared/f; cat /shared/f
        echo ${GREETING:-none}; id -u
    """
    said = sh(script, *options).stdout.split()
    assert said == [
        *("10.0.0.9", "db", "nameserver", "192.0.2.1", "0027", "100", "Cpus_allowed_list:"),
        *(str(mine), *said[8:-2], "none", str(user.uid)),
    ]
    assert set(said[8:-2]) == {"ok"}


def test_system_directories_are_left_out(sh):
    assert sh("ls /sys | wc -l", "--nosysdirs").stdout == "0\n"


def test_shared_memory_of_its_own_is_there_or_refused(sh):
    done = sh("df -k /dev/shm | tail -n1", "--shm-size=32m", check=False)
    if features.TMPFS in sh.can:
        assert done.stdout.split()[1] == "32768"
    else:
        assert done.returncode == 125
        assert "--shm-size" in done.stderr
