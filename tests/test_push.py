"""Pushing to real registries, and to ones that fail, as a user without privileges."""

import json
import random
import subprocess

import pytest
from images import add_image, add_index
from registries import (
    PASSWORD,
    USER,
    DockerRegistry,
    Layout,
    Proxy,
    Reply,
    Server,
    Tls,
    TokenServer,
    needs,
    status,
)
from tarballs import archive, file, folder
from uploads import Wire

BASE = archive(folder("etc"), file("etc/name", b"base\n"))
TOP = archive(file("etc/name", b"top\n"))
LARGE = archive(file("large", random.Random(3).randbytes(4 << 20)))


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "layout"))


@pytest.fixture
def pulled(unprivileged, docker_registry, layout, tmp_path):
    """An image that the user has pulled: its name, and its digest at the registry."""
    name = f"{docker_registry.host}/{tmp_path.name}/base:1"
    entry = add_image(layout, "img:1", [BASE, TOP, LARGE])
    docker_registry.push(layout, "img:1", name.partition("/")[2])
    unprivileged.udocker("pull", name)
    return name, entry["digest"]


def inspected(name, *options):
    needs("skopeo")
    command = ["skopeo", "inspect", "--tls-verify=false", *options, f"docker://{name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_pushed_image_has_the_digest_that_it_had(unprivileged, docker_registry, pulled, tmp_path):
    name, digest = pulled
    other = f"{docker_registry.host}/{tmp_path.name}/copy:2"
    done = unprivileged.udocker("push", name, other)
    assert done.stdout == f"{other} {digest}\n"
    assert json.loads(inspected(other))["Digest"] == digest
    again = unprivileged.udocker("push", "-q", name, other)
    assert (again.stdout, again.stderr) == (f"{digest}\n", "")
    digest_file = f"{unprivileged.home}/digest"
    unprivileged.udocker("push", "--digestfile", digest_file, name, f"docker://{other}")
    with open(digest_file) as found:
        assert found.read() == digest
    unprivileged.udocker("rmi", name)
    unprivileged.udocker("pull", other)


def test_layers_of_another_repository_are_shared_and_not_sent(unprivileged, pulled, tmp_path):
    name, _ = pulled
    host = name.partition("/")[0]
    with Proxy(host) as proxy:
        unprivileged.udocker("pull", name.replace(host, proxy.host))
        copy = f"{proxy.host}/{tmp_path.name}/shared:1"
        proxy.asked.clear()
        done = unprivileged.udocker("push", name.replace(host, proxy.host), copy)
        assert proxy.paths("PATCH") == []
        assert len([path for path in proxy.paths("POST") if "mount=" in path]) == 4
        assert done.stderr.count("shared") == 4
        assert [path.partition("?")[0] for path in proxy.paths("PUT")] == [
            f"/v2/{tmp_path.name}/shared/manifests/1"
        ]


def test_the_image_of_an_index_is_pushed_for_its_platform(
    unprivileged, docker_registry, layout, tmp_path
):
    needs("skopeo")
    add_index(layout, "multi:1", {"amd64": [BASE], "s390x": [TOP]})
    name = f"{docker_registry.host}/{tmp_path.name}/multi:1"
    copy = ["skopeo", "--insecure-policy", "copy", "--all", "--dest-tls-verify=false"]
    command = [*copy, f"oci:{layout.directory}:multi:1", f"docker://{name}"]
    subprocess.run(command, check=True, capture_output=True)
    unprivileged.udocker("pull", "--platform=linux/s390x", name)
    entries = json.loads(inspected(name, "--raw"))["manifests"]
    wanted = next(e["digest"] for e in entries if e["platform"]["architecture"] == "s390x")
    other = f"{docker_registry.host}/{tmp_path.name}/one:1"
    assert unprivileged.udocker("push", "-q", name, other).stdout.strip() == wanted


def test_an_image_made_here_is_pushed_as_well(unprivileged, docker_registry, pulled, tmp_path):
    unprivileged.udocker("create", "--name=c", pulled[0])
    unprivileged.udocker("commit", "-c", "ENV A=b", "c", "mine:1")
    name = f"{docker_registry.host}/{tmp_path.name}/mine:1"
    unprivileged.udocker("push", "mine:1", name)
    assert "A=b" in json.loads(inspected(name))["Env"]


def test_a_name_with_the_images_digest_is_pushed_to_and_another_digest_refused(
    unprivileged, docker_registry, pulled, tmp_path
):
    name, digest = pulled
    other = f"{docker_registry.host}/{tmp_path.name}/pinned"
    unprivileged.udocker("push", name, f"{other}@{digest}")
    assert json.loads(inspected(f"{other}@{digest}", "--raw"))["schemaVersion"] == 2
    done = unprivileged.udocker("push", name, f"{other}@sha256:{'0' * 64}", check=False)
    assert done.returncode == 2
    assert f"what is to be put there is {digest}" in done.stderr


def test_passwords_are_used_and_their_lack_is_said(unprivileged, pulled, tmp_path):
    with DockerRegistry(tmp_path / "basic", passwords=True) as basic:
        name = f"{basic.host}/app:1"
        done = unprivileged.udocker("push", pulled[0], name, check=False)
        assert done.returncode == 1
        assert f"udocker login {basic.host}" in done.stderr
        environment = {"UDOCKER_USERNAME": USER, "UDOCKER_PASSWORD": PASSWORD}
        unprivileged.udocker("push", pulled[0], name, env=environment)


def test_tokens_to_write_are_asked_for_and_renewed(unprivileged, layout, tmp_path):
    tls = Tls.make(tmp_path)
    add_image(layout, "img:1", [BASE, TOP, LARGE])
    environment = {"UDOCKER_USERNAME": USER, "UDOCKER_PASSWORD": PASSWORD}
    with (
        TokenServer(tls, life_s=2) as tokens,
        DockerRegistry(tmp_path / "token", tokens=tokens) as registry,
    ):
        registry.push(layout, "img:1", "a/img:1")
        unprivileged.udocker("pull", f"{registry.host}/a/img:1")
        refused = unprivileged.udocker(
            "push", f"{registry.host}/a/img:1", f"{registry.host}/b/img:1", check=False
        )
        assert refused.returncode == 1
        assert "udocker login" in refused.stderr
        tokens.asked.clear()
        unprivileged.udocker(
            "push", f"{registry.host}/a/img:1", f"{registry.host}/b/img:1", env=environment
        )
        assert any("repository%3Ab%2Fimg%3Apull%2Cpush" in path for path in tokens.paths())
        assert any("repository%3Aa%2Fimg%3Apull" in path for path in tokens.paths())


def test_a_registry_that_stumbles_gets_the_image_in_the_end(
    unprivileged, docker_registry, pulled, tmp_path
):
    name, digest = pulled
    with Proxy(docker_registry.host) as proxy:
        proxy.add("/blobs/uploads/", status(503, {"Retry-After": "0"}))
        proxy.add("/blobs/uploads/", status(429, {"Retry-After": "0"}))
        proxy.add("/manifests/", status(500))
        unprivileged.udocker("push", name, f"{proxy.host}/{tmp_path.name}/stumbled:1")
        assert proxy.faults == []
    assert (
        json.loads(inspected(f"{docker_registry.host}/{tmp_path.name}/stumbled:1"))["Digest"]
        == digest
    )


def test_a_cut_connection_does_not_end_a_push(unprivileged, docker_registry, pulled, tmp_path):
    name, digest = pulled
    with Wire(docker_registry.host) as wire:
        wire.cuts = [2_000_000]
        unprivileged.udocker("push", name, f"{wire.host}/{tmp_path.name}/cut:1")
        assert wire.cuts == []
    assert (
        json.loads(inspected(f"{docker_registry.host}/{tmp_path.name}/cut:1"))["Digest"] == digest
    )


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (405, {"code": "UNSUPPORTED", "message": "the operation is unsupported"}, "unsupported"),
        (403, {"code": "DENIED", "message": "quota exceeded"}, "quota exceeded"),
        (404, {"code": "NAME_UNKNOWN", "message": "no repository"}, "make the repository"),
    ],
)
def test_a_refusal_is_told_in_the_registrys_words(unprivileged, pulled, code, body, said):
    refusal = Reply(code, {}, json.dumps({"errors": [body]}).encode())
    answer = lambda asked: Reply(404) if asked.method == "HEAD" else refusal  # noqa: E731
    with Server(answer) as server:
        done = unprivileged.udocker("push", pulled[0], f"{server.host}/x:1", check=False)
    assert done.returncode == 1
    assert said in done.stderr


def test_a_damaged_blob_is_found_before_a_registry_takes_it(
    unprivileged, docker_registry, pulled, tmp_path
):
    layer = json.loads(inspected(pulled[0]))["Layers"][2]
    path = f"{unprivileged.udocker_dir}/images/blobs/{layer.replace(':', '/')}"
    unprivileged.run(["chmod", "u+w", path])
    with open(path, "r+b") as blob:
        blob.write(b"\0")
    name = f"{docker_registry.host}/{tmp_path.name}/damaged:1"
    with Wire(docker_registry.host) as wire:
        other = name.replace(docker_registry.host, wire.host)
        done = unprivileged.udocker("push", pulled[0], other, check=False)
    assert done.returncode == 1
    assert "is damaged" in done.stderr


def test_an_image_of_a_store_of_others_is_pushed(unprivileged, docker_registry, pulled, tmp_path):
    site = f"{unprivileged.home}/site"
    unprivileged.run(["mv", unprivileged.udocker_dir, site])
    environment = {"UDOCKER_SITE_STORES": site}
    name = f"{docker_registry.host}/{tmp_path.name}/site:1"
    done = unprivileged.udocker("push", "-q", pulled[0], name, env=environment)
    assert done.stdout.strip() == pulled[1]


def test_what_is_not_here_cannot_be_pushed(unprivileged):
    done = unprivileged.udocker("push", "nothing:1", check=False)
    assert done.returncode == 1
    assert "no image 'nothing:1' here" in done.stderr
