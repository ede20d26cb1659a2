import json
import os
import stat

import pytest

from udocker import trees
from udocker.errors import UnpackError
from udocker.images import override
from udocker.images.treestore import TreeStore, measure
from udocker.oci import Digest

CHAIN = Digest.of(b"chain")


@pytest.fixture
def store(tmp_path):
    for name in ("trees", "records", "partial"):
        os.mkdir(tmp_path / name)
    return TreeStore(str(tmp_path), str(tmp_path / "partial"))


def prepared(tmp_path, text="content"):
    tree = tmp_path / f"stage-{text}"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "name").write_text(text)
    os.link(tree / "etc" / "name", tree / "same")
    (tree / "link").symlink_to("etc")
    return str(tree)


def another_boot(store):
    path = f"{store.records}/{CHAIN.hex}"
    with open(path) as file:
        record = json.load(file)
    assert len(record[0]) == 36
    with open(path, "w") as file:
        json.dump(["another", *record[1:]], file)


def test_a_tree_is_measured_and_a_file_with_two_names_takes_space_once(store, tmp_path):
    tree = prepared(tmp_path)
    once = measure(tree)
    assert (once.files, once.size_bytes) == (2, 14)
    os.unlink(f"{tree}/same")
    assert measure(tree).disk_bytes == once.disk_bytes


def test_a_path_longer_than_linux_takes_is_said_in_short(tmp_path):
    top = str(tmp_path / "tree")
    os.mkdir(top)
    here = os.open(top, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=here)
        below = os.open("n" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(UnpackError, match="bytes, too many for Linux") as caught:
        measure(top)
    assert len(caught.value.message) < 300
    trees.remove_tree(top)


def test_a_tree_that_lost_files_in_a_power_failure_is_not_whole(store, tmp_path):
    store.publish(prepared(tmp_path), CHAIN, public=False)
    assert store.is_whole(CHAIN)
    another_boot(store)
    os.truncate(f"{store.path(CHAIN)}/etc/name", 0)
    assert not store.is_whole(CHAIN)
    store.publish(prepared(tmp_path, "again"), CHAIN, public=False)
    assert store.is_whole(CHAIN)
    assert os.listdir(tmp_path / "partial") == []


def test_a_tree_is_counted_once_after_a_boot_and_then_safe(store, tmp_path):
    store.publish(prepared(tmp_path), CHAIN, public=False)
    another_boot(store)
    assert store.is_whole(CHAIN)
    os.truncate(f"{store.path(CHAIN)}/etc/name", 0)  # what its owner does is no power failure
    assert store.is_whole(CHAIN)


@pytest.mark.parametrize("make", [os.makedirs, os.mkfifo])
def test_a_record_that_is_no_file_is_none(store, tmp_path, make):
    store.publish(prepared(tmp_path), CHAIN, public=False)
    os.unlink(f"{store.records}/{CHAIN.hex}")
    make(f"{store.records}/{CHAIN.hex}")
    assert store.extent(CHAIN.hex) is None
    store.publish(prepared(tmp_path, "again"), CHAIN, public=False)
    assert store.is_whole(CHAIN)


@pytest.mark.parametrize("text", [None, "", "[]", "garbage", '["x", 1]'])
def test_a_tree_without_a_good_record_is_made_again(store, tmp_path, text):
    store.publish(prepared(tmp_path), CHAIN, public=False)
    os.unlink(f"{store.records}/{CHAIN.hex}")
    if text is not None:
        with open(f"{store.records}/{CHAIN.hex}", "w") as file:
            file.write(text)
    assert not store.is_whole(CHAIN)
    store.publish(prepared(tmp_path, "again"), CHAIN, public=False)
    with open(f"{store.path(CHAIN)}/same") as file:
        assert file.read() == "again"


def test_of_two_trees_that_are_made_at_once_the_first_one_stays(store, tmp_path):
    store.publish(prepared(tmp_path, "first"), CHAIN, public=False)
    second = prepared(tmp_path, "second")
    store.publish(second, CHAIN, public=False)
    assert not os.path.exists(second)
    with open(f"{store.path(CHAIN)}/same") as file:
        assert file.read() == "first"


def test_modes_that_a_store_for_all_takes_away_are_remembered(store, tmp_path):
    tree = prepared(tmp_path)
    modes = {"etc/name": 0o4750, "etc": 0o1777, "alone": 0o600}
    for path, mode in modes.items():
        if path == "alone":
            with open(f"{tree}/{path}", "w"):
                pass
        os.chmod(f"{tree}/{path}", mode)
    store.publish(tree, CHAIN, public=True)
    for path, mode in modes.items():
        found = os.stat(f"{store.path(CHAIN)}/{path}")
        assert found.st_mode & 0o6022 == 0
        assert found.st_mode & 0o444 == 0o444
        value = os.getxattr(f"{store.path(CHAIN)}/{path}", override.ATTRIBUTE)
        assert override.decode(value) == ((0, 0), mode)
    assert stat.S_IMODE(os.stat(f"{store.path(CHAIN)}/etc").st_mode) == 0o1755
