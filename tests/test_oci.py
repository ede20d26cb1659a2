import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udocker import oci
from udocker.errors import InvalidDocument
from udocker.oci import Descriptor, Digest, ImageConfig, Index, Manifest, Platform

HEX = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
DIGEST = f"sha256:{HEX}"
LAYER = {"mediaType": oci.OCI_LAYER + "+gzip", "digest": DIGEST, "size": 3}
CONFIG = {"mediaType": oci.OCI_CONFIG, "digest": DIGEST, "size": 7}


def manifest(**changes):
    members = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER], **changes}
    return json.dumps(members).encode()


def config(**changes):
    members = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
        **changes,
    }
    return json.dumps(members).encode()


def oci_manifest(data):
    return Manifest.from_bytes(data, oci.OCI_MANIFEST)


def test_a_digest_reads_back_what_it_writes():
    assert str(Digest.parse(DIGEST)) == DIGEST == str(Digest.of(b""))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        DIGEST.upper(),
        DIGEST[:-1],
        f"md5:{HEX[:32]}",
        f"sha256:{HEX[:-1]}g",
        "sha256:../" + HEX[:-3],
    ],
)
def test_other_forms_of_digests_are_refused(text):
    with pytest.raises(InvalidDocument):
        Digest.parse(text)


@pytest.mark.parametrize(
    ("host", "image", "runs"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/x86_64", True),
        ("linux/amd64", "linux/amd64/v2", False),
        ("linux/amd64/v3", "linux/amd64/v2", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/aarch64", True),
        ("linux/arm/v7", "linux/arm/v6", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/amd64", "linux/arm64", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/ppc64le", "linux/ppc64le", True),
    ],
)
def test_a_platform_runs_its_own_and_older_variants(host, image, runs):
    assert Platform.parse(host).runs(Platform.parse(image)) is runs


def test_an_image_that_names_no_processor_runs_unless_one_is_wanted():
    here = Platform.parse("linux")
    assert here.runs(Platform("linux", ""))
    assert not here.runs(Platform("linux", ""), strict=True)
    assert not here.runs(Platform("windows", ""))


@pytest.mark.parametrize("text", ["", "linux/", "/amd64", "a/b/c/d"])
def test_a_platform_has_os_and_architecture(text):
    with pytest.raises(InvalidDocument):
        Platform.parse(text)


def test_a_manifest_has_config_and_layers():
    read = Manifest.from_bytes(manifest(unknown={"x": 1}), oci.OCI_MANIFEST)
    assert read.layers == (Descriptor.from_json(LAYER),)
    assert read.config.to_json() == CONFIG


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "not JSON"),
        (b"[]", "not an object"),
        (manifest(layers={}), "layers is not a list"),
        (manifest(layers=[{**LAYER, "size": -1}]), "size"),
        (manifest(layers=[{**LAYER, "size": True}]), "size"),
        (manifest(layers=[{**LAYER, "mediaType": "text/plain"}]), "not a file system layer"),
        (manifest(config={**CONFIG, "mediaType": oci.OCI_EMPTY}), "artifact"),
        (manifest(mediaType=oci.DOCKER_MANIFEST), "came as"),
        (manifest()[:-1] + b',"layers":[]}', "twice"),
    ],
)
def test_a_broken_manifest_is_refused_with_the_reason(data, said):
    with pytest.raises(InvalidDocument, match=said):
        Manifest.from_bytes(data, oci.OCI_MANIFEST)


def test_what_could_be_an_index_and_a_manifest_is_neither():
    entry = {**LAYER, "mediaType": oci.OCI_MANIFEST}
    both = manifest(manifests=[entry])
    for read in (oci_manifest, Index.from_bytes):
        with pytest.raises(InvalidDocument, match="could make it something else"):
            read(both)
    assert oci_manifest(manifest(manifests=[])).layers
    assert Index.from_bytes(json.dumps({"manifests": [entry], "layers": None}).encode()).manifests


@pytest.mark.parametrize("kind", oci.UNTYPED_CONFIGS)
def test_a_config_without_a_type_of_its_own_is_read_in_dockers_manifests_only(kind):
    data = manifest(config={**CONFIG, "mediaType": kind})
    assert Manifest.from_bytes(data, oci.DOCKER_MANIFEST).config.media_type == kind
    with pytest.raises(InvalidDocument, match="artifact"):
        oci_manifest(data)


def test_null_is_an_empty_list_of_layers():
    assert oci_manifest(manifest(layers=None)).layers == ()
    read = ImageConfig.from_bytes(config(rootfs={"type": "layers", "diff_ids": None}))
    assert read.diff_ids == ()


@pytest.mark.parametrize("name", ["\n", "\x1b[2J", "\x9b2J", "\ud800", "a" * 1000])
def test_what_could_forge_messages_is_no_platform(name):
    with pytest.raises(InvalidDocument, match="platform"):
        ImageConfig.from_bytes(config(architecture=name))


def test_a_message_quotes_a_part_of_what_is_wrong_only():
    for changes in (
        {"config": {**CONFIG, "mediaType": "x\n" * 9999}},
        {"layers": [{**LAYER, "mediaType": "x\n" * 9999}]},
        {"mediaType": "x\n" * 9999},
    ):
        with pytest.raises(InvalidDocument) as caught:
            oci_manifest(manifest(**changes))
        assert len(caught.value.message) < 400
        assert "\n" not in caught.value.message


def test_a_config_says_what_to_run():
    process = {"Env": ["A=b"], "Entrypoint": ["/e"], "Cmd": ["c"], "User": "u", "WorkingDir": "/w"}
    read = ImageConfig.from_bytes(config(config=process))
    assert (read.env, read.entrypoint, read.cmd) == (("A=b",), ("/e",), ("c",))
    assert (read.user, read.working_dir, str(read.platform)) == ("u", "/w", "linux/amd64")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (config(rootfs={"type": "tar", "diff_ids": []}), "rootfs type"),
        (config(config={"Cmd": "sh"}), "Cmd is not a list"),
        (config(config={"Env": ["A=\0"]}), "NUL"),
        (config(config={"Entrypoint": [1]}), "not a string"),
    ],
)
def test_a_broken_config_is_refused_with_the_reason(data, said):
    with pytest.raises(InvalidDocument, match=said):
        ImageConfig.from_bytes(data)


def test_the_chain_id_names_the_layers_in_their_order():
    # Source: image-spec config.md, "Layer ChainID"
    one, two = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    chain = ImageConfig.from_bytes(
        config(rootfs={"type": "layers", "diff_ids": [one, two]})
    ).chain_id
    assert chain == Digest.of(f"{one} {two}".encode())
    assert ImageConfig.from_bytes(
        config(rootfs={"type": "layers", "diff_ids": [one]})
    ).chain_id == Digest.parse(one)


KEYS = ("manifests", "mediaType", "digest", "size", "config", "layers", "platform", "rootfs")
documents = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
)


@given(documents, st.sampled_from([Index.from_bytes, ImageConfig.from_bytes, oci_manifest]))
def test_any_json_is_a_document_or_is_refused(value, read):
    try:
        read(json.dumps(value).encode())
    except InvalidDocument:
        return
    assert isinstance(value, dict)
