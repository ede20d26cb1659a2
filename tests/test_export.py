"""Containers as tar archives."""

import io
import os
import shutil
import subprocess
import tarfile
import tempfile

import pytest
from unprivileged import Unprivileged, remove_tree

from udocker.registry.loopback import LoopbackRegistry

LONG = "name" * 30
CHANGES = f"""
echo data > /file; ln /file /hard; rm /etc/greeting; chmod 0 /file; mkfifo /pipe
mkdir -p /grüße/{LONG}
truncate -s 20G /sparse; echo end >> /sparse
"""


@pytest.fixture(scope="module")
def user(account, busybox_image):
    user = Unprivileged(account)
    with LoopbackRegistry(busybox_image.path) as address:
        image = f"{address}/library/{busybox_image.reference}"
        user.udocker("run", "--name=changed", "-v", f"{user.home}:/mounted", image, "true")
        user.udocker("run", "changed", "sh", "-c", CHANGES)
    yield user
    user.close()


def export(user, *words, **options):
    return user.udocker("export", *words, text=False, **options)


@pytest.fixture(scope="module")
def archive(user):
    return export(user, "changed").stdout


def test_an_archive_has_all_files_that_the_container_sees_and_roots_are_their_owner(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {member.name: member for member in tar}
    assert {"bin/busybox", "bin/sh", "file", "pipe", "grüße"} <= set(members)
    assert "etc/greeting" not in members
    assert members["hard"].islnk() and members["hard"].linkname == "file"
    assert members["sparse"].size == (20 << 30) + 4
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
    assert f"grüße/{LONG}" in members
    assert len(archive) < 50 << 20


def test_what_was_made_for_mounts_to_lie_on_is_not_in_it(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
    assert not {"mounted", "run/udocker", "run", "etc/hosts", "etc/resolv.conf"} & set(names)


def test_the_order_is_that_of_the_names(archive, user):
    assert export(user, "-", "changed").stdout == archive


def test_gnu_tar_reads_it(archive, tmp_path):
    subprocess.run(["tar", "-C", str(tmp_path), "-x"], input=archive, check=True)
    assert os.stat(tmp_path / "sparse").st_size == (20 << 30) + 4
    assert os.stat(tmp_path / "sparse").st_blocks < 1000
    assert os.stat(tmp_path / "hard").st_ino == os.stat(tmp_path / "file").st_ino


@pytest.fixture
def short_directory():
    """A directory whose name is short enough for podman, which takes 50 characters."""
    path = tempfile.mkdtemp(prefix="u", dir="/tmp")
    yield path
    remove_tree(path)


@pytest.mark.root
def test_podman_imports_it(user, short_directory):
    if shutil.which("podman") is None:
        pytest.skip("needs podman")
    user.udocker("create", "--name=small", user_image(user))
    user.udocker("run", "small", "sh", "-c", "echo kept > /kept")
    archive = export(user, "small").stdout
    command = ["podman", "--root", f"{short_directory}/root", "--runroot", f"{short_directory}/run"]
    command += ["--storage-driver=vfs"]
    done = subprocess.run(
        [*command, "import", "-q", "-", "t:1"], input=archive, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def user_image(user):
    return user.udocker("images", "-q").stdout.split()[0]


def test_a_file_appears_whole_or_not_at_all(user):
    path = f"{user.home}/out.tar"
    done = export(user, "-o", path, "changed")
    assert done.stdout == b""
    with tarfile.open(path) as tar:
        assert tar.getmember("file").isfile()
    before = os.stat(path).st_ino
    for words in (["-o", path, "nowhere"], ["-o", "/nowhere/x", "changed"]):
        assert export(user, *words, check=False).returncode == 1
    assert os.stat(path).st_ino == before
    assert [name for name in os.listdir(user.home) if name.startswith("out.tar")] == ["out.tar"]


def test_a_full_disk_is_told(user):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    done = export(user, "-o", "/dev/full", "changed", check=False)
    assert (done.returncode, b"No space left" in done.stderr) == (1, True)


@pytest.mark.parametrize("words", [["--clone", "changed"], ["changed", "more"], []])
def test_words_that_make_no_sense_are_a_usage_error(user, words):
    assert export(user, *words, check=False).returncode == 2


def test_modes_that_close_files_are_as_they_were(user, archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getmember("file").mode == 0
    path = os.path.realpath(f"{user.udocker_dir}/containers/names/changed") + "/upper/file"
    assert os.stat(path).st_mode & 0o777 == 0
