import pytest

from udocker import oci
from udocker.errors import ImageNotFound
from udocker.oci import Descriptor, Digest, Platform
from udocker.transfer.resolve import choose


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
