"""The image's cuda-compat: NVIDIA's rule, the note that the library carries, and odd images."""

from __future__ import annotations

import json
import os
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu import drivertree
from udocker.errors import GpuError
from udocker.host.root import Root
from udocker.nvidia.placement import compat

COMPAT = "usr/local/cuda-13.1/compat"
V = "580.159.04"


def note(content, owner=b"NVIDIA Corporation\0"):
    """Return the bytes of an ELF note with that content."""
    padded = owner + b"\0" * (-len(owner) % 4)
    return struct.pack("<III", len(owner), len(content), 1) + padded + content


def said(branches=(535, 550, 570, 575, 580), cuda="13.1", **more):
    """Return what a compatibility library says about itself."""
    words = {"format": 1, "CUDA version": cuda, "driver": list(branches), "device": [1, 2]}
    return json.dumps({**words, **more}).encode()


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory):
    """A function that returns a libcuda.so.1 with the given bytes as its note, if any."""
    directory = tmp_path_factory.mktemp("libcuda")

    def make(section=None):
        plain = drivertree.stub_library("libcuda.so.1")
        if section is None:
            return plain
        (directory / "plain").write_bytes(plain)
        (directory / "note").write_bytes(section)
        words = ["--add-section", f"{compat.NOTE_SECTION}={directory}/note"]
        subprocess.run(
            ["objcopy", *words, str(directory / "plain"), str(directory / "noted")], check=True
        )
        return (directory / "noted").read_bytes()

    return make


@pytest.fixture
def image(tmp_path, libcuda):
    """A function that makes a tree with a cuda-compat of that version and note."""

    def make(version="590.44.01", section=None, directory=COMPAT):
        root = str(tmp_path / "image")
        drivertree.write(root, f"{directory}/libcuda.so.{version}", libcuda(section))
        for name, target in (
            ("libcuda.so.1", f"libcuda.so.{version}"),
            ("libcuda.so", "libcuda.so.1"),
        ):
            if not os.path.lexists(f"{root}/{directory}/{name}"):
                drivertree.link(root, f"{directory}/{name}", target)
        jit = drivertree.stub_library("libnvidia-ptxjitcompiler.so.1")
        drivertree.write(root, f"{directory}/libnvidia-ptxjitcompiler.so.{version}", jit)
        if not os.path.lexists(f"{root}/usr/local/cuda"):
            drivertree.link(root, "usr/local/cuda", "cuda-13.1")
        return Root(root)

    return make


@pytest.mark.parametrize(
    ("version", "section", "host", "use", "reason"),
    [
        ("590.44.01", said(), V, True, "(CUDA 13.1) is used: it runs on the older driver 580"),
        ("590.44.01", said((535, 550)), V, False, "set aside: it does not run on drivers 580"),
        ("580.10.01", said(), V, False, "set aside: it is not newer than the driver 580.159.04"),
        ("580.200.01", said(), V, True, "is used"),
        ("590.44.01", None, V, True, "is used: it is newer than the driver 580.159.04"),
        ("580.200.01", None, V, False, "set aside: it is not newer"),
        ("575.57.08", None, V, False, "set aside: it is not newer"),
    ],
)
def test_the_rule_of_nvidia_decides(image, version, section, host, use, reason):
    made = compat.decide(image(version, section and note(section)), host)
    assert made.use == use
    assert reason in made.reason
    assert made.version == version
    assert made.cuda == (
        ((13, 1) if section or version.startswith("590") else (13, 0)) if use else None
    )
    assert [(a.soname, a.path) for a in made.libraries] == [
        ("libcuda.so.1", f"/{COMPAT}/libcuda.so.{version}"),
        ("libnvidia-ptxjitcompiler.so.1", f"/{COMPAT}/libnvidia-ptxjitcompiler.so.{version}"),
    ]
    assert made.directories == (f"/{COMPAT}",)


def test_who_says_so_gets_it_or_not(image):
    older, newer = image("575.57.08"), V
    assert compat.decide(older, newer, "force").use
    assert "it was wanted" in compat.decide(older, newer, "force").reason
    off = compat.decide(image("590.44.01"), newer, "off")
    assert not off.use
    assert "it was not wanted" in off.reason
    with pytest.raises(GpuError, match="'perhaps' is not a way to treat cuda-compat"):
        compat.decide(older, newer, "perhaps")


def test_of_several_versions_none_is_used(image):
    image("575.57.08")
    made = compat.decide(image("590.44.01"), V)
    assert not made.use
    assert made.reason == "the image has 2 versions of cuda-compat: none is used"


def test_the_toolkit_that_programs_get_counts_alone(image):
    image("595.1.1", directory="usr/local/cuda-13.2/compat")
    made = compat.decide(image("590.44.01"), V)
    assert (made.use, made.version) == (True, "590.44.01")
    assert made.directories == (f"/{COMPAT}", "/usr/local/cuda-13.2/compat")


def test_the_images_of_nvidia_hide_theirs_in_a_directory_below(image):
    made = compat.decide(image(directory=f"{COMPAT}/lib.real"), V)
    assert made.use
    assert made.directories == (f"/{COMPAT}/lib.real",)


def test_an_image_without_any_has_nothing_to_tell(tmp_path):
    assert compat.decide(Root(str(tmp_path)), V) == compat.Decision(False)
    assert compat.decide(Root(str(tmp_path)), V, "force") == compat.Decision(False)


def test_no_link_leads_out_of_the_image(image, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "libcuda.so.590.44.01").write_bytes(drivertree.stub_library("libcuda.so.1"))
    os.makedirs(tmp_path / "tree/usr/local/cuda")
    os.symlink(outside, tmp_path / "tree/usr/local/cuda/compat")
    assert compat.decide(Root(str(tmp_path / "tree")), V) == compat.Decision(False)


@pytest.mark.parametrize(
    "section",
    [
        b"",
        b"\0" * 12,
        note(said(), owner=b"Somebody Else\0"),
        note(said())[:-40],
        struct.pack("<III", 2**32 - 1, 2**32 - 1, 1) + b"NVIDIA Corporation\0",
        note(b"{"),
        note(b"[1, 2]"),
        note(b"[" * 5000),
        note(b'{"CUDA version": 13, "driver": [580]}'),
        note(b'{"CUDA version": "13.1", "driver": 580}'),
        note(b'{"CUDA version": "13.1", "driver": ["580", true]}'),
        note(said(range(2000))),
    ],
)
def test_a_note_that_is_none_counts_as_none(image, section):
    assert compat.parse_note(section) is None
    assert "it is newer than the driver" in compat.decide(image("590.44.01", section), V).reason


def test_a_note_of_megabytes_is_not_read(image):
    made = compat.decide(image("590.44.01", note(said() + b" " * (1 << 17))), V)
    assert "it is newer than the driver" in made.reason


def test_a_good_note_is_read():
    assert compat.parse_note(note(said())) == compat.Note("13.1", (535, 550, 570, 575, 580))
    assert compat.parse_note(note(said() + b"\0\0")) == compat.parse_note(note(said()))


@settings(deadline=None)
@given(st.binary(max_size=80), st.integers(0, 120), st.integers(0, 255))
def test_no_note_breaks_its_reader(data, place, byte):
    broken = bytearray(note(said()))
    broken[place] = byte
    for section in (data, bytes(broken), bytes(broken[:place])):
        found = compat.parse_note(section)
        assert found is None or isinstance(found, compat.Note)
