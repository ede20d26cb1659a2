"""The driver is found in every layout, whole, and remembered until something changes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from gpu import drivertree
from udocker.nvidia import cache, driver
from udocker.nvidia.driver import libraries

V = drivertree.VERSION


def sonames(found, capability):
    return {a.soname for a in found.libraries if capability in a.capabilities}


@pytest.mark.parametrize("file_list", [True, False])
@pytest.mark.parametrize("layout", sorted(drivertree.LAYOUTS))
def test_every_layout_gives_the_same_driver(machine, layout, file_list):
    host = machine(layout, file_list=file_list)
    found = driver.find(host)
    assert (found.version, found.obstacle) == (V, None)
    assert sonames(found, "compute") == {
        "libcuda.so.1",
        "libcudadebugger.so.1",
        "libnvidia-allocator.so.1",
        f"libnvidia-gpucomp.so.{V}",
        "libnvidia-nvvm.so.4",
        "libnvidia-nvvm70.so.4",
        "libnvidia-opencl.so.1",
        f"libnvidia-pkcs11.so.{V}",
        f"libnvidia-pkcs11-openssl3.so.{V}",
        "libnvidia-ptxjitcompiler.so.1",
        f"libnvidia-tileiras.so.{V}",
    }
    assert sonames(found, "utility") == {
        "libnvidia-api.so.1",
        "libnvidia-cfg.so.1",
        "libnvidia-ml.so.1",
        "libnvidia-nscq.so.2",
        "libnvidia-sandboxutils.so.1",
    }
    assert {f.destination for f in found.binaries} == {
        f"/usr/bin/{name}" for name in (*drivertree.PROGRAMS, "nvidia-smi")
    } - {"/usr/bin/nvidia-settings", "/usr/bin/nv-fabricmanager"}
    assert [f.destination for f in found.sockets] == ["/run/nvidia-persistenced"]
    assert "/etc/vulkan/icd.d/nvidia_icd.json" in {f.destination for f in found.files}


def test_everything_that_is_found_is_a_real_file_of_the_machine(machine):
    host = machine()
    found = driver.find(host)
    paths = [f.path for f in found.libraries] + [f.source for f in found.binaries + found.files]
    for path in paths:
        assert path.startswith(host.root)
        assert os.path.isfile(path)
        assert not os.path.islink(path)


def test_plug_ins_keep_their_directories(machine):
    found = {(a.plugin_directory, a.soname) for a in driver.find(machine()).libraries}
    assert ("vdpau", "libvdpau_nvidia.so.1") in found
    assert ("gbm", "nvidia-drm_gbm.so") in found


def test_development_links_are_other_names_of_a_library(machine):
    names = {a.soname: a.extra_names for a in driver.find(machine()).libraries}
    assert names["libcuda.so.1"] == ("libcuda.so",)
    assert names["libnvidia-ml.so.1"] == ("libnvidia-ml.so",)
    assert names["libnvidia-opticalflow.so.1"] == ("libnvidia-opticalflow.so",)
    assert names["libnvidia-opencl.so.1"] == ()


def test_dispatchers_and_desktop_parts_stay_on_the_host(machine):
    found = {a.soname.partition(".so")[0] for a in driver.find(machine()).libraries}
    assert found.isdisjoint([*libraries.VENDOR_NEUTRAL, *libraries.NEVER])
    assert not [base for base in found if f"{base}.so.".startswith(libraries.FORBIDDEN)]


def test_a_driver_split_over_directories_is_found_whole(machine):
    host = machine()
    main = f"usr/lib/{drivertree.MACHINE}-linux-gnu"
    os.makedirs(host.path("/usr/lib64"))
    file = f"libnvidia-ml.so.{V}"
    os.rename(host.path(f"/{main}/{file}"), host.path(f"/usr/lib64/{file}"))
    paths = {a.soname: a.path for a in driver.find(host).libraries}
    assert paths["libnvidia-ml.so.1"] == host.path(f"/usr/lib64/{file}")
    assert paths["libcuda.so.1"].startswith(host.path(f"/{main}"))


def test_a_library_newer_than_the_table_is_taken_by_the_drivers_own_list(machine):
    host = machine("rhel", file_list=False)
    file = f"libnvidia-novelty.so.{V}"
    drivertree.write(host.root, f"usr/lib64/{file}", drivertree.stub_library(file))
    novelty = [a for a in driver.find(host).libraries if a.soname == file]
    assert novelty[0].capabilities == libraries.UNKNOWN_LIBRARY
    text = f'[{{"name": "{file}", "type": "LIB", "category": ["video"]}}]'
    drivertree.write(host.root, "usr/share/nvidia/files.d/sandboxutils-filelist.json", text)
    novelty = [a for a in driver.find(host).libraries if a.soname == file]
    assert novelty[0].capabilities == ("video",)


def test_no_kernel_module_is_no_driver(machine):
    host = machine()
    os.unlink(host.path("/sys/module/nvidia/version"))
    assert driver.find(host).version == V, "/proc tells it too"
    fresh = type(host)(host.root)
    os.unlink(host.path("/proc/driver/nvidia/version"))
    assert driver.find(fresh) is None


def test_an_update_without_reboot_is_told(machine):
    host = machine()
    drivertree.build_kernel(host.root, version="575.57.08")
    found = driver.find(host)
    assert f"kernel driver is 575.57.08 but libcuda on disk is {V}" in found.obstacle
    assert "without reboot" in found.obstacle
    assert found.doubts == (), "no container gets the right one either"


def test_a_driver_without_libraries_is_told(machine):
    host = machine()
    for name in ("libcuda", "libcuda.so.1", "libcuda.so"):
        path = host.path(f"/usr/lib/{drivertree.MACHINE}-linux-gnu/{name}")
        if name == "libcuda":
            path += f".so.{V}"
        os.unlink(path)
    assert f"no libcuda.so.{V} is on disk" in driver.find(host).obstacle


def test_the_newest_need_of_glibc_is_kept(machine):
    host = machine("rhel")
    need = drivertree.needy_library("GLIBC_2.99", "libnvidia-nvvm.so.4")
    drivertree.write(host.root, f"usr/lib64/libnvidia-nvvm.so.{V}", need)
    needs = {a.soname: a.glibc_needs for a in driver.find(host).libraries}
    assert needs["libnvidia-nvvm.so.4"] == ("GLIBC_2.99",)
    assert needs["libnvidia-opencl.so.1"] == ()


def test_a_remembered_driver_is_the_found_one_and_costs_no_elf_reader(machine, tmp_path):
    host = machine()
    kept = str(tmp_path / "kept")
    assert driver.load(host, kept) == driver.find(host)
    script = (
        "import sys; from udocker.host.probe import Host; from udocker.nvidia import driver\n"
        "found = driver.load(Host(sys.argv[1]), sys.argv[2])\n"
        "assert found.version and not found.obstacle, found\n"
        "print([m for m in ('elftools', 'json', 're', 'hashlib', 'typing') if m in sys.modules])"
    )
    command = [sys.executable, "-S", "-c", script, host.root, kept]
    environment = {"PYTHONPATH": os.path.dirname(os.path.dirname(os.path.dirname(__file__)))}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.stdout.strip() == "[]", answer.stderr


def test_a_change_on_disk_is_noticed(machine, tmp_path):
    host = machine("rhel")
    kept = str(tmp_path / "kept")
    before = driver.load(host, kept)
    file = f"libnvidia-novelty.so.{V}"
    drivertree.write(host.root, f"usr/lib64/{file}", drivertree.stub_library(file))
    after = driver.load(host, kept)
    assert after.key != before.key
    assert len(after.libraries) == len(before.libraries) + 1


@pytest.mark.parametrize(
    "content", ["", "null", "[]", "[1,2]", '{"a":1}', '["1","2",[[1]],[],[],[],[],[],[],[],[],[]]']
)
def test_a_broken_memory_is_forgotten(machine, tmp_path, content):
    host = machine()
    kept = str(tmp_path / "kept")
    found = driver.load(host, kept)
    (name,) = os.listdir(kept)
    drivertree.write(kept, name, content)
    assert driver.load(host, kept) == found


def test_a_place_that_cannot_be_written_only_costs_time(machine):
    assert driver.load(machine(), "/proc/none").version == V


def test_digests_tell_parts_apart():
    parts = [("ab", "c"), ("a", "bc"), ("abc",), (b"abc",), (["ab", "c"],), ()]
    assert len({cache.digest(*part) for part in parts}) == len(parts)


def test_what_is_kept_is_read_and_nothing_else_lies_about(tmp_path):
    cache.save(str(tmp_path / "new"), "name", b"[1]")
    cache.save(str(tmp_path / "new"), "name", b"[2]")
    assert cache.load(str(tmp_path / "new"), "name") == [2]
    assert os.listdir(tmp_path / "new") == ["name"]


def test_answers_that_no_start_uses_go_with_all_that_belongs_to_them(machine, tmp_path):
    host, kept = machine(), tmp_path / "kept"
    old = ("gpu-1.json", "gpu-1.cache", "driver-2.json", "gpu-3.links", "gpu-4.json", "params-5")
    for name in (*old, "userns-6", "gpu-4.cache"):
        drivertree.write(str(kept), f"{name}/bin/x" if name.endswith("links") else name, "[]")
    os.chmod(kept / "gpu-3.links" / "bin", 0o555)
    two_months_ago = time.time() - 61 * 24 * 3600
    for name in (*old, "userns-6"):
        os.utime(kept / name, (two_months_ago, two_months_ago))
    assert cache.load(str(kept), "gpu-1.json") == [] and cache.is_kept(str(kept / "params-5"))
    driver.load(host, str(kept))
    left = sorted(name for name in os.listdir(kept) if not name.startswith("driver-"))
    assert left == [
        "gpu-1.cache",
        "gpu-1.json",
        "gpu-4.cache",
        "gpu-4.json",
        "params-5",
        "userns-6",
    ]
    assert len(os.listdir(kept)) == len(left) + 1


def test_use_is_noted_once_a_day(tmp_path):
    drivertree.write(str(tmp_path), "gpu-1.json", "[1]")
    for age_s, is_noted in ((3600, False), (30 * 3600, True)):
        then = time.time() - age_s
        os.utime(tmp_path / "gpu-1.json", (then, then))
        assert cache.load(str(tmp_path), "gpu-1.json") == [1]
        assert ((tmp_path / "gpu-1.json").stat().st_mtime > then + 1) is is_noted
