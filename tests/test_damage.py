"""Stores that something has damaged, and pulls that mend them, as a user without privileges."""

import json
import os
import shutil

import pytest
from images import add_image
from registries import DockerRegistry, Layout
from tarballs import archive, file, folder

ONE = archive(folder("etc"), file("etc/name", b"one\n"))
TWO = archive(file("etc/name", b"two\n"))


@pytest.fixture
def registry(tmp_path):
    with DockerRegistry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def pulled(unprivileged, registry, tmp_path):
    """The name of a pulled image, and its blobs as they are called in a manifest."""
    layout = Layout(str(tmp_path / "layout"))
    entry = add_image(layout, "img:1", [ONE])
    registry.push(layout, "img:1", "img:1")
    unprivileged.udocker("pull", f"{registry.host}/img:1")
    document = json.loads(layout.read(entry))
    blobs = {"manifest": entry, "config": document["config"], "layer": document["layers"][0]}
    return f"{registry.host}/img:1", blobs


def blob_path(user, descriptor):
    return f"{user.udocker_dir}/images/blobs/{descriptor['digest'].replace(':', '/')}"


def names(user):
    return user.udocker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()


def remove(path):
    os.unlink(path)


def shorten(path):
    os.chmod(path, 0o644)
    os.truncate(path, os.stat(path).st_size - 5)


def blank(path):
    os.chmod(path, 0o644)
    with open(path, "r+b") as blob:
        blob.write(bytes(os.stat(path).st_size))


@pytest.mark.parametrize("damage", [remove, shorten, blank])
@pytest.mark.parametrize("blob", ["manifest", "config", "layer"])
def test_a_pull_mends_a_damaged_blob(unprivileged, pulled, damage, blob):
    name, blobs = pulled
    path = blob_path(unprivileged, blobs[blob])
    with open(path, "rb") as file:
        good = file.read()
    damage(path)
    if blob == "layer":
        shutil.rmtree(f"{unprivileged.udocker_dir}/trees")
    else:
        done = unprivileged.udocker("run", name, "x", check=False)
        assert done.returncode == 125
        assert "pull the image again" in done.stderr
        assert unprivileged.udocker("inspect", name, check=False).returncode == 1
        assert name in names(unprivileged)
    unprivileged.udocker("pull", name)
    with open(path, "rb") as file:
        assert file.read() == good
    tree = unprivileged.udocker("inspect", "-p", name).stdout.strip()
    assert os.listdir(tree) == ["etc"]


def test_a_blob_that_is_missing_beside_a_whole_tree_is_pulled_again(unprivileged, pulled):
    name, blobs = pulled
    for blob in blobs.values():
        remove(blob_path(unprivileged, blob))
    assert "up to date" not in unprivileged.udocker("pull", name).stderr
    assert all(os.path.exists(blob_path(unprivileged, blob)) for blob in blobs.values())


@pytest.mark.parametrize("text", ["", "garbage", "{}", "[]", '{"manifests": [1]}'])
def test_an_index_for_other_tools_that_is_broken_is_made_again(unprivileged, pulled, text):
    name, _ = pulled
    path = f"{unprivileged.udocker_dir}/images/index.json"
    with open(path) as file:
        good = file.read()
    with open(path, "w") as file:
        file.write(text)
    assert name in names(unprivileged)
    shutil.rmtree(f"{unprivileged.udocker_dir}/trees")
    assert "index.json.broken" in unprivileged.udocker("pull", name).stderr
    with open(path) as file:
        assert file.read() == good
    with open(f"{path}.broken") as broken:
        assert broken.read() == text


@pytest.mark.parametrize("text", ["", "garbage", "{}", "[]", "[1", "1]"])
def test_a_name_that_is_broken_is_pulled_again_and_harms_no_other(unprivileged, pulled, text):
    name, blobs = pulled
    unprivileged.udocker("commit", unprivileged.udocker("create", name).stdout.split()[0], "o:1")
    for path in os.scandir(f"{unprivileged.udocker_dir}/names"):
        if "img" in path.name:
            with open(path.path, "w") as file:
                file.write(text)
    assert "o:1" in names(unprivileged)
    assert name not in names(unprivileged)
    assert "broken" in unprivileged.udocker("prune", "-f").stderr
    assert all(os.path.exists(blob_path(unprivileged, blob)) for blob in blobs.values())
    assert ": done" not in unprivileged.udocker("pull", name).stderr
    assert name in names(unprivileged)


def pipe(path):
    os.mkfifo(path)


def loop(path):
    os.symlink(os.path.basename(path), path)


@pytest.mark.parametrize("make", [os.makedirs, pipe, loop])
def test_what_is_no_file_is_told_and_mended_and_hides_no_other(unprivileged, pulled, make):
    name, _ = pulled
    user, store = unprivileged, unprivileged.udocker_dir
    user.udocker("tag", name, "o:1")
    (broken,) = (entry.path for entry in os.scandir(f"{store}/names") if "img" in entry.name)
    for path in (broken, f"{store}/images/index.json", f"{store}/images/oci-layout"):
        os.unlink(path)
        make(path)
        user.own(store)
    assert names(user) == ["o:1"]
    assert user.udocker("verify", check=False).returncode == 1
    user.udocker("verify", "--repair")
    user.udocker("pull", name)
    assert len(names(user)) == 2
    user.udocker("verify", "-q")


@pytest.mark.parametrize("make", [os.mkdir, pipe])
def test_blobs_that_are_all_gone_are_told_and_pulled_again(unprivileged, pulled, make):
    name, _ = pulled
    blobs = f"{unprivileged.udocker_dir}/images/blobs"
    shutil.rmtree(blobs)
    make(blobs)
    unprivileged.own(unprivileged.udocker_dir)
    for words in (["du"], ["verify"], ["rmi", name], ["prune", "-f"], ["images"]):
        done = unprivileged.udocker(*words, check=False)
        assert done.returncode in (0, 1)
        assert "Traceback" not in done.stderr
    if not os.path.isdir(blobs):
        os.unlink(blobs)
    unprivileged.udocker("pull", name)
    unprivileged.udocker("verify", "-q")


def test_what_other_tools_put_into_the_layout_stays(unprivileged, pulled):
    name, blobs = pulled
    path = f"{unprivileged.udocker_dir}/images/index.json"
    with open(path) as file:
        index = json.load(file)
    index["manifests"].append(blobs["manifest"])
    with open(path, "w") as file:
        json.dump(index, file)
    assert len(unprivileged.udocker("images", "-q").stdout.split()) == 1
    unprivileged.udocker("rmi", name)
    assert unprivileged.udocker("images", "-q").stdout == ""
    assert all(os.path.exists(blob_path(unprivileged, blob)) for blob in blobs.values())


@pytest.mark.parametrize("lacks_names", [True, False])
def test_images_of_a_version_that_had_only_the_index_are_taken_over(
    unprivileged, pulled, lacks_names
):
    name, _ = pulled
    user, store = unprivileged, unprivileged.udocker_dir
    shown = user.udocker("images").stdout
    with open(f"{store}/images/index.json") as file:
        index = json.load(file)
    new = {"org.udocker.name", "org.udocker.size", "org.opencontainers.image.created"}
    marks = index["manifests"][0]["annotations"]
    index["manifests"][0]["annotations"] = {k: v for k, v in marks.items() if k not in new}
    user.run(["sh", "-c", 'rm -r "$1"/names/* "$1"/records', "sh", store])
    with open(f"{store}/images/index.json", "w") as file:
        json.dump(index, file)
    if lacks_names:
        os.rmdir(f"{store}/names")
    else:  # that version was used again beside this one
        user.udocker("prune")
    assert user.udocker("images").stdout == shown
    user.udocker("create", "--pull=never", "--name=c", name)
    user.udocker("rm", "c")
    user.udocker("rmi", name)
    assert os.listdir(f"{store}/images/blobs/sha256") == os.listdir(f"{store}/trees") == []


def test_a_container_outlives_its_image(unprivileged, registry, pulled, tmp_path):
    name, _ = pulled
    unprivileged.udocker("create", "--name=kept", name, "x")
    layout = Layout(str(tmp_path / "moved"))
    add_image(layout, "img:1", [TWO])
    registry.push(layout, "img:1", "img:1")
    unprivileged.udocker("pull", name)
    unprivileged.udocker("rmi", name)
    assert unprivileged.udocker("run", "--dry-run", "kept").stdout.endswith(" x\n")
    trees, blobs = (f"{unprivileged.udocker_dir}/{n}" for n in ("trees", "images/blobs/sha256"))
    assert (len(os.listdir(trees)), len(os.listdir(blobs))) == (1, 1)
    unprivileged.udocker("rm", "kept")
    assert os.listdir(trees) == os.listdir(blobs) == []
