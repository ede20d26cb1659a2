"""The driver and the GPUs of this very machine, by every engine: `sh utils/realgpu.sh`.

Nothing is fetched: the containers hold this machine's own Python, and PyTorch is its own too.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest
from unprivileged import Unprivileged

from gpu import hostimage
from gpu.conftest import torch_directory

ENGINES = ("N2", "N1", "R1", "B1", "P1", "F3")
DRIVER_PROGRAMS = "/usr/bin:/bin:/usr/local/nvidia/bin:/opt/bin:/run/current-system/sw/bin"
DRIVER_LIBRARIES = "/usr/local/nvidia/lib64:/usr/lib64-nvidia:/run/opengl-driver/lib"
"""Where hosts have the driver that do not tell their loader."""
pytestmark = pytest.mark.realgpu


@pytest.fixture(scope="module")
def user(account, programs):
    """A user without privileges who has the image."""
    user = Unprivileged(account)
    user.udocker(*programs.image_words)
    yield user
    user.close()


@pytest.fixture
def run(user, programs):
    """A function that runs a program in a container by an engine, and shows what it says."""

    def inside(engine, *args, options=("--gpu",), check=True):
        words = ["run", "--rm", f"--volume={programs.directory}:/inside", *options]
        done = user.udocker(*words, f"--engine={engine}", hostimage.NAME, *args, check=False)
        print(f"{engine}: {done.stdout}{done.stderr}")
        if done.returncode == 125 and f"{engine} cannot be used" in done.stderr:
            pytest.skip(done.stderr.strip())
        assert not check or done.returncode == 0, done.stderr
        return done

    return inside


@pytest.fixture
def on_host(user):
    """A function that runs a program outside of containers and returns its output."""

    def run(*words):
        place = {"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH") or DRIVER_LIBRARIES}
        return user.run(words, env=place).stdout

    return run


@pytest.fixture
def host_gpus(user, programs, on_host):
    """What nvidia-ml-py tells outside of containers, a line for each GPU."""
    return on_host(user.python, f"{programs.directory}/nvml.py").splitlines()


@pytest.mark.parametrize("engine", ENGINES)
def test_cuda_adds_two_vectors(run, programs, engine):
    said = run(engine, programs.python, "/inside/vectoradd.py").stdout
    assert said.count("1048576 sums are right") == said.count("\nGPU ") > 0


def test_without_gpus_there_is_no_cuda(run, programs):
    done = run("N2", programs.python, "/inside/vectoradd.py", options=(), check=False)
    assert "libcuda.so.1: cannot open shared object file" in done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_nvidia_ml_py_sees_the_gpus_of_the_job(run, programs, host_gpus, engine):
    said = run(engine, programs.python, "/inside/nvml.py").stdout
    assert said.splitlines() == host_gpus != []


@pytest.mark.parametrize("engine", ENGINES)
def test_the_drivers_own_program_lists_the_same_gpus(run, on_host, engine):
    program = shutil.which("nvidia-smi", path=DRIVER_PROGRAMS)
    if program is None:
        pytest.skip("this driver came without nvidia-smi")
    assert run(engine, "nvidia-smi", "-L").stdout == on_host(program, "-L")


def test_one_gpu_of_several_is_shown_alone(run, programs, host_gpus):
    said = run("N2", programs.python, "/inside/vectoradd.py", options=("--gpu=0",)).stdout
    assert ", 1 GPUs" in said
    assert host_gpus[0].split(" ", 1)[1].rpartition(" ")[0] in said


@pytest.mark.parametrize("engine", ENGINES)
def test_pytorch_multiplies_matrices(run, programs, engine):
    place = torch_directory()
    if not place:
        pytest.skip("this Python has no PyTorch")
    options = ("--gpu", f"--volume={place}:{place}", f"--env=PYTHONPATH={place}")
    done = run(engine, programs.python, "/inside/matmul.py", options=options)
    assert "512 x 512 products agree" in done.stdout


def test_opencl_has_a_platform(run, programs):
    done = run("N2", programs.python, "/inside/opencl.py", check=False)
    if "no loader" in done.stderr:
        pytest.skip("neither image nor host has libOpenCL.so.1")
    assert "NVIDIA CUDA" in done.stdout, done.stderr


def test_gpu_info_counts_the_gpus(user, host_gpus):
    said = user.udocker("gpu", "info").stdout
    print(said)
    facts = json.loads(user.udocker("gpu", "info", "--json").stdout)
    assert sum(gpu["usable"] for gpu in facts["gpus"]) == len(host_gpus)


def test_gpu_doctor_finds_nothing_that_prevents_gpus(user):
    done = user.udocker("gpu", "doctor", check=False)
    print(done.stdout)
    assert done.returncode in (0, 1), done.stdout + done.stderr


def test_gpu_cdi_prints_a_specification_whose_files_are_there(user):
    yaml = pytest.importorskip("yaml")
    said = user.udocker("gpu", "cdi").stdout
    print(said)
    document = yaml.safe_load(said)
    assert document["kind"] == "nvidia.com/gpu"
    assert {device["name"] for device in document["devices"]} >= {"0", "all"}
    for mount in document["containerEdits"]["mounts"]:
        assert os.path.exists(mount["hostPath"])


def test_nothing_of_the_driver_is_copied(run, user, programs):
    before = _bytes(f"{user.udocker_dir}/containers")
    run("N2", programs.python, "/inside/nvml.py")
    assert _bytes(f"{user.udocker_dir}/containers") == before


def _bytes(directory):
    return sum(
        os.lstat(os.path.join(place, name)).st_size
        for place, _, names in os.walk(directory)
        for name in names
    )
