"""Which library of the host goes into which image: verdicts over trees with real ELF files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from gpu import drivertree, elffile
from gpu.conftest import glibc_versions
from gpu.drivervariants import SMALLER, add_twins
from udocker.host import elffacts, ldcache
from udocker.host.loader import Loader
from udocker.host.probe import Host
from udocker.host.root import Root
from udocker.nvidia import driver
from udocker.nvidia.driver import libraries
from udocker.nvidia.driver.installation import DriverLibrary
from udocker.nvidia.placement import closure, policy
from udocker.nvidia.placement.closure import Fitting

V = drivertree.VERSION
WHERE = drivertree.LAYOUTS["deb"][0]
COMPUTE = ("utility", "compute")
GRAPHICS = ("utility", "compute", "graphics")


def needing(soname, *others, defines=(), runpath=""):
    """Return a library of that SONAME; each of `others` is (SONAME, versions) that it needs."""
    return elffile.library(
        soname,
        machine=drivertree.MACHINE,
        needed=[name for name, _ in others],
        needs=others,
        definitions=defines,
        runpath=runpath,
    )


@pytest.fixture
def verdicts(machine, image, tmp_path):
    """A function that judges the driver of a machine, changed before, for an image; by SONAME."""

    def make(tree=None, capabilities=COMPUTE, *, files=(), layout="deb", **words):
        root = str(tmp_path / "machine")
        host = Host(root) if os.path.exists(root) else machine(layout)
        for path, content in dict(files).items():
            drivertree.write(root, path, content)
        found = driver.find(host)
        made = policy.judge(
            found, capabilities, tree or image(), host.machine, host_root=host.root, **words
        )
        return {verdict.soname: verdict for verdict in made}

    return make


def test_what_is_locked_to_the_driver_goes_in_and_nothing_else(verdicts):
    made = verdicts()
    chosen = {name for name, verdict in made.items() if verdict.decision == "ok"}
    assert {"libcuda.so.1", "libnvidia-ml.so.1", f"libnvidia-gpucomp.so.{V}"} <= chosen
    assert {made[name].kind for name in chosen} == {"driver-locked", "vendor-neutral"}
    assert made["libOpenCL.so.1"].reason == "the image has none"
    assert "libGL.so.1" not in made
    assert f"libnvidia-glcore.so.{V}" not in made
    assert made["libc.so.6"].kind == "forbidden"
    assert made["libc.so.6"].decision == "skip"
    assert "always the image's own" in made["libc.so.6"].reason
    assert "(glibc 2.36)" in made["libc.so.6"].reason


def test_libcuda_gets_what_it_opens_by_name_while_it_runs(verdicts):
    made = verdicts(capabilities=("compute",))
    assert made["libnvidia-ml.so.1"].decision == "ok"
    assert "libnvidia-cfg.so.1" not in made
    assert "libcuda.so.1" not in verdicts(capabilities=("utility",))


@pytest.mark.parametrize("capabilities", [COMPUTE, GRAPHICS])
def test_the_images_own_dispatcher_wins(verdicts, image, capabilities):
    own = {
        f"{WHERE}/libOpenCL.so.1": drivertree.stub_library("libOpenCL.so.1"),
        "opt/gl/libGL.so.1": drivertree.stub_library("libGL.so.1"),
        "etc/ld.so.cache": ldcache.serialize(
            ldcache.LdCache(
                (
                    ldcache.Entry(
                        "libGL.so.1", "/opt/gl/libGL.so.1", ldcache.FLAGS[drivertree.MACHINE]
                    ),
                )
            )
        ),
    }
    made = verdicts(image(files=own), capabilities)
    assert made["libOpenCL.so.1"].decision == "skip"
    assert made["libOpenCL.so.1"].reason.startswith("the image has its own, /")
    if capabilities == GRAPHICS:
        assert made["libGL.so.1"].reason == "the image has its own, /opt/gl/libGL.so.1"


def test_a_dispatcher_that_is_too_new_stays_on_the_host(verdicts, image):
    new = needing("libGL.so.1", ("libc.so.6", ("GLIBC_2.34",)))
    made = verdicts(image("GLIBC_2.17"), GRAPHICS, files={f"{WHERE}/libGL.so.1.7.0": new})
    assert made["libGL.so.1"].decision == "skip"
    assert made["libGL.so.1"].reason == (
        "image glibc 2.17 is too old for libGL.so.1 (needs GLIBC_2.34), and the image has none"
    )


@pytest.mark.parametrize(
    ("need", "newest", "decision"),
    [
        ("GLIBC_2.34", "GLIBC_2.17", "skip"),
        ("GLIBC_2.34", "GLIBC_2.34", "ok"),
        ("GLIBC_2.17", "GLIBC_2.100", "ok"),
        ("GLIBC_ABI_DT_RELR", "GLIBC_2.35", "skip"),
        ("GLIBC_ABI_DT_RELR", "GLIBC_2.36", "ok"),
        ("GLIBC_PRIVATE", "GLIBC_2.36", "ok"),
        ("GLIBC_2.2.4", "GLIBC_2.36", "skip"),
    ],
)
def test_every_version_must_be_defined_in_the_images_glibc(verdicts, image, need, newest, decision):
    library = needing("libnvidia-nvvm.so.4", ("libc.so.6", (need,)))
    made = verdicts(image(newest), files={f"{WHERE}/libnvidia-nvvm.so.{V}": library})
    assert made["libnvidia-nvvm.so.4"].decision == decision
    if decision == "skip":
        assert made["libnvidia-nvvm.so.4"].reason == (
            f"image glibc {newest[6:]} is too old for libnvidia-nvvm.so.4 (needs {need})"
        )


def test_without_the_core_an_image_is_refused_with_a_way_out(verdicts, image):
    library = needing("libcuda.so.1", ("libc.so.6", ("GLIBC_2.28",)))
    made = verdicts(image("GLIBC_2.17"), files={f"{WHERE}/libcuda.so.{V}": library})
    assert made["libcuda.so.1"].decision == "fatal"
    assert made["libcuda.so.1"].hint == (
        "use an image with glibc 2.28 or newer, such as Debian 10 and Rocky Linux 8"
    )


@pytest.mark.parametrize(
    ("defined", "decision"),
    [(("GLIBCXX_3.4.30",), "ok"), (("GLIBCXX_3.4.19",), "skip"), ((), "ok")],
)
def test_versions_of_other_libraries_count_as_well(verdicts, image, defined, decision):
    library = needing("libnvidia-nvvm.so.4", ("libstdc++.so.6", ("GLIBCXX_3.4.30",)))
    own = {f"{WHERE}/libstdc++.so.6": needing("libstdc++.so.6", defines=defined)}
    tree = image(files=own)
    made = verdicts(tree, files={f"{WHERE}/libnvidia-nvvm.so.{V}": library})
    assert made["libnvidia-nvvm.so.4"].decision == decision
    if decision == "skip":
        assert made["libnvidia-nvvm.so.4"].reason == (
            "the image's libstdc++.so.6 is too old for libnvidia-nvvm.so.4 (needs GLIBCXX_3.4.30)"
        )


def test_the_run_time_of_the_host_never_comes_along(verdicts, image):
    library = needing("libnvidia-nvvm.so.4", ("libstdc++.so.6", ("GLIBCXX_3.4.30",)))
    files = {
        f"{WHERE}/libnvidia-nvvm.so.{V}": library,
        f"{WHERE}/libstdc++.so.6": needing("libstdc++.so.6", defines=("GLIBCXX_3.4.30",)),
    }
    made = verdicts(image(), files=files)
    assert made["libnvidia-nvvm.so.4"].reason == (
        "libnvidia-nvvm.so.4 needs libstdc++.so.6, which the image has not"
    )
    assert "libstdc++.so.6" not in made


def test_of_twins_for_two_openssls_only_the_fitting_one_goes_in(verdicts, image):
    files = {
        f"{WHERE}/libnvidia-pkcs11.so.{V}": needing(
            f"libnvidia-pkcs11.so.{V}", ("libcrypto.so.1.1", ("OPENSSL_1_1_0",))
        ),
        f"{WHERE}/libnvidia-pkcs11-openssl3.so.{V}": needing(
            f"libnvidia-pkcs11-openssl3.so.{V}", ("libcrypto.so.3", ("OPENSSL_3.0.0",))
        ),
        f"{WHERE}/libcrypto.so.1.1": needing("libcrypto.so.1.1", defines=("OPENSSL_1_1_0",)),
    }
    own = {f"{WHERE}/libcrypto.so.3": needing("libcrypto.so.3", defines=("OPENSSL_3.0.0",))}
    made = verdicts(image(files=own), files=files)
    assert made[f"libnvidia-pkcs11-openssl3.so.{V}"].decision == "ok"
    assert made[f"libnvidia-pkcs11.so.{V}"].reason == (
        f"libnvidia-pkcs11.so.{V} needs libcrypto.so.1.1, which the image has not"
    )


def test_dependencies_come_along_with_theirs(verdicts, image):
    deep = needing("libdeep.so.2")
    middle = needing("libmiddle.so.1", ("libdeep.so.2", ("DEEP_1",)), runpath="$ORIGIN/deep")
    files = {
        f"{WHERE}/libEGL_nvidia.so.{V}": needing(
            "libEGL_nvidia.so.0", ("libmiddle.so.1", ("M_1",))
        ),
        f"{WHERE}/libmiddle.so.1": middle,
        f"{WHERE}/deep/libdeep.so.2": deep,
    }
    made = verdicts(image(), GRAPHICS, files=files)
    assert made["libEGL_nvidia.so.0"].decision == "ok"
    for name, user in (
        ("libmiddle.so.1", "libEGL_nvidia.so.0"),
        ("libdeep.so.2", "libmiddle.so.1"),
    ):
        assert made[name].kind == "dependency"
        assert made[name].reason == f"{user} needs it, and the image has none"
    own = {f"{WHERE}/libmiddle.so.1": needing("libmiddle.so.1")}
    has_it = verdicts(image(files=own), GRAPHICS, files=files)
    assert "libmiddle.so.1" not in has_it
    assert "libdeep.so.2" not in has_it


def test_a_dependency_that_does_not_fit_takes_its_user_with_it(verdicts, image):
    files = {
        f"{WHERE}/libEGL_nvidia.so.{V}": needing(
            "libEGL_nvidia.so.0", ("libmiddle.so.1", ("M_1",))
        ),
        f"{WHERE}/libmiddle.so.1": needing("libmiddle.so.1", ("libc.so.6", ("GLIBC_2.99",))),
        f"{WHERE}/libGLESv2_nvidia.so.{V}": needing("libGLESv2_nvidia.so.2", ("libno.so", ("N",))),
    }
    made = verdicts(image(), GRAPHICS, files=files)
    assert made["libEGL_nvidia.so.0"].reason == (
        "libEGL_nvidia.so.0 needs libmiddle.so.1, and the host's does not fit: "
        "image glibc 2.36 is too old for libmiddle.so.1 (needs GLIBC_2.99)"
    )
    assert made["libGLESv2_nvidia.so.2"].reason == (
        "libGLESv2_nvidia.so.2 needs libno.so, which neither the image nor the host has"
    )
    assert "libmiddle.so.1" not in made


def test_libraries_that_need_each_other_fit_together(verdicts):
    files = {
        f"{WHERE}/libEGL_nvidia.so.{V}": needing("libEGL_nvidia.so.0", ("libpair.so.1", ("P",))),
        f"{WHERE}/libpair.so.1": needing("libpair.so.1", ("libEGL_nvidia.so.0", ("E",))),
    }
    made = verdicts(capabilities=GRAPHICS, files=files)
    assert made["libpair.so.1"].decision == "ok"


def test_a_part_of_the_driver_that_another_needs_comes_whatever_it_serves(verdicts):
    name = f"libnvidia-glcore.so.{V}"
    files = {f"{WHERE}/libnvidia-nvvm.so.{V}": needing("libnvidia-nvvm.so.4", (name, ("G",)))}
    made = verdicts(files=files)
    assert made[name].kind == "driver-locked"
    assert made[name].reason == "libnvidia-nvvm.so.4 needs it"


def test_external_platforms_of_egl_are_the_images_own(verdicts, image):
    own = {
        f"{WHERE}/libnvidia-egl-wayland.so.1": drivertree.stub_library("libnvidia-egl-wayland.so.1")
    }
    made = verdicts(image(files=own), GRAPHICS)
    assert made["libnvidia-egl-wayland.so.1"].kind == "vendor-neutral"
    assert made["libnvidia-egl-wayland.so.1"].decision == "skip"
    assert made["libnvidia-egl-gbm.so.1"].decision == "ok"


@pytest.mark.parametrize(
    "place", [WHERE, "usr/lib64", f"lib/{drivertree.MACHINE}-linux-gnu", "lib64"]
)
def test_layouts_of_all_distributions_are_known(verdicts, image, place):
    made = verdicts(image("GLIBC_2.31", place=place))
    assert f"/{place}/libc.so.6 (glibc 2.31)" in made["libc.so.6"].reason


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        (b"GNU C Library (Debian GLIBC 2.31-13) stable release version 2.31.\nCopyright", "2.31"),
        (b"GNU C Library stable release version 2.3", "2.30"),
        (b"GNU C Library stable release version soon.", "2.30"),
        (b"", "2.30"),
    ],
)
def test_a_glibc_is_called_what_it_calls_itself(image, libc, banner, version):
    """Release 2.31 has no symbols of its own: the latest that it defines are of 2.30."""
    content = libc(*glibc_versions("GLIBC_2.30")) + banner
    tree = image(newest="", files={"usr/lib64/libc.so.6": content})
    assert closure.glibc_of(Loader(tree, drivertree.MACHINE)) == version


def test_musl_and_no_libc_are_told_in_one_sentence(verdicts, image):
    musl = verdicts(image("", files={f"lib/ld-musl-{drivertree.MACHINE}.so.1": "musl"}))
    assert musl["libcuda.so.1"].decision == "fatal"
    assert musl["libcuda.so.1"].reason == "musl image (Alpine): NVIDIA's libraries need glibc"
    assert "Debian" in musl["libcuda.so.1"].hint


def test_an_image_without_a_libc_is_not_refused(verdicts, image):
    made = verdicts(image(""))
    assert {verdict.decision for verdict in made.values()} == {"skip"}
    assert "only static programs run in it" in made["libcuda.so.1"].reason


def test_an_image_for_another_machine_is_refused(verdicts, image):
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[drivertree.MACHINE]
    libc = elffile.library("libc.so.6", machine=other, definitions=("GLIBC_2.36",))
    made = verdicts(image("", files={"lib64/libc.so.6": libc}))["libcuda.so.1"]
    assert made.decision == "fatal"
    assert made.reason == f"the image is for {other}, and the driver for {drivertree.MACHINE}"
    assert "--platform" in made.hint


def test_a_core_library_without_company_is_told_what_lacks(verdicts, image):
    library = needing("libcuda.so.1", ("libpthread.so.0", ("GLIBC_2.2.5",)))
    made = verdicts(image(), files={f"{WHERE}/libcuda.so.{V}": library})["libcuda.so.1"]
    assert made.reason == "libcuda.so.1 needs libpthread.so.0, which the image has not"
    assert "all libraries of glibc" in made.hint


TWIN_LIBC = "usr/lib/i386-linux-gnu/libc.so.6"


@pytest.mark.skipif(drivertree.MACHINE != "x86_64", reason="drivers have 32-bit parts on x86-64")
def test_32_bit_libraries_are_judged_by_the_32_bit_libc(machine, image):
    host = machine()
    add_twins(host.root, "deb")
    found = driver.find(host)
    wanted = (*COMPUTE, "compat32")

    def twins(tree):
        made = policy.judge(found, wanted, tree, drivertree.MACHINE, host_root=host.root)
        return {v.soname: v for v in made if v.bits == 32}

    without = twins(image())
    assert without["libcuda.so.1"].decision == "skip"
    assert without["libcuda.so.1"].reason == "the image has no 32-bit C library"
    libc = elffile.library("libc.so.6", bits=32, machine=SMALLER, definitions=("GLIBC_2.31",))
    has_one = twins(image(files={TWIN_LIBC: libc}))
    assert has_one["libcuda.so.1"].decision == "ok"
    assert "i386" in has_one["libcuda.so.1"].source
    assert has_one["libOpenCL.so.1"].kind == "vendor-neutral"
    assert f"/{TWIN_LIBC} (glibc 2.31)" in has_one["libc.so.6"].reason


def test_compat_and_baked_libraries_have_verdicts_of_their_own(machine, image):
    own = {
        "usr/local/cuda/compat/libcuda.so.590.44.01": drivertree.stub_library("libcuda.so.1"),
        f"{WHERE}/libcuda.so.550.54": drivertree.stub_library("libcuda.so.1"),
    }
    tree = image(files=own)
    made = policy.judge(driver.find(machine()), COMPUTE, tree, drivertree.MACHINE)
    rows = [(v.kind, v.decision, v.source) for v in made if v.kind in ("compat", "baked")]
    assert rows == [
        ("compat", "ok", "/usr/local/cuda/compat/libcuda.so.590.44.01"),
        ("baked", "skip", f"/{WHERE}/libcuda.so.550.54"),
    ]


ODD = (
    f"{WHERE}/libc.so.6",
    f"{WHERE}/libOpenCL.so.1",
    f"{WHERE}/libcuda.so.1",
    "etc/ld.so.cache",
    "etc/ld.so.conf",
    "usr/local/cuda/compat/libcuda.so.590.44.01",
    "usr/local/nvidia/lib64/libnvidia-ml.so.535.1",
)


def put_odd(path, kind):
    """Put something odd, of a kind, in the place of a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.lexists(path):
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind in ("loop", "outside"):
        loop = os.path.basename(path)
        os.symlink(loop if kind == "loop" else "../../../../../../../../dev/zero", path)
    elif kind != "none":
        whole = drivertree.stub_library("libcuda.so.1")
        with open(path, "wb") as file:
            file.write(whole[:200] if kind == "cut" else b"\x7fELF garbage")


def test_no_file_of_an_image_stops_or_fools_the_judge(machine, image):
    found = driver.find(machine())
    for place in ODD:
        for kind in ("fifo", "directory", "loop", "garbage", "cut", "outside", "none"):
            tree = image()
            put_odd(f"{tree.path}/{place}", kind)
            made = policy.judge(found, GRAPHICS, tree, drivertree.MACHINE)
            by_name = {v.soname: v.decision for v in made if v.kind == "driver-locked"}
            assert by_name["libcuda.so.1"] == ("skip" if place == ODD[0] else "ok"), (place, kind)
            assert not [v for v in made if v.kind in ("compat", "baked") and v.decision == "ok"]
            shutil.rmtree(tree.path)


def ldd(path):
    """Return what glibc's own loader finds for a library: name -> path; None where it fails."""
    loader = elffacts.scan("/bin/sh").interpreter
    command = [loader, "--list", path]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    found = dict(re.findall(r"^\s*(\S+) => (\S+) \(0x", run.stdout, re.M))
    return None if run.returncode or "not found" in run.stdout else found


def test_the_closure_of_every_library_of_this_machine_is_that_of_its_loader():
    nothing = Loader(Root("/proc/self/fdinfo"), drivertree.MACHINE)
    host = Loader(Root(""), drivertree.MACHINE)
    directory = f"/usr/lib/{drivertree.MACHINE}-linux-gnu"
    names = [name for name in sorted(os.listdir(directory)) if ".so." in name]
    compared = 0
    for name in names[:: max(1, len(names) // 60)]:
        found = host.open(f"{directory}/{name}")
        theirs = ldd(f"{directory}/{name}") if found else None
        if theirs is None or name.startswith(libraries.FORBIDDEN):
            continue
        asked = DriverLibrary(found.host_path, name, (), (), needed=found.facts.needed)
        fitting = Fitting((), (), nothing, host)
        ours = {library.path for library, _ in fitting.needs([asked]).values()}
        expected = {
            os.path.realpath(path)
            for wanted, path in theirs.items()
            if not wanted.startswith((*libraries.FORBIDDEN, *libraries.IMAGES_OWN))
        }
        reached = expected - behind_forbidden(theirs, found, host)
        assert reached <= ours <= expected, name
        compared += 1
    assert compared > 30


def behind_forbidden(theirs, found, host):
    """Return the files that only libraries lead to which never come along, which are left out."""
    reachable, pending = set(), [found]
    while pending:
        for name in pending.pop().facts.needed:
            library = host.open(theirs[name]) if name in theirs else None
            left_out = name.startswith((*libraries.FORBIDDEN, *libraries.IMAGES_OWN))
            if library and not left_out and library.host_path not in reachable:
                reachable.add(library.host_path)
                pending.append(library)
    return {os.path.realpath(path) for path in theirs.values()} - reachable
