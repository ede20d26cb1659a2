"""Documents of image-spec 1.1 and of docker: what is read, what is refused, and in which words."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import HERE

from udocker import oci
from udocker.errors import InvalidDocument
from udocker.oci import Descriptor, Digest, Index, Manifest, Platform

HEX = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
DIGEST = f"sha256:{HEX}"
PLAIN = {"mediaType": oci.OCI_MANIFEST, "digest": DIGEST, "size": 7682}
CONFIG = {"mediaType": oci.OCI_CONFIG, "digest": DIGEST, "size": 7023}
EMPTY = {
    "mediaType": oci.OCI_EMPTY,
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "size": 2,
    "data": "e30=",
}
LAYER = {"mediaType": f"{oci.OCI_LAYER}+gzip", "digest": DIGEST, "size": 32654}


def manifest(**changes):
    members = {"schemaVersion": 2, "config": CONFIG, "layers": [LAYER], **changes}
    return json.dumps(members).encode()


def embedded(content, **changes):
    text = base64.b64encode(content).decode()
    wanted = {"digest": str(Digest.of(content)), "size": len(content), "data": text}
    return {"mediaType": "text/plain", **wanted, **changes}


@pytest.mark.parametrize(
    "value",
    [
        PLAIN,
        {**PLAIN, "size": 0},
        {**PLAIN, "urls": ["https://example.com/foo"]},
        {**PLAIN, "annotations": {"org.example.a": "b", "": ""}},
        {**PLAIN, "artifactType": "application/vnd.example+type"},
        {**PLAIN, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        {**PLAIN, "digest": "sha512:" + "a" * 128},
        {**PLAIN, "digest": "blake3:" + "a" * 64},
        {**PLAIN, "digest": "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564"},
        {**PLAIN, "digest": "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8"},
        EMPTY,
        embedded(b""),
        embedded(b"\0binary\xff"),
    ],
)
def test_a_descriptor_is_written_as_it_was_read(value):
    assert Descriptor.from_json(value, any_algorithm=True).to_json() == value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({k: v for k, v in PLAIN.items() if k != "mediaType"}, "mediaType"),
        ({k: v for k, v in PLAIN.items() if k != "digest"}, "digest"),
        ({k: v for k, v in PLAIN.items() if k != "size"}, "size"),
        ({**PLAIN, "size": "7682"}, "size"),
        ({**PLAIN, "size": 7.5}, "size"),
        ({**PLAIN, "size": 1 << 63}, "size"),
        ({**PLAIN, "digest": ":" + HEX}, "digest"),
        ({**PLAIN, "digest": "sha256"}, "digest"),
        ({**PLAIN, "digest": "sha256:"}, "digest"),
        ({**PLAIN, "digest": f"sha256:{HEX.upper()}"}, "digest"),
        ({**PLAIN, "digest": "sha512:" + "a" * 64}, "digest"),
        ({**PLAIN, "digest": "+sha:abc"}, "digest"),
        ({**PLAIN, "digest": "sha++b:abc"}, "digest"),
        ({**PLAIN, "digest": "SHA:abc"}, "digest"),
        ({**PLAIN, "digest": "..:abc"}, "digest"),
        ({**PLAIN, "digest": "x:../../etc/passwd"}, "digest"),
        ({**PLAIN, "digest": "x:" + "a" * 300}, "digest"),
        ({**PLAIN, "urls": "https://example.com"}, "urls is not a list"),
        ({**PLAIN, "urls": [1]}, "url is not a string"),
        ({**PLAIN, "annotations": {"a": 1}}, "annotations"),
        ({**PLAIN, "artifactType": 1}, "artifactType"),
        ({**PLAIN, "platform": ["linux"]}, "platform is not an object"),
        (embedded(b"abc", size=2), "data has 3 bytes, not 2"),
        (embedded(b"abc", digest=DIGEST), "data is not what"),
        (embedded(b"abc", data="YW%Jj"), "not base64"),
        (embedded(b"abc", data="\xe9"), "not base64"),
        (embedded(b"abc", data=3), "data is not a string"),
        ([], "not an object"),
    ],
)
def test_a_broken_descriptor_is_refused_with_the_reason(value, said):
    with pytest.raises(InvalidDocument, match=said):
        Descriptor.from_json(value, any_algorithm=True)


def test_an_unknown_digest_can_stand_in_an_index_but_names_no_layer():
    strange = {**LAYER, "digest": "blake3:" + "a" * 64}
    data = json.dumps({"schemaVersion": 2, "manifests": [{**PLAIN, **strange}]}).encode()
    assert not Index.from_bytes(data).manifests[0].digest.is_known
    with pytest.raises(InvalidDocument, match="not one of the algorithms"):
        Manifest.from_bytes(manifest(layers=[strange]), oci.OCI_MANIFEST)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schemaVersion": 1}, "schemaVersion"),
        ({"schemaVersion": "2"}, "schemaVersion"),
        ({"config": None}, "not an object"),
        ({"config": {**CONFIG, "size": "5000"}}, "size"),
        ({"layers": [{**LAYER, "size": "5000"}]}, "size"),
        ({"mediaType": "invalid"}, "came as"),
        ({"artifactType": []}, "artifactType"),
    ],
)
def test_a_manifest_that_breaks_the_schema_is_refused(changes, said):
    broken = dict(changes)
    if broken.get("artifactType") == []:
        broken["artifactType"] = ["x"]
    with pytest.raises(InvalidDocument, match=said):
        Manifest.from_bytes(manifest(**broken), oci.OCI_MANIFEST)


def test_bytes_that_are_no_utf_8_and_repeated_members_are_refused():
    for data in (b'{"schemaVersion":2,"\xff":1}', manifest()[:-1] + b',"config":{}}'):
        with pytest.raises(InvalidDocument, match="not JSON"):
            Manifest.from_bytes(data, oci.OCI_MANIFEST)


HELM = {**CONFIG, "mediaType": "application/vnd.cncf.helm.config.v1+json"}
CHART = {**LAYER, "mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip"}


@pytest.mark.parametrize(
    ("changes", "said", "hint"),
    [
        ({"config": HELM, "layers": [CHART]}, "a Helm chart", "helm pull"),
        (
            {
                "layers": [
                    {**LAYER, "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json"}
                ]
            },
            "a cosign signature",
            "udocker verify",
        ),
        (
            {
                "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "config": EMPTY,
                "layers": [{**LAYER, "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}],
            },
            "a sigstore signature",
            "udocker verify",
        ),
        (
            {"config": {**CONFIG, "mediaType": "application/vnd.unknown.config.v1+json"}},
            "files put there with ORAS",
            "oras pull",
        ),
        (
            {"layers": [{**LAYER, "mediaType": "application/vnd.sylabs.sif.layer.v1.sif"}]},
            "a SIF image",
            "apptainer pull",
        ),
        ({"layers": [{**LAYER, "mediaType": "application/vnd.in-toto+json"}]}, "attestation", ""),
        (
            {"layers": [{**LAYER, "mediaType": "application/vnd.ollama.image.model"}]},
            "a language model of Ollama",
            "ollama",
        ),
        (
            {"artifactType": "application/vnd.example+type", "config": EMPTY, "layers": [EMPTY]},
            r"an artifact \(artifact type 'application/vnd.example\+type'\)",
            "oras",
        ),
        (
            {"layers": [{**LAYER, "mediaType": f"{oci.OCI_LAYER}+gzip+encrypted"}]},
            "its layers are encrypted",
            "--decryption-key",
        ),
        ({"config": EMPTY, "layers": [EMPTY]}, "an artifact .*vnd.oci.empty", "oras"),
    ],
)
def test_an_artifact_is_called_by_its_name_with_the_way_to_have_it(changes, said, hint):
    with pytest.raises(
        InvalidDocument, match=f"not a container image but .*{said}|{said}"
    ) as caught:
        Manifest.from_bytes(manifest(**changes), oci.OCI_MANIFEST)
    assert hint in (caught.value.hint or "")
    read = Manifest.of_artifact(manifest(**changes), oci.OCI_MANIFEST)
    assert read.config.size_bytes in (2, 7023)


def test_an_image_may_say_what_kind_of_image_it_is():
    data = manifest(artifactType="application/vnd.example.bootable", annotations={"a": "b"})
    assert Manifest.from_bytes(data, oci.OCI_MANIFEST).artifact_type.endswith("bootable")


def test_a_layer_is_foreign_when_registries_need_not_have_it():
    elsewhere = {**LAYER, "urls": ["https://example.com/x"]}
    foreign = {
        **elsewhere,
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
    assert Descriptor.from_json(foreign).is_foreign
    assert not Descriptor.from_json(elsewhere).is_foreign
    assert not Descriptor.from_json({**foreign, "urls": []}).is_foreign


# Platforms, as containerd's `Only` orders them


@pytest.mark.parametrize(
    ("host", "best_first"),
    [
        ("linux/amd64", "linux/amd64 linux/386"),
        ("linux/amd64/v3", "linux/amd64/v3 linux/amd64/v2 linux/amd64/v1 linux/386"),
        ("linux/arm64", "linux/arm64/v8 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        ("linux/arm64/v8.2", "linux/arm64/v8.2 linux/arm64/v8.1 linux/arm64/v8 linux/arm/v8"),
        (
            "linux/arm64/v9.1",
            "linux/arm64/v9.1 linux/arm64/v9 linux/arm64/v8.6 linux/arm64/v8.5 linux/arm64/v8",
        ),
        ("linux/arm/v7", "linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        ("linux/arm", "linux/arm/v7 linux/arm/v6"),
        ("linux/386", "linux/386"),
        ("linux/ppc64le", "linux/ppc64le"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_platforms_are_preferred_as_containerd_prefers_them(host, best_first):
    ranks = [Platform.parse(host).rank(Platform.parse(text)) for text in best_first.split()]
    assert ranks[0] == 0
    assert None not in ranks
    assert sorted(ranks) == ranks
    assert len(set(ranks)) == len(ranks)


@pytest.mark.parametrize(
    ("host", "image"),
    [
        ("linux/amd64", "linux/amd64/v2"),
        ("linux/386", "linux/amd64"),
        ("linux/arm/v6", "linux/arm/v7"),
        ("linux/arm/v7", "linux/arm64"),
        ("linux/arm64", "linux/arm64/v8.1"),
        ("linux/arm64", "linux/arm64/v9"),
        ("linux/arm64", "linux/arm64/v9.0"),
        ("linux/amd64", "linux/arm64"),
        ("linux/amd64", "windows/amd64"),
        ("linux/riscv64", "linux/amd64"),
    ],
)
def test_what_a_processor_has_not_does_not_run(host, image):
    assert Platform.parse(host).rank(Platform.parse(image)) is None


def test_another_architecture_is_no_answer_to_one_that_was_asked_for():
    assert not Platform.parse("amd64").runs(Platform.parse("386"), strict=True)
    assert not Platform.parse("arm64").runs(Platform.parse("linux/arm/v7"), strict=True)
    assert Platform.parse("linux/arm64/v8.2").runs(Platform.parse("arm64"), strict=True)


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("aarch64", "linux/arm64/v8"),
        ("linux/arm64/8", "linux/arm64/v8"),
        ("linux/arm64/v8.0", "linux/arm64/v8"),
        ("linux/arm64/9.0", "linux/arm64/v9"),
        ("linux/arm64/8.1", "linux/arm64/v8.1"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("LINUX/ARM64", "linux/arm64/v8"),
        ("i686", "linux/386"),
        ("macos/arm64", "darwin/arm64/v8"),
        ("Windows", f"windows/{HERE}"),
    ],
)
def test_words_for_one_platform_are_the_same_platform(text, means):
    assert str(Platform.parse(text)) == means


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("linux/amd64,linux/arm64", "one platform"),
        ("linux/\x1b[31m", "such as"),
        ("linux/", "such as"),
        ("arm64/v8", "did you mean linux/arm64/v8?"),
        ("amd64/v3", "did you mean linux/amd64/v3?"),
    ],
)
def test_what_is_no_platform_is_refused_with_the_way_out(text, hint):
    with pytest.raises(InvalidDocument) as caught:
        Platform.parse(text)
    assert hint in caught.value.hint
    assert "\x1b" not in caught.value.message


WORDS = st.sampled_from(
    ["", "amd64", "arm64", "arm", "386", "v7", "v8", "v8.1", "v9.x", "v99", "²"]
)


@given(WORDS, WORDS, WORDS, WORDS)
def test_any_two_platforms_can_be_compared(architecture, variant, other, its_variant):
    host = Platform.of_words("linux", architecture, variant)
    image = Platform.of_words("linux", other, its_variant)
    assert host.rank(host) == 0
    assert host.runs(image, strict=True) <= host.runs(image)


# Whatever comes


TYPES = st.sampled_from((*oci.MANIFEST_TYPES, *oci.CONFIG_TYPES, oci.OCI_LAYER, oci.OCI_EMPTY, "x"))
DIGESTS = st.sampled_from([DIGEST, EMPTY["digest"], "blake3:" + "a" * 64, "sha512:0", "", "a:b"])
descriptors = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": TYPES | st.none() | st.integers(),
        "digest": DIGESTS | st.text(),
        "size": st.integers(-1, 1 << 70) | st.just(2) | st.floats(allow_nan=False) | st.text(),
        "data": st.text() | st.just("e30=") | st.integers(),
        "urls": st.lists(st.text() | st.integers()) | st.text(),
        "annotations": st.dictionaries(st.text(), st.text() | st.none()) | st.text(),
        "platform": st.dictionaries(
            st.sampled_from(["os", "architecture", "variant", "os.version", "os.features"]),
            st.text() | st.lists(st.text()) | st.none(),
        ),
        "artifactType": st.text() | st.integers(),
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": st.integers(1, 3) | st.booleans() | st.text(),
        "mediaType": TYPES,
        "config": descriptors,
        "layers": st.lists(descriptors) | st.none(),
        "manifests": st.lists(descriptors) | descriptors,
        "artifactType": st.text(),
    },
)


@given(documents)
def test_any_document_is_read_or_refused(value):
    data = json.dumps(value).encode()
    readers = (
        Index.from_bytes,
        lambda data: Manifest.from_bytes(data, oci.OCI_MANIFEST),
        lambda data: Manifest.of_artifact(data, oci.DOCKER_MANIFEST),
    )
    for read in readers:
        try:
            read(data)
        except InvalidDocument as error:
            assert len(error.message) < 700


@given(descriptors)
def test_what_was_read_of_a_descriptor_is_read_again_from_what_is_written(value):
    try:
        read = Descriptor.from_json(value, any_algorithm=True)
    except InvalidDocument:
        return
    assert Descriptor.from_json(json.loads(json.dumps(read.to_json())), any_algorithm=True) == read
