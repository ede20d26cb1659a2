"""Which GPUs a job has and which ones it means."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu import drivertree, kerneltree
from gpu.drivertree import uuid
from udocker.errors import GpuError
from udocker.nvidia.devices import selection
from udocker.nvidia.devices.gpus import Gpu, find_gpus
from udocker.nvidia.devices.mig import MigDevice
from udocker.values import replace

# Four GPUs, the third another job's. PCI order is the reverse of the order of minors.
GPUS = tuple(
    Gpu(drivertree.pci(minor), minor, uuid(minor), "NVIDIA Fake GPU", minor != 1)
    for minor in (3, 2, 1, 0)
)


def closed(denial, group=""):
    return tuple(replace(gpu, accessible=False, denial=denial, group=group) for gpu in GPUS)


def minors(gpus):
    return [gpu.minor for gpu in gpus]


def test_gpus_are_in_pci_order_whatever_their_minors(kernel):
    found = find_gpus(kernel(gpus=4))
    assert minors(found) == [3, 2, 1, 0]
    assert [gpu.pci for gpu in found] == sorted(gpu.pci for gpu in found)
    assert found[0].uuid == uuid(3)
    assert all(gpu.accessible for gpu in found)


def test_a_gpu_without_a_node_is_not_accessible(kernel):
    host = kernel(gpus=2)
    os.unlink(host.path("/dev/nvidia1"))
    assert {gpu.minor: gpu.accessible for gpu in find_gpus(host)} == {0: True, 1: False}


@pytest.mark.parametrize("text", ["", "Device Minor: x", "Device Minor: 0\nGPU Excluded:\tYes"])
def test_what_is_no_usable_gpu_is_left_out(kernel, text):
    host = kernel(gpus=1)
    drivertree.write(host.root, f"proc/driver/nvidia/gpus/{drivertree.pci(0)}/information", text)
    assert find_gpus(host) == ()


def test_a_machine_without_the_driver_has_no_gpus(tmp_path):
    from udocker.host.probe import Host

    assert find_gpus(Host(str(tmp_path))) == ()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [3, 2, 0]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0", [3]),
        ("2,0", [0, 3]),
        ("0,9,1", [3]),
        ("0,0", [3]),
        (uuid(0), [0]),
        (uuid(0)[:12] + "," + uuid(3), [0, 3]),
        (uuid(1), []),
        ("GPU-f", []),
    ],
)
def test_the_jobs_view_is_cudas(visible, expected):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert minors(selection.of_job(GPUS, environment)) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GPU_DEVICE_ORDINAL": "1"}, [2]),
        ({"GPU_DEVICE_ORDINAL": "1", "CUDA_VISIBLE_DEVICES": "0"}, [3]),
        ({"SLURM_JOB_GPUS": "0"}, [0]),
        ({"SLURM_JOB_GPUS": "0,2-3"}, [3, 2, 0]),
        ({"SLURM_JOB_GPUS": "2,3"}, [3, 2]),
        ({"SLURM_JOB_GPUS": "2,3", "SLURM_STEP_GPUS": "3"}, [3]),
        ({"SLURM_JOB_GPUS": "1"}, []),
        ({"SLURM_JOB_GPUS": "0,1,2,3"}, [3, 2, 0]),
        ({"SLURM_JOB_GPUS": "2", "CUDA_VISIBLE_DEVICES": "0"}, [3]),
        ({"SLURM_JOB_GPUS": "x"}, [3, 2, 0]),
        ({"SLURM_JOB_GPUS": "5-4,9"}, [3, 2, 0]),
        ({"SLURM_JOB_GPUS": ""}, [3, 2, 0]),
    ],
)
def test_where_cuda_is_not_told_slurms_words_count(environment, expected):
    assert minors(selection.of_job(GPUS, environment)) == expected


def test_slurms_numbers_mean_nothing_where_the_cgroup_leaves_the_jobs_own():
    one = tuple(gpu if gpu.minor == 2 else replace(gpu, accessible=False) for gpu in GPUS)
    assert minors(selection.of_job(one, {"SLURM_JOB_GPUS": "0"})) == [2]


def test_a_job_that_slurm_alone_tells_of_sees_its_own_gpus():
    environment = {"SLURM_JOB_GPUS": "2,3", "SLURM_JOB_ID": "1"}
    chosen = selection.select(GPUS, "all", environment)
    assert minors(chosen) == [3, 2]
    told = selection.visible_devices(chosen, "all", environment)
    assert told == (("CUDA_VISIBLE_DEVICES", f"{uuid(3)},{uuid(2)}"),)


DENIAL = """
import sys
from udocker.host.probe import Host
from udocker.nvidia.devices.gpus import find_gpus
print(find_gpus(Host(sys.argv[1]))[0].denial)
"""


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (None, "missing"),
        (0o600, "not permitted"),
        (0o660, "for group 4711 only, of which this user is not"),
        (0o666, ""),
    ],
)
def test_why_a_node_is_closed_is_told(unprivileged, mode, words):
    tree = f"{unprivileged.home}/node"
    kerneltree.build_kernel(tree, nodes=False)
    if mode is not None:
        kerneltree.node(tree, "nvidia0", "195:0", mode)
        os.chown(f"{tree}/dev/nvidia0", 0, 4711)
    path = f"{unprivileged.checkout}:{unprivileged.environment()['PYTHONPATH']}"
    command = [unprivileged.python, "-B", "-c", DENIAL, tree]
    assert unprivileged.run(command, env={"PYTHONPATH": path}).stdout == f"{words}\n"


@pytest.mark.parametrize(
    ("request_", "visible", "expected"),
    [
        ("all", None, [3, 2, 0]),
        ("auto", "1", [3, 2, 0]),
        ("none", "", []),
        ("0", None, [3]),
        ("2", None, [0]),
        ("0,2", None, [3, 0]),
        ("0", "2,1", [0]),
        ("1,1", None, [2]),
        (uuid(2), None, [2]),
        (uuid(2)[:12].lower(), None, [2]),
        ("00000000:22:00.0", None, [0]),
        ("22:00.0", None, [0]),
    ],
)
def test_a_selection_means_gpus_of_the_job(request_, visible, expected):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert minors(selection.select(GPUS, request_, environment)) == expected


@pytest.mark.parametrize("word", ["3", "99999999999", "GPU-", "GPU-x", uuid(1), "21:00.0", "x", ""])
def test_an_unknown_gpu_is_an_error_that_lists_the_known_ones(word):
    with pytest.raises(GpuError, match="is not one GPU of this job") as caught:
        selection.select(GPUS, word, {})
    assert f"0 ({uuid(3)})" in caught.value.hint


@pytest.mark.parametrize(
    ("gpus", "environment", "words"),
    [
        (GPUS, {"CUDA_VISIBLE_DEVICES": ""}, ["this session", "CUDA_VISIBLE_DEVICES is empty"]),
        (GPUS[2:3], {"SLURM_JOB_ID": "4711"}, ["job 4711", "/dev/nvidia1 not permitted"]),
        (GPUS, {"CUDA_VISIBLE_DEVICES": "7"}, ["'7', which names none"]),
        (tuple(replace(g, accessible=False) for g in GPUS), {}, ["/dev/nvidia0..3 not permitted"]),
        (GPUS, {"GPU_DEVICE_ORDINAL": ""}, ["(GPU_DEVICE_ORDINAL is empty;"]),
        (GPUS, {"SLURM_JOB_GPUS": "1"}, ["SLURM_JOB_GPUS is '1', which names none"]),
    ],
)
def test_a_job_without_gpu_is_told_why(gpus, environment, words):
    with pytest.raises(GpuError) as caught:
        selection.select(gpus, "all", environment)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert "--gres=gpu:1" in caught.value.hint


@pytest.mark.parametrize(
    ("gpus", "words", "hint"),
    [
        ((), "lists none", "dmesg says why"),
        (closed("missing"), "/dev/nvidia0..3 missing", "nvidia-modprobe -u -c3 -c2 -c1 -c0`"),
        (closed("for group video only", "video"), "group video", "usermod -aG video USER"),
    ],
)
@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "0"}])
def test_where_no_job_would_help_the_cure_is_another(gpus, words, hint, environment):
    with pytest.raises(GpuError, match=words) as caught:
        selection.select(gpus, "all", environment)
    assert hint in caught.value.hint


def test_only_shortened_names_are_told_to_be_too_short():
    hint = "whole UUIDs only"
    for word, told in (("7", False), ("0:0", False), (uuid(0)[:12], True)):
        with pytest.raises(GpuError) as caught:
            selection.select(GPUS, word, {}, whole_names=True)
        assert (hint in caught.value.message) is told


@pytest.mark.parametrize(
    ("request_", "environment", "expected"),
    [
        ("all", {}, ()),
        ("auto", {"CUDA_VISIBLE_DEVICES": "1"}, (("CUDA_VISIBLE_DEVICES", "1"),)),
        ("0", {}, (("CUDA_VISIBLE_DEVICES", uuid(3)),)),
    ],
)
def test_the_jobs_own_variable_passes_unless_narrowed(request_, environment, expected):
    assert selection.visible_devices(GPUS[:1], request_, environment) == expected


def test_slurms_numbers_leave_parts_of_gpus_to_cuda():
    whole = GPUS[0]
    parted = replace(GPUS[1], mig=(MigDevice(7, 0, (), True), MigDevice(8, 0, (), True)))
    environment = {"SLURM_JOB_GPUS": "0,1"}
    chosen = selection.select((whole, parted), "all", environment)
    assert selection.visible_devices(chosen, "all", environment) == ()


def test_gpus_without_uuid_are_all_that_the_container_has():
    sleeping = Gpu("0000:01:00.0", 5, "", "", True)
    assert selection.visible_devices((sleeping,), "0", {}) == (("CUDA_VISIBLE_DEVICES", "0"),)


PIECES = st.sampled_from(
    ["0", "1", "99999999999", ":", "-", ",", "/", " ", "GPU-", "MIG-", "GPU-f0000002", uuid(3)]
    + ["0000:22:00.0", "1f:00.0", "\u00b2", "\u0663", "x", "\0", "-1", "1_0", "all", "none"]
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


@given(TEXTS, st.one_of(st.none(), TEXTS), st.one_of(st.none(), TEXTS), st.booleans())
def test_any_words_select_gpus_or_are_told_to_be_wrong(request_, visible, slurm, whole):
    environment = {"CUDA_VISIBLE_DEVICES": visible, "SLURM_JOB_GPUS": slurm}
    environment = {name: text for name, text in environment.items() if text is not None}
    try:
        chosen = selection.select(GPUS, request_, environment, whole_names=whole)
    except GpuError as error:
        assert error.message.startswith("gpu: ") and error.hint
        return
    assert request_ == "none" or chosen
    assert all(gpu.accessible for gpu in chosen)
    assert len({gpu.pci for gpu in chosen}) == len(chosen)
    assert selection.visible_devices(chosen, request_, environment) is not None
