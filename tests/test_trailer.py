"""Zeros at the end of a layer that a converter left out: what the config names is whole again."""

import hashlib
import subprocess
import tarfile

from registries import needs
from tarballs import archive, file

from udocker.images.compression import trailer

RECORD = 10240
TAR = archive(file("f", b"text"))
WHOLE = TAR + bytes(-len(TAR) % RECORD)


def completed(data, named):
    """Return what comes of `data` where a config names `named`, and the digest of that."""
    hasher = hashlib.sha256()
    made = b"".join(trailer.completed(iter([data]), hasher, hashlib.sha256(named).hexdigest()))
    assert hasher.digest() == hashlib.sha256(made).digest()
    return made


def test_zeros_that_are_missing_are_added():
    for lost in (0, 512, 8704, len(WHOLE) - len(TAR.rstrip(b"\0")) // 512 * 512 - 512):
        assert completed(WHOLE[: len(WHOLE) - lost], WHOLE) == WHOLE


def test_nothing_else_is_made_good():
    for data in (b"", TAR[:-1], TAR[:700], b"x" + WHOLE, WHOLE + bytes(RECORD)):
        assert completed(data, WHOLE) == data


def test_zstd_chunked_of_skopeo_is_what_its_config_names(unprivileged, busybox_image):
    """skopeo 1.9 leaves zeros out of these layers; what is saved has them again."""
    needs("skopeo")
    user, directory = unprivileged, f"{unprivileged.home}/plain"
    words = ["--insecure-policy", "copy", "--quiet", "--dest-compress-format=zstd:chunked"]
    source = f"oci:{busybox_image.path}:{busybox_image.reference}"
    subprocess.run(["skopeo", *words, "--dest-compress", source, f"dir:{directory}"], check=True)
    user.own(directory)
    user.udocker("load", "-i", directory, "plain:1")
    assert user.udocker("run", "plain:1", "cat", "/etc/greeting").stdout == "hello\n"
    user.udocker("verify", "--deep", "plain:1")
    saved = f"{user.home}/saved.tar"
    user.udocker("save", "-o", saved, "plain:1")
    with tarfile.open(saved) as members:
        layers = [m for m in members if m.isfile() and m.name.endswith(".tar")]
        found = [hashlib.sha256(members.extractfile(m).read()).hexdigest() for m in layers]
    named = user.udocker("inspect", "-f", "{{json .rootfs.diff_ids}}", "plain:1").stdout
    assert found
    assert all(digest in named for digest in found)
