"""AMD GPUs: which there are, which are the job's, what a container gets, what users are told."""

from __future__ import annotations

import os
import subprocess

import pytest

from gpu import amdtree
from gpu.amdtree import TOPOLOGY, pci, uuid
from gpu.conftest import FAKENODE
from gpu.drivertree import link, write
from udocker.diagnosis import gpufacts
from udocker.errors import GpuError
from udocker.host.probe import Host
from udocker.nvidia.amd import amdgpus
from udocker.nvidia.amd.rocm import rocm_edits

ROCM = {"opt/rocm-6.2.0/lib/libhsa-runtime64.so.1": "x"}


@pytest.fixture
def plan(tmp_path, image):
    """A function that plans for a machine of `gpus` AMD GPUs; `change(root)` comes before."""

    def make(selection="all", *, environment=(), files=ROCM, change=None, **words):
        root = amdtree.build(str(tmp_path / "machine"), **words)
        if change is not None:
            change(root)
        return rocm_edits(Host(root), selection, image(files=files), dict(environment))

    return make


def minors(made):
    return [gpu.render_minor for gpu in made.gpus]


def test_gpus_are_counted_as_rocm_counts_them(plan, tmp_path):
    made = plan(gpus=3)
    assert minors(made) == [130, 129, 128]
    assert [gpu.uuid for gpu in made.gpus] == [uuid(n) for n in range(3)]
    assert [gpu.pci for gpu in made.gpus] == [pci(n) for n in range(3)]
    assert {gpu.target for gpu in made.gpus} == {"gfx90a"}
    assert amdgpus.driver_version(Host(str(tmp_path / "machine"))) == "6.10.5"


def test_a_container_gets_the_nodes_and_the_jobs_own_words(plan, tmp_path):
    made = plan(environment={"ROCR_VISIBLE_DEVICES": "1"}.items())
    places = [(node.source, node.destination) for node in made.edits.device_nodes]
    assert places == [(f"{tmp_path}/machine{path}", path) for path in ("/dev/kfd", "/dev/dri")]
    assert made.edits.env == ()
    assert made.edits.binds == (), "nothing of ROCm comes from the host"
    assert made.notes == ()


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        ("1", [1]),
        ("2,0", [2, 0]),
        (uuid(2), [2]),
        (pci(1), [1]),
        ("c2:00.0", [1]),
        ("1,1", [1]),
    ],
)
def test_a_selection_shows_just_its_gpus_by_uuid(plan, selection, numbers):
    made = plan(selection, gpus=3)
    assert made.edits.env == (("ROCR_VISIBLE_DEVICES", ",".join(uuid(n) for n in numbers)),)


def test_without_uuids_gpus_are_shown_by_their_numbers(plan):
    made = plan("1", gpus=3, unique=False)
    assert made.edits.env == (("ROCR_VISIBLE_DEVICES", "1"),)
    places = [node.destination for node in made.edits.device_nodes]
    assert places == ["/dev/kfd", "/dev/dri"], "numbers count all of them"


def test_chosen_gpus_are_shown_by_their_own_nodes(plan, tmp_path):
    root = str(tmp_path / "machine")
    for kind, name in (("card", "card2"), ("render", "renderD129")):
        write(root, f"sys/bus/pci/devices/{pci(1)}/drm/{name}/dev", "226:0\n")
        link(root, f"dev/dri/by-path/pci-{pci(1)}-{kind}", f"../{name}")
    made = plan("1", gpus=3)
    assert [node.destination for node in made.edits.device_nodes] == [
        "/dev/kfd",
        "/dev/dri/renderD129",
        "/dev/dri/card2",
        f"/dev/dri/by-path/pci-{pci(1)}-card",
        f"/dev/dri/by-path/pci-{pci(1)}-render",
    ]


@pytest.mark.parametrize(
    ("environment", "numbers"),
    [
        ({"ROCR_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"ROCR_VISIBLE_DEVICES": f"{uuid(1)},7,0"}, [1]),
        ({"HIP_VISIBLE_DEVICES": "1"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [1]),
        ({"GPU_DEVICE_ORDINAL": "2"}, [2]),
        ({"ROCR_VISIBLE_DEVICES": "2,1", "HIP_VISIBLE_DEVICES": "1"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "2"}, [2]),
        ({"ROCR_VISIBLE_DEVICES": "2", "GPU_DEVICE_ORDINAL": "2"}, [2]),
    ],
)
def test_the_job_says_which_gpus_are_its_own(plan, environment, numbers):
    made = plan(environment=environment.items(), gpus=3)
    assert [gpu.uuid for gpu in made.gpus] == [uuid(n) for n in numbers]


def test_a_selection_counts_within_the_job_and_anew_for_hip(plan):
    environment = {"ROCR_VISIBLE_DEVICES": "2,0", "HIP_VISIBLE_DEVICES": "1,0"}
    made = plan("0", gpus=3, environment=environment.items())
    assert dict(made.edits.env) == {
        "ROCR_VISIBLE_DEVICES": uuid(0),
        "HIP_VISIBLE_DEVICES": "0",
    }


def without_module(root):
    os.unlink(f"{root}/sys/module/amdgpu/version")
    os.unlink(f"{root}/sys/module/amdgpu/refcnt")
    os.rmdir(f"{root}/sys/module/amdgpu")


@pytest.mark.parametrize(
    ("words", "environment", "message", "hint"),
    [
        ({"change": without_module}, {}, "kernel module amdgpu not loaded", "srun --gres"),
        ({"nodes": False}, {}, "/dev/kfd is missing: amdgpu is loaded", "administrators"),
        ({"gpus": 0}, {}, "the driver knows none that computes", "srun"),
        (
            {},
            {"ROCR_VISIBLE_DEVICES": "", "SLURM_JOB_ID": "4711"},
            "job 4711 has no GPU (ROCR_VISIBLE_DEVICES is empty)",
            "ask Slurm for one: --gres=gpu:1",
        ),
        ({"selection": "7"}, {}, "'7' is not one GPU of this job", f"it has 0 ({uuid(0)}), 1"),
        ({"selection": "GPU-00"}, {}, "'GPU-00' is not one GPU of this job", "it has"),
    ],
)
def test_what_is_missing_is_said_with_the_way_out(plan, words, environment, message, hint):
    with pytest.raises(GpuError) as caught:
        plan(environment=environment.items(), **words)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_try_goes_on_without_gpus_and_says_so(plan):
    made = plan("try", nodes=False)
    assert made.edits.device_nodes == ()
    assert "continuing without GPU" in made.notes[0]


def test_auto_gives_gpus_to_images_with_rocm(plan):
    assert minors(plan("auto")) == [129, 128]


def test_auto_gives_none_to_others(plan):
    made = plan("auto", files={"opt/rocm/readme": "x"})
    assert made.gpus == ()
    assert made.notes == ("rocm: the image has no ROCm; --rocm=all gives GPUs anyway",)


def test_an_image_without_rocm_is_told(plan):
    made = plan(files={})
    assert minors(made) == [129, 128]
    assert "the image has no libhsa-runtime64.so.1" in made.notes[0]
    assert "use an image with ROCm" in made.notes[0]


def test_none_is_nothing(plan):
    made = plan("none", files={})
    assert (made.gpus, made.notes, made.edits.device_nodes) == ((), (), ())


@pytest.mark.parametrize(
    "text",
    ["", "vendor_id\n", "vendor_id 4098\ndrm_render_minor 99999999999\n", "vendor_id 4318\n" * 3],
)
def test_a_node_that_is_no_amd_gpu_is_not_counted(plan, text):
    made = plan(change=lambda root: write(root, f"{TOPOLOGY}/1/properties", text))
    assert minors(made) == [128]


def test_gpu_info_shows_them_too(tmp_path):
    host = Host(amdtree.build(str(tmp_path), gpus=3))
    facts = gpufacts.gather(
        host, {"ROCR_VISIBLE_DEVICES": "2,1", "HIP_VISIBLE_DEVICES": "0"}, "/proc/none"
    )
    assert [fact.gpu.uuid for fact in facts.amd if not fact.obstacle] == [uuid(2)]
    assert facts.amd[0].obstacle == "not among the job's visible devices"
    assert "its GPUs are AMD's" in facts.absence
    assert dict(facts.job)["ROCR_VISIBLE_DEVICES"] == "2,1"


# What follows is a question of rights, which root does not have to ask.
LOOK = """
import sys
from udocker.errors import GpuError
from udocker.host.probe import Host
from udocker.host.root import Root
from udocker.nvidia.amd.rocm import rocm_edits
try:
    made = rocm_edits(Host(sys.argv[1]), "all", Root(sys.argv[1]), {})
    print(*(gpu.render_minor for gpu in made.gpus))
except GpuError as error:
    print(error.message, "|", error.hint)
"""


@pytest.fixture
def seen(unprivileged):
    """A function that returns what a user is told of a machine, after `change(root)`."""

    def look(change):
        root = amdtree.build(f"{unprivileged.home}/machine")
        change(root)
        return unprivileged.run([unprivileged.python, "-c", LOOK, root]).stdout

    return look


def test_a_gpu_that_may_not_be_opened_is_not_the_jobs(seen):
    assert seen(lambda root: os.chmod(f"{root}/dev/dri/renderD129", 0)) == "128\n"


def test_a_gpu_that_the_cgroup_hides_is_not_counted(seen):
    assert seen(lambda root: os.chmod(f"{root}/{TOPOLOGY}/1/properties", 0)) == "128\n"


@pytest.mark.root
@pytest.mark.parametrize("paths", [["kfd"], ["dri/renderD128", "dri/renderD129"]])
def test_who_is_not_in_the_group_is_told_how_to_get_in(seen, paths):
    said = seen(lambda root: [os.chmod(f"{root}/dev/{path}", 0o660) for path in paths])
    assert f"/dev/{paths[-1]} is for the group root, which you are not in" in said
    assert "usermod -aG root" in said


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="only root can dress a machine")
@pytest.mark.parametrize("engine", ["N2", "P1"])
def test_a_container_on_a_machine_with_amd_gpus(unprivileged, busybox_image, tmp_path, engine):
    tree = amdtree.build(str(tmp_path / "tree"))
    unprivileged.udocker("load", "-i", busybox_image.path, "amd:1")
    shown = "echo $ROCR_VISIBLE_DEVICES; ls /dev/kfd /dev/dri/renderD12*; : </dev/kfd"
    command = [unprivileged.python, "-m", "udocker", "run", f"--engine={engine}", "--rocm=1"]
    ids = [f"--reuid={unprivileged.uid}", f"--regid={unprivileged.gid}", "--clear-groups"]
    done = subprocess.run(
        ["bash", FAKENODE, "--null-nodes", tree, "setpriv", *ids]
        + [*command, "amd:1", "sh", "-c", shown],
        env=unprivileged.environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    others = ["/dev/dri/renderD129"] * (engine == "P1")  # PRoot hides no device nodes
    nodes = ["/dev/dri/renderD128", *others, "/dev/kfd"]
    assert done.stdout.splitlines() == [uuid(1), *nodes], done.stderr
    assert "use an image with ROCm" in done.stderr
