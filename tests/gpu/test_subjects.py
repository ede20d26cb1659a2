"""Programs of others in containers of a dressed machine: CUDA through ctypes, UCX, PyTorch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import zipfile

import pytest

from gpu import drivertree, hostimage
from gpu.conftest import FAKENODE, TORCH
from gpu.drivertree import VERSION

ENGINES = ("N2", "P1", "F3")
UCX = "libucx-cu12==1.22.0"
LIB = "/run/udocker/gpu/lib"
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can dress a machine"),
]


@pytest.fixture
def run(dressed, unprivileged, programs):
    """A function that runs one of the `programs` on a machine with two GPUs, in a container."""
    unprivileged.udocker(*programs.image_words)
    udocker = dressed(gpus=2)

    def inside(engine, program, *args, options=("--gpu",)):
        words = ["run", f"--engine={engine}", f"--volume={programs.directory}:/inside", *options]
        return udocker(*words, hostimage.NAME, programs.python, f"/inside/{program}", *args)

    return inside


@pytest.mark.parametrize("engine", ENGINES)
def test_cuda_starts_and_names_its_gpus(run, engine):
    done = run(engine, "vectoradd.py")
    assert done.stdout.splitlines() == ["CUDA 13.0, 2 GPUs", "GPU 0: NVIDIA Fake GPU"], done.stderr
    # a fake driver has nothing to compute on
    assert done.stderr.strip() == "cuDevicePrimaryCtxRetain: CUDA error 801"


def test_without_gpus_there_is_no_cuda(run):
    done = run("N2", "vectoradd.py", options=())
    assert "libcuda.so.1: cannot open shared object file" in done.stderr


@pytest.fixture(scope="session")
def ucx(tmp_path_factory, worker_id, public_directory):
    """The directory of UCX's libraries, of the package index, in the hands of every user."""
    base = tmp_path_factory.getbasetemp()
    wheels = str((base if worker_id == "master" else base.parent) / "ucx")
    with open(f"{wheels}.lock", "w") as lock, contextlib.ExitStack() as stack:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one worker fetches 43 MB, the others wait for it
        if not os.path.exists(wheels):
            words = ["download", "--quiet", "--no-deps", "--only-binary=:all:", UCX]
            pip = [sys.executable, "-m", "pip", *words, "--dest", f"{wheels}.new"]
            done = subprocess.run(pip, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
            os.rename(f"{wheels}.new", wheels)
        (name,) = os.listdir(wheels)
        wheel = stack.enter_context(zipfile.ZipFile(os.path.join(wheels, name)))
        place = os.path.join(public_directory, "ucx")
        for member in wheel.namelist():
            if ".so" in member and "perftest" not in member:
                os.chmod(wheel.extract(member, place), 0o755)
    return os.path.join(place, "libucx", "lib")


@pytest.mark.parametrize("engine", ENGINES)
def test_ucx_finds_cuda_where_the_gpus_are(run, ucx, engine):
    binds = (f"--volume={ucx}:/ucx", "--env=LD_LIBRARY_PATH=/ucx")
    with_gpus = run(engine, "ucx.py", "/ucx", options=("--gpu", *binds))
    assert with_gpus.returncode == 0, with_gpus.stderr
    answer = dict(line.split(":", 1) for line in with_gpus.stdout.splitlines())
    assert {"cuda_cpy", "cuda_ipc"} <= set(answer["components"].split()), with_gpus.stderr
    assert answer["plug-in"].strip() == ""
    for path in answer["driver"].split():
        assert VERSION in path or path.startswith(LIB), answer
    assert len(answer["driver"].split()) == 2

    without = run(engine, "ucx.py", "/ucx", options=binds)
    answer = dict(line.split(":", 1) for line in without.stdout.splitlines())
    assert "cuda_cpy" not in answer["components"], without.stderr
    assert "libcuda.so.1: cannot open shared object file" in answer["plug-in"]


def test_what_is_tried_on_real_gpus_works_until_something_computes(dressed_suite):
    wanted = "N2 and (nvidia_ml or drivers_own) or without_gpus or info or doctor or cdi or copied"
    done = dressed_suite("tests/gpu/test_realgpu.py", "-k", wanted)
    assert " passed" in done.stdout and " failed" not in done.stdout, done.stdout
    assert " skipped" not in done.stdout, done.stdout


@pytest.fixture
def dressed_suite(tmp_path):
    """A function that runs tests as on a node with two GPUs."""
    tree = drivertree.build(str(tmp_path / "tree"), gpus=2)

    def run(*words):
        pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
        return subprocess.run(
            ["bash", FAKENODE, "--null-nodes", tree, *pytest_],
            cwd=os.path.dirname(os.path.dirname(os.path.dirname(FAKENODE))),
            capture_output=True,
            text=True,
            check=False,
        )

    return run


if os.environ.get(TORCH):  # a test that few can run is not there for the others

    @pytest.mark.parametrize("engine", ENGINES)
    def test_a_pytorch_for_processors_says_that_cuda_is_not_available(run, engine):
        options = (f"--volume={os.environ[TORCH]}:/torch", "--env=PYTHONPATH=/torch")
        done = run(engine, "torchasks.py", options=("--gpu", *options))
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "torch.cuda.is_available() is False", done.stderr
