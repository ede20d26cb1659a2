import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from udocker import oci
from udocker.containers.store import ContainerStore
from udocker.errors import ImageNotFound, StoreError, UsageError
from udocker.images.collection import collect
from udocker.images.store import ImageStore
from udocker.oci import Descriptor, Digest
from udocker.reference import Reference
from udocker.values import replace


def add(store, name, content=b"layer", source=None):
    """Put an image of one layer into the store, as a pull does."""
    layer = store.blobs.put(content)
    members = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [str(layer)]},
    }
    config = json.dumps(members).encode()
    document = {
        "schemaVersion": 2,
        "config": Descriptor(oci.OCI_CONFIG, store.blobs.put(config), len(config)).to_json(),
        "layers": [Descriptor(oci.OCI_LAYER, layer, len(content)).to_json()],
    }
    manifest = json.dumps(document).encode()
    descriptor = Descriptor(oci.OCI_MANIFEST, store.blobs.put(manifest), len(manifest))
    stage = store.new_stage()
    os.mkdir(f"{stage}/tree")
    store.publish_tree(f"{stage}/tree", layer)
    os.rmdir(stage)
    return store.add(Reference.parse(name), descriptor, source or descriptor.digest, layer)


@pytest.fixture
def store(tmp_path):
    store = ImageStore(str(tmp_path))
    store.prepare()
    return store


def test_an_image_is_found_by_name_digest_and_id(store):
    source = Digest.of(b"an index")
    image = add(store, "ubuntu:22.04", source=source)
    digest = image.manifest.digest
    for name in (
        "ubuntu:22.04",
        f"ubuntu@{digest}",
        f"ubuntu@{source}",
        "docker.io/library/ubuntu:22.04",
    ):
        assert store.find(Reference.parse(name)) == image
    assert store.find_id(digest.hex[:6]) == image
    assert store.find(Reference.parse("ubuntu")) is None
    assert store.find(Reference.parse(f"debian@{digest}")) is None
    assert store.read_config(image).chain_id == image.chain_id


def test_a_lease_of_another_host_holds_for_an_hour(store):
    image = add(store, "a:1")
    os.makedirs(store.locks, exist_ok=True)
    lease = f"{store.locks}/use.elsewhere-1.abcd"
    with open(lease, "w"):
        pass
    store.remove(image)
    freed = collect(store)
    assert (freed.blobs, "elsewhere-1" in freed.kept) == ((), True)
    assert os.path.isdir(image.tree)
    os.utime(lease, (0, 0))
    assert len(collect(store).blobs) == 3
    assert not os.path.exists(lease)


def test_a_lease_of_a_dead_process_holds_nothing(store):
    image = add(store, "a:1")
    os.makedirs(store.locks, exist_ok=True)
    lease = f"{store.locks}/use.{os.uname().nodename}-999999999.abcd"
    with open(lease, "w"):
        pass
    store.remove(image)
    collect(store)
    assert not os.path.exists(image.tree)


def test_names_need_no_lock_of_a_process_that_stands_still(store, monkeypatch):
    monkeypatch.setattr("udocker.images.store._INDEX_S", 0.05)
    with store.lock("index"):
        image = add(store, "a:1")
        store.write_index()
    assert store.images() == (image,)
    with open(store.names.index) as index:
        assert len(json.load(index)["manifests"]) == 1


def test_the_index_has_what_a_killed_process_did_not_come_to_tell(store):
    image = add(store, "a:1")
    store.names.put("docker.io/library/b:1", image.manifest)  # killed here
    os.utime(store.names.directory, (2**31, 2**31))
    assert store.names.index_is_old()
    store.prepare()
    with open(store.names.index) as index:
        assert len(json.load(index)["manifests"]) == 2
    os.utime(store.names.directory, (0, 0))
    assert not store.names.index_is_old()
    os.unlink(store.names.index)
    store.prepare()
    assert os.path.exists(store.names.index)


def test_names_longer_than_names_of_files_are_kept(store):
    long = f"registry.example:5000/{'a' * 120}/{'b' * 120}:{'c' * 128}"
    image = add(store, long)
    assert store.find(Reference.parse(long)) == image
    store.remove(image)
    assert store.images() == ()


def test_what_a_pull_came_to_need_meanwhile_gets_its_name_back(store):
    image = add(store, "a:1")
    asked = []

    def keep():  # the second time it is asked somebody needs all of it
        asked.append(1)
        if len(asked) == 2:
            store.names.put(image.name, image.manifest)
        return frozenset()

    store.remove(image)
    collect(store, keep)
    assert store.is_whole(store.find(Reference.parse("a:1")))
    assert os.listdir(store.partial) == []


def test_an_image_of_the_same_name_gives_way(store):
    add(store, "a:1", b"old")
    new = add(store, "a:1", b"new")
    assert store.images() == (new,)


def test_removing_an_image_keeps_what_others_need(store):
    first = add(store, "a:1", b"shared")
    second = add(store, "b:1", b"shared")
    third = add(store, "c:1", b"alone")
    store.remove(first)
    collect(store)
    assert os.path.isdir(second.tree)
    assert store.blobs.has(store.read_manifest(second).layers[0])
    store.remove(third)
    collect(store)
    assert not os.path.exists(third.tree)
    assert len(os.listdir(f"{store.layout}/blobs/sha256")) == 3


def test_nothing_is_thrown_away_while_a_pull_is_going_on(store):
    image = add(store, "a:1")
    content = store.using()
    store.remove(image)
    collect(store)
    assert os.path.isdir(image.tree)
    content.release()
    collect(store)
    assert not os.path.exists(image.tree)


def test_what_a_container_needs_of_a_removed_image_stays(store):
    image = add(store, "a:1")
    config = store.read_manifest(image).config.digest
    store.remove(image)
    collect(store, lambda: frozenset((config.hex, image.chain_id.hex)))
    assert os.path.isdir(image.tree)
    assert store.config(config).chain_id == image.chain_id
    collect(store)
    assert not os.path.exists(image.tree)
    assert not os.path.exists(store.blobs.path(config))


def test_an_id_that_several_images_have_is_refused(store):
    images = [add(store, f"a:{number}", bytes([number])) for number in range(3)]
    shared = os.path.commonprefix([image.manifest.digest.hex for image in images])
    assert store.find_id(shared[:5]) is None
    assert store.find_id("zzzzzz") is None


def test_what_a_killed_trial_of_an_engine_left_is_thrown_away_when_it_is_old(store):
    left, young = (f"{store.directory}/cache/probe.{name}" for name in ("host-1.ab", "cd"))
    os.makedirs(f"{left}/rootfs")
    os.makedirs(young)
    os.utime(left, (0, 0))
    assert store.leftovers() == [left]
    store.throw_away(left)
    assert os.listdir(f"{store.directory}/cache") == ["probe.cd"]


def test_what_a_dead_process_prepared_is_thrown_away(store):
    left = f"{store.partial}/tree.{os.uname().nodename}-999999999.ab"
    os.makedirs(f"{left}/x")
    alive = store.new_stage()
    os.rename(alive, alive.replace(str(os.getpid()), str(os.getppid())))
    with open(left.replace("tree", "draft"), "w") as draft:
        draft.write("x")
    store.prepare()
    assert len(os.listdir(store.partial)) == 1


@pytest.fixture
def containers(store, tmp_path):
    return ContainerStore(str(tmp_path), store.trees)


def new(containers, store, name=None, **how):
    image = store.find(Reference.parse("a:1")) or add(store, "a:1")
    container = containers.plan(image, store.read_manifest(image).config.digest, **how)
    containers.add(container, name)
    return container


def test_a_container_is_found_by_name_id_and_beginning_of_id(containers, store):
    container = new(containers, store, "web", options=("-e", "A=b"), command=("x",))
    for text in ("web", container.id, container.id[:8]):
        assert containers.get(text) == container
    assert containers.find("../" + container.id) is None
    assert containers.names() == {container.id: ("web",)}


def test_two_containers_cannot_have_one_name(containers, store):
    first = new(containers, store, "web")
    with pytest.raises(UsageError, match="already"):
        new(containers, store, "web")
    assert containers.containers() == [first]


def test_the_name_of_a_removed_container_is_free(containers, store):
    containers.remove(new(containers, store, "web"))
    assert containers.containers() == []
    new(containers, store, "web")


def test_the_name_of_a_container_that_vanished_is_free(containers, store):
    gone = new(containers, store, "web")
    os.unlink(f"{gone.directory}/container.json")
    assert containers.find("web") is None
    assert containers.find(new(containers, store, "web").id)


def test_the_name_of_a_container_that_vanished_goes_to_one_of_those_who_want_it(containers, store):
    for _ in range(20):
        gone = new(containers, store)
        containers.remove(gone)
        os.makedirs(containers.names_directory, exist_ok=True)
        os.symlink(f"../{gone.id}", f"{containers.names_directory}/web")
        with ThreadPoolExecutor(8) as pool:
            tries = [pool.submit(new, containers, store, "web") for _ in range(8)]
        assert [attempt.exception() for attempt in tries].count(None) == 1
        containers.remove(containers.get("web"))


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", ".", "ü", "a\n"])
def test_words_that_are_no_names_are_refused(containers, store, name):
    with pytest.raises(UsageError):
        new(containers, store, name)
    assert containers.containers() == []


def test_a_running_container_is_not_removed(containers, store):
    container = new(containers, store)
    lock = containers.lock(container)
    lock.acquire()
    assert containers.is_running(container)
    with pytest.raises(StoreError, match="running"):
        containers.remove(container)
    lock.release()
    containers.remove(container)


def test_what_a_killed_run_should_have_removed_is_removed_later(containers, store):
    new(containers, store, ephemeral=True)
    kept = new(containers, store)
    containers.remove_leftovers()
    assert containers.containers() == [kept]


def test_a_run_that_is_about_to_begin_is_not_what_a_killed_one_left(containers, store):
    image = add(store, "a:1")
    config = store.read_manifest(image).config.digest
    container = containers.plan(image, config, ephemeral=True)
    lock = containers.add_locked(container)
    containers.remove_leftovers()
    assert containers.containers() == [container]
    lock.release()
    containers.remove_leftovers()
    assert containers.containers() == []


def test_an_id_of_several_images_is_an_error(store):
    # two manifests whose digests begin alike cannot be made; the names can hold such entries
    image = add(store, "a:1")
    digest = image.manifest.digest
    twin = Digest("sha256", digest.hex[:13] + ("1" if digest.hex[13] == "0" else "0") * 51)
    store.add(Reference.parse("b:1"), replace(image.manifest, digest=twin), digest, image.chain_id)
    with pytest.raises(ImageNotFound, match="several"):
        store.find_id(digest.hex[:10])
