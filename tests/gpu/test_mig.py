"""GPUs in parts: what parts there are, which are meant, and what NVML is asked for."""

from __future__ import annotations

import os

import pytest

from gpu import kerneltree
from gpu.kerneltree import SEVEN_SMALL, ci_minor, gi_minor, mig_uuid, uuid
from udocker.errors import GpuError
from udocker.nvidia import driver
from udocker.nvidia.devices import mig, partnames, selection
from udocker.nvidia.devices.gpus import find_gpus
from udocker.values import replace

TWO_BIG = {1: 1, 2: 2}
"""A GPU instance with one compute instance, and one with two."""
MIXED = {0: SEVEN_SMALL, 2: TWO_BIG}


@pytest.fixture
def node(kernel):
    """A node of three GPUs; those of minors 0 and 2 are in parts. In PCI order: 2, 1, 0."""
    return kernel(gpus=3, mig=MIXED)


@pytest.fixture
def parts(node):
    """Its GPUs, the parts with the names that NVML would tell."""
    return tuple(
        replace(
            gpu,
            mig=tuple(replace(p, uuid=mig_uuid(gpu.minor, p.gi, p.ci)) for p in gpu.mig),
        )
        for gpu in find_gpus(node)
    )


def shape(gpus):
    return {gpu.minor: [(part.gi, part.ci) for part in gpu.mig] for gpu in gpus}


def test_parts_are_what_the_kernel_module_says(node):
    assert shape(find_gpus(node)) == {
        2: [(1, 0), (2, 0), (2, 1)],
        1: [],
        0: [(gi, 0) for gi in range(7, 14)],
    }


def test_the_nodes_of_a_part_are_by_the_told_minors_not_by_arithmetic(node):
    place = "proc/driver/nvidia/capabilities/gpu2/mig/gi1/access"
    kerneltree.write(node.root, place, "DeviceFileMinor: 4711\nDeviceFileMode: 256\n")
    kerneltree.node(node.root, "nvidia-caps/nvidia-cap4711", "237:4711", 0o444)
    part = find_gpus(node)[0].mig[0]
    assert part.nodes == (
        "/dev/nvidia-caps/nvidia-cap4711",
        f"/dev/nvidia-caps/nvidia-cap{ci_minor(2, 1)}",
    )
    assert part.accessible


@pytest.mark.parametrize("gpu", [0, 2, 7])
def test_where_a_capability_is_silent_the_table_of_minors_answers(kernel, gpu):
    host = kernel(gpus=8)
    for gi in range(15):
        path = f"gpu{gpu}/mig/gi{gi}"
        expected = f"/dev/nvidia-caps/nvidia-cap{gi_minor(gpu, gi)}"
        assert mig.capability_node(host, f"{path}/access") == expected
        expected = f"/dev/nvidia-caps/nvidia-cap{ci_minor(gpu, gi, 3)}"
        assert mig.capability_node(host, f"{path}/ci3/access") == expected
    assert mig.capability_node(host, "mig/config") == "/dev/nvidia-caps/nvidia-cap1"
    assert mig.capability_node(host, "gpu99/mig/gi0/access") == ""


@pytest.mark.parametrize(
    "text", ["", "DeviceFileMinor:", "DeviceFileMinor: x", "\0" * 99, "1" * 5000]
)
def test_a_capability_of_another_form_is_not_believed(node, text):
    os.unlink(node.path("/proc/driver/nvidia-caps/mig-minors"))
    kerneltree.write(node.root, "proc/driver/nvidia/capabilities/gpu2/mig/gi1/access", text)
    assert shape(find_gpus(node))[2] == [(2, 0), (2, 1)]


def test_a_part_without_its_nodes_is_not_accessible(node):
    os.unlink(node.path(f"/dev/nvidia-caps/nvidia-cap{ci_minor(2, 2, 1)}"))
    os.unlink(node.path(f"/dev/nvidia-caps/nvidia-cap{gi_minor(2, 1)}"))
    assert [part.accessible for part in find_gpus(node)[0].mig] == [False, True, False]
    assert shape(selection.select(find_gpus(node), "all", {}))[2] == [(2, 0)]


def test_a_gpu_whose_parts_are_all_closed_is_not_the_jobs(kernel):
    host = kernel(mig={0: TWO_BIG})
    for node in find_gpus(host)[0].mig[0].nodes, find_gpus(host)[0].mig[1].nodes:
        os.unlink(host.path(node[0]))
    assert selection.of_job(find_gpus(host), {}) == ()
    with pytest.raises(GpuError, match="no MIG part of /dev/nvidia0 permitted"):
        selection.select(find_gpus(host), "all", {})


OLD = f"MIG-{uuid(2)}/2/1"


@pytest.mark.parametrize(
    ("request_", "visible", "expected"),
    [
        ("all", None, {2: [(1, 0), (2, 0), (2, 1)], 1: [], 0: [(gi, 0) for gi in range(7, 14)]}),
        ("0", None, {2: [(1, 0), (2, 0), (2, 1)]}),
        ("0:1", None, {2: [(2, 0)]}),
        ("0:0,0:2,2:6", None, {2: [(1, 0), (2, 1)], 0: [(13, 0)]}),
        ("1", None, {1: []}),
        (mig_uuid(0, 9), None, {0: [(9, 0)]}),
        (mig_uuid(0, 9).lower(), None, {0: [(9, 0)]}),
        (f"{mig_uuid(0, 9)},{uuid(1)}", None, {0: [(9, 0)], 1: []}),
        (OLD, None, {2: [(2, 1)]}),
        (OLD.lower(), None, {2: [(2, 1)]}),
        ("0", mig_uuid(0, 9), {0: [(9, 0)]}),
        ("0:1", f"{mig_uuid(0, 9)},{mig_uuid(0, 12)}", {0: [(12, 0)]}),
        ("0", f"{OLD},{mig_uuid(0, 9)}", {2: [(2, 1)]}),
    ],
)
def test_parts_are_selected_by_every_form_of_name(parts, request_, visible, expected):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert shape(selection.select(parts, request_, environment)) == expected


@pytest.mark.parametrize(
    "word", ["0:3", "1:0", "3:0", "0:", ":1", "0:x", "0:99999999999", f"MIG-{uuid(2)}/2/7", "MIG-x"]
)
def test_a_part_that_is_not_there_is_an_error_that_lists_those_that_are(parts, word):
    with pytest.raises(GpuError, match="is not one GPU of this job") as caught:
        selection.select(parts, word, {})
    assert f"0:2 ({mig_uuid(2, 2, 1)})" in caught.value.hint


def test_images_must_name_parts_whole(parts):
    word = mig_uuid(0, 9)
    assert selection.select(parts, word, {}, whole_names=True)
    assert selection.select(parts, word[:-1], {})
    with pytest.raises(GpuError, match="takes whole UUIDs only"):
        selection.select(parts, word[:-1], {}, whole_names=True)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (f"{mig_uuid(0, 9)},{mig_uuid(0, 8)}", {0: [(9, 0), (8, 0)]}),
        (f"{mig_uuid(0, 9)},MIG-unknown,{mig_uuid(0, 8)}", {0: [(9, 0)]}),
        ("MIG-unknown", {}),
    ],
)
def test_the_jobs_parts_are_those_that_cuda_takes(parts, visible, expected):
    assert shape(selection.of_job(parts, {"CUDA_VISIBLE_DEVICES": visible})) == expected


def test_without_nvml_a_jobs_part_may_be_any(node):
    job = selection.of_job(find_gpus(node), {"CUDA_VISIBLE_DEVICES": mig_uuid(0, 9)})
    assert [gpu.minor for gpu in job] == [2, 0]


def test_the_program_is_told_the_parts_that_were_chosen(parts):
    chosen = selection.select(parts, "0:1,1", {})
    words = f"{mig_uuid(2, 2)},{uuid(1)}"
    assert selection.visible_devices(chosen, "0:1,1", {}) == (("CUDA_VISIBLE_DEVICES", words),)


class TestNames:
    """The child process that asks NVML."""

    @pytest.fixture
    def named(self, machine, tmp_path, monkeypatch):
        node = machine(gpus=3, mig=MIXED)
        monkeypatch.setenv("FAKE_DRIVER_ROOT", node.root)
        found = driver.find(node)

        def ask(*words):
            kept = str(tmp_path / "kept")
            return partnames.with_names(find_gpus(node), found, "boot", kept, words)

        return ask

    def test_uuids_and_order_are_nvmls(self, named):
        first, whole, last = named()
        assert [part.uuid for part in first.mig] == [
            mig_uuid(2, 2, 1),
            mig_uuid(2, 2, 0),
            mig_uuid(2, 1, 0),
        ]
        assert whole.mig == ()
        assert [part.gi for part in last.mig] == list(range(13, 6, -1))

    def test_the_answer_is_kept_until_an_unknown_uuid_is_asked_for(self, named, monkeypatch):
        first = named(mig_uuid(0, 9))
        monkeypatch.setenv("FAKE_NVML_INIT", "9")
        assert named(mig_uuid(0, 9)) == first
        assert named("GPU-x", "0:1", f"MIG-{uuid(2)}/1/0") == first
        with pytest.raises(GpuError, match="MIG-novel: that name is known to NVML only") as caught:
            named("MIG-novel")
        assert "the kernel module is not loaded" in caught.value.message.lower()
        assert "--gpu=0:1" in caught.value.hint

    def test_without_nvml_numbers_do(self, named, monkeypatch):
        monkeypatch.setenv("FAKE_NVML_INIT", "999")
        assert shape(named("0:1"))[2] == [(1, 0), (2, 0), (2, 1)]

    def test_a_broken_memory_is_forgotten(self, named, tmp_path):
        first = named()
        (name,) = os.listdir(tmp_path / "kept")
        for content in ("", "[1]", "[[1,2,3,4]]", '[["x",1,1,"y"]]', '{"a":1}'):
            (tmp_path / "kept" / name).write_text(content)
            assert named() == first

    def test_nothing_of_nvml_reaches_this_process(self, named):
        before = sorted(os.listdir("/proc/self/fd"))
        named()
        assert sorted(os.listdir("/proc/self/fd")) == before
        with open("/proc/self/maps", encoding="utf-8") as file:
            assert "libnvidia-ml" not in file.read()
