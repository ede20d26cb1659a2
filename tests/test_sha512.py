"""Content that is named by sha512 all the way: config, layers, manifest."""

import hashlib
import json
import os

import pytest
from images import HERE
from registries import KIND, REF_NAME, digest
from tarballs import archive, file

from udocker.registry.loopback import LoopbackRegistry

LAYERS = (archive(file("name", b"base\n")), archive(file("name", b"top\n")))


def put(directory, data, media_type):
    found = hashlib.sha512(data).hexdigest()
    os.makedirs(f"{directory}/blobs/sha512", exist_ok=True)
    with open(f"{directory}/blobs/sha512/{found}", "wb") as blob:
        blob.write(data)
    return {"mediaType": media_type, "digest": f"sha512:{found}", "size": len(data)}


@pytest.fixture
def layout(unprivileged):
    """A layout with an image in which everything is named by sha512, and its manifest."""
    directory = f"{unprivileged.home}/layout"
    diff_ids = [digest(LAYERS[0]), f"sha512:{hashlib.sha512(LAYERS[1]).hexdigest()}"]
    config = {
        "architecture": HERE,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.manifest.v1+json",
        "config": put(directory, json.dumps(config).encode(), f"{KIND}.config.v1+json"),
        "layers": [put(directory, layer, f"{KIND}.layer.v1.tar") for layer in LAYERS],
    }
    entry = put(directory, json.dumps(manifest).encode(), manifest["mediaType"])
    named = {**entry, "annotations": {REF_NAME: "localhost/img:1"}}
    for name, value in {
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "index.json": {"schemaVersion": 2, "manifests": [named]},
    }.items():
        with open(f"{directory}/{name}", "w") as document:
            json.dump(value, document)
    return directory, entry


def test_an_image_of_sha512_is_pulled_by_tag_and_digest_and_pushed(
    unprivileged, layout, docker_registry, tmp_path
):
    directory, entry = layout
    with LoopbackRegistry(directory) as host:
        name = f"{host}/img@{entry['digest']}"
        assert unprivileged.udocker("pull", "-q", name).stdout == f"{entry['digest']}\n"
        unprivileged.udocker("pull", f"{host}/img:1")
        tree = unprivileged.udocker("inspect", "-p", f"{host}/img:1").stdout.strip()
        with open(f"{tree}/name") as found:
            assert found.read() == "top\n"
        blobs = f"{unprivileged.udocker_dir}/images/blobs"
        assert sorted(os.listdir(f"{blobs}/sha512")) == sorted(
            os.listdir(f"{directory}/blobs/sha512")
        )
        copy = f"{unprivileged.home}/copy"
        unprivileged.udocker("copy", f"{host}/img:1", f"oci:{copy}:1")
        assert len(os.listdir(f"{copy}/blobs/sha512")) == 4
        wrong = name[:-1] + ("0" if name[-1] != "0" else "1")
        assert unprivileged.udocker("pull", wrong, check=False).returncode == 1
        pushed = f"{docker_registry.host}/{tmp_path.name}/img:1"
        unprivileged.udocker("push", f"{host}/img:1", pushed)
        unprivileged.udocker("rmi", f"{host}/img:1")
        unprivileged.udocker("rmi", name)
        assert os.listdir(f"{blobs}/sha512") == []
        unprivileged.udocker("pull", pushed)


def test_a_wrong_blob_of_sha512_gets_no_name(unprivileged, layout):
    directory, _ = layout
    path = f"{directory}/blobs/sha512/{hashlib.sha512(LAYERS[1]).hexdigest()}"
    with open(path, "wb") as blob:
        blob.write(LAYERS[1][:-1] + b"x")
    with LoopbackRegistry(directory) as host:
        done = unprivileged.udocker("pull", f"{host}/img:1", check=False)
        assert done.returncode == 1
        assert "sha512:" in done.stderr
        assert unprivileged.udocker("images", "-q").stdout == ""
