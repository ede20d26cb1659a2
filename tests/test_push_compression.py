"""Layers that are plain tar in the store go compressed, and the image stays the same image."""

import gzip
import hashlib
import json
import os
import subprocess
import sys

import pytest
import zstandard
from archives import Image, docker_files, packed
from registries import KIND, Layout, Proxy, digest, needs
from tarballs import archive, file

from udocker.errors import IntegrityError
from udocker.images.compressed import CompressedLayers, Compression
from udocker.images.store import ImageStore
from udocker.oci import Descriptor, Digest

DOCKER = "application/vnd.docker"
LARGE = archive(file("large", b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(80_000))))
IMAGE = Image([*Image().layers, LARGE])
GZIP = Compression("gzip")


@pytest.fixture
def place(docker_registry, tmp_path):
    """A part of the registry that is this test's own."""
    return f"{docker_registry.host}/{tmp_path.name}"


@pytest.fixture
def user(unprivileged):
    """A user who has loaded an archive of docker's: its layers are plain tar in the store."""
    load(unprivileged, IMAGE)
    return unprivileged


def load(user, image):
    path = f"{user.home}/archive"
    with open(path, "wb") as out:
        out.write(packed(docker_files(image)))
    user.udocker("load", "-i", path)


def skopeo(*words):
    needs("skopeo")
    return subprocess.run(["skopeo", "--insecure-policy", *words], check=True, capture_output=True)


def raw(name):
    return skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}").stdout


def blobs(user):
    return set(os.listdir(f"{user.udocker_dir}/images/blobs/sha256"))


def check_image(directory, open_layer, kind, image=IMAGE):
    """In a directory of skopeo's, layers inflate to those of the image, whose id is the same."""
    with open(f"{directory}/manifest.json") as found:
        manifest = json.load(found)
    assert manifest["config"]["digest"] == f"sha256:{image.id}"
    assert [layer["mediaType"] for layer in manifest["layers"]] == [kind] * len(image.layers)
    for layer, plain in zip(manifest["layers"], image.layers):
        with open(f"{directory}/{layer['digest'].partition(':')[2]}", "rb") as blob:
            data = blob.read()
        assert (digest(data), len(data)) == (layer["digest"], layer["size"])
        assert open_layer(data) == plain


def inflate_zstd(data):
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


@pytest.mark.parametrize(
    ("options", "kind", "open_layer"),
    [
        ((), "gzip", gzip.decompress),
        (("--compression-level=1",), "gzip", gzip.decompress),
        (("--compression-format=zstd", "--compression-level=5"), "zstd", inflate_zstd),
    ],
)
def test_a_loaded_image_arrives_compressed_with_its_id(
    user, place, tmp_path, options, kind, open_layer
):
    done = user.udocker("push", *options, "img:1", f"{place}/img:1")
    pushed = raw(f"{place}/img:1")
    assert done.stdout == f"{place}/img:1 {digest(pushed)}\n"
    assert f"3 layers went compressed with {kind}: the image is {digest(pushed)}" in done.stderr
    skopeo("copy", "--src-tls-verify=false", f"docker://{place}/img:1", f"dir:{tmp_path}/copy")
    check_image(tmp_path / "copy", open_layer, f"{KIND}.layer.v1.tar+{kind}")
    user.udocker("rmi", "img:1")
    user.udocker("pull", f"{place}/img:1")


def test_another_push_sends_and_compresses_nothing_even_if_the_store_was_cleaned_up(
    user, docker_registry, place
):
    with Proxy(docker_registry.host) as proxy:
        name = place.replace(docker_registry.host, proxy.host)
        before = blobs(user)
        first = user.udocker("push", "-q", "img:1", f"{name}/img:1")
        assert first.stderr == ""
        made = blobs(user) - before
        assert len(made) == 3
        times = {one: os.stat(blob_path(user, one)).st_mtime_ns for one in made}
        proxy.asked.clear()
        assert user.udocker("push", "-q", "img:1", f"{name}/img:1").stdout == first.stdout
        assert proxy.paths("POST") == proxy.paths("PATCH") == []
        assert times == {one: os.stat(blob_path(user, one)).st_mtime_ns for one in made}
        user.udocker("prune", "-f")
        assert blobs(user) == before
        assert user.udocker("push", "-q", "img:1", f"{name}/img:1").stdout == first.stdout
        assert proxy.paths("POST") == proxy.paths("PATCH") == []
        assert blobs(user) == before
        again = user.udocker("push", "-q", "img:1", f"{name}/other:1")  # made again, and the same
        assert again.stdout == first.stdout
        user.udocker("rmi", "img:1")
        assert os.listdir(f"{user.udocker_dir}/compressed") == []


def blob_path(user, name):
    return f"{user.udocker_dir}/images/blobs/sha256/{name}"


def test_compressed_layers_of_another_repository_are_shared(user, docker_registry, place):
    with Proxy(docker_registry.host) as proxy:
        name = place.replace(docker_registry.host, proxy.host)
        user.udocker("tag", "img:1", f"{name}/a:1", f"{name}/b:1")
        user.udocker("push", f"{name}/a:1")
        proxy.asked.clear()
        done = user.udocker("push", f"{name}/b:1")
        assert proxy.paths("PATCH") == []
        assert done.stderr.count("shared") == 4


def test_layers_go_as_they_are_on_request_and_under_their_digest(user, place):
    with open(f"{user.udocker_dir}/images/index.json") as index:
        found = json.load(index)["manifests"][0]["digest"]
    done = user.udocker("push", "-q", "--compression-format=none", "img:1", f"{place}/none:1")
    assert done.stdout.strip() == found == digest(raw(f"{place}/none:1"))
    user.udocker("push", "img:1", f"{place}/pinned@{found}")
    user.udocker("push", "img:1", f"docker-archive:{user.home}/out.tar:img:1")
    listed = skopeo("inspect", "--raw", f"docker-archive:{user.home}/out.tar:img:1").stdout
    sizes = [len(layer) for layer in IMAGE.layers]
    assert [layer["size"] for layer in json.loads(listed)["layers"]] == sizes
    user.udocker("push", "img:1", f"oci:{user.home}/out:img")
    listed = skopeo("inspect", "--raw", f"oci:{user.home}/out:img").stdout
    kinds = {layer["mediaType"] for layer in json.loads(listed)["layers"]}
    assert kinds == {f"{KIND}.layer.v1.tar+gzip"}


@pytest.mark.parametrize("words", [("--compression-level=0",), ("--compression-level=10",)])
def test_a_level_that_there_is_not_is_refused(unprivileged, words):
    assert unprivileged.udocker("push", *words, "img:1", check=False).returncode == 2


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_docker_words_stay_docker_where_docker_has_a_word_and_labels_may_lie(
    unprivileged, place, tmp_path, kind
):
    layout = Layout(f"{unprivileged.home}/layout")
    plain, label_lies, packed_already = IMAGE.layers
    compressed = gzip.compress(packed_already, 1, mtime=0)
    config = json.loads(IMAGE.config)
    layer = f"{DOCKER}.image.rootfs.diff.tar"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{DOCKER}.distribution.manifest.v2+json",
        "config": layout.blob(json.dumps(config).encode(), f"{DOCKER}.container.image.v1+json"),
        "layers": [
            layout.blob(plain, layer),
            layout.blob(label_lies, f"{layer}.gzip"),
            layout.blob(compressed, f"{layer}.gzip"),
        ],
    }
    layout.add_document("d:1", manifest)
    unprivileged.udocker("copy", f"oci:{layout.directory}:d:1", f"{place}/d:1")
    unprivileged.udocker("pull", f"{place}/d:1")
    how = f"--compression-format={kind}"
    unprivileged.udocker("push", how, f"{place}/d:1", f"{place}/e:1")
    found = json.loads(raw(f"{place}/e:1"))
    kinds = [layer["mediaType"] for layer in found["layers"]]
    if kind == "gzip":
        assert found["mediaType"] == manifest["mediaType"]
        assert kinds == [f"{layer}.gzip"] * 3
    else:
        assert found["mediaType"] == f"{KIND}.manifest.v1+json"
        assert kinds == [f"{KIND}.layer.v1.tar+{one}" for one in ("zstd", "zstd", "gzip")]
        assert found["config"]["mediaType"] == f"{KIND}.config.v1+json"
    assert found["config"]["digest"] == manifest["config"]["digest"]
    assert found["layers"][2]["digest"] == digest(compressed)
    assert found["layers"][1]["digest"] != digest(label_lies)
    skopeo("copy", "--src-tls-verify=false", f"docker://{place}/e:1", f"dir:{tmp_path}/copy")


def test_a_damaged_plain_layer_is_not_pushed(user, place):
    path = blob_path(user, digest(LARGE).partition(":")[2])
    user.run(["chmod", "u+w", path])
    with open(path, "r+b") as blob:
        blob.seek(1 << 20)
        blob.write(b"\0\1\2")
    done = user.udocker("push", "img:1", f"{place}/img:1", check=False)
    assert done.returncode == 1
    assert f"layer {digest(LARGE)} is damaged" in done.stderr
    with pytest.raises(subprocess.CalledProcessError):
        raw(f"{place}/img:1")
    assert os.listdir(f"{user.udocker_dir}/partial") == []


def test_a_compressed_layer_that_is_damaged_by_now_is_made_again(user, place):
    before = blobs(user)
    first = user.udocker("push", "-q", "img:1", f"{place}/img:1").stdout
    largest = max(blobs(user) - before, key=lambda one: os.stat(blob_path(user, one)).st_size)
    user.run(["chmod", "u+w", blob_path(user, largest)])
    with open(blob_path(user, largest), "r+b") as blob:
        blob.seek(1000)
        blob.write(b"\0\1\2")
    done = user.udocker("push", "img:1", f"{place}/other:1", check=False)
    assert done.returncode == 1
    assert "push again" in done.stderr
    assert user.udocker("push", "-q", "img:1", f"{place}/other:1").stdout == first


def test_all_tags_of_a_repository_are_pushed_and_no_others(user, place):
    user.udocker("tag", "img:1", f"{place}/a:1", f"{place}/a:2", f"{place}/ab:3")
    done = user.udocker("push", "--all-tags", f"{place}/a")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        f"{place}/a:1",
        f"{place}/a:2",
    ]
    assert raw(f"{place}/a:1") == raw(f"{place}/a:2")
    with pytest.raises(subprocess.CalledProcessError):
        raw(f"{place}/ab:3")
    for words in ((f"{place}/a:1",), (f"{place}/a", f"{place}/b"), (f"{place}/none",)):
        done = user.udocker("push", "-a", *words, check=False)
        assert done.returncode == (1 if words[0].endswith("none") else 2)


# Without a registry


@pytest.fixture
def store(tmp_path):
    made = ImageStore(str(tmp_path / "store"))
    made.prepare()
    return made


def described(data):
    return Descriptor(f"{KIND}.layer.v1.tar", Digest.of(data), len(data))


@pytest.mark.parametrize("how", [GZIP, Compression("gzip", 9), Compression("zstd")])
@pytest.mark.parametrize("library", ["isal", ""])
def test_equal_bytes_become_an_equal_blob_in_whatever_pieces_they_come(
    store, monkeypatch, how, library
):
    if not library:
        monkeypatch.setitem(sys.modules, "isal", None)
    layers, layer = CompressedLayers(store), described(LARGE)
    made = {
        layers.make(layer, layer.digest, pieces(LARGE, size), how)
        for size in (1 << 18, 100_001, len(LARGE))
    }
    assert len(made) == 1
    assert layers.known(layer.digest, how) == made.pop()
    assert layers.known(layer.digest, Compression(how.kind, 8)) is None


def pieces(data, size):
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_what_is_not_the_layer_is_not_kept(store, algorithm):
    layer = Descriptor(f"{KIND}.layer.v1.tar", Digest.of(LARGE, algorithm), len(LARGE))
    with pytest.raises(IntegrityError, match="is damaged here"):
        CompressedLayers(store).make(layer, Digest.of(LARGE), [LARGE[:-1], b"x"], GZIP)
    assert os.listdir(store.partial) == os.listdir(f"{store.layout}/blobs/sha256") == []
    made = CompressedLayers(store).make(layer, Digest.of(LARGE), [LARGE], GZIP)
    with open(store.blobs.path(made.digest), "rb") as blob:
        assert gzip.decompress(blob.read()) == LARGE


def test_a_broken_record_counts_as_none(store):
    layers, layer = CompressedLayers(store), described(LARGE)
    layers.make(layer, layer.digest, [LARGE], GZIP)
    directory = f"{store.directory}/compressed"
    (name,) = os.listdir(directory)
    with open(f"{directory}/{name}", "wb") as record:
        record.write(b'{"digest": 1')
    assert layers.known(layer.digest, GZIP) is None
    assert list(layers.all_known()) == []
