"""Images by digest: every command takes them, and nothing else than that content."""

import json
import subprocess

import pytest
from images import HERE, add_image, add_index
from registries import DockerRegistry, Layout, Proxy, body, needs
from tarballs import archive, file, folder

BASE = archive(folder("etc"), file("etc/name", b"base\n"))
NEW = archive(folder("etc"), file("etc/name", b"new\n"))
OTHER = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "layout"))


def test_every_command_takes_an_image_by_its_digest(unprivileged, registry, layout):
    entry = add_image(layout, "img:1", [BASE], Cmd=["/x"])
    registry.push(layout, "img:1", "pinned/img:1")
    name = f"{registry.host}/pinned/img"
    pinned = f"{name}@{entry['digest']}"
    both = f"{name}:other@{entry['digest']}"
    unprivileged.udocker("pull", pinned)
    for one, few in ((pinned, 9), (both, 3)):
        for words in (
            ["run", "--dry-run", "--pull=never", one, "x"],
            ["create", one],
            ["verify", one],
            ["inspect", one],
            ["tag", one, "mine:1"],
            ["protect", one],
            ["unprotect", one],
            ["save", "-o", f"{unprivileged.home}/{len(one)}.tar", one],
            ["pull", one],
        )[:few]:
            done = unprivileged.udocker(*words, check=False)
            assert done.returncode == 0, (words, done.stderr)
        wrong = one.partition("@")[0] + f"@{OTHER}"
        for words in (["inspect", wrong], ["verify", wrong], ["run", "--pull=never", wrong]):
            assert unprivileged.udocker(*words, check=False).returncode in (1, 125), words
    for container in unprivileged.udocker("ps", "-aq").stdout.split():
        unprivileged.udocker("rm", container)
    unprivileged.udocker("rmi", pinned)
    assert "mine" in unprivileged.udocker("images").stdout
    assert unprivileged.udocker("inspect", pinned, check=False).returncode == 1


def test_an_image_here_by_its_tag_is_the_one_of_its_digests(unprivileged, registry, layout):
    needs("skopeo")
    add_index(layout, "multi:1", {HERE: [BASE], "s390x": [NEW]})
    copy = ["skopeo", "--insecure-policy", "copy", "--all", "--dest-tls-verify=false"]
    name = f"{registry.host}/pinned/multi"
    subprocess.run([*copy, f"oci:{layout.directory}:multi:1", f"docker://{name}:1"], check=True)
    whole = layout.manifests[-1]
    _, mine, foreign = (e["digest"] for e in json.loads(layout.read(whole))["manifests"])
    unprivileged.udocker("pull", f"{name}:1")
    for digest in (whole["digest"], mine):
        run = ["run", "--dry-run", "--pull=never", f"{name}@{digest}", "x"]
        assert unprivileged.udocker(*run).returncode == 0
    run = ["run", "--dry-run", "--pull=never", f"{name}@{foreign}", "x"]
    assert unprivileged.udocker(*run, check=False).returncode == 125
    # the same digest in another repository is another image: nobody pulled it from there
    other = f"{registry.host}/pinned/other@{mine}"
    run = ["run", "--dry-run", "--pull=never", other, "x"]
    assert unprivileged.udocker(*run, check=False).returncode == 125


def test_a_registry_cannot_answer_a_digest_with_something_else(unprivileged, registry, layout):
    entry = add_image(layout, "img:1", [BASE])
    registry.push(layout, "img:1", "pinned/lie:1")
    other = layout.read(add_image(layout, "img:2", [NEW]))
    with Proxy(registry.host) as proxy:
        proxy.add("/manifests/", body(lambda _: other), times=100)
        name = f"{proxy.host}/pinned/lie@{entry['digest']}"
        for words in (["pull", name], ["run", name, "x"], ["create", name]):
            done = unprivileged.udocker(*words, check=False)
            assert done.returncode in (1, 125)
            assert "instead of" in done.stderr
    assert unprivileged.udocker("images", "-q").stdout == ""


def test_a_tag_that_moves_leaves_what_is_pinned(unprivileged, registry, layout):
    entry = add_image(layout, "img:1", [BASE])
    registry.push(layout, "img:1", "pinned/moving:1")
    name = f"{registry.host}/pinned/moving"
    unprivileged.udocker("pull", f"{name}@{entry['digest']}")
    add_image(layout, "img:2", [NEW])
    registry.push(layout, "img:2", "pinned/moving:1")
    unprivileged.udocker("pull", f"{name}:1")
    for reference, text in ((f"{name}@{entry['digest']}", "base\n"), (f"{name}:1", "new\n")):
        tree = unprivileged.udocker("inspect", "-p", reference).stdout.strip()
        with open(f"{tree}/etc/name") as found:
            assert found.read() == text


def test_nothing_is_called_by_a_digest_that_is_not_its_own(unprivileged, layout):
    entry = add_image(layout, "img:1", [BASE])
    source = f"{unprivileged.home}/layout"
    subprocess.run(["cp", "-r", layout.directory, source], check=True)
    unprivileged.own(source)
    copy = ("copy", "-q", f"oci:{source}:img:1")
    done = unprivileged.udocker(*copy, f"udocker:mine@{OTHER}", check=False)
    assert (done.returncode, entry["digest"] in done.stderr) == (1, True)
    assert unprivileged.udocker("images", "-q").stdout == ""
    unprivileged.udocker(*copy, f"udocker:mine@{entry['digest']}")
    assert unprivileged.udocker("images", "-q").stdout != ""
