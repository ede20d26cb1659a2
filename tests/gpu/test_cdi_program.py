"""What GPUs of a specification change for the program that gets them."""

from __future__ import annotations

import pytest

from gpu import cdispecs, drivertree
from udocker.containers.spec import ContainerEdits, Symlink
from udocker.errors import GpuError
from udocker.nvidia.cdi import wish

LIBRARIES = f"/usr/lib/{drivertree.MACHINE}-linux-gnu"
PLACE = "/run/udocker/gpu/lib"
OLD = drivertree.stub_library("libcuda.so.1")
FILES = {"opt/old/libcuda.so.1": OLD, "opt/conda/libcuda.so.1": OLD, "opt/conda/libz.so.1": OLD}


@pytest.fixture
def planned(machine, image, tmp_path):
    """A function that plans the first GPU, by its specification, for a program."""

    host, tree = machine(), image(files=FILES)

    def plan(*hooks, strict=False, **program):
        value = cdispecs.nvidia(directory=LIBRARIES)
        words = {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook"}
        value["containerEdits"]["hooks"] += [{**words, "args": ["hook", name]} for name in hooks]
        cdispecs.write(str(tmp_path / "specs"), "spec.json", value)
        directories = (str(tmp_path / "specs"),)
        asked = wish.CdiRequest(("nvidia.com/gpu=0",), directories, strict=strict)
        kept, env = str(tmp_path / "cache"), tuple(program.items())
        chosen = wish.choose(host, asked, kept, {})
        return wish.plan(host, chosen, asked, tree, kept, ContainerEdits(), env)

    return plan


def test_another_driver_in_the_search_path_does_not_win(planned):
    path = f"{LIBRARIES}:/opt/old:/opt/conda"
    plan = planned(LD_LIBRARY_PATH=path, LD_PRELOAD="/opt/old/libcuda.so.1")
    env = dict(plan.edits.env)
    assert env["LD_LIBRARY_PATH"] == f"{LIBRARIES}:{PLACE}:/opt/conda"
    assert env["LD_PRELOAD"] == "libcuda.so.1"
    link = Symlink(f"{PLACE}/libcuda.so.1", f"{LIBRARIES}/libcuda.so.{drivertree.VERSION}")
    assert link in plan.edits.symlinks
    assert len(plan.notes) == 3, plan.notes


@pytest.mark.parametrize(("version", "stays"), [("590.44.01", True), ("570.1.2", False)])
def test_the_images_newer_cuda_library_stays_in_the_search_path(planned, image, version, stays):
    directory = "usr/local/cuda/compat"
    image(files={f"{directory}/libcuda.so.{version}": OLD})
    plan = planned(LD_LIBRARY_PATH=f"/{directory}:/opt/app")
    assert dict(plan.edits.env).get("LD_LIBRARY_PATH", "") == ("" if stays else "/opt/app")


def test_a_search_path_that_misleads_nobody_stays(planned):
    plan = planned(LD_LIBRARY_PATH=f"{LIBRARIES}:/opt/app")
    assert "LD_LIBRARY_PATH" not in dict(plan.edits.env)
    assert not [link for link in plan.edits.symlinks if link.path.startswith(PLACE)]
    assert plan.notes == ()


@pytest.mark.parametrize("hooks", [(), ("check-requirements",)])
def test_what_the_image_requires_is_judged_by_the_specifications_driver(planned, hooks):
    assert planned(*hooks, NVIDIA_REQUIRE_CUDA="cuda>=12.0 driver>=535").notes == ()
    needs = {"NVIDIA_REQUIRE_CUDA": "driver>=999"}
    (note,) = planned(*hooks, **needs).notes
    assert "driver>=999" in note and drivertree.VERSION in note
    with pytest.raises(GpuError, match="driver>=999"):
        planned(*hooks, strict=True, **needs)


def test_limits_of_memory_that_only_root_can_set_are_told(planned):
    assert planned("apply-cuda-memory-limits").notes == ()
    (note,) = planned("apply-cuda-memory-limits", NVIDIA_GPU_MEMORY_LIMIT="100").notes
    assert "needs root" in note
