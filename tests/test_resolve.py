import json

import pytest
from images import HERE

from udocker import oci
from udocker.errors import ImageNotFound, InvalidDocument
from udocker.oci import Descriptor, Digest, Platform
from udocker.transfer.resolve import MAX_INDEXES, choose, resolve
from udocker.values import replace


def entry(platform, **annotations):
    parsed = Platform.parse(platform) if platform else None
    digest = Digest.of(repr((platform, annotations)).encode())
    return Descriptor(oci.OCI_MANIFEST, digest, 1, parsed, tuple(annotations.items()))


ATTESTATION = entry("unknown/unknown")


@pytest.mark.parametrize(
    ("offered", "host", "chosen"),
    [
        (["linux/arm64", "linux/amd64"], "linux/amd64", "linux/amd64"),
        (["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"], "linux/arm/v6", "linux/arm/v6"),
        (["linux/amd64", "linux/amd64/v2"], "linux/amd64/v3", "linux/amd64/v2"),
        (["linux/arm64/v8"], "linux/arm64", "linux/arm64/v8"),
        (["linux/arm64", None], "linux/amd64", None),
    ],
)
def test_the_closest_platform_is_chosen(offered, host, chosen):
    entries = [ATTESTATION, *map(entry, offered)]
    assert choose(entries, Platform.parse(host), "x") == entry(chosen)


def test_the_first_of_equal_entries_is_chosen():
    first, second = entry("linux/amd64", a="1"), entry("linux/amd64", a="2")
    assert choose([first, second], Platform.parse("amd64"), "x") == first


def test_an_attestation_is_never_chosen():
    signed = entry("linux/amd64", **{"vnd.docker.reference.type": "attestation-manifest"})
    with pytest.raises(ImageNotFound):
        choose([signed, ATTESTATION], Platform.parse("amd64"), "x")


def test_what_is_offered_is_said_when_nothing_fits():
    with pytest.raises(ImageNotFound, match="linux/arm64/v8, windows/amd64"):
        choose([entry("windows/amd64"), entry("arm64")], Platform.parse("amd64"), "x")


def test_a_message_does_not_list_thousands_of_platforms():
    entries = [entry(f"linux/x{number:05}") for number in range(3000)]
    with pytest.raises(ImageNotFound, match="linux/x00029 and 2970 more") as caught:
        choose(entries, Platform.parse("amd64"), "x")
    assert "x00030" not in caught.value.message


# Indexes in indexes


class Documents:
    """A source of documents in memory."""

    name = "x"

    def __init__(self):
        self.held = {}
        self.blobs = {}
        self.top = None
        self.asked = 0

    def manifest(self, platform=None, **changes):
        config = {"mediaType": oci.OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2}
        members = {"schemaVersion": 2, "config": config, "layers": [], **changes}
        return replace(self._add(oci.OCI_MANIFEST, members), platform=platform)

    def image(self, architecture):
        """Add an image whose config alone says what it is for."""
        rootfs = {"type": "layers", "diff_ids": []}
        members = {"architecture": architecture, "os": "linux", "rootfs": rootfs}
        data = json.dumps(members).encode()
        config = Descriptor(oci.OCI_CONFIG, Digest.of(data), len(data))
        self.blobs[config.digest] = data
        return self.manifest(config=config.to_json())

    def index(self, *entries):
        listed = [entry.to_json() for entry in entries]
        return self._add(oci.OCI_INDEX, {"schemaVersion": 2, "manifests": listed})

    def _add(self, kind, members):
        data = json.dumps(members).encode()
        self.top = Descriptor(kind, Digest.of(data), len(data))
        self.held[self.top.digest] = self.top, data
        return self.top

    def document(self, digest=None):
        self.asked += 1
        return self.held[digest or self.top.digest]

    def blob(self, descriptor, offset=0):
        yield self.blobs[descriptor.digest][offset:]


AMD64, ARM64 = Platform.parse("amd64"), Platform.parse("arm64")


def test_an_index_in_an_index_is_searched_and_the_next_one_where_it_has_nothing():
    source = Documents()
    wanted = source.manifest(AMD64)
    source.index(source.index(source.manifest(ARM64, a=1)), source.index(wanted))
    top = source.top
    found = resolve(source, AMD64)
    assert (found.descriptor, found.source) == (wanted, top.digest)


def test_indexes_without_end_are_refused():
    source = Documents()
    entry = source.manifest(AMD64)
    for _ in range(9):
        entry = source.index(entry)
    with pytest.raises(InvalidDocument, match="without end"):
        resolve(source, AMD64)
    source.index(*(source.index(source.manifest(ARM64, a=n)) for n in range(2 * MAX_INDEXES)))
    source.asked = 0
    with pytest.raises(InvalidDocument, match="without end"):
        resolve(source, AMD64)
    assert source.asked <= MAX_INDEXES + 2


def test_a_manifest_that_its_entry_holds_is_not_asked_for():
    source = Documents()
    entry = source.manifest(AMD64)
    data = source.held.pop(entry.digest)[1]
    source.index(replace(entry, data=data))
    assert resolve(source, AMD64).descriptor == entry


def test_a_manifest_of_another_size_than_announced_is_refused():
    source = Documents()
    entry = source.manifest(AMD64)
    source.index(replace(entry, size_bytes=entry.size_bytes + 1))
    with pytest.raises(InvalidDocument, match="another size"):
        resolve(source, AMD64)


def test_what_is_no_image_is_passed_over_whatever_its_type():
    source = Documents()
    artifact = replace(source.manifest(AMD64, a=1), artifact_type="application/vnd.example")
    unknown = replace(source.manifest(AMD64, a=2), media_type="application/vnd.new+json")
    wanted = source.manifest(AMD64)
    source.index(artifact, unknown, wanted)
    assert resolve(source, AMD64).descriptor == wanted
    source.index(artifact, unknown)
    with pytest.raises(ImageNotFound, match=r"holds application/vnd.example, .*vnd.new\+json"):
        resolve(source, AMD64)


def test_a_digest_of_a_known_kind_is_preferred_and_an_unknown_one_explained():
    source = Documents()
    wanted = source.manifest(AMD64)
    strange = replace(wanted, digest=Digest.parse_any("blake3:" + "a" * 64))
    source.index(strange, wanted)
    assert resolve(source, AMD64).descriptor == wanted
    source.index(strange)
    with pytest.raises(InvalidDocument, match="blake3 digest, which is unknown"):
        resolve(source, AMD64)


def test_386_runs_on_amd64_where_nothing_else_was_asked_for():
    source = Documents()
    source.index(source.manifest(Platform.parse("386")))
    assert str(resolve(source, AMD64).descriptor.platform) == "linux/386"
    with pytest.raises(ImageNotFound, match="no image for linux/amd64; it offers linux/386"):
        resolve(source, AMD64, strict=True)


def test_the_config_says_what_an_image_is_for_where_the_index_does_not():
    source = Documents()
    other, wanted, again = map(source.image, ("s390x", HERE, HERE))
    top = source.index(other, wanted, again)
    assert resolve(source, Platform.parse(HERE)).descriptor == wanted
    assert resolve(source, Platform.parse("s390x"), strict=True).descriptor == other
    source.index(top)
    assert resolve(source, Platform.parse(HERE)).descriptor == wanted
    source.index(other, source.image("ppc64le"))
    assert resolve(source, Platform.parse(HERE)).descriptor == other


@pytest.mark.parametrize("data", [b"", b"{}", b"[", b"x" * 2000])
def test_an_image_whose_config_cannot_be_read_gives_way_to_another(data):
    source = Documents()
    broken, wanted = source.image("riscv64"), source.image(HERE)
    config = source.held[broken.digest][1]
    source.blobs[Digest.parse(json.loads(config)["config"]["digest"])] = data
    source.index(broken, wanted)
    assert resolve(source, Platform.parse(HERE)).descriptor == wanted


@pytest.mark.parametrize("kind", oci.CONFIG_TYPES)
def test_the_type_of_an_images_config_is_no_artifact_type(kind):
    source = Documents()
    wanted = replace(source.manifest(AMD64), artifact_type=kind)
    source.index(wanted)
    assert resolve(source, AMD64).descriptor.digest == wanted.digest
