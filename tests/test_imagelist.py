"""Lists of images, and their removal: docker's columns, fields, filters; prune and du."""

import json
import os
import re

import pytest
from images import HERE
from registries import KIND, Layout, digest
from tarballs import archive, file

from udocker.commands.imagelist import created_s, familiar, matches, split
from udocker.images.names import Listed
from udocker.reference import Reference
from udocker.registry.loopback import LoopbackRegistry

TIMES = {"old": "2019-05-31T12:00:00Z", "new": "2024-05-31T14:00:00.123456789+02:00"}
SHARED = archive(file("shared", b"s" * 40_000))


def add(layout, name, created, layers, labels):
    config = {
        "architecture": HERE,
        "os": "linux",
        "created": created,
        "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    document = {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.manifest.v1+json",
        "config": layout.blob(json.dumps(config).encode(), f"{KIND}.config.v1+json"),
        "layers": [layout.blob(layer, f"{KIND}.layer.v1.tar") for layer in layers],
    }
    return layout.add_document(name, document)


@pytest.fixture
def pulled(unprivileged, tmp_path):
    """The images `org/app:old` and `org/app:new` of a registry, which is told."""
    layout = Layout(str(tmp_path / "layout"))
    for name, created in TIMES.items():
        own = archive(file("own", name.encode() * 10_000))
        add(layout, name, created, [SHARED, own], {"tier": name})
    with LoopbackRegistry(layout.directory) as host:
        for name in TIMES:
            unprivileged.udocker("pull", "-q", f"{host}/org/app:{name}")
        yield f"{host}/org/app"


def listed(user, *words):
    return user.udocker("images", "--format", "{{.Tag}}", *words).stdout.split()


def test_images_are_listed_by_whole_names_as_udocker_1_did_and_in_dockers_columns(
    unprivileged, pulled
):
    header, new, old = unprivileged.udocker("images", "--digests").stdout.splitlines()
    assert header.split() == ["REPOSITORY:TAG", "DIGEST", "IMAGE", "ID", "CREATED", "SIZE"]
    form = rf"{pulled}:new +sha256:[0-9a-f]{{64}} +[0-9a-f]{{12}} +\d+ weeks ago +\d+ kB"
    assert re.fullmatch(form, new), new
    assert old.startswith(f"{pulled}:old ")
    header, new, old = unprivileged.udocker("images").stdout.splitlines()
    assert header.split() == ["REPOSITORY:TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert new.split()[0] == f"{pulled}:new"
    header, new, old = unprivileged.udocker("images", "--format", "table").stdout.splitlines()
    assert header.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    assert old.split()[:2] == [pulled, "old"]
    long = unprivileged.udocker("images", "-l", "-p").stdout
    assert f"linux/{HERE}" in long
    assert long.count("  sha256:") == 4
    whole = unprivileged.udocker("images", "-q", "--no-trunc").stdout.split()
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in whole)
    row = json.loads(unprivileged.udocker("images", "--format=json").stdout.splitlines()[0])
    assert row["CreatedAt"].startswith("2024-05-31 ")


FILTERED = [
    ([], ["new", "old"]),
    (["{name}"], ["new", "old"]),
    (["{name}:old"], ["old"]),
    (["other"], []),
    (["--filter", "reference=*/org/app"], ["new", "old"]),
    (["--filter", "reference=*/*:n*"], []),
    (["--filter", "reference=*/*/*:n*"], ["new"]),
    (["--filter", "before={name}:new"], ["old"]),
    (["--filter", "since={name}:old"], ["new"]),
    (["--filter", "until=2020-01-01"], ["old"]),
    (["--filter", "label=tier=new"], ["new"]),
    (["--filter", "label=tier", "--filter", "until=2020-01-01"], ["old"]),
    (["--filter", "label=none"], []),
    (["--filter", "dangling=true"], []),
    (["--filter", "dangling=false"], ["new", "old"]),
]


def test_images_are_filtered(unprivileged, pulled):
    for words, found in FILTERED:
        assert listed(unprivileged, *(word.format(name=pulled) for word in words)) == found, words


@pytest.mark.parametrize(
    ("words", "code"),
    [(["colour=red"], 2), (["dangling=maybe"], 2), (["until=x"], 2), (["before=none"], 1)],
)
def test_filters_that_make_no_sense_are_errors(unprivileged, words, code):
    assert unprivileged.udocker("images", "--filter", *words, check=False).returncode == code


def test_one_that_cannot_be_removed_keeps_no_other_from_its_turn(unprivileged, pulled):
    user = unprivileged
    done = user.udocker("rmi", "nothing", f"{pulled}:old", check=False)
    assert (done.returncode, done.stdout) == (1, f"{pulled}:old\n")
    assert "no image 'nothing'" in done.stderr
    assert user.udocker("rmi", "-f", "nothing").returncode == 0
    identifier = user.udocker("images", "-q").stdout.strip()
    user.udocker("protect", f"{pulled}:new")
    assert user.udocker("rmi", identifier, check=False).returncode == 1
    user.udocker("unprotect", f"{pulled}:new")
    user.udocker("rmi", f"sha256:{identifier}")
    assert listed(user) == []
    assert user.udocker("rmi", check=False).returncode == 2


def test_an_image_is_removed_by_its_digest_and_all_at_once(unprivileged, pulled):
    user = unprivileged
    shown = user.udocker("images", "--format", "{{.Digest}}", f"{pulled}:old").stdout.strip()
    user.udocker("rmi", f"{pulled}@{shown}")
    assert listed(user) == ["new"]
    user.udocker("rmi", "-a")
    assert os.listdir(f"{user.udocker_dir}/images/blobs/sha256") == []


def test_prune_removes_what_nothing_needs_and_images_when_told(unprivileged, pulled):
    user, blobs = unprivileged, f"{unprivileged.udocker_dir}/images/blobs/sha256"
    user.udocker("create", "--name=c", f"{pulled}:new", "x")
    user.udocker("rmi", "--no-prune", f"{pulled}:old")
    dead = f"{user.udocker_dir}/partial/sha256-{'0' * 64}.{os.uname().nodename}-999999999"
    user.run(["sh", "-c", f"echo left > {dead}; echo x > {blobs}/{'1' * 64}"])
    count = len(os.listdir(blobs))
    planned = user.udocker("prune", "--dry-run").stdout
    assert f"would remove {dead}" in planned
    assert len(os.listdir(blobs)) == count
    done = user.udocker("prune").stdout
    assert planned.replace("would remove", "removed") == done
    assert not os.path.exists(dead)
    assert len(os.listdir(blobs)) == count - 4
    assert user.udocker("prune", "-af").stdout == "removed 0 B\n"  # it has a container
    user.udocker("rm", "c")
    refused = user.udocker("prune", "-a", check=False)
    assert (refused.returncode, "--force" in refused.stderr) == (2, True)
    assert user.udocker("prune", "-af", "--filter", "until=2020-01-01").stdout == "removed 0 B\n"
    assert f"removed image {pulled}:new" in user.udocker("prune", "-af").stdout
    assert os.listdir(blobs) == os.listdir(f"{user.udocker_dir}/trees") == []


def test_du_tells_what_is_shared_and_what_could_be_freed(unprivileged, pulled):
    user = unprivileged
    user.udocker("create", "--name=c", f"{pulled}:new", "x")
    rows = {line.split("  ")[0]: line for line in user.udocker("du").stdout.splitlines()}
    assert list(rows) == ["TYPE", "Images", "Containers", "Left over", "Engines", "Cache"]
    assert rows["Images"].split()[1:3] == ["2", "1"]
    verbose = user.udocker("du", "-v").stdout.splitlines()
    assert verbose[0].split()[:2] == ["REPOSITORY", "TAG"]
    assert len(verbose) == 6
    assert user.udocker(f"--repo={user.home}/none", "du").returncode == 0
    assert not os.path.exists(f"{user.home}/none")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("docker.io/library/ubuntu:22.04", ("ubuntu", "22.04")),
        ("docker.io/org/app:1", ("org/app", "1")),
        ("docker.io/quay.io/x:1", ("docker.io/quay.io/x", "1")),
        ("localhost:5000/a/b:1", ("localhost:5000/a/b", "1")),
        (f"localhost:5000/a@sha256:{0:064}", ("localhost:5000/a", "<none>")),
        (f"docker.io/library/a:1@sha256:{0:064}", ("a", "1")),
    ],
)
def test_names_are_shown_as_docker_shows_them(name, shown):
    assert split(name) == shown
    assert str(Reference.parse(familiar(name))) == name


def test_patterns_are_dockers():
    name = "docker.io/library/ubuntu:22.04"
    for pattern in ("ubuntu", "ubuntu:22.04", "u*", "ubuntu:*", "docker.io/library/ubuntu", name):
        assert matches(pattern, name)
    for pattern in ("ubunt", "library/*", "*/ubuntu", "ubuntu:2"):
        assert not matches(pattern, name)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02T00:00:00Z", 86400),
        ("1970-01-01T02:00:01.999999999+02:00", 1),
        ("1969-12-31T23:00:00-01:00", 0),
        ("", None),
        ("garbage", None),
        ("2024-13-01T00:00:00Z", None),
    ],
)
def test_the_time_of_an_image_is_read_in_every_form(text, seconds):
    marks = {"org.udocker.name": "x", "org.opencontainers.image.created": text}
    assert created_s(Listed({"digest": "sha256:0", "annotations": marks}, "")) == seconds
