"""`udocker gpu doctor` names what is wrong with a node's GPUs, and what helps."""

from __future__ import annotations

import json
import os

import pytest

from gpu import amdtree, drivertree, kerneltree
from gpu.drivertree import MACHINE, VERSION
from udocker.diagnosis import fabric, gpu, gpunvml
from udocker.diagnosis.finding import FAIL, OK, WARN
from udocker.errors import GpuError
from udocker.host.probe import Host
from udocker.nvidia import driver

NVML = f"usr/lib/{MACHINE}-linux-gnu/libnvidia-ml.so.{VERSION}"
KEYS = [
    "driver",
    "job",
    "nodes",
    "uvm",
    "mig",
    "groups",
    "nvml",
    "fabricmanager",
    "mps",
]
FABRIC_KEYS = ["shm", "memlock", "infiniband", "rdma", "other_fabrics", "mpi", "pmi"]


@pytest.fixture
def check(monkeypatch):
    """A function that returns the findings on a host, by key; NVML sees the host's tree."""

    def run(host, **environment):
        monkeypatch.setenv("FAKE_DRIVER_ROOT", host.root)
        return {finding.key: finding for finding in gpu.findings(host, environment)}

    return run


def switch(host, present=4):
    """Give a machine NVSwitches."""
    for number in range(present):
        place = f"sys/bus/pci/devices/0000:0{number}:00.0"
        drivertree.write(host.root, f"{place}/vendor", "0x10de\n")
        drivertree.write(host.root, f"{place}/class", "0x068000\n")
    drivertree.write(host.root, "dev/nvidia-nvswitch0", "c 235:0\n", 0o666)
    drivertree.write(host.root, "proc/1/comm", "systemd\n")


def test_a_sound_node_has_nothing_to_complain_of(check, machine):
    host = machine(gpus=2)
    found = check(host)
    assert list(found) == KEYS
    assert {f.key: f.text for f in found.values() if f.status != OK} == {}
    assert found["job"].text == "2 of 2 GPUs"
    assert found["nvml"].text.startswith("2 GPUs: NVIDIA Fake GPU")


def test_a_node_without_a_driver_has_one_complaint(check, tmp_path):
    host = Host(str(tmp_path))
    (only,) = check(host).values()
    assert (only.key, only.status) == ("driver", FAIL)
    assert "kernel module not loaded" in only.text
    assert "srun --gres=gpu:1" in only.fix
    drivertree.write(host.root, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    drivertree.write(host.root, "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")
    (only,) = check(Host(host.root)).values()
    assert "has an NVIDIA GPU, but no NVIDIA driver: kernel module not loaded" in only.text
    assert "modprobe nvidia" in only.fix


def update(host):
    drivertree.build_kernel(host.root, version="575.57.08")


def lose(*paths):
    return lambda host: [os.unlink(host.path(path)) for path in paths]


def close(path):
    return lambda host: os.chmod(host.path(path), 0)


def modprobe(host):
    drivertree.write(host.root, "usr/bin/nvidia-modprobe", "#!", 0o4755)
    os.unlink(host.path("/dev/nvidia-uvm"))


def parted(lost=False):
    def change(host):
        kerneltree.build_kernel(host.root, gpus=1, mig={0: kerneltree.SEVEN_SMALL})
        if lost:
            os.unlink(host.path(f"/dev/nvidia-caps/nvidia-cap{kerneltree.gi_minor(0, 8)}"))

    return change


def daemon(host):
    drivertree.write(host.root, "tmp/nvidia-mps/control")


def managed(host):
    switch(host)
    drivertree.write(host.root, "proc/77/comm", "nv-fabricmanage\n")


def managed_by_pid(host):
    switch(host)
    drivertree.write(host.root, "proc/78/comm", "x\n")
    drivertree.write(host.root, "run/nvidia-fabricmanager/nv-fabricmanager.pid", "78\n")


def hidden(host):
    switch(host)
    os.unlink(host.path("/proc/1/comm"))
    os.rmdir(host.path("/proc/1"))


@pytest.mark.parametrize(
    ("key", "change", "environment", "status", "text", "fix"),
    [
        ("driver", update, {}, FAIL, "updated without reboot", "tell the administrators"),
        ("job", None, {"CUDA_VISIBLE_DEVICES": ""}, FAIL, "CUDA_VISIBLE_DEVICES is empty", "srun"),
        ("job", None, {"CUDA_VISIBLE_DEVICES": "0"}, OK, "1 of 2 GPUs, CUDA_VISIBLE_DEVICES=0", ""),
        ("nodes", lose("/dev/nvidiactl"), {}, FAIL, "/dev/nvidiactl: missing", "nvidia-modprobe"),
        ("nodes", lose("/dev/nvidia1"), {}, OK, "not for this job: /dev/nvidia1", ""),
        ("uvm", lose("/dev/nvidia-uvm"), {}, FAIL, "no set-uid", "nvidia-modprobe -u -c0"),
        ("uvm", modprobe, {}, WARN, "the first run with --gpu", "nvidia-modprobe -u -c0"),
        ("fabricmanager", switch, {}, FAIL, "2 NVSwitch GPUs but nvidia-fab", "systemctl start"),
        ("fabricmanager", managed, {}, OK, "4 NVSwitches, nvidia-fabricmanager runs", ""),
        ("fabricmanager", managed_by_pid, {}, OK, "4 NVSwitches", ""),
        ("fabricmanager", hidden, {}, WARN, "hidepid", ""),
        ("mig", parted(), {}, OK, "7 of 7 MIG devices can be opened", ""),
        ("mig", parted(lost=True), {}, FAIL, "capability nodes missing", "nvidia-smi -L"),
        ("mps", None, {"CUDA_MPS_PIPE_DIRECTORY": "/m"}, WARN, "without MPS", "unset"),
        ("mps", daemon, {}, OK, "listens in /tmp/nvidia-mps", ""),
    ],
)
def test_what_is_wrong_has_a_cause_and_a_cure(
    check, machine, key, change, environment, status, text, fix
):
    host = machine(gpus=2)
    if change:
        change(host)
    finding = check(host, **environment)[key]
    assert finding.status == status, finding
    assert text in finding.text
    assert fix in finding.fix
    assert bool(fix) == bool(finding.fix)


@pytest.mark.parametrize(
    ("number", "words"), [("18", "updated without reboot"), ("999", "(error 999)")]
)
def test_a_driver_that_does_not_start_says_why(check, machine, monkeypatch, number, words):
    monkeypatch.setenv("FAKE_NVML_INIT", number)
    finding = check(machine())["nvml"]
    assert (finding.status, words in finding.text) == (FAIL, True)


def card(host, state):
    place = "sys/class/infiniband/mlx5_0/ports/1"
    for fact, text in {"state": state, "link_layer": "InfiniBand", "rate": "400 Gb/sec"}.items():
        drivertree.write(host.root, f"{place}/{fact}", text + "\n")


@pytest.mark.parametrize(
    ("state", "locked", "key", "status", "text"),
    [
        ("4: ACTIVE", -1, "infiniband", OK, "mlx5_0/1 InfiniBand 400 Gb/sec"),
        ("1: DOWN", -1, "infiniband", WARN, "no port is active"),
        ("", -1, "infiniband", OK, "none"),
        ("4: ACTIVE", 8 << 20, "memlock", WARN, "8.39 MB: RDMA registration will fail"),
        ("4: ACTIVE", -1, "memlock", OK, "unlimited"),
        ("", 8 << 20, "memlock", OK, "only RDMA needs more"),
    ],
)
def test_links_and_locked_memory_are_judged_together(tmp_path, state, locked, key, status, text):
    host = Host(str(tmp_path))
    if state:
        card(host, state)
    found = {finding.key: finding for finding in fabric.findings(host, {}, locked)}
    assert (found[key].status, text in found[key].text) == (status, True), found[key]
    assert (found["shm"].status, "mount" in found["shm"].fix) == (WARN, True)


CRASH = "void crash(void) __attribute__((constructor)); void crash(void) { *(volatile int *)0=0; }"
HANG = "void sleepy(void) __attribute__((constructor)); void sleepy(void) { for (;;) ; }"


@pytest.mark.parametrize(("body", "words"), [(CRASH, "ended the process"), (HANG, "no answer")])
def test_a_broken_library_takes_nobody_down(machine, linked, body, words):
    host = machine()
    drivertree.write(host.root, NVML, linked(body, "libnvidia-ml.so.1"))
    with pytest.raises(GpuError, match=words):
        gpunvml.ask(driver.find(host), timeout_s=1)


def test_a_gpu_that_nvml_does_not_see_is_told(check, machine):
    host = machine(gpus=1)
    found = check(host)
    assert found["nvml"].status == OK
    other = drivertree.pci(0).replace("0000", "0001")
    text = "Model: NVIDIA Fake GPU\nDevice Minor: 9\n"
    drivertree.write(host.root, f"proc/driver/nvidia/gpus/{other}/information", text)
    drivertree.write(host.root, "dev/nvidia9", "c 195:9\n", 0o666)
    finding = check(Host(host.root))["nvml"]
    assert finding.status == WARN
    assert "does not see /dev/nvidia9" in finding.text


def test_a_node_of_amds_gpus_is_judged_by_them(check, machine, tmp_path):
    host = Host(amdtree.build(str(tmp_path / "amd")))
    (finding,) = check(host).values()
    assert (finding.key, finding.status) == ("rocm", OK)
    assert finding.text == "2 of 2 GPUs of AMD (gfx90a), by --rocm"
    assert "1 of 2" in check(host, ROCR_VISIBLE_DEVICES="1")["rocm"].text
    (finding,) = check(host, HIP_VISIBLE_DEVICES="-1").values()
    assert (finding.status, finding.text) == (
        FAIL,
        "this session has no GPU (HIP_VISIBLE_DEVICES is -1)",
    )
    both = machine()
    amdtree.build(both.root, gpus=0)
    found = check(both)
    assert list(found) == [*KEYS, "rocm"]
    assert found["rocm"].status == WARN, "NVIDIA's can be used"


@pytest.mark.root
def test_a_user_gets_a_code_for_what_is_wrong(dressed):
    node = dressed(gpus=2)
    done = node("gpu", "doctor", "--json")
    told = json.loads(done.stdout)
    assert [one["key"] for one in told["checks"]] == KEYS + FABRIC_KEYS
    unwell = {one["key"] for one in told["checks"] if one["status"] != OK}
    assert unwell <= set(FABRIC_KEYS), done.stdout  # as this machine has them
    assert (done.returncode, told["format"]) == (told["code"], 1)
    done = node("gpu", "doctor", null=False)
    assert done.returncode == 2
    assert "fail  nodes           /dev/nvidiactl: a node without a driver behind it" in done.stdout
    mps = {"CUDA_MPS_PIPE_DIRECTORY": "/nowhere"}
    assert node("gpu", "doctor", env=mps).returncode == 1
