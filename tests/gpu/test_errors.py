"""Why a GPU cannot be had, and what helps: the words that a user reads, each provoked for real.

The machine is dressed as a node, or is as it is; the image is a directory with a shell and what
of a C library udocker looks at.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from gpu import drivertree
from gpu.drivertree import MACHINE, VERSION, uuid

OLD = "575.57.08"
LIBRARIES = drivertree.LAYOUTS["deb"][0]
LIBC = f"usr/lib/{MACHINE}-linux-gnu/libc.so.6"
JOB = {"SLURM_JOB_ID": "4711"}
SAY = ("/bin/sh", "-c", "echo runs")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can dress a machine"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox"),
]


@pytest.fixture
def tree(unprivileged, libc):
    """A function that makes the user's directory with a shell, a glibc up to `newest`, `files`."""

    def make(newest="GLIBC_2.99", files=()):
        root = f"{unprivileged.home}/image"
        with open(shutil.which("busybox"), "rb") as file:
            drivertree.write(root, "bin/sh", file.read(), 0o755)
        if newest:
            drivertree.write(root, LIBC, libc("GLIBC_2.2.5", newest))
        for path, content in dict(files).items():
            drivertree.write(root, path, content)
        for name in ("dev", "etc", "proc", "sys", "tmp", "run"):
            os.makedirs(f"{root}/{name}", exist_ok=True)
        unprivileged.own(root)
        return root

    return make


@pytest.fixture
def run(dressed, tree):
    """A function that runs a program with a GPU on a node that `change` made other than sound."""

    def make(option="--gpu", *, change=None, image=None, env=None, deny=(), before=()):
        node = dressed(gpus=2, change=change)
        words = [*before, "run", option, f"--location={image or tree()}", *SAY]
        return node(*words, env=env, deny=deny)

    return make


def updated(root):
    drivertree.build_kernel(root, gpus=2, version=OLD)


def without(path):
    return lambda root: os.unlink(f"{root}/{path}")


def needy(soname, file):
    content = drivertree.needy_library("GLIBC_2.99", soname)
    return lambda root: drivertree.write(root, f"{LIBRARIES}/{file}.so.{VERSION}", content)


def switched(root):
    drivertree.write(root, "dev/nvidia-nvswitch0", "c 235:0\n", 0o666)


ERRORS = {
    "another job's GPUs": (
        {"deny": (0, 1), "env": {**JOB, "CUDA_VISIBLE_DEVICES": ""}},
        "gpu: job 4711 has no GPU (CUDA_VISIBLE_DEVICES is empty; "
        "/dev/nvidia1, /dev/nvidia0 not permitted)",
        "ask Slurm for one: --gres=gpu:1",
    ),
    "no job": (
        {"deny": (0, 1)},
        "gpu: this session has no GPU (/dev/nvidia1, /dev/nvidia0 not permitted)",
        "Try: srun --gres=gpu:1 udocker run …",
    ),
    "a node updated without reboot": (
        {"change": updated},
        f"gpu: kernel driver is {OLD} but libcuda on disk is {VERSION}: "
        "the node was updated without reboot",
        "tell the administrators (nvidia-smi on the host fails the same way)",
    ),
    "no memory manager of CUDA": (
        {"change": without("dev/nvidia-uvm")},
        "gpu: /dev/nvidia-uvm missing, and no /usr/bin/nvidia-modprobe to make it",
        "ask the administrators of this node to run `nvidia-modprobe -u -c0`",
    ),
    "a GPU that the job has not": (
        {"option": "--gpu=7"},
        "gpu: '7' is not one GPU of this job",
        f"it has 0 ({uuid(1)}), 1 ({uuid(0)})",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_order_that_cannot_be_met_says_why_and_what_helps(run, case):
    words, message, hint = ERRORS[case]
    done = run(**words)
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"udocker: {message}", f"  {hint}"]


def test_a_wish_that_cannot_be_met_is_a_note_and_the_program_runs(run):
    done = run("--gpu=try", deny=(0, 1))
    assert (done.returncode, done.stdout) == (0, "runs\n")
    (note,) = done.stderr.splitlines()
    assert note.startswith("udocker: note: gpu: this session has no GPU")
    assert note.endswith("; continuing without GPU")


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("env", "hint"),
    [
        ({}, "You are on a login node? Try: srun --gres=gpu:1 udocker run …"),
        (JOB, "this job's node has no GPU: ask for one that has, as sbatch --gres=gpu:1 does"),
    ],
)
def test_a_machine_without_a_driver_says_so(unprivileged, tree, env, hint):
    location = f"--location={tree()}"
    done = unprivileged.udocker("run", "--gpu", location, *SAY, env=env, check=False)
    assert done.returncode == 125
    name = os.uname().nodename
    assert done.stderr.splitlines() == [
        f"udocker: gpu: no NVIDIA driver on this node ({name}): kernel module not loaded",
        f"  {hint}",
    ]
    done = unprivileged.udocker("run", "--gpu=auto", location, *SAY, env=env)
    assert done.stdout == "runs\n"
    assert done.stderr == (
        "udocker: note: gpu: the image does not ask for GPUs; --gpu=all gives them anyway\n"
    )


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("setting", "options", "note"),
    [
        ("auto", (), ""),
        ("try", (), "no NVIDIA driver on this node"),
        ("auto", ("-e", "NVIDIA_VISIBLE_DEVICES=all"), "no NVIDIA driver on this node"),
        ("all", ("--gpu=none",), ""),
        ("", ("--gpu-caps=video",), "--gpu-caps has no effect without --gpu"),
        ("none", (), ""),
    ],
)
def test_a_setting_is_the_wish_of_runs_that_say_nothing(unprivileged, tree, setting, options, note):
    words = ["run", *options, f"--location={tree()}", *SAY]
    done = unprivileged.udocker(*words, env={"UDOCKER_GPU": setting})
    assert done.stdout == "runs\n"
    assert len(done.stderr.splitlines()) == bool(note)
    assert note in done.stderr


IMAGES = {
    "musl": (
        {"newest": "", "files": {f"lib/ld-musl-{MACHINE}.so.1": "musl"}},
        None,
        "gpu: musl image (Alpine): NVIDIA's libraries need glibc",
        "use an image based on Debian, Ubuntu or a Red Hat",
    ),
    "an old C library": (
        {"newest": "GLIBC_2.17"},
        needy("libcuda.so.1", "libcuda"),
        "gpu: image glibc 2.17 is too old for libcuda.so.1 (needs GLIBC_2.99)",
        "use an image with a newer distribution",
    ),
}


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_that_cannot_load_the_driver_says_why(run, tree, case):
    words, change, message, hint = IMAGES[case]
    done = run(image=tree(**words), change=change)
    assert done.returncode == 125
    assert done.stderr.splitlines() == [f"udocker: {message}", f"  {hint}"]


NOTES = {
    "a library that does not fit": (
        {"newest": "GLIBC_2.17"},
        needy("libnvidia-nvvm.so.4", "libnvidia-nvvm"),
        "gpu: image glibc 2.17 is too old for libnvidia-nvvm.so.4 (needs GLIBC_2.99): left out",
    ),
    "NVSwitches without their manager": (
        {},
        switched,
        "gpu: 2 NVSwitch GPUs but nvidia-fabricmanager is not running: "
        "CUDA would fail with error 802. Node problem, report it.",
    ),
}


def test_a_driver_left_in_the_image_is_told_and_hidden(run, tree):
    stub = drivertree.stub_library("libcuda.so.1")
    files = {f"{LIBRARIES}/libcuda.so.550.54.15": stub, f"{LIBRARIES}/libcuda.so.1": stub}
    done = run(image=tree(files=files))
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
    (note,) = done.stderr.splitlines()
    assert note.startswith("udocker: note: gpu: image contains its own libcuda.so.1 (")
    assert note.endswith(f"hidden by the host's {VERSION}")


@pytest.mark.parametrize("case", NOTES)
def test_what_stops_nothing_is_a_note(run, tree, case):
    words, change, note = NOTES[case]
    done = run(image=tree(**words), change=change)
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
    assert done.stderr.splitlines() == [f"udocker: note: {note}"]


def test_quiet_leaves_notes_out(run):
    assert run(change=switched, before=["-q"]).stderr == ""


def test_debug_tells_source_decision_and_counts(run):
    told = run("--gpu=1", before=["--debug"]).stderr
    assert f"gpu: driver {VERSION} by filelist, layout " in told
    assert "; wanted: 1\n" in told
    assert f"gpu: 1 GPUs ({uuid(0)})\n" in told
    assert f"gpu: CUDA_VISIBLE_DEVICES={uuid(0)}\n" in told
    assert " nodes, " in told


MAKER = """
#include <sys/stat.h>
#include <sys/sysmacros.h>
int main(void) {
    return mknod("/dev/nvidia-uvm", S_IFCHR | 0666, makedev(1, 3)) ||
           chmod("/dev/nvidia-uvm", 0666);
}
"""


def test_the_hosts_own_program_makes_the_missing_node(run, tmp_path):
    program = str(tmp_path / "modprobe")
    subprocess.run(["gcc", "-x", "c", "-", "-o", program], input=MAKER.encode(), check=True)

    def change(root):
        os.unlink(f"{root}/dev/nvidia-uvm")
        with open(program, "rb") as file:
            drivertree.write(root, "usr/bin/nvidia-modprobe", file.read(), 0o4755)

    done = run(change=change)
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
    assert done.stderr.splitlines() == [
        "udocker: note: gpu: /dev/nvidia-uvm missing; ran nvidia-modprobe -u -c0 on the host: ok"
    ]
