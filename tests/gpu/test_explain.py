"""What an image gets of a node's GPUs is explained without running it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile

import pytest

from gpu import drivertree
from gpu.drivertree import MACHINE, VERSION, uuid
from udocker.diagnosis import gpuimage, symbols
from udocker.diagnosis.finding import FAIL, OK, WARN
from udocker.host.loader import Loader
from udocker.host.probe import Host
from udocker.nvidia.wishes import GpuRequest
from udocker.values import replace

LIBRARIES = drivertree.LAYOUTS["deb"][0]


@pytest.fixture
def explain(tmp_path):
    """A function that explains an image on a host."""

    def run(host, image, *env, selection="all", compat="auto", **environment):
        request = GpuRequest(selection, (), env, compat=compat)
        kept = str(tmp_path / "kept")
        return gpuimage.explain(host, image, request, kept, environment)

    return run


@pytest.fixture
def needy(machine):
    """A machine with a library that needs the newest C library."""
    host = machine(gpus=2)
    content = drivertree.needy_library("GLIBC_2.99", "libnvidia-nvvm.so.4")
    drivertree.write(host.root, f"{LIBRARIES}/libnvidia-nvvm.so.{VERSION}", content)
    return host


def verdicts(about):
    return {v.soname: (v.kind, v.decision) for v in about.verdicts}


def checks(about):
    return {f.key: f for f in gpuimage.findings(about)}


def test_a_sound_image_gets_the_driver_and_the_jobs_gpus(explain, machine, image):
    about = explain(machine(gpus=2), image("GLIBC_2.99"), CUDA_VISIBLE_DEVICES="0")
    assert not about.is_fatal
    assert (about.glibc, about.obstacle, about.asks) == ("2.99", None, False)
    assert verdicts(about)["libcuda.so.1"] == ("driver-locked", "ok")
    assert about.capabilities == ("compute", "utility")
    assert [node.destination for node in about.plan.edits.device_nodes][0] == "/dev/nvidiactl"
    assert dict(about.plan.edits.env)["CUDA_VISIBLE_DEVICES"] == "0"
    unwell = {f.key: f.text for f in checks(about).values() if f.status != OK}
    assert set(unwell) <= {"image_symbols"}, "a C library of versions alone is not whole"


def test_a_library_that_does_not_fit_is_left_out_with_the_reason(explain, needy, image):
    about = explain(needy, image("GLIBC_2.17"))
    assert not about.is_fatal
    assert verdicts(about)["libnvidia-nvvm.so.4"] == ("driver-locked", "skip")
    finding = checks(about)["image_libraries"]
    assert finding.status == WARN
    assert "1 left out: image glibc 2.17 is too old for libnvidia-nvvm.so.4" in finding.text
    assert "newer" in finding.fix


def test_symbols_that_nothing_in_the_image_defines_are_told(explain, machine, image, linked):
    host = machine()
    body = "extern int v0, absent, other; extern int dispensable __attribute__((weak));"
    body += "int *use[] = {&v0, &absent, &other, &dispensable};"  # the image's C library has v0
    needy = linked(body, "libnvidia-opencl.so.1")
    drivertree.write(host.root, f"{LIBRARIES}/libnvidia-opencl.so.{VERSION}", needy)
    about = explain(host, image("GLIBC_2.99"))
    lacking = dict(symbols.unresolved(about.verdicts, Loader(about.files, MACHINE)))
    told = {verdict.soname: names for verdict, names in lacking.items()}
    assert told["libnvidia-opencl.so.1"] == ("absent", "other")
    finding = checks(about)["image_symbols"]
    assert finding.status == WARN
    assert "libnvidia-opencl.so.1 uses absent and 1 more" in finding.text
    damaged = replace(about, verdicts=tuple(replace(v, source="/none") for v in about.verdicts))
    assert checks(damaged)["image_symbols"].status == OK, "what cannot be read is told elsewhere"


def test_symbols_of_a_brothers_and_of_the_images_libraries_are_there(
    explain, machine, image, tmp_path
):
    host = machine()
    build = ("gcc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", "-L", str(tmp_path))
    for soname, body, *links in (
        ("libwayland-client.so.0", "int wl_proxy;"),
        ("libnvidia-ml.so.1", "extern int wl_proxy; int *of_ml = &wl_proxy;", "libwayland-client"),
        ("libcuda.so.1", "extern int *of_ml; int **use = &of_ml;", "libnvidia-ml"),
    ):
        output = f"{tmp_path}/{soname.partition('.')[0]}.so"
        words = [f"-Wl,-soname,{soname}", "-o", output, *(f"-l:{name}.so" for name in links)]
        subprocess.run([*build, *words], input=body.encode(), check=True)
    for name in ("libnvidia-ml", "libcuda"):
        shutil.copy(f"{tmp_path}/{name}.so", host.path(f"/{LIBRARIES}/{name}.so.{VERSION}"))
    files = {
        f"{LIBRARIES}/libwayland-client.so.0": (tmp_path / "libwayland-client.so").read_bytes()
    }
    assert checks(explain(host, image(files=files)))["image_symbols"].status == OK


def test_an_image_too_old_for_cuda_is_fatal_and_every_verdict_is_there(explain, machine, image):
    host = machine()
    content = drivertree.needy_library("GLIBC_2.99", "libcuda.so.1")
    drivertree.write(host.root, f"{LIBRARIES}/libcuda.so.{VERSION}", content)
    about = explain(host, image("GLIBC_2.17"))
    assert about.is_fatal
    assert verdicts(about)["libcuda.so.1"] == ("driver-locked", "fatal")
    assert verdicts(about)["libnvidia-ml.so.1"] == ("driver-locked", "ok")
    assert "too old for libcuda.so.1" in about.problems[0].message
    assert checks(about)["image_libraries"].status == FAIL


@pytest.mark.parametrize(
    ("files", "status", "word"),
    [({f"lib/ld-musl-{MACHINE}.so.1": "musl"}, FAIL, "musl"), ({}, WARN, "no C library")],
)
def test_an_image_without_glibc_is_told(explain, machine, image, files, status, word):
    about = explain(machine(), image("", files=files))
    finding = checks(about)["image_libc"]
    assert (finding.status, word in finding.text) == (status, True)
    assert about.is_fatal == (status == FAIL)


def test_a_node_without_a_driver_still_tells_of_the_image(explain, image, tmp_path):
    os.makedirs(tmp_path / "bare")
    about = explain(Host(str(tmp_path / "bare")), image("GLIBC_2.31"))
    assert about.is_fatal
    assert about.glibc == "2.31"
    assert "no NVIDIA driver on this node" in about.problems[0].message
    assert list(checks(about)) == ["image_libc"]


def test_verdicts_are_given_though_the_job_has_no_gpu(explain, machine, image):
    about = explain(machine(), image("GLIBC_2.99"), CUDA_VISIBLE_DEVICES="")
    assert about.is_fatal
    assert "has no GPU" in about.problems[0].message
    assert verdicts(about)["libcuda.so.1"] == ("driver-locked", "ok")


def test_missing_nodes_are_told_and_not_made(explain, machine, image):
    host = machine()
    os.unlink(host.path("/dev/nvidia-uvm"))
    about = explain(host, image("GLIBC_2.99"))
    assert about.problems[0].message == "gpu: /dev/nvidia-uvm missing"
    assert not host.exists("/dev/nvidia-uvm")


def test_a_driver_that_was_left_in_the_image_is_a_warning(explain, machine, image):
    host = machine()
    with open(host.path(f"/{LIBRARIES}/libcuda.so.{VERSION}"), "rb") as file:
        own = {f"{LIBRARIES}/libcuda.so.550.54.15": file.read()}
    about = explain(host, image("GLIBC_2.99", files=own))
    finding = checks(about)["image_driver"]
    assert finding.status == WARN
    assert "550.54.15" in finding.text


def test_a_driver_that_the_image_preloads_is_a_warning(explain, machine, image):
    preload = ("LD_PRELOAD", "/opt/libnvidia-ml.so.1")
    finding = checks(explain(machine(), image("GLIBC_2.99"), preload))["image_driver"]
    assert finding.status == WARN
    assert "the host's libnvidia-ml.so.1 in the place of /opt/libnvidia-ml.so.1" in finding.text


@pytest.mark.parametrize(
    ("text", "status", "word"),
    [
        ("cuda>=11.0", OK, "met"),
        ("cuda>=99.0", WARN, "unmet: cuda>=99.0"),
        ("cuda~3", WARN, "malformed"),
    ],
)
def test_what_the_image_requires_is_judged(explain, machine, image, text, status, word):
    about = explain(machine(), image("GLIBC_2.99"), ("NVIDIA_REQUIRE_CUDA", text))
    finding = checks(about)["requirements"]
    assert (finding.status, word in finding.text) == (status, True), finding


def test_nvml_is_asked_for_what_an_image_requires_of_gpus(explain, machine, image, monkeypatch):
    host = machine()
    monkeypatch.setenv("FAKE_DRIVER_ROOT", host.root)
    env = ("NVIDIA_REQUIRE_ARCH", "arch>=99.0")
    about = explain(host, image("GLIBC_2.99"), env)
    assert checks(about)["requirements"].text == "NVIDIA_REQUIRE_ARCH: unknown"
    asked = gpuimage.ask_nvml(about, GpuRequest("all", (), (env,)))
    assert "unmet: arch>=99.0" in checks(asked)["requirements"].text


@pytest.mark.root
def test_a_user_reads_the_table_and_a_program_the_json(dressed, unprivileged, libc, tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        data = libc("GLIBC_2.2.5", "GLIBC_2.99")
        member = tarfile.TarInfo(f"{LIBRARIES}/libc.so.6")
        member.size, member.mode = len(data), 0o755
        tar.addfile(member, io.BytesIO(data))
    words = ["import", "-", "some:1"]
    unprivileged.udocker(*words, input=archive.getvalue(), text=False)
    node = dressed(gpus=2)
    done = node("gpu", "explain", "some:1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "some:1: glibc 2.99; asks for GPUs: no" in done.stdout
    assert f"{uuid(0)} (NVIDIA Fake GPU)" in done.stdout
    lines = [line.split(None, 4) for line in done.stdout.splitlines()]
    assert ["ok", "driver-locked", "64", "libcuda.so.1"] in [line[:4] for line in lines]
    told = json.loads(node("gpu", "explain", "--json", "--gpu=0", "some:1").stdout)
    assert (told["format"], told["fatal"]) == (1, False)
    assert told["env"]["CUDA_VISIBLE_DEVICES"] == uuid(1)
    assert {"soname", "kind", "decision", "reason"} <= set(told["libraries"][0])
    refused = node("gpu", "explain", "some:1", deny=[0, 1])
    assert refused.returncode == 1
    assert "problem      gpu: this session has no GPU" in refused.stdout
    unprivileged.udocker("create", "--name=kept", "--gpu=1", "some:1", "/x")
    told = json.loads(node("gpu", "explain", "--json", "kept").stdout)
    assert [gpu["uuid"] for gpu in told["gpus"]] == [uuid(0)]
    done = node("gpu", "doctor", "--json", "some:1")
    keys = [check["key"] for check in json.loads(done.stdout)["checks"]]
    assert keys[0] == "driver"
    assert keys[-8:] == [
        *("image_libraries", "image_symbols", "image_driver", "requirements", "cuda_compat"),
        *("image_rdma", "image_mpi", "image_pmi"),
    ]
    missing = node("gpu", "explain", "other:2")
    assert missing.returncode == 1
    assert "no image 'other:2' here" in missing.stderr
    assert "udocker pull other:2" in missing.stderr
    unknown = node("gpu", "doctor", "--json", "other:2")
    assert unknown.returncode == 2
    told = json.loads(unknown.stdout)["checks"]
    assert [check["key"] for check in told if check["status"] == FAIL] == ["image"]
    assert (told[-1]["text"], told[-1]["fix"]) == (
        "no image 'other:2' here",
        "udocker pull other:2",
    )
