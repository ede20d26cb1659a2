"""What a start takes over from an earlier one of the same container on the same machine."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from gpu import drivertree
from udocker.containers.spec import Bind, ContainerEdits, DeviceNode, Symlink
from udocker.host.probe import Host
from udocker.host.root import Root, Stack
from udocker.host.witness import Variables, Witness
from udocker.nvidia import cache, remembered
from udocker.nvidia.edits import GpuRequest, gpu_edits

ENV = (("PATH", "/bin"),)
EDITS = ContainerEdits(
    env=(("A", "\udcff"),),
    device_nodes=(DeviceNode("/dev/x", "/dev/y"),),
    binds=(Bind("/a", "/b", readonly=True), Bind("/c", "/d")),
    symlinks=(Symlink("/l", "t"),),
    library_dirs=("/lib",),
    fallback_library_dirs=("/more",),
    additional_gids=(44,),
)


class Start:
    """Starts of a container on a machine of two GPUs, whose plan is remembered."""

    def __init__(self, root, image, kept):
        self.root, self.image, self.kept = root, image, str(kept)

    def question(self, environment=(), env=ENV, words=("all",)):
        return remembered.Question(words, env, dict(environment), self.image, self.kept)

    def plan(self, environment=(), **words):
        """Find the GPUs out, keep that, and return it."""
        question = self.question(environment, **words)
        witness, variables = Witness(Host(self.root)), Variables(question.environment)
        request = GpuRequest("all", ("compute", "utility"), question.program_env)
        made = gpu_edits(witness, request, self.image, self.kept, variables)
        remembered.keep(witness, variables, question, dict(made.watched), (made.edits, ("note",)))
        return made.edits, ("note",)

    def recall(self, environment=(), **words):
        return remembered.recall(Host(self.root), self.question(environment, **words))

    def write(self, path, text, where=None):
        drivertree.write(where or self.root, path, text)


@pytest.fixture
def start(machine, image, tmp_path):
    return Start(machine(gpus=2).root, image(), tmp_path / "kept")


def test_the_answer_is_the_same_value_again(start):
    assert start.recall() is None
    assert start.plan() == start.recall()


def test_every_field_of_an_answer_comes_back(tmp_path):
    host = Host(str(tmp_path))
    question = remembered.Question(("x",), ENV, {}, Root(str(tmp_path)), f"{tmp_path}/kept")
    remembered.keep(Witness(host), Variables({}), question, {}, (EDITS, ("n\udcff",)))
    assert remembered.recall(host, question) == (EDITS, ("n\udcff",))


def test_variables_that_do_not_matter_may_change_and_others_not(start):
    start.plan({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_ID": "1"})
    assert start.recall({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_ID": "2"})
    for other in ({}, {"CUDA_VISIBLE_DEVICES": "1"}):
        assert start.recall(other) is None
    start.plan({})
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "CUDA_MPS_PIPE_DIRECTORY"):
        assert start.recall({name: "0"}) is None
    assert start.recall(env=(*ENV, ("NVIDIA_REQUIRE_CUDA", "cuda>=99"))) is None
    assert start.recall(words=("0",)) is None
    assert start.recall()


def remade(path):
    """A file of the same content and time in the place of another: only its inode is new."""
    shutil.copy2(path, f"{path}~")
    os.rename(f"{path}~", path)


LIBRARIES = f"usr/lib/{drivertree.MACHINE}-linux-gnu"
GPU = "proc/driver/nvidia/gpus/{}/information"
OF_HOST = {
    "another driver": lambda s: s.write("sys/module/nvidia/version", "535.183.01\n"),
    "a library of the driver": lambda s: s.write(f"{LIBRARIES}/libnvidia-new.so.1", "x"),
    "a program beside the driver's": lambda s: s.write("usr/bin/another", "x"),
    "the library cache": lambda s: remade(f"{s.root}/etc/ld.so.cache"),
    "a specification": lambda s: s.write("etc/cdi/nvidia.yaml", "cdiVersion: 0.6.0\n"),
    "a node that only its group may open": lambda s: os.chmod(f"{s.root}/dev/nvidia0", 0o660),
    "a node gone": lambda s: os.unlink(f"{s.root}/dev/nvidia1"),
    "a node for tools gone": lambda s: os.unlink(f"{s.root}/dev/nvidia-uvm-tools"),
    "the manager of sockets gone": lambda s: os.rename(
        f"{s.root}/run/nvidia-persistenced", f"{s.root}/run/gone"
    ),
    "the daemon that shares GPUs": lambda s: s.write("tmp/nvidia-mps/control", ""),
    "a GPU excluded": lambda s: s.write(
        GPU.format(os.listdir(f"{s.root}/proc/driver/nvidia/gpus")[0]), "GPU Excluded: Yes\n"
    ),
    "parts of a GPU": lambda s: s.write("proc/driver/nvidia/capabilities/gpu0/mig/config", ""),
}
OF_IMAGE = {
    "a library": lambda s: s.write(f"{LIBRARIES}/libother.so", "x", s.image.path),
    "another C library": lambda s: s.write(f"{LIBRARIES}/libc.so.6", "xx", s.image.path),
    "a library cache": lambda s: s.write("etc/ld.so.cache", "x", s.image.path),
    "an ldconfig": lambda s: s.write("sbin/ldconfig", "x", s.image.path),
    "a shell": lambda s: s.write("bin/sh", "x", s.image.path),
    "a newer CUDA": lambda s: s.write("usr/local/cuda/compat/libcuda.so.1", "x", s.image.path),
}


@pytest.mark.parametrize("change", [*OF_HOST.values(), *OF_IMAGE.values()], ids=OF_HOST | OF_IMAGE)
def test_what_has_changed_is_found_out_anew(start, change):
    if os.path.exists(f"{start.root}/etc/ld.so.cache"):
        os.unlink(f"{start.root}/etc/ld.so.cache")
    start.write("etc/ld.so.cache", "x")
    start.plan()
    assert start.recall()
    change(start)
    assert start.recall() is None


def test_the_machine_is_asked_through_host_alone():
    """What is asked by other means is not asked again, so that an old answer would seem to hold."""
    top = os.path.dirname(remembered.__file__)
    devices = [f"devices/{name}" for name in os.listdir(f"{top}/devices") if name.endswith(".py")]
    for name in ("edits.py", "driver/__init__.py", "driver/hostlayout.py", *devices):
        with open(f"{top}/{name}") as file:
            assert not re.findall(r"(?:\bos\.[a-z.]+|\bopen)\(host\.path", file.read()), name


def test_what_a_container_wrote_over_its_image_counts(start, tmp_path):
    (tmp_path / "upper").mkdir()
    start.image = Stack(str(tmp_path / "upper"), start.image.path)
    start.plan()
    assert start.recall()
    start.write("etc/ld.so.cache", "x", str(tmp_path / "upper"))
    assert start.recall() is None


def test_a_file_of_ours_that_is_gone_and_a_broken_answer_are_made_again(start):
    edits, _ = start.plan()
    (merged,) = [bind.source for bind in edits.binds if bind.source.startswith(start.kept)]
    os.unlink(merged)
    assert start.recall() is None
    name = start.question().name(Host(start.root))
    for text in (b"", b"[]", b"{}", b"[1,2,3,4,5,6]", b'["x",{},{},[["text"]],[],[]]', b"\xff"):
        start.plan()
        assert start.recall()
        cache.save(start.kept, name, text)
        assert start.recall() is None


def test_where_nothing_can_be_written_an_answer_is_not_kept(tmp_path):
    host = Host(str(tmp_path))
    question = remembered.Question(("x",), ENV, {}, Root(str(tmp_path)), "/proc/none")
    remembered.keep(Witness(host), Variables({}), question, {}, (EDITS, ()))
    assert remembered.recall(host, question) is None
