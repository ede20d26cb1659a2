"""Images of archives into the store: every layout, every way to hand it over, and hostile ones."""

import base64
import gzip
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import time

import pytest
from archives import (
    BASE,
    LAYOUTS,
    TOP,
    Image,
    Link,
    Loader,
    docker_files,
    layout_files,
    listed,
    modern_files,
    old_files,
    packed,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import COMPRESSIONS, manifest
from registries import KIND, Layout, digest, needs
from signing import SIMPLE
from tarballs import archive, entry, file, header

from udocker.errors import IntegrityError, InvalidDocument, UdockerError, UsageError
from udocker.images.archives.archivefiles import Indexed, Spooled

OTHER = Image([BASE], ["other:2", "host.example/other:3"])


@pytest.fixture
def load(tmp_path):
    loader = Loader(tmp_path)
    yield loader
    left = f"{loader.settings.directory}/partial"
    assert not os.path.isdir(left) or os.listdir(left) == []


def check_merged(load, name="img:1"):
    assert sorted(os.listdir(f"{load.find(name).tree}/etc")) == ["name", "same"]
    assert load.store.is_whole(load.find(name))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_however_the_archive_is_compressed(load, layout, compression):
    image = Image(process={"Cmd": ["x"]})
    data = COMPRESSIONS[compression](packed(LAYOUTS[layout](image, OTHER)))
    assert load(data) == ["img:1", "other:2", "host.example/other:3"]
    check_merged(load)
    assert load.store.read_config(load.find("img:1")).cmd == ("x",)
    if layout != "old docker":
        assert load.config("img:1") == image.id
    assert load.find("other:2").tree == load.find("host.example/other:3").tree


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_layers_may_be_compressed_within_the_archive(load, compression):
    image = Image()
    compress = COMPRESSIONS[compression]
    files = docker_files(image)
    for name in [name for name in files if name.endswith("layer.tar")]:
        files[name] = compress(files[name])
    assert load(packed(files)) == ["img:1"]
    check_merged(load)
    assert load.config("img:1") == image.id
    load(gzip.compress(packed(files)), "again:1")
    assert load.find("again:1").manifest.digest == load.find("img:1").manifest.digest


def test_a_layout_is_read_from_its_directory(load, tmp_path):
    layout = Layout(str(tmp_path / "layout"))
    for path, data in layout_files(Image()).items():
        layout._write(path, data)
    assert load(layout.directory) == ["img:1"]
    check_merged(load)


def test_the_same_image_is_the_same_whatever_brought_it(load):
    image = Image()
    load(packed(docker_files(image)))
    first = load.find("img:1").manifest.digest
    for compress in (bytes, gzip.compress):
        load(compress(packed(docker_files(Image(names=["again:1"])))))
        assert load.find("again:1").manifest.digest == first
    assert load(packed(docker_files(image))) == ["img:1"]


@pytest.mark.parametrize("layout", ["docker", "docker 25", "oci"])
def test_an_image_without_a_name_is_called_by_its_id(load, layout):
    image = Image(names=None)
    assert load(packed(LAYOUTS[layout](image))) == [f"localhost/{image.id[:12]}:latest"]
    assert load(packed(LAYOUTS[layout](image)), "mine") == ["mine:latest"]
    assert load(packed(LAYOUTS[layout](image)), "mine:2") == ["mine:2"]


def test_a_name_that_is_given_takes_the_tags_of_the_image(load):
    data = packed(docker_files(Image(names=["a:1", "b:1", "c:2"])))
    assert load(data, "quay.io/x/y") == ["quay.io/x/y:1", "quay.io/x/y:2"]
    assert load(data, "z:3") == ["z:3"]


def test_several_images_do_not_get_one_name(load):
    data = packed(docker_files(Image(), Image([TOP], ["img:2"])))
    assert load(data, "both") == ["both:1", "both:2"]
    with pytest.raises(UsageError, match="2 images"):
        load(data, "both:1")
    with pytest.raises(UsageError, match="one name"):
        load(packed(docker_files(Image(), Image([TOP], ["other:1"]))), "both")


def test_mere_tags_are_kept_under_the_id(load):
    image = Image(names=["v1", "v2"])
    nameless = f"localhost/{image.id[:12]}"
    assert load(packed(layout_files(image))) == [f"{nameless}:v1", f"{nameless}:v2"]
    assert load(packed(layout_files(image)), "mine") == ["mine:v1", "mine:v2"]


def test_names_that_are_none_are_passed_over(load, capsys):
    image = Image(names=["a/UPPER:1", "a b:1", "good:1", "x@sha256:" + "0" * 64])
    assert load(packed(docker_files(image))) == ["good:1"]
    assert "passed over" in capsys.readouterr().err


def test_docker_25_names_are_found_where_its_index_has_only_tags(load):
    files = modern_files(Image(names=["team/img:1"]))
    index = json.loads(files["index.json"])
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    files["index.json"] = json.dumps(index).encode()
    assert load(packed(files)) == ["team/img:1"]


def test_an_index_without_images_is_no_obstacle_to_dockers_list(load):
    files = {**docker_files(Image()), "oci-layout": b"{}", "index.json": b'{"manifests": []}'}
    assert load(packed(files)) == ["img:1"]


def test_the_image_for_the_platform_is_chosen(load, tmp_path):
    from images import add_index

    layout = Layout(str(tmp_path / "layout"))
    add_index(layout, "multi:1", {"amd64": [BASE], "arm64": [TOP]})
    for architecture, wanted in (("amd64", "gone"), ("arm64", "same")):
        load(layout.directory, platform=f"linux/{architecture}")
        assert wanted in os.listdir(f"{load.find('multi:1').tree}/etc")
    with pytest.raises(UdockerError, match="it offers linux/amd64"):
        load(layout.directory, platform="linux/s390x")


def test_entries_of_one_name_are_one_image_for_several_platforms(load, tmp_path):
    from images import add_image

    layout = Layout(str(tmp_path / "layout"))
    for architecture, layers in (("amd64", [BASE]), ("arm64", [TOP])):
        add_image(layout, "multi:1", layers, architecture=architecture)
        layout.manifests[-1]["platform"] = {"os": "linux", "architecture": architecture}
    layout._write_index()
    assert load(layout.directory, platform="linux/arm64") == ["multi:1"]
    assert "same" in os.listdir(f"{load.find('multi:1').tree}/etc")


def test_a_signature_in_a_layout_is_no_image(load, tmp_path, capsys):
    files = layout_files(Image())
    index = json.loads(files["index.json"])
    about = json.dumps({"schemaVersion": 2, "subject": {}, "layers": []}).encode()
    kind = index["manifests"][0]["mediaType"]
    index["manifests"].append({"mediaType": kind, "digest": digest(about), "size": len(about)})
    files[f"blobs/sha256/{digest(about)[7:]}"] = about
    files["index.json"] = json.dumps(index).encode()
    assert load(packed(files)) == ["img:1"]
    assert "is passed over" in capsys.readouterr().err


def with_entry(files, document, media_type, **more):
    """Return the files of a layout that lists one more document."""
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    index = json.loads(files["index.json"])
    listed = {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}
    index["manifests"].insert(0, listed)
    path = f"blobs/{digest(data).replace(':', '/')}"
    return {**files, path: data, "index.json": json.dumps(index).encode()}


ABOUT = {"mediaType": f"{KIND}.manifest.v1+json", "digest": digest(b"x"), "size": 1}
OTHERS = {
    "a cosign signature": ("manifest", {"config": f"{KIND}.config.v1+json", "layer": SIMPLE}),
    "a Helm chart": ("manifest", {"config": "application/vnd.cncf.helm.config.v1+json"}),
    "an index without container images": (
        "index",
        {"manifests": [{**ABOUT, "artifactType": "application/vnd.example"}]},
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_lies_beside_an_image_is_named_and_passed_over(load, what, capsys):
    kind, members = OTHERS[what]
    if kind == "manifest":
        config = {**ABOUT, "mediaType": members["config"]}
        layers = [{**ABOUT, "mediaType": members.get("layer", "application/x")}]
        members = {"config": config, "layers": layers}
    media_type = f"{KIND}.{kind}.v1+json"
    document = {"schemaVersion": 2, "mediaType": media_type, **members}
    assert load(packed(with_entry(layout_files(Image()), document, media_type))) == ["img:1"]
    assert what in capsys.readouterr().err
    alone = with_entry(layout_files(), document, media_type)
    with pytest.raises(InvalidDocument, match=what):
        load(packed(alone))
    assert load(packed({**docker_files(Image(names=["other:1"])), **alone})) == ["other:1"]


def test_an_image_may_have_a_type_and_be_about_another(load):
    files = layout_files(Image())
    index = json.loads(files["index.json"])
    (entry,) = index["manifests"]
    manifest = json.loads(files[f"blobs/sha256/{entry['digest'][7:]}"])
    about = {**manifest["config"], "mediaType": manifest["mediaType"]}
    new = json.dumps({**manifest, "artifactType": "a/b", "subject": about}).encode()
    entry.update(digest=digest(new), size=len(new))
    files[f"blobs/sha256/{digest(new)[7:]}"] = new
    files["index.json"] = json.dumps(index).encode()
    assert load(packed(files)) == ["img:1"]


def linked(image, make):
    """Return docker's files with the second image's layer a link to the first one's."""
    files = docker_files(image)
    first, second = json.loads(files["manifest.json"])[0]["Layers"]
    return {"blobs/a": files.pop(second), **files, second: make("blobs/a")}


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize(
    "make",
    [
        lambda target: Link(f"../{target}"),
        lambda target: Link(f"/{target}"),
        lambda target: Link(target, hard=True),
        lambda target: Link(f"..//./{target}"),
    ],
)
def test_layers_may_be_links(load, make, compress):
    load(compress(packed(linked(Image(), make))))
    check_merged(load)


def test_a_directory_may_be_a_link(load):
    files = docker_files(Image())
    moved = {f"real/{n}" if "/" in n else n: data for n, data in files.items()}
    for name in files:
        if "/" in name:
            moved[name.partition("/")[0]] = Link(f"real/{name.partition('/')[0]}")
    load(packed(moved))
    check_merged(load)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.pop("manifest.json"), "no images in it"),
        (lambda f: f.update({"manifest.json": b"null"}), "not a list"),
        (lambda f: f.update({"manifest.json": b"{}"}), "not a list"),
        (lambda f: f.update({"manifest.json": b"[]"}), "no images in it"),
        (lambda f: f.update({"manifest.json": b"[[]]"}), "has no config"),
        (lambda f: f.update({"manifest.json": b"[" * 100_000}), "not JSON"),
        (lambda f: f.update({"manifest.json": b" " * (17 << 20)}), "has 17825792 bytes"),
        (lambda f: f.update({"manifest.json": b'[{"Config":"x"}]'}), "x is missing"),
        (lambda f: f.update({"manifest.json": b'[{"Config":"../x"}]'}), "missing"),
        (lambda f: f.pop(next(n for n in f if n.endswith(".json"))), "config of an image"),
        (lambda f: f.pop(next(n for n in f if n.endswith(".tar"))), "a layer of an image"),
        (lambda f: f.update({first_layer(f): TOP}), "came as"),
        (lambda f: f.update({first_layer(f): Link("/etc/passwd")}), "missing"),
        (lambda f: f.update({first_layer(f): Link("../../../../etc/passwd")}), "missing"),
        (lambda f: f.update({first_layer(f): Link("layer.tar")}), "circles"),
        (lambda f: f.update({first_layer(f): Link(first_layer(f), hard=True)}), "circles"),
        (lambda f: f.update({first_layer(f): b""}), "came as|cut off"),
        (lambda f: f.update({first_layer(f): gzip.compress(TOP)}), "unpacks to"),
        (lambda f: f.update({first_layer(f): gzip.compress(BASE)[:-20]}), "cut off"),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_what_is_wrong_is_said_and_nothing_is_named(load, change, says, compress):
    files = docker_files(Image())
    change(files)
    with pytest.raises(UdockerError, match=says):
        load(compress(packed(files)))
    assert load.store.images() == ()
    assert os.listdir(load.store.trees) == []


def first_layer(files):
    return next(name for name in files if name.endswith("layer.tar"))


def test_layers_in_number_other_than_the_configs_are_refused(load):
    files = docker_files(Image())
    entries = listed(Image())
    entries[0]["Layers"].pop()
    files["manifest.json"] = json.dumps(entries).encode()
    with pytest.raises(InvalidDocument, match="1 layers, but the config names 2"):
        load(packed(files))


@pytest.mark.parametrize("what", ["config", "layer", "manifest"])
def test_a_layout_that_lies_is_refused(load, what):
    image = Image()
    files = layout_files(image)
    manifest = json.loads(files["index.json"])["manifests"][0]["digest"]
    wrong = {"config": f"sha256:{image.id}", "layer": digest(TOP), "manifest": manifest}[what]
    path = f"blobs/{wrong.replace(':', '/')}"
    files[path] = files[path].replace(b"etc", b"ETC").replace(b'"s', b' "', 1)
    with pytest.raises(UdockerError):
        load(packed(files))
    assert load.store.images() == ()


def test_a_manifest_of_another_size_than_the_index_says_is_refused(load):
    files = layout_files(Image())
    index = json.loads(files["index.json"])
    index["manifests"][0]["size"] += 1
    with pytest.raises(IntegrityError, match="bytes, not"):
        load(packed({**files, "index.json": json.dumps(index).encode()}))
    assert load.store.images() == ()


@pytest.mark.parametrize("variant", [None, "v7"])
def test_the_index_says_which_variant_an_image_is_for(load, tmp_path, variant):
    layout = Layout(str(tmp_path / "layout"))
    made = manifest(layout, [BASE], "arm", "+gzip", {})
    config = json.loads(layout.read(made["config"]))
    config.update({"variant": variant} if variant else {})
    made["config"] = layout.blob(json.dumps(config).encode(), made["config"]["mediaType"])
    layout.add_document("img:1", made)
    platform = {"os": "linux", "architecture": "arm", "variant": "v6"}
    layout.manifests[-1]["platform"] = platform
    layout._write_index()
    assert load(layout.directory, platform="linux/arm/v6") == ["img:1"]
    assert str(load.find("img:1").manifest.platform) == "linux/arm/v6"
    with pytest.raises(InvalidDocument, match="for linux/arm/v6, not for linux/arm/v5"):
        load(layout.directory, platform="linux/arm/v5")


@pytest.mark.parametrize("member", ["data", "urls"])
def test_whatever_else_a_descriptor_says_its_image_has_a_name(load, member):
    files = layout_files(Image())
    index = json.loads(files["index.json"])
    (entry,) = index["manifests"]
    path = f"blobs/{entry['digest'].replace(':', '/')}"
    data = json.dumps({**json.loads(files[path]), "annotations": {"a": "b" * 70_000}}).encode()
    entry.update(digest=digest(data), size=len(data))
    entry[member] = {
        "data": base64.b64encode(data).decode(),
        "urls": [f"https://{'x' * 70_000}"],
    }[member]
    path = f"blobs/{entry['digest'].replace(':', '/')}"
    assert load(packed({**files, path: data, "index.json": json.dumps(index).encode()})) == [
        "img:1"
    ]
    check_merged(load)


def test_layers_of_an_old_archive_do_not_go_round_in_circles(load):
    files = old_files(Image())
    first, second = (name for name in files if name.endswith("/json"))
    document = json.loads(files[first])
    files[first] = json.dumps({**document, "parent": second.partition("/")[0]}).encode()
    with pytest.raises(InvalidDocument, match="no end"):
        load(packed(files))


def test_images_of_an_old_archive_have_layers_in_number(load):
    files = old_files(Image([archive(file(f"f{n}")) for n in range(300)]))
    tops = [name.partition("/")[0] for name in files if name.endswith("/json")]
    files["repositories"] = json.dumps({"x": dict(zip(map(str, range(300)), tops))}).encode()
    with pytest.raises(InvalidDocument, match="more than 3.... layers"):
        load(packed(files))


def test_a_layer_of_many_megabytes_is_read_like_a_small_one(load):
    large = archive(file("large", random.Random(3).randbytes(1 << 20) * 40))
    load(packed(docker_files(Image([large]))))
    assert os.path.getsize(f"{load.find('img:1').tree}/large") == 40 << 20


def test_members_that_lead_out_are_none_of_the_archive(load):
    files = docker_files(Image())
    out = {f"../{n}": b"other" for n in files}
    assert load(packed({**files, **out})) == ["img:1"]
    absolute = {f"/./{n}": data for n, data in files.items()}
    assert load(packed(absolute)) == ["img:1"]


def test_of_two_members_of_one_name_the_last_one_counts(load):
    files = docker_files(Image())
    name = first_layer(files)
    data = packed({name: b"not this one"})[:-1024] + packed(files)
    assert load(data) == ["img:1"]
    assert load(gzip.compress(data)) == ["img:1"]


def test_a_sparse_member_is_not_read(load):
    image = Image()
    files = docker_files(image)
    name = first_layer(files)
    del files[name]
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}
    records.update({b"GNU.sparse.name": name.encode(), b"GNU.sparse.realsize": b"%d" % (1 << 40)})
    sparse = entry("GNUSparseFile.0/x", data=b"0\n" + bytes(510), pax=records)
    for compress in (bytes, gzip.compress):
        with pytest.raises(InvalidDocument, match="is kept as a sparse file"):
            load(compress(sparse + packed(files)))


def test_a_hundred_thousand_members_are_read_and_more_than_that_refused(tmp_path):
    path = tmp_path / "many"
    block = header(b"a/b/c", b"0", 0)
    path.write_bytes(block * 100_000 + packed({"x": b"y"}))
    assert Indexed("many", str(path)).find("x").size_bytes == 1
    path.write_bytes(block * 200_001)
    with pytest.raises(InvalidDocument, match="the archive has more than 200000 entries"):
        Indexed("many", str(path))


def test_names_together_are_bounded(tmp_path):
    path = tmp_path / "many"
    long = "n" * 4000
    path.write_bytes(b"".join(entry(f"{number}{long}") for number in range(9000)) + bytes(1024))
    with pytest.raises(InvalidDocument, match="names take more"):
        Indexed("many", str(path))


@pytest.mark.parametrize("garbage", [b"", b"x", b"\0" * 5000, b"hello world" * 1000, b"\x1f\x8b\0"])
def test_what_is_no_archive_is_said(load, garbage):
    with pytest.raises(InvalidDocument, match="archive: "):
        load(garbage)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("layout", ["docker", "oci"])
def test_an_archive_that_is_cut_off_anywhere_is_refused(tmp_path, layout, compress):
    whole = packed(LAYOUTS[layout](Image()))
    data = compress(whole)
    needed = len(data) - (1024 + 511 if compress is bytes else 8)
    for end in range(1, needed, 1021):
        load = Loader(tmp_path)
        with pytest.raises(UdockerError):
            load(data[:end])
        assert load.store.images() == ()
        assert os.listdir(f"{load.settings.directory}/partial") == []


ORDERS = st.permutations(list(docker_files(Image(), OTHER)))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(order=ORDERS, stream=st.booleans())
def test_the_order_of_members_does_not_matter(tmp_path_factory, order, stream):
    files = docker_files(Image(), OTHER)
    data = packed({name: files[name] for name in order})
    load = Loader(tmp_path_factory.mktemp("order"))
    assert load(gzip.compress(data, 1) if stream else data)[0] == "img:1"
    check_merged(load)


NAMES = st.sampled_from(["a", "b/c", "../x", "/d", ".", "a/../b", "manifest.json", "é" * 60])
MEMBERS = st.lists(
    st.tuples(
        NAMES,
        st.one_of(
            st.binary(max_size=40),
            st.builds(Link, NAMES, st.booleans()),
            st.just(b'[{"Config":"a","Layers":["b/c","d"],"RepoTags":null}]'),
            st.just(Image([TOP, b"x"]).config),
        ),
    ),
    max_size=8,
)


@settings(max_examples=80, deadline=None)
@given(MEMBERS, st.integers(0, 2000), st.booleans())
def test_whatever_an_archive_holds_only_our_errors_come(tmp_path_factory, members, cut, stream):
    data = b"".join(packed(dict([member]))[:-1024] for member in members)
    data = data[:-cut] if cut % 3 == 0 else data + bytes(1024)
    load = Loader(tmp_path_factory.mktemp("any"))
    try:
        load(gzip.compress(data, 1) if stream else data)
    except UdockerError:
        pass
    assert load.store.images() == ()


TEXTS = st.sampled_from(["", "x", "manifest.json", "\ud800", "\0", "../..", "img:1", "1" * 64])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
WHOLE = {layout: LAYOUTS[layout](Image()) for layout in LAYOUTS}


def changed(data, choose, value):
    """Return a JSON document of which one part, of its `choose`th, is another value."""
    places, document = [], json.loads(data)

    def visit(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                visit(node[key])

    visit(document)
    node, key = places[choose % len(places)]
    node[key] = value
    return json.dumps(document).encode()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(LAYOUTS)), st.integers(0, 60), st.integers(0, 60), VALUES)
def test_whatever_the_documents_say_only_our_errors_come(
    tmp_path_factory, layout, document, place, value
):
    files = dict(WHOLE[layout])
    documents = [name for name, data in files.items() if data.startswith((b"{", b"["))]
    name = documents[document % len(documents)]
    files[name] = changed(files[name], place, value)
    load = Loader(tmp_path_factory.mktemp("any"))
    try:
        load(packed(files))
    except UdockerError:
        return
    for image in load.store.images():
        assert load.store.is_whole(image)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(LAYOUTS)), st.integers(0), st.integers(1, 255), st.booleans())
def test_whichever_byte_is_wrong_only_our_errors_come(
    tmp_path_factory, layout, place, flip, stream
):
    data = bytearray(packed(WHOLE[layout]))
    if stream:
        data = bytearray(gzip.compress(data, 1))
    data[place % len(data)] ^= flip
    load = Loader(tmp_path_factory.mktemp("any"))
    try:
        load(bytes(data))
    except UdockerError:
        return
    for image in load.store.images():
        assert load.store.is_whole(image)


def test_what_cannot_be_read_is_said(unprivileged):
    directory = f"{unprivileged.home}/layout"
    layout = Layout(directory)
    for path, data in layout_files(Image()).items():
        layout._write(path, data)
    os.chmod(f"{directory}/index.json", 0)
    if os.access(f"{directory}/index.json", os.R_OK):
        unprivileged.own(directory)
    done = unprivileged.udocker("load", "-i", directory, check=False)
    assert (done.returncode, "Permission denied" in done.stderr) == (1, True)
    assert done.stderr.startswith("udocker: ")


def test_a_stream_is_kept_file_by_file(tmp_path):
    data = packed({"a": b"1" * 600_000, "b": Link("a"), "c": b""})
    files = Spooled("it", iter([data[:100], data[100:]]), str(tmp_path))
    assert b"".join(files.find("b").chunks(599_990)) == b"1" * 10
    assert files.find("c").digest.hex == digest(b"")[7:]
    assert files.find("d") is None


# as a user does it


def test_a_pipe_a_file_and_a_name_on_the_command_line(unprivileged):
    path = f"{unprivileged.home}/x.tar"
    with open(path, "wb") as out:
        out.write(packed(docker_files(Image())))
    with open(path, "rb") as data:
        content = data.read()
    for words in (["load"], ["load", "-"], ["load", "-i", "-"]):
        done = unprivileged.udocker(*words, input=content, text=False)
        assert done.stdout == b"Loaded image: img:1\n"
    done = unprivileged.udocker("load", "-q", "-i", path, "mine:5")
    assert (done.stdout, done.stderr) == ("Loaded image: mine:5\n", "")
    command = [unprivileged.python, "-m", "udocker", "load", "img"]
    with open(path, "rb") as data:
        done = unprivileged.popen(command, stdin=data, stdout=subprocess.PIPE)
        assert done.communicate()[0] == b"Loaded image: img:1\n"
    done = unprivileged.udocker("load", "-i", "/nowhere", check=False)
    assert (done.returncode, done.stderr) == (1, "udocker: /nowhere: No such file or directory\n")
    assert os.listdir(f"{unprivileged.udocker_dir}/partial") == []


def test_skopeos_archives_load_and_run(unprivileged, busybox_image):
    needs("skopeo")
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet"]
    source = f"oci:{busybox_image.path}:{busybox_image.reference}"
    for kind in ("docker-archive", "oci-archive"):
        path = f"{unprivileged.home}/{kind}"
        subprocess.run([*copy, source, f"{kind}:{path}:test/{kind}:1"], check=True)
        os.chmod(path, 0o644)
        done = unprivileged.udocker("load", "-i", path)
        assert done.stdout == f"Loaded image: test/{kind}:1\n"
        done = unprivileged.udocker("run", f"test/{kind}:1", "cat", "/etc/greeting")
        assert done.stdout == "hello\n"


@pytest.mark.parametrize("which", [[], ["--all"]])
def test_a_directory_of_skopeo_is_loaded_and_nothing_wrong_in_it(
    unprivileged, busybox_image, which
):
    needs("skopeo")
    user, directory = unprivileged, f"{unprivileged.home}/plain"
    source = f"oci:{busybox_image.path}:{busybox_image.reference}"
    copy = ["skopeo", "--insecure-policy", "copy", *which, source, f"dir:{directory}"]
    subprocess.run(copy, check=True, capture_output=True)
    user.own(directory)
    user.udocker("load", "-i", directory, "plain:1")
    assert user.udocker("run", "plain:1", "cat", "/etc/greeting").stdout == "hello\n"
    user.udocker("rmi", "-f", "plain:1")
    user.udocker("rm", "-f", *user.udocker("ps", "-aq").stdout.split())
    largest = max(os.scandir(directory), key=lambda entry: entry.stat().st_size)
    with open(largest.path, "r+b") as blob:
        blob.write(b"wrong")
    assert user.udocker("load", "-i", directory, check=False).returncode == 1
    assert user.udocker("images", "-q").stdout == ""


NOISE = random.Random(1).randbytes(3 << 20)
LARGE = Image([BASE, archive(file("large", NOISE)), archive(file("other", NOISE[::-1]))])


@pytest.mark.parametrize("compress", [bytes, lambda data: gzip.compress(data, 1)])
def test_a_load_that_is_killed_at_any_moment_leaves_a_store_that_works(unprivileged, compress):
    path = f"{unprivileged.home}/x.tar"
    with open(path, "wb") as out:
        out.write(compress(packed(docker_files(LARGE))))
    command = [unprivileged.python, "-m", "udocker", "load", "-q", "-i", path]
    for after_ms in random.Random(2).sample(range(60, 400), 8):
        load = unprivileged.popen(command, stdout=subprocess.DEVNULL)
        time.sleep(after_ms / 1000)
        load.send_signal(signal.SIGKILL)
        load.wait(20)
    unprivileged.udocker("load", "-i", path)
    tree = unprivileged.udocker("inspect", "-p", "img:1").stdout.strip()
    with open(f"{tree}/large", "rb") as content:
        assert content.read() == NOISE
    assert os.listdir(f"{unprivileged.udocker_dir}/partial") == []
    blobs = f"{unprivileged.udocker_dir}/images/blobs/sha256"
    for name in os.listdir(blobs):
        with open(f"{blobs}/{name}", "rb") as blob:
            assert hashlib.sha256(blob.read()).hexdigest() == name


@pytest.mark.parametrize("room_mb", [4, 9])
@pytest.mark.parametrize("compress", [bytes, lambda data: gzip.compress(data, 1)])
def test_a_full_disk_is_said_and_with_more_room_the_same_load_works(
    unprivileged, compress, room_mb
):
    path, small = f"{unprivileged.home}/x.tar", f"{unprivileged.home}/small"
    with open(path, "wb") as out:
        out.write(compress(packed(docker_files(LARGE))))
    os.mkdir(small)
    unprivileged.own(small)
    load = f"{unprivileged.python} -m udocker load -q -i {path}"
    script = f"""
        mount -t tmpfs -o size=40m t {small}; head -c {40 - room_mb}m /dev/zero > {small}/ballast
        {load}; echo $?; ls {small}/store/partial
        rm {small}/ballast; {load}; ls {small}/store/partial"""
    inside = ["unshare", "-Urm", "sh", "-c", script]
    done = unprivileged.run(inside, env={"UDOCKER_DIR": f"{small}/store"})
    assert done.stdout == "1\nLoaded image: img:1\n"
    assert re.search("No space left on device|too much for|MiB are free", done.stderr)
    assert "UDOCKER_DIR" in done.stderr


def test_loads_at_once_do_not_hurt_each_other(unprivileged):
    path = f"{unprivileged.home}/x.tar"
    with open(path, "wb") as out:
        out.write(packed(docker_files(LARGE)))
    load = [unprivileged.python, "-m", "udocker", "load", "-q"]
    loads = [unprivileged.popen([*load, "-i", path, f"n{n}"], stdout=-1) for n in range(3)]
    assert [each.communicate(timeout=60)[0] for each in loads] == [
        b"Loaded image: n%d:1\n" % n for n in range(3)
    ]
    assert os.listdir(f"{unprivileged.udocker_dir}/partial") == []
