"""Names and protection of containers and images; stores and settings."""

import os

import pytest
from unprivileged import Unprivileged

from udocker.registry.loopback import LoopbackRegistry


@pytest.fixture(scope="module")
def user(account, busybox_image):
    user = Unprivileged(account)
    with LoopbackRegistry(busybox_image.path) as address:
        user.image = f"{address}/library/{busybox_image.reference}"
        user.udocker("pull", user.image)
        yield user
    user.close()


@pytest.fixture
def container(user):
    identifier = user.udocker("create", "--name=first", user.image).stdout.strip()
    yield identifier
    user.udocker("unprotect", identifier)
    user.udocker("rm", identifier)


def names(user):
    path = f"{user.udocker_dir}/containers/names"
    return {name: os.path.basename(os.readlink(f"{path}/{name}")) for name in os.listdir(path)}


def test_a_container_has_any_number_of_names_and_loses_them(user, container):
    user.udocker("name", container, "second")
    user.udocker("name", "first", "third")
    assert names(user) == dict.fromkeys(("first", "second", "third"), container)
    user.udocker("rmname", "first", "third")
    assert names(user) == {"second": container}
    assert user.udocker("run", "second", "echo", "here").stdout == "here\n"


def test_a_new_name_takes_the_place_of_the_old_one(user, container):
    user.udocker("rename", "first", "other")
    assert names(user) == {"other": container}
    user.udocker("rename", container, "more")
    assert names(user) == {"other": container, "more": container}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["rename", "nowhere", "x"], 1),
        (["rename", "first", "first"], 2),
        (["rename", "first", "a b"], 2),
        (["name", "first", "first"], 2),
        (["name", "nowhere", "x"], 1),
        (["name", "first", ""], 2),
        (["rmname", "nowhere"], 1),
        (["rmname", "../locks"], 1),
        (["rmname", ".."], 1),
        (["protect", "no-such-image"], 1),
        (["unprotect"], 2),
    ],
)
def test_what_makes_no_sense_changes_no_name(user, container, words, code):
    before = names(user)
    done = user.udocker(*words, check=False)
    assert (done.returncode, done.stderr != "", "Traceback" in done.stderr) == (code, True, False)
    assert names(user) == before


def test_a_protected_container_stays_until_it_is_not(user, container):
    user.udocker("protect", "first")
    user.udocker("protect", container)
    for words in (["rm", "first"], ["rm", "-f", "first"], ["setup", "--purge", "first"]):
        done = user.udocker(*words, check=False)
        assert (done.returncode, "udocker unprotect" in done.stderr) == (1, True)
    assert user.udocker("run", "first", "echo", "runs").stdout == "runs\n"
    user.udocker("unprotect", "first")
    user.udocker("unprotect", "first")


def test_a_protected_image_stays_until_it_is_not(user):
    user.udocker("protect", user.image)
    for words in (["rmi", user.image], ["rmi", "-f", user.image]):
        done = user.udocker(*words, check=False)
        assert (done.returncode, "udocker unprotect" in done.stderr) == (1, True)
    user.udocker("unprotect", user.image)
    user.udocker("rmi", user.image)
    user.udocker("pull", user.image)


def test_a_store_is_made_where_nothing_is(user):
    path = f"{user.home}/store"
    assert user.udocker("mkrepo", path).stdout == f"{path}\n"
    assert user.udocker(f"--repo={path}", "images", "-q").stdout == ""
    assert user.udocker("mkrepo", path, check=False).returncode == 2
    assert user.udocker("mkrepo", "/proc/x", check=False).returncode == 1


def test_every_setting_says_where_it_comes_from(user):
    os.makedirs(user.udocker_dir, exist_ok=True)
    with open(f"{user.udocker_dir}/udocker.conf", "w") as file:
        file.write("jobs = 3\n")
    user.own(f"{user.udocker_dir}/udocker.conf")
    env = {"UDOCKER_REGISTRY": "quay.io"}
    shown = user.udocker("-q", "showconf", env=env).stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in shown if line}
    assert rows["jobs"] == ["3", f"{user.udocker_dir}/udocker.conf"]
    assert rows["registry"] == ["quay.io", "$UDOCKER_REGISTRY"]
    assert rows["quiet"] == ["True", "command", "line"]
    assert rows["debug"] == ["False", "default"]
    os.unlink(f"{user.udocker_dir}/udocker.conf")
