"""Where libraries go in an image, the library cache that finds them, and what is hidden."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ldcache import listing

from gpu import drivertree, elffile
from gpu.drivervariants import SMALLER, add_twins
from udocker.errors import GpuError
from udocker.host import ldcache
from udocker.host.ldcache import Entry, LdCache
from udocker.host.loader import Loader
from udocker.host.probe import Host
from udocker.host.root import Root, Stack
from udocker.nvidia import driver, placement
from udocker.nvidia.driver.installation import Driver, DriverLibrary
from udocker.nvidia.placement import choosing, compat, policy

V = drivertree.VERSION
M = drivertree.MACHINE
FLAGS = ldcache.FLAGS[M]
WHERE = f"usr/lib/{M}-linux-gnu"
LIB, LAST = "/run/udocker/gpu/lib", "/run/udocker/gpu/fallback"
COMPUTE = ("utility", "compute")
COMPAT = "usr/local/cuda-13.1/compat"


@pytest.fixture
def place(machine, image, tmp_path):
    """A function that places the driver of a machine, made before, in an image."""

    def make(tree=None, capabilities=COMPUTE, **words):
        root = str(tmp_path / "machine")
        host = Host(root) if os.path.exists(root) else machine()
        found = driver.load(host, str(tmp_path / "kept"))
        return placement.place(
            found,
            capabilities,
            tree or image(),
            M,
            str(tmp_path / "kept"),
            host_root=host.root,
            **words,
        )

    return make


def merged(made):
    with open(made.cache_file, "rb") as file:
        return ldcache.parse(file.read())


def stub(soname):
    return drivertree.stub_library(soname)


def test_two_tiers_go_before_and_behind_the_images_own(place, image):
    own = LdCache((Entry("libz.so.1", "/usr/lib/libz.so.1", FLAGS),))
    made = place(image(files={"etc/ld.so.cache": ldcache.serialize(own)}))
    known = merged(made)
    assert known.paths("libcuda.so.1", FLAGS) == (f"{LIB}/libcuda.so.1",)
    assert known.paths("libcuda.so", FLAGS) == (f"{LIB}/libcuda.so.1",)
    assert known.paths("libOpenCL.so.1", FLAGS) == (f"{LAST}/libOpenCL.so.1",)
    assert known.paths("libz.so.1", FLAGS) == ("/usr/lib/libz.so.1",)
    assert made.edits.library_dirs == (LIB,)
    assert made.edits.fallback_library_dirs == (LAST,)
    assert any("libcuda.so.1" in line for line in listing(made.cache_file))


def test_a_name_that_the_image_has_gets_no_second_file(place, image):
    own = LdCache((Entry("libOpenCL.so.1", "/opt/ocl/libOpenCL.so.1", FLAGS),))
    files = {
        "etc/ld.so.cache": ldcache.serialize(own),
        "opt/ocl/libOpenCL.so.1": stub("libOpenCL.so.1"),
    }
    made = place(image(files=files))
    assert merged(made).paths("libOpenCL.so.1", FLAGS) == ("/opt/ocl/libOpenCL.so.1",)
    assert made.edits.fallback_library_dirs == ()


def test_a_cache_of_before_2_32_is_read_and_written_anew(place, image):
    old = b"ld.so-1.7.0\0" + (1).to_bytes(4, "little") + (3).to_bytes(4, "little")
    old += (0).to_bytes(4, "little") + (10).to_bytes(4, "little") + b"\0" * 4
    new = ldcache.serialize(LdCache((Entry("libz.so.1", "/usr/lib/libz.so.1", FLAGS),)))
    made = place(image(files={"etc/ld.so.cache": old + new}))
    assert merged(made).paths("libz.so.1", FLAGS) == ("/usr/lib/libz.so.1",)


def test_an_image_without_a_cache_gets_one_of_its_configured_directories(place, image):
    own = {
        "etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
        "etc/ld.so.conf.d/opt.conf": f"/opt/lib\n/{WHERE}\n/../../../../../../{WHERE}\n",
        "opt/lib/libown.so.1": stub("libown.so.1"),
        "opt/lib/libbad.so.1": "no library",
        "opt/lib/README": "text",
        f"{WHERE}/libdefault.so.1": stub("libdefault.so.1"),
    }
    names = {entry.name: entry.path for entry in merged(place(image(files=own))).entries}
    assert names["libown.so.1"] == "/opt/lib/libown.so.1"
    assert names["libcuda.so.1"] == f"{LIB}/libcuda.so.1"
    assert not {"libbad.so.1", "README", "libdefault.so.1"} & names.keys()


def test_entries_for_better_processors_do_not_win_over_the_driver(place, image):
    baked = Entry("libcuda.so.1", "/usr/lib/v3/libcuda.so.1", FLAGS, hwcap=1 << 62)
    own = ldcache.serialize(LdCache((baked,), ("x86-64-v3",)))
    made = merged(place(image(files={"etc/ld.so.cache": own})))
    assert made.paths("libcuda.so.1", FLAGS) == (f"{LIB}/libcuda.so.1",)
    assert made.hwcaps == ("x86-64-v3",)


def compat_image(image, files=(), newest="GLIBC_2.36"):
    own = {
        f"{COMPAT}/libcuda.so.590.44.01": stub("libcuda.so.1"),
        f"{COMPAT}/libnvidia-nvvm.so.590.44.01": stub("libnvidia-nvvm.so.4"),
    }
    tree = image(newest, files={**own, **dict(files)})
    for name, target in (("libcuda.so.1", "libcuda.so.590.44.01"), ("libcuda.so", "libcuda.so.1")):
        drivertree.link(tree.path, f"{COMPAT}/{name}", target)
    drivertree.link(tree.path, "usr/local/cuda", "cuda-13.1")
    return tree


@pytest.mark.parametrize("store", ["nix/store", "gnu/store"])
def test_an_image_whose_loader_asks_no_cache_is_led_by_its_search_path(place, image, store):
    """The glibc of Nix and Guix knows its own directory, and RPATH of programs the others."""
    tree = image("GLIBC_2.38", place=f"{store}/x1-glibc-2.40-66/lib")
    image("GLIBC_2.31", place=f"{store}/z2-glibc-2.31/lib")
    for other in ("a-glibc-locales-2.40", "b-glibc-iconv-2.40", "c-glibc-"):
        image("GLIBC_2.17", place=f"{store}/{other}/lib")
    loader = Loader(tree, M)
    assert loader.find("libc.so.6").path == f"/{store}/z2-glibc-2.31/lib/libc.so.6"
    made = place(tree, library_path=":/opt/app")
    assert dict(made.edits.env) == {"LD_LIBRARY_PATH": f"{LIB}:/opt/app"}
    assert dict(place(tree).edits.env) == {"LD_LIBRARY_PATH": LIB}
    assert made.notes == ()


def test_compat_libraries_that_are_taken_come_first_of_all(place, image):
    tree = compat_image(image)
    made = place(tree, library_path="/usr/local/cuda/compat:/opt")
    known = merged(made)
    for name in ("libcuda.so.1", "libcuda.so"):
        assert known.paths(name, FLAGS)[0] == f"/{COMPAT}/libcuda.so.590.44.01"
    assert known.paths("libnvidia-ml.so.1", FLAGS) == (f"{LIB}/libnvidia-ml.so.1",)
    assert made.edits.library_dirs == (f"/{COMPAT}", LIB)
    assert made.search == ()
    assert [note for note in made.notes if "cuda-compat 590.44.01 is used" in note]


def test_compat_that_was_ordered_and_is_not_there_is_told(place):
    assert place(mode="force").notes == (
        "gpu: the image has no cuda-compat: the driver's own CUDA is used",
    )


def test_compat_libraries_that_are_set_aside_are_found_by_nobody(place, image):
    entries = (
        Entry("libcuda.so.1", "/usr/local/cuda/compat/libcuda.so.1", FLAGS),
        Entry("libnvidia-new.so.590.44.01", f"/{COMPAT}/libnvidia-new.so.590.44.01", FLAGS),
    )
    tree = compat_image(image, {"etc/ld.so.cache": ldcache.serialize(LdCache(entries))})
    made = place(tree, mode="off", library_path="/usr/local/cuda/compat:/opt")
    known = merged(made)
    assert known.paths("libcuda.so.1", FLAGS) == (f"{LIB}/libcuda.so.1",)
    assert known.paths("libnvidia-new.so.590.44.01", FLAGS) == ()
    assert dict(made.search) == {"LD_LIBRARY_PATH": "/opt"}
    assert made.shadows == ()
    assert made.notes == (
        "gpu: LD_LIBRARY_PATH without /usr/local/cuda/compat: "
        "its libcuda.so.1 would hide the host's",
    )


def test_a_driver_baked_into_the_image_is_hidden_wherever_it_is_found(place, image):
    files = {
        f"{WHERE}/libcuda.so.550.54.14": stub("libcuda.so.1"),
        f"{WHERE}/libnvidia-ml.so.550.54.14": b"",
        f"{WHERE}/libnvidia-glcore.so.550.54.14": stub("libnvidia-glcore.so.550.54.14"),
        f"{WHERE}/libnvidia-egl-wayland.so.1": stub("libnvidia-egl-wayland.so.1"),
        "usr/local/nvidia/lib64/libcuda.so.535.1": stub("libcuda.so.1"),
        "usr/local/cuda/lib64/stubs/libcuda.so": stub("libcuda.so.1"),
        "usr/local/cuda/lib64/stubs/libcuda.so.1": stub("libcuda.so.1"),
        "opt/app/libcuda.so.1": stub("libcuda.so.1"),
        "opt/app/libapp.so": stub("libapp.so"),
    }
    tree = image(files=files)
    drivertree.link(tree.path, f"{WHERE}/libcuda.so.1", "libcuda.so.550.54.14")
    drivertree.link(tree.path, f"{WHERE}/libnvidia-ml.so.1", "libnvidia-ml.so.550.54.14")
    path = "/usr/local/nvidia/lib64;/opt/app:/usr/local/cuda/lib64/stubs;/none"
    made = place(tree, library_path=path)
    hidden = {a.destination: os.path.basename(a.source) for a in made.shadows}
    assert hidden == {
        f"/{WHERE}/libcuda.so.550.54.14": f"libcuda.so.{V}",
        f"/{WHERE}/libnvidia-ml.so.550.54.14": f"libnvidia-ml.so.{V}",
        "/usr/local/nvidia/lib64/libcuda.so.535.1": f"libcuda.so.{V}",
        "/opt/app/libcuda.so.1": f"libcuda.so.{V}",
    }
    assert all(os.path.isfile(a.source) for a in made.shadows)
    assert made.shadow_binds[0].readonly
    assert dict(made.search)["LD_LIBRARY_PATH"] == f"{LIB}:/opt/app:/none"
    baked = [note for note in made.notes if "contains its own" in note]
    assert baked == [
        f"gpu: image contains its own libcuda.so.1 (550.54.14, /{WHERE}) and 4 other driver files"
        f" – hidden by the host's {V}"
    ]
    assert len(made.notes) == 4, made.notes


def test_a_search_path_without_end_is_not_read_to_its_end(place, image):
    tree = image(files={"opt/app/libcuda.so.1": stub("libcuda.so.1")})
    path = ":".join(["/opt/app", *(f"/opt/{number}" for number in range(5000)), "/opt/app"])
    made = place(tree, library_path=path)
    assert dict(made.search)["LD_LIBRARY_PATH"] == path.partition(":")[2]


def test_no_shadow_leads_out_of_the_image(place, image, tmp_path):
    drivertree.write(str(tmp_path), "outside/libcuda.so.550.54", stub("libcuda.so.1"))
    tree = image()
    drivertree.link(tree.path, f"{WHERE}/libcuda.so.1", f"{tmp_path}/outside/libcuda.so.550.54")
    os.makedirs(f"{tree.path}/usr/local/nvidia")
    drivertree.link(tree.path, "usr/local/nvidia/lib64", "../../../../../../../../tmp")
    made = place(tree)
    assert made.shadows == ()
    assert made.notes == ()


def test_a_link_in_the_way_of_a_baked_file_is_followed_in_the_image(place, image):
    tree = image(files={"opt/driver/libcuda.so.550.54": stub("libcuda.so.1")})
    drivertree.link(tree.path, "usr/local/nvidia/lib64", "/opt/driver")
    assert [a.destination for a in place(tree).shadows] == ["/opt/driver/libcuda.so.550.54"]


@pytest.mark.skipif(M != "x86_64", reason="drivers have 32-bit parts on x86-64")
def test_libraries_of_32_bits_have_their_own_place_and_flag(place, image, machine):
    add_twins(machine().root, "deb")
    libc = elffile.library("libc.so.6", bits=32, machine=SMALLER, definitions=("GLIBC_2.31",))
    made = place(image(files={"lib32/libc.so.6": libc}), (*COMPUTE, "compat32"))
    known = merged(made)
    twin = ldcache.FLAGS[SMALLER]
    assert known.paths("libcuda.so.1", twin) == (f"{LIB}32/libcuda.so.1",)
    assert known.paths("libcuda.so.1", FLAGS) == (f"{LIB}/libcuda.so.1",)
    assert known.paths("libOpenCL.so.1", twin) == (f"{LAST}32/libOpenCL.so.1",)
    assert made.edits.library_dirs == (LIB, f"{LIB}32")
    assert made.edits.fallback_library_dirs == (LAST, f"{LAST}32")
    assert made.notes == ()


def test_a_wish_for_32_bits_that_the_driver_cannot_meet_is_told(place):
    made = place(capabilities=(*COMPUTE, "compat32"))
    assert made.notes == ("gpu: the host's driver has no 32-bit libraries (compat32)",)


@pytest.mark.parametrize("capability", ["video", "graphics"])
def test_plug_ins_stay_in_directories_of_their_name(place, image, capability):
    tree = image(files={f"{WHERE}/gbm/dri_gbm.so": b""})
    made = place(tree, (*COMPUTE, capability))
    assert place(tree, (*COMPUTE, capability)) == made
    places = {os.path.dirname(a.destination) for a in made.libraries}
    if capability == "video":
        assert f"{LIB}/vdpau" in made.edits.library_dirs
        assert made.variables == (("VDPAU_DRIVER_PATH", f"{LIB}/vdpau"),)
    else:
        assert f"{LIB}/gbm" in places
        assert made.variables == (("GBM_BACKENDS_PATH", f"{LIB}/gbm:/{WHERE}/gbm"),)
        names = {os.path.basename(a.destination) for a in made.libraries}
        assert {"nvidia-drm_gbm.so", "libnvidia-allocator.so.1"} <= names, "both, of one file"
        assert f"{LIB}/gbm" not in made.edits.library_dirs


def test_what_was_found_is_remembered_as_it_was(place, image):
    tree = image(files={f"{WHERE}/libcuda.so.550.54": stub("libcuda.so.1")})
    first = place(tree, library_path=f"/{WHERE}")
    assert first.shadows
    assert place(tree, library_path=f"/{WHERE}") == first


def test_a_copy_of_an_image_gets_the_answer_of_the_original(place, image, tmp_path):
    tree = image()
    first = place(tree)
    shutil.copytree(tree.path, tmp_path / "copy", symlinks=True)
    copy = Root(str(tmp_path / "copy"), origin=tree.path)
    kept = set(os.listdir(tmp_path / "kept"))
    assert place(copy) == first
    assert place(Stack(str(tmp_path / "upper"), tree.path)) == first
    assert set(os.listdir(tmp_path / "kept")) == kept


@pytest.mark.parametrize("change", ["installed", "cache", "libc", "baked", "library path"])
def test_what_a_container_changes_is_noticed(place, image, tmp_path, change):
    tree = image()
    own = "/opt/own"
    first = place(Stack(str(tmp_path / "upper"), tree.path), library_path=own)
    upper = str(tmp_path / "upper")
    files = {
        "installed": (f"{WHERE}/libOpenCL.so.1", stub("libOpenCL.so.1")),
        "cache": ("etc/ld.so.cache", ldcache.serialize(LdCache((Entry("a", "/a", FLAGS),)))),
        "libc": (f"{WHERE}/libc.so.6", b""),
        "baked": ("usr/local/nvidia/lib64/libcuda.so.535.1", stub("libcuda.so.1")),
        "library path": ("opt/own/libcuda.so.1", stub("libcuda.so.1")),
    }
    drivertree.write(upper, *files[change])
    second = place(Stack(upper, tree.path), library_path=own)
    assert second != first


def test_what_is_not_there_any_more_is_not_hidden(place, image):
    entries = (Entry("libcuda.so.1", "/opt/deep/libcuda.so.1", FLAGS),)
    files = {
        "etc/ld.so.cache": ldcache.serialize(LdCache(entries)),
        "opt/deep/libcuda.so.1": stub("libcuda.so.1"),
    }
    tree = image(files=files)
    assert place(tree).shadows
    os.unlink(f"{tree.path}/opt/deep/libcuda.so.1")
    assert not place(tree).shadows


def test_a_driver_that_was_updated_is_noticed(place, image, machine, tmp_path):
    first = place(image())
    shutil.rmtree(tmp_path / "machine")
    drivertree.build(str(tmp_path / "machine"), version="590.44.01")
    assert place(image()).libraries != first.libraries


def test_a_remembered_placement_costs_little(place, image):
    tree = image()
    place(tree)
    found = []
    for _ in range(20):
        begun = time.perf_counter()
        place(tree)
        found.append(time.perf_counter() - begun)
    assert min(found) < 0.01  # driver and placement together; measured 1.6 ms


def test_an_image_without_glibc_gets_no_library_at_all(place, image):
    made = place(image(""))
    assert made.libraries == ()
    assert made.cache_file == ""
    assert made.notes == (
        "gpu: the image has no C library: only static programs run in it, without the driver",
    )


def test_a_musl_image_is_refused_with_a_way_out(place, image):
    with pytest.raises(GpuError, match="gpu: musl image") as caught:
        place(image("", files={f"lib/ld-musl-{M}.so.1": "musl"}))
    assert "Debian" in caught.value.hint


def driver_of(machine, root):
    """Return a driver of two libraries and a dispatcher for another machine, below `root`."""

    def made(soname, base, needs=("GLIBC_2.17",)):
        content = elffile.library(
            soname, machine=machine, needed=["libc.so.6"], needs=(("libc.so.6", needs),)
        )
        drivertree.write(root, f"usr/lib64/{base}", content)
        capabilities = ("utility", "compute")
        return DriverLibrary(
            *(f"{root}/usr/lib64/{base}", soname, (f"{soname.partition('.so')[0]}.so",)),
            *(capabilities, "", 64, ("libc.so.6",), (("libc.so.6", needs),)),
        )

    return Driver(
        version=V,
        key=machine,
        libraries=(
            made("libcuda.so.1", f"libcuda.so.{V}"),
            made("libnvidia-ml.so.1", f"libnvidia-ml.so.{V}"),
        ),
        vendor_neutral=(made("libOpenCL.so.1", "libOpenCL.so.1.0.0", ("GLIBC_2.34",)),),
    )


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    ("where", "newest"), [("lib/{}-linux-gnu", 31), ("usr/lib64", 28), ("lib64", 39), ("lib", 17)]
)
def test_every_machine_has_its_flags_and_directories(tmp_path, machine, where, newest):
    versions = tuple(f"GLIBC_2.{minor}" for minor in range(17, newest + 1))
    libc = elffile.library("libc.so.6", machine=machine, definitions=versions)
    tree = str(tmp_path / "tree")
    drivertree.write(tree, f"{where.format(machine)}/libc.so.6", libc)
    found = driver_of(machine, str(tmp_path / "host"))
    made = placement.place(
        found, COMPUTE, Root(tree), machine, str(tmp_path / "kept"), host_root=f"{tmp_path}/host"
    )
    known = merged(made)
    flags = {"x86_64": 0x0303, "aarch64": 0x0A03}[machine]
    assert known.paths("libcuda.so.1", flags) == (f"{LIB}/libcuda.so.1",)
    fallback = () if newest < 34 else (f"{LAST}/libOpenCL.so.1",)
    assert known.paths("libOpenCL.so.1", flags) == fallback
    assert bool(made.notes) == (newest < 34)


def test_an_image_for_another_machine_is_told(tmp_path):
    libc = elffile.library("libc.so.6", machine="ppc64le", definitions=("GLIBC_2.36",))
    drivertree.write(str(tmp_path), "tree/lib64/libc.so.6", libc)
    found = driver_of(M, str(tmp_path / "host"))
    made = placement.place(found, COMPUTE, Root(f"{tmp_path}/tree"), M, str(tmp_path / "kept"))
    assert made.libraries == ()
    assert "no C library" in made.notes[0]


NAMES = st.sampled_from(["libcuda.so.1", "libGL.so.1", "libz.so.1", "libc.so.6", "libcuda.so"])
HELD = st.lists(
    st.builds(Entry, NAMES, NAMES, st.sampled_from([FLAGS, 3]), hwcap=st.integers(0, 9))
)


@settings(deadline=None)
@given(HELD, st.sets(NAMES), st.sets(NAMES))
def test_a_merged_cache_keeps_what_it_does_not_replace(held, first, last):
    loader = Loader(Root("/proc/self/fdinfo"), M, LdCache(tuple(held)))
    last -= first
    made = policy.Selection(
        first=tuple(DriverLibrary(f"/h/{name}", name, (), ()) for name in sorted(first)),
        fallback=tuple(DriverLibrary(f"/h/{name}", name, (), ()) for name in sorted(last)),
    )
    known = ldcache.parse(ldcache.serialize(choosing.merged(loader, made, compat.Decision(False))))
    for name in {entry.name for entry in held} | first | last:
        own = [entry for entry in held if entry.name == name]
        found = [entry for entry in known.entries if entry.name == name]
        if name in first:
            assert found[0].path == f"{LIB}/{name}"
            assert found[1:] == [entry for entry in own if entry.flags != FLAGS]
        elif any(entry.flags == FLAGS for entry in own) or name not in last:
            assert found == own
        else:
            assert found == [*own, Entry(name, f"{LAST}/{name}", FLAGS)]
