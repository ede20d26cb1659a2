"""Copies between registries, layouts, archives and the store; manifests that are looked at."""

import hashlib
import json
import os
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import HERE, add_image, add_index
from registries import KIND, REF_NAME, Layout, Proxy, body, digest, needs
from tarballs import archive, file, folder

from udocker.errors import IntegrityError, UsageError
from udocker.oci import Descriptor, Digest
from udocker.transfer.copying.copy import Verified
from udocker.transfer.copying.places import Location

BASE = archive(folder("etc"), file("etc/name", b"base\n"))
TOP = archive(file("etc/name", b"top\n"))


@pytest.fixture
def layout(unprivileged):
    return Layout(f"{unprivileged.home}/layout")


@pytest.fixture
def place(docker_registry, tmp_path):
    """A part of the registry that is this test's own."""
    return f"{docker_registry.host}/{tmp_path.name}"


@pytest.fixture
def many(unprivileged, layout, place):
    """The name of an index of two images and an attestation, and its descriptor."""
    entry = add_index(layout, "multi:1", {HERE: [BASE], "s390x": [BASE, TOP]})
    unprivileged.udocker("copy", "--all", f"oci:{layout.directory}:multi:1", f"{place}/multi:1")
    return f"{place}/multi:1", entry


def skopeo(*words):
    needs("skopeo")
    done = subprocess.run(["skopeo", "--insecure-policy", *words], check=True, capture_output=True)
    return done.stdout


def raw(name):
    return skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")


def test_a_whole_index_keeps_its_digest_from_layout_to_registry_to_layout(
    unprivileged, layout, many, place
):
    name, entry = many
    assert raw(name) == layout.read(entry)
    done = unprivileged.udocker("copy", "-a", f"docker://{name}", f"{place}/again")
    assert done.stdout == f"docker://{place}/again {entry['digest']}\n"
    assert raw(f"{place}/again:latest") == layout.read(entry)
    copy = f"{unprivileged.home}/copy"
    unprivileged.udocker("copy", "-q", "--all", name, f"oci:{copy}:all")
    unprivileged.udocker("copy", "-q", name, f"oci:{copy}:one")
    with open(f"{copy}/index.json") as found:
        entries = json.load(found)["manifests"]
    assert [e["annotations"]["org.opencontainers.image.ref.name"] for e in entries] == [
        "all",
        "one",
    ]
    assert entries[0]["digest"] == entry["digest"]
    assert json.loads(skopeo("inspect", f"oci:{copy}:one"))["Architecture"] == HERE
    assert sorted(os.listdir(copy)) == ["blobs", "index.json", "oci-layout"]
    assert not [n for n in os.listdir(f"{copy}/blobs/sha256") if n.startswith(".")]


def test_of_an_index_the_image_for_one_platform_is_copied(unprivileged, layout, many, place):
    done = unprivileged.udocker("copy", "--platform=linux/s390x", many[0], f"{place}/one:1")
    index = json.loads(layout.read(many[1]))
    wanted = next(e for e in index["manifests"] if e["platform"]["architecture"] == "s390x")
    assert done.stdout.endswith(f"{wanted['digest']}\n")
    refused = unprivileged.udocker("copy", "--platform=arm64", many[0], f"{place}/x", check=False)
    assert "it offers" in refused.stderr
    one = f"{place}/one:1"
    for words in (["copy", one, f"{place}/x"], ["manifest", "inspect", one]):
        done = unprivileged.udocker(*words, "--platform=arm64", check=False)
        assert done.returncode == 1
        assert "for linux/s390x, not for linux/arm64" in done.stderr
        unprivileged.udocker(*words, "--platform=linux/s390x")


def test_a_copy_within_a_registry_sends_no_blob(unprivileged, docker_registry, many, tmp_path):
    with Proxy(docker_registry.host) as proxy:
        name = many[0].replace(docker_registry.host, proxy.host)
        unprivileged.udocker("copy", name, f"{proxy.host}/{tmp_path.name}/shared:1")
        assert proxy.paths("PATCH") == []
        assert not [path for path in proxy.paths() if "/blobs/" in path]


def test_archives_that_skopeo_wrote_are_sources(unprivileged, layout, place):
    entry = add_image(layout, "img:1", [BASE, TOP])
    source = f"oci:{layout.directory}:img:1"
    for transport in ("oci-archive", "docker-archive"):
        path = f"{unprivileged.home}/{transport}.tar"
        skopeo("copy", source, f"{transport}:{path}:img:1")
        name = f"{place}/{transport}:1"
        done = unprivileged.udocker("copy", "-q", f"{transport}:{path}:img:1", name)
        if transport == "oci-archive":
            assert done.stdout.strip() == entry["digest"]
        unprivileged.udocker("pull", name)
        assert os.path.exists(unprivileged.udocker("inspect", "-p", name).stdout.strip())


def test_an_image_of_the_store_is_copied_and_one_brought_there(unprivileged, many, layout):
    name, entry = many
    unprivileged.udocker("copy", name, "udocker:mine:1")
    tree = unprivileged.udocker("inspect", "-p", "mine:1").stdout.strip()
    assert os.path.exists(f"{tree}/etc/name")
    out = f"{unprivileged.home}/out"
    digest = unprivileged.udocker("copy", "-q", "udocker:mine:1", f"oci:{out}").stdout.strip()
    assert digest in [e["digest"] for e in json.loads(layout.read(entry))["manifests"]]
    assert skopeo("inspect", f"oci:{out}")
    unprivileged.udocker("push", "mine:1", f"oci:{out}:named")
    assert skopeo("inspect", f"oci:{out}:named")
    again = unprivileged.udocker("copy", "udocker:mine:1", "udocker:other:1", check=False)
    assert "udocker tag" in again.stderr
    assert again.returncode == 2


def test_archives_are_read_by_skopeo_and_loaded_again(unprivileged, many, layout):
    name, entry = many
    oci, docker = (f"{unprivileged.home}/{kind}.tar" for kind in ("oci", "docker"))
    unprivileged.udocker("copy", "--all", name, f"oci-archive:{oci}:all:1")
    assert digest(skopeo("inspect", "--raw", f"oci-archive:{oci}:all:1")) == entry["digest"]
    unprivileged.udocker("copy", name, f"docker-archive:{docker}:org/app:2")
    seen = json.loads(skopeo("inspect", f"docker-archive:{docker}"))
    assert (seen["RepoTags"], seen["Architecture"]) == ([], HERE) or HERE in str(seen)
    loaded = unprivileged.udocker("load", "-i", docker)
    assert "org/app:2" in loaded.stdout
    with tarfile.open(docker) as held:
        (listed,) = json.load(held.extractfile("index.json"))["manifests"]
        (image,) = json.load(held.extractfile("manifest.json"))
    assert image["RepoTags"] == [listed["annotations"][REF_NAME]] == ["docker.io/org/app:2"]
    refused = unprivileged.udocker("copy", "-a", name, f"docker-archive:{docker}:x", check=False)
    assert refused.returncode == 2
    assert "one platform" in refused.stderr
    assert sorted(n for n in os.listdir(unprivileged.home) if ".tar" in n) == [
        "docker.tar",
        "oci.tar",
    ]


def test_the_policy_decides_what_is_copied_and_options_are_for_one_end(unprivileged, many, layout):
    name, entry = many
    policy = f"{unprivileged.home}/policy.json"
    with open(policy, "w") as file:
        json.dump({"default": [{"type": "reject"}]}, file)
    words = ("copy", f"--signature-policy={policy}", name, f"oci:{unprivileged.home}/out")
    done = unprivileged.udocker(*words, check=False)
    assert done.returncode == 1
    assert "does not let" in done.stderr
    assert not os.path.exists(f"{unprivileged.home}/out/index.json")
    with open(f"{unprivileged.home}/auth.json", "w") as file:
        file.write("{}")
    words = ("--src-tls-verify=true", "--dest-tls-verify=false", "--src-authfile=auth.json")
    done = unprivileged.udocker("copy", "-qa", *words, name, f"oci:{unprivileged.home}/out")
    assert done.stdout.strip() == entry["digest"]


def artifact(layout, **changes):
    empty = {**layout.blob(b"{}", "application/vnd.oci.empty.v1+json"), "data": "e30="}
    chart = layout.blob(b"a chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    document = {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.manifest.v1+json",
        "artifactType": "application/vnd.cncf.helm.config.v1+json",
        "config": empty,
        "layers": [chart],
        **changes,
    }
    return layout.add_document("chart:1", document)


def test_an_artifact_is_copied_like_an_image_and_not_pulled(unprivileged, layout, place):
    entry = artifact(layout, annotations={"a": "b"})
    unprivileged.udocker("copy", f"oci:{layout.directory}:chart:1", f"{place}/chart:1")
    assert raw(f"{place}/chart:1") == layout.read(entry)
    done = unprivileged.udocker("pull", f"{place}/chart:1", check=False)
    assert done.returncode == 1
    assert "not a container image but a Helm chart" in done.stderr
    assert "helm pull" in done.stderr


def test_wrong_bytes_get_no_name_anywhere(unprivileged, docker_registry, many, place):
    layer = json.loads(raw(many[0]))["manifests"][1]["digest"]
    config = json.loads(raw(f"{many[0].rpartition(':')[0]}@{layer}"))["config"]["digest"]
    with Proxy(docker_registry.host) as proxy:
        name = many[0].replace(docker_registry.host, proxy.host)
        for number, end in enumerate((f"oci:{unprivileged.home}/wrong:1", f"{place}/wrong:1")):
            proxy.add(f"/blobs/{config}", body(lambda data: b"[" + data[1:]))
            done = unprivileged.udocker("copy", name, end, check=False)
            assert done.returncode == 1, number
            assert "is damaged: it came as" in done.stderr
    assert not os.path.exists(f"{unprivileged.home}/wrong/index.json")
    assert unprivileged.udocker("pull", f"{place}/wrong:1", check=False).returncode == 1


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("x/y:1", Location("docker", "x/y:1")),
        ("docker://x/y:1", Location("docker", "x/y:1")),
        ("oci:dir", Location("oci", "", "dir")),
        ("oci:/a/dir:x:1", Location("oci", "x:1", "/a/dir")),
        ("oci-archive:a.tar:1", Location("oci-archive", "1", "a.tar")),
        ("docker-archive:a.tar", Location("docker-archive", "", "a.tar")),
        ("udocker:x:1", Location("udocker", "x:1")),
        ("ociimage:1", Location("docker", "ociimage:1")),
        ("docker:1", Location("docker", "docker:1")),
    ],
)
def test_a_place_is_read_as_skopeo_reads_it(text, place):
    assert Location.parse(text) == place


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("docker-daemon:x:1", "docker save"),
        ("containers-storage:x", "podman save"),
        ("dir:/x", "oci:DIRECTORY"),
        ("oci:", "oci:DIRECTORY"),
        ("oci-archive::x", "oci-archive:FILE"),
    ],
)
def test_a_place_that_cannot_be_had_is_refused_with_the_way_out(text, hint):
    with pytest.raises(UsageError) as caught:
        Location.parse(text)
    assert hint in caught.value.hint


def test_what_is_not_there_is_told(unprivileged):
    for words, code, said in [
        (["oci:/nowhere", "y"], 1, "/nowhere"),
        (["oci-archive:/tmp", "y"], 2, "oci: is for directories"),
        (["/tmp", "y"], 2, "oci:DIRECTORY"),
        (["udocker:nothing", "y"], 1, "no image 'nothing' here"),
        (["--all", "--platform=amd64", "x", "y"], 2, "contradict"),
    ]:
        done = unprivileged.udocker("copy", *words, check=False)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_killed_copy_leaves_a_layout_that_the_next_one_tidies(unprivileged, layout):
    add_image(layout, "a:1", [BASE])
    copy = f"{unprivileged.home}/copy"
    unprivileged.udocker("copy", f"oci:{layout.directory}:a:1", f"oci:{copy}:a:1")
    owner = f"{os.uname().nodename}-999999999"
    left = f"{copy}/blobs/sha256/.{'0' * 64}.{owner}"
    unprivileged.run(["touch", left])
    unprivileged.udocker("copy", f"oci:{layout.directory}:a:1", f"oci:{copy}:b:1")
    assert not os.path.exists(left)
    assert skopeo("inspect", f"oci:{copy}:b:1")


def test_of_several_images_in_a_layout_one_has_to_be_named(unprivileged, layout):
    add_image(layout, "a:1", [BASE])
    add_image(layout, "b:1", [TOP])
    done = unprivileged.udocker("copy", f"oci:{layout.directory}", "oci:x", check=False)
    assert "several images: a:1, b:1" in done.stderr
    done = unprivileged.udocker("copy", f"oci:{layout.directory}:c:1", "oci:x", check=False)
    assert "there is a:1, b:1" in done.stderr


def test_a_layout_that_umoci_made_takes_an_image(unprivileged, layout):
    add_image(layout, "a:1", [BASE])
    target = f"{unprivileged.home}/target"
    os.mkdir(target)
    for name, text in [
        ("oci-layout", '{"imageLayoutVersion": "1.0.0"}'),
        ("index.json", '{"schemaVersion":2,"manifests":null}\n'),
    ]:
        with open(f"{target}/{name}", "w") as file:
            file.write(text)
    unprivileged.own(target)
    unprivileged.udocker("copy", f"oci:{layout.directory}:a:1", f"oci:{target}:b")
    assert skopeo("inspect", f"oci:{target}:b")


def test_what_nobody_knows_goes_along_with_an_index(unprivileged, layout):
    image = add_image(layout, "a:1", [BASE])
    platform = {"os": "linux", "architecture": HERE}
    strange = layout.blob(b"\0not even JSON", "application/vnd.example.new")
    index = {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.index.v1+json",
        "manifests": [strange, {**image, "platform": platform}],
    }
    entry = layout.add_document("all:1", index)
    source = f"oci:{layout.directory}:all:1"
    for kind in ("oci", "oci-archive"):
        target = f"{unprivileged.home}/{kind}-new"
        done = unprivileged.udocker("copy", "-q", "--all", source, f"{kind}:{target}:b")
        assert done.stdout.strip() == entry["digest"]
    with open(f"{unprivileged.home}/oci-new/blobs/{strange['digest'].replace(':', '/')}") as file:
        assert file.read() == "\0not even JSON"
    assert unprivileged.udocker("load", "-i", target).stdout.startswith("Loaded image: ")


def test_what_is_in_the_way_is_left_alone(unprivileged, layout):
    add_image(layout, "a:1", [BASE])
    source = f"oci:{layout.directory}:a:1"
    os.makedirs(f"{unprivileged.home}/full/of/things")
    unprivileged.own(f"{unprivileged.home}/full")
    done = unprivileged.udocker("copy", source, f"oci:{unprivileged.home}/full", check=False)
    assert "no OCI image layout" in done.stderr
    os.mkdir(f"{unprivileged.home}/closed", 0o555)
    for kind in ("oci", "oci-archive", "docker-archive"):
        target = f"{kind}:{unprivileged.home}/closed/x"
        done = unprivileged.udocker("copy", source, target, check=False)
        assert "closed/x: Permission denied" in done.stderr
        assert "name a file where you can write" in done.stderr
    assert os.listdir(f"{unprivileged.home}/full") == ["of"]


# manifest inspect


def test_a_manifest_is_printed_byte_for_byte(unprivileged, layout, many):
    name, entry = many
    done = unprivileged.run(
        [unprivileged.python, "-m", "udocker", "manifest", "inspect", name], text=False
    )
    assert done.stdout == layout.read(entry)
    assert f"sha256:{hashlib.sha256(done.stdout).hexdigest()}" == entry["digest"]
    assert not os.path.exists(f"{unprivileged.udocker_dir}/images/index.json")


def test_the_manifest_for_a_platform_and_all_with_their_descriptors(unprivileged, layout, many):
    name, entry = many
    index = json.loads(layout.read(entry))
    wanted = next(e for e in index["manifests"] if e["platform"]["architecture"] == "s390x")
    done = unprivileged.udocker("manifest", "inspect", "--platform=linux/s390x", name)
    assert digest(done.stdout.encode()) == wanted["digest"]
    listed = json.loads(unprivileged.udocker("manifest", "inspect", "-v", name).stdout)
    assert [one["Descriptor"] for one in listed] == index["manifests"]
    assert listed[2]["OCIManifest"] == json.loads(done.stdout)
    missing = unprivileged.udocker("manifest", "inspect", f"{name}2", check=False)
    assert missing.returncode == 1
    assert "404" in missing.stderr


# Reading a blob in several attempts


def parts(data, size=7):
    return lambda offset: (data[n : n + size] for n in range(offset, len(data), size))


@given(st.binary(max_size=40), st.lists(st.integers(0, 40)), st.integers(1, 9))
def test_a_verified_blob_is_the_same_from_any_offset_on(data, offsets, size):
    wanted = Descriptor("x/y", Digest.of(data), len(data))
    passed = []
    read = Verified(wanted, parts(data, size), passed.append, "x")
    for offset in offsets:
        offset = min(offset, len(data))
        chunks = read(offset)
        next(chunks, b"")  # broken off
        chunks.close()
        assert b"".join(read(offset)) == data[offset:]


@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_wrong_blob_never_ends(data, draw):
    wrong = draw.draw(st.binary(max_size=45).filter(lambda other: other != data))
    wanted = Descriptor("x/y", Digest.of(data), len(data))
    read = Verified(wanted, parts(wrong), lambda _: None, "x")
    offset = draw.draw(st.integers(0, len(data)))
    came = b""
    with pytest.raises(IntegrityError):
        for chunk in read(offset):
            came += chunk
    assert len(came) < len(data)


def test_an_empty_blob_has_to_have_its_digest_too():
    wrong = Descriptor("x/y", Digest.of(b"not empty"), 0)
    with pytest.raises(IntegrityError):
        list(Verified(wrong, parts(b""), lambda _: None, "x")(0))
