"""What the builder of images writes, other programs read as images."""

from __future__ import annotations

import gzip
import json
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registries import needs

from udocker.images import builder
from udocker.images.builder import LayoutBuilder
from udocker.images.compression import decompress
from udocker.oci import MAX_DOCUMENT_BYTES, REF_NAME, ImageConfig, Index, Manifest, Platform

PLATFORM = Platform("linux", "arm64", "v8")
LOWER = (
    builder.directory("dir"),
    builder.file("dir/below", b"lower", 0o640),
    builder.file("hidden", b"lower"),
    builder.directory("emptied"),
    builder.file("emptied/old", b"lower"),
    builder.symlink("link", "dir/below"),
)
UPPER = (
    builder.file("run", b"#!/bin/sh\n", 0o755),
    builder.whiteout("hidden"),
    builder.opaque("emptied"),
    builder.file("emptied/new", b"upper"),
)


def write(directory, compression="gzip", name="one"):
    images = LayoutBuilder(str(directory))
    layers = [images.layer(LOWER), images.layer(UPPER, compression)]
    images.image(name, layers, platform=PLATFORM, env=["A=b"], cmd=["sh"], working_dir="/dir")
    return images


def read(directory, *names):
    with open(os.path.join(str(directory), *names), "rb") as file:
        return file.read(MAX_DOCUMENT_BYTES)


def blob(directory, descriptor):
    data = read(directory, "blobs", "sha256", descriptor.digest.hex)
    assert len(data) == descriptor.size_bytes
    return data


def content(directory):
    return {
        os.path.relpath(os.path.join(folder, name), directory): read(folder, name)
        for folder, _, names in os.walk(directory)
        for name in names
    }


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_other_programs_copy_an_image_whole(tmp_path, compression):
    needs("skopeo")
    write(tmp_path / "layout", compression)
    source, copy = f"oci:{tmp_path}/layout:one", f"dir:{tmp_path}/copy"
    words = ["skopeo", "--tmpdir", str(tmp_path), "--insecure-policy", "copy", "--quiet"]
    subprocess.run([*words, source, copy], check=True)
    assert {"manifest.json", "version"} < set(os.listdir(tmp_path / "copy"))


def test_other_programs_unpack_an_image_with_its_whiteouts(tmp_path):
    needs("umoci")
    write(tmp_path / "layout")
    words = ["umoci", "unpack", "--rootless", "--image", f"{tmp_path}/layout:one"]
    subprocess.run([*words, str(tmp_path / "bundle")], check=True, capture_output=True)
    root = tmp_path / "bundle" / "rootfs"
    assert sorted(os.listdir(root)) == ["dir", "emptied", "link", "run"]
    assert os.listdir(root / "emptied") == ["new"]
    assert read(root, "link") == b"lower"
    assert os.stat(root / "dir" / "below").st_mode & 0o777 == 0o640
    assert os.stat(root / "run").st_mode & 0o777 == 0o755


def test_the_documents_say_what_was_asked_for(tmp_path):
    write(tmp_path)
    (entry,) = Index.from_bytes(read(tmp_path, "index.json")).manifests
    assert (entry.annotation(REF_NAME), entry.platform) == ("one", PLATFORM)
    manifest = Manifest.from_bytes(blob(tmp_path, entry), entry.media_type)
    config = ImageConfig.from_bytes(blob(tmp_path, manifest.config))
    assert (config.env, config.cmd, config.working_dir) == (("A=b",), ("sh",), "/dir")
    assert config.platform == PLATFORM
    archives = [b"".join(decompress.chunks([blob(tmp_path, d)])) for d in manifest.layers]
    assert [type(diff_id).of(a) for diff_id, a in zip(config.diff_ids, archives)] == [
        *config.diff_ids
    ]


def test_equal_input_gives_equal_bytes(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_a_name_means_the_image_added_last_under_it(tmp_path):
    images = write(tmp_path)
    other = images.image("two", [], platform=PLATFORM)
    newer = images.image("one", [], platform=PLATFORM, env=["A=c"])
    entries = Index.from_bytes(read(tmp_path, "index.json")).manifests
    assert [(entry.annotation(REF_NAME), entry.digest) for entry in entries] == [
        ("two", other.digest),
        ("one", newer.digest),
    ]


def test_a_layout_without_images_is_one_too(tmp_path):
    LayoutBuilder(str(tmp_path))
    assert json.loads(read(tmp_path, "oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    assert Index.from_bytes(read(tmp_path, "index.json")).manifests == ()


BLOCK = 128 << 10


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_zstd_of_any_size_is_read_back(size):
    zstandard = pytest.importorskip("zstandard")
    data = bytes(range(251)) * (size // 251 + 1)
    frame = builder._zstd(data[:size])
    assert zstandard.ZstdDecompressor().stream_reader(frame).read() == data[:size]
    assert b"".join(decompress.chunks([frame])) == data[:size]


@given(st.binary(max_size=2000))
def test_gzip_is_read_back(data):
    assert gzip.decompress(builder._gzip(data)) == data
