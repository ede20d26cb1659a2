"""Several names for one image: given, taken away, the image there until the last one goes."""

import os

import pytest
from archives import TOP, Image, docker_files, packed

DATA = packed(docker_files(Image(), Image([TOP], ["other:2"])))


@pytest.fixture
def user(unprivileged):
    unprivileged.udocker("load", input=DATA, text=False)
    return unprivileged


def names(user):
    return user.udocker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()


def identifier(user, name):
    listed = user.udocker("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").stdout
    return dict(line.split() for line in listed.splitlines())[name]


def test_an_image_has_all_names_that_it_is_given(user):
    user.udocker("tag", "img:1", "team/a", "quay.io/b/c:3")
    user.udocker("tag", identifier(user, "other:2"), "by-id")
    assert names(user) == ["by-id:latest", "img:1", "other:2", "team/a:latest", "quay.io/b/c:3"]
    assert identifier(user, "img:1") == identifier(user, "quay.io/b/c:3")
    assert identifier(user, "by-id:latest") == identifier(user, "other:2")


def test_the_image_stays_until_its_last_name_goes(user):
    user.udocker("tag", "img:1", "again:1")
    user.udocker("create", "--name=c", "img:1")
    user.udocker("rmi", "img:1")
    assert names(user) == ["again:1", "other:2"]
    done = user.udocker("rmi", "again:1", check=False)
    assert (done.returncode, "has containers" in done.stderr) == (1, True)
    user.udocker("rm", "c")
    user.udocker("rmi", "again:1", "other:2")
    assert os.listdir(f"{user.udocker_dir}/images/blobs/sha256") == []
    assert os.listdir(f"{user.udocker_dir}/trees") == []


def test_an_id_with_several_names_is_removed_by_force_only(user):
    user.udocker("tag", "img:1", "again:1")
    short = identifier(user, "img:1")
    done = user.udocker("rmi", short, check=False)
    assert (done.returncode, "several names" in done.stderr) == (1, True)
    user.udocker("rmi", "-f", short)
    assert names(user) == ["other:2"]


def test_a_name_moves_unless_it_is_protected(user):
    user.udocker("protect", "other:2")
    done = user.udocker("tag", "img:1", "new", "other:2", check=False)
    assert (done.returncode, "is protected" in done.stderr) == (1, True)
    assert names(user) == ["img:1", "other:2"]
    user.udocker("unprotect", "other:2")
    user.udocker("tag", "img:1", "other:2")
    assert identifier(user, "img:1") == identifier(user, "other:2")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["img:1"], 2),
        (["img:1", "UPPER"], 2),
        (["img:1", f"x@sha256:{'0' * 64}"], 2),
        (["nothing", "x"], 1),
    ],
)
def test_what_makes_no_sense_is_an_error(user, words, code):
    assert user.udocker("tag", *words, check=False).returncode == code
    assert names(user) == ["img:1", "other:2"]
