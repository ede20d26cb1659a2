"""Layers that registries need not keep: fetched from elsewhere by who asks for it only."""

import hashlib
import json
import os

import pytest
from images import HERE
from registries import KIND, Layout, Reply, Server, Tls, digest
from tarballs import archive, file

from udocker.registry.loopback import LoopbackRegistry

LAYER = archive(file("name", b"foreign\n"))
TYPE = f"{KIND}.layer.nondistributable.v1.tar"


@pytest.fixture
def server():
    with Server() as server:
        server.reply = lambda asked: Reply(200, {}, LAYER) if asked.path == "/ok" else Reply(404)
        yield server


@pytest.fixture
def layout(unprivileged):
    return Layout(f"{unprivileged.home}/layout")


def add(layout, urls, name="localhost/img:1"):
    """Add an image of one foreign layer, which the layout does not have."""
    config = {
        "architecture": HERE,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(LAYER)]},
    }
    layer = {"mediaType": TYPE, "digest": digest(LAYER), "size": len(LAYER), "urls": urls}
    return layout.add_document(
        name,
        {
            "schemaVersion": 2,
            "mediaType": f"{KIND}.manifest.v1+json",
            "config": layout.blob(json.dumps(config).encode(), f"{KIND}.config.v1+json"),
            "layers": [layer],
        },
    )


def test_a_foreign_layer_is_fetched_for_who_asks_for_it(unprivileged, layout, server):
    add(layout, [f"{server.url}/none", f"{server.url}/ok"])
    environment = {"UDOCKER_USERNAME": "user", "UDOCKER_PASSWORD": "secret"}
    with LoopbackRegistry(layout.directory) as host:
        done = unprivileged.udocker("pull", f"{host}/img:1", env=environment, check=False)
        assert done.returncode == 1
        assert (
            f"a foreign layer, which the registry does not keep ({server.url}/none" in done.stderr
        )
        assert "--allow-foreign" in done.stderr
        assert server.asked == []
        unprivileged.udocker("pull", "--allow-foreign", f"{host}/img:1", env=environment)
        tree = unprivileged.udocker("inspect", "-p", f"{host}/img:1").stdout.strip()
        assert os.listdir(tree) == ["name"]
        assert [a.headers.get("Authorization") for a in server.asked] == [None, None]


@pytest.mark.parametrize(
    ("path", "data", "said"),
    [
        ("/none", LAYER, "answers 404"),
        ("/ok", LAYER[:-1] + b"x", "came as"),
        ("/ok", LAYER + b"x", "more than"),
    ],
)
def test_what_is_not_the_layer_is_not_taken(unprivileged, layout, server, path, data, said):
    add(layout, [f"{server.url}{path}"])
    server.reply = lambda asked: Reply(200, {}, data) if asked.path == "/ok" else Reply(404)
    with LoopbackRegistry(layout.directory) as host:
        environment = {"UDOCKER_FOREIGN_LAYERS": "1"}
        done = unprivileged.udocker("pull", f"{host}/img:1", env=environment, check=False)
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/y", "https://user:pw@x/", "http://["]
)
def test_only_the_web_is_asked_and_without_credentials(unprivileged, layout, url):
    add(layout, [url])
    with LoopbackRegistry(layout.directory) as host:
        done = unprivileged.udocker("pull", "--allow-foreign", f"{host}/img:1", check=False)
    assert done.returncode == 1
    assert "address" in done.stderr
    assert "pw" not in done.stderr


def test_a_copy_leaves_foreign_layers_where_they_are(unprivileged, layout, server):
    entry = add(layout, [f"{server.url}/ok"])
    with LoopbackRegistry(layout.directory) as host:
        copy = f"{unprivileged.home}/copy"
        done = unprivileged.udocker("copy", f"{host}/img:1", f"oci:{copy}")
        assert "foreign, left where it is" in done.stderr
        assert entry["digest"].partition(":")[2] in os.listdir(f"{copy}/blobs/sha256")
        assert hashlib.sha256(LAYER).hexdigest() not in os.listdir(f"{copy}/blobs/sha256")
        target = f"docker-archive:{unprivileged.home}/x.tar"
        assert unprivileged.udocker("copy", f"{host}/img:1", target, check=False).returncode == 1
        unprivileged.udocker("copy", "--allow-foreign", f"{host}/img:1", target)
    assert server.paths() == ["/ok"]


def test_a_registry_of_tls_is_still_read_with_its_own_certificates(unprivileged, layout, tmp_path):
    tls = Tls.make(tmp_path)
    with Server(lambda _: Reply(200, {}, LAYER), tls=tls) as server:
        add(layout, [f"{server.url}/ok"])
        with LoopbackRegistry(layout.directory) as host:
            words = ("pull", "--allow-foreign", f"{host}/img:1")
            assert "certificate" in unprivileged.udocker(*words, check=False).stderr
            unprivileged.own(str(tmp_path))
            with open(f"{unprivileged.home}/ca.pem", "w") as copy, open(tls.certificate) as own:
                copy.write(own.read())
            unprivileged.udocker(*words, env={"SSL_CERT_FILE": f"{unprivileged.home}/ca.pem"})
