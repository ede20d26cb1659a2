"""`udocker gpu info` tells what a node has, and what of it is the job's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from gpu import drivertree, fabrictree, kerneltree
from gpu.drivertree import VERSION, uuid
from udocker.commands.gpu import info
from udocker.diagnosis import gpufacts
from udocker.host.probe import Host

V = VERSION


@pytest.fixture
def gather(tmp_path, monkeypatch):
    """A function that gathers the facts of a host; NVML sees the host's tree."""

    def run(host, **environment):
        monkeypatch.setenv("FAKE_DRIVER_ROOT", host.root)
        return gpufacts.gather(host, environment, str(tmp_path / "kept"))

    return run


def obstacles(facts):
    return {fact.gpu.minor: fact.obstacle for fact in facts.gpus}


def test_a_machine_without_a_driver_has_no_facts(tmp_path, gather):
    facts = gather(Host(str(tmp_path)), SLURM_JOB_ID="7", HOME="/")
    assert (facts.driver, facts.gpus, facts.shares) == (None, (), ())
    assert "kernel module not loaded" in facts.absence
    assert facts.job == (("SLURM_JOB_ID", "7"),)


@pytest.mark.parametrize(
    ("version", "text"), [(V, "13.0"), ("470.57.02", "11.4"), ("999.1", "+"), ("340.1", "")]
)
def test_the_cuda_version_is_the_drivers(machine, version, text, gather):
    host = machine()
    drivertree.build_kernel(host.root, version=version)
    found = gather(host).cuda
    assert found == text or (text == "+" and found.endswith("+"))


SERVICES = {
    "mps": "tmp/nvidia-mps/control",
    "imex": "dev/nvidia-caps-imex-channels/channel0",
    "gds": "dev/nvidia-fs0",
    "gdrcopy": "dev/gdrdrv",
    "fabricmanager": "run/nvidia-fabricmanager/socket",
}


def test_what_runs_beside_the_driver_is_told(machine, gather):
    host = machine()
    before = dict(gather(host).services)
    assert before.pop("persistenced") == "runs"
    assert set(before.values()) == {"none", "not used", "not needed"}
    for path in SERVICES.values():
        drivertree.write(host.root, path)
    after = dict(gather(host).services)
    assert after["fabricmanager"] == "runs"
    assert all(after[name] != before[name] for name in SERVICES)


def specification(version):
    library = f"/usr/lib/{drivertree.MACHINE}-linux-gnu/libcuda.so.{version}"
    mounts = [{"hostPath": library, "containerPath": library}]
    nodes = {"deviceNodes": [{"path": "/dev/nvidia0"}]}
    return json.dumps(
        {
            "cdiVersion": "0.5.0",
            "kind": "nvidia.com/gpu",
            "devices": [{"name": "0", "containerEdits": nodes}],
            "containerEdits": {"mounts": mounts},
        }
    )


def test_adapters_and_mpi_are_told_for_people_and_programs(machine, gather, linked):
    host = machine()
    fabrictree.add_hca(host.root)
    body = "int ompi_mpi_comm_world; int MPI_Init(void) { return 0; }"
    place = f"usr/lib/{drivertree.MACHINE}-linux-gnu/openmpi/lib"
    drivertree.write(host.root, f"{place}/libmpi.so.40", linked(body, "libmpi.so.40"))
    facts = gather(host)
    lines = list(info._lines(facts))
    assert ("infiniband", "mlx5_0/1 InfiniBand ACTIVE 200 Gb/sec") in lines
    assert ("mpi", f"Open MPI (libmpi.so.40) in /{place}") in lines
    told = info._document(facts)
    assert told["infiniband"][0]["ports"][0]["state"] == "ACTIVE"
    assert (told["infiniband"][0]["provider"], told["infiniband"][0]["name"]) == ("mlx5", "mlx5_0")
    assert [one["abi"] for one in told["mpi"]] == ["Open MPI"]


def test_specifications_are_listed_with_why_they_do_not_count(machine, gather):
    host = machine()
    drivertree.write(host.root, "etc/cdi/new.json", specification(V))
    drivertree.write(host.root, "etc/cdi/broken.json", "{")
    drivertree.write(host.root, "var/run/cdi/old.json", specification("1.2.3"))
    facts = gather(host)
    (one,) = facts.specifications
    assert one.path.endswith("/var/run/cdi/old.json")
    assert "libcuda.so.1.2.3 is not there" in one.fault
    assert "broken.json is not used" in facts.faults[0]
    os.unlink(host.path("/var/run/cdi/old.json"))
    (one,) = gather(host).specifications
    assert (one.kind, one.devices, one.fault) == ("nvidia.com/gpu", 1, "")


def test_libraries_are_counted_by_capability(machine, gather):
    shares = {s.capability: s for s in gather(machine()).shares}
    assert shares["utility"].count >= 5
    assert shares["compute"].size_bytes > shares["utility"].count
    assert "ngx" in shares


def test_a_gpu_that_is_not_the_jobs_says_why(machine, gather):
    host = machine(gpus=3)
    assert obstacles(gather(host)) == {0: "", 1: "", 2: ""}
    assert obstacles(gather(host, CUDA_VISIBLE_DEVICES="0")) == {
        2: "",
        1: "not in CUDA_VISIBLE_DEVICES=0",
        0: "not in CUDA_VISIBLE_DEVICES=0",
    }
    os.unlink(host.path("/dev/nvidia1"))
    assert obstacles(gather(host))[1] == "/dev/nvidia1 missing"


def udocker(*words):
    command = [sys.executable, "-m", "udocker", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_group_lists_its_commands_and_suggests_one():
    assert "  info " in udocker("gpu", "--help").stdout
    done = udocker("gpu", "ifno")
    assert done.returncode == 2
    assert "Did you mean 'info'?" in done.stderr


def test_parts_of_a_gpu_are_listed_with_their_names(machine, gather):
    host = machine(mig={0: kerneltree.SEVEN_SMALL})
    uuids = [kerneltree.mig_uuid(0, gi) for gi in kerneltree.SEVEN_SMALL]
    (fact,) = gather(host).gpus
    assert sorted(one.part.uuid for one in fact.parts) == sorted(uuids)
    assert not any(one.obstacle for one in fact.parts)
    (fact,) = gather(host, CUDA_VISIBLE_DEVICES=uuids[2]).gpus
    usable = [one.part.uuid for one in fact.parts if not one.obstacle]
    assert (usable, fact.obstacle) == ([uuids[2]], "")


@pytest.mark.root
def test_a_user_sees_the_node_and_a_program_reads_it(dressed):
    node = dressed(gpus=2)
    shown = node("gpu", "info", deny=[1]).stdout
    assert f"driver         {V} (open), CUDA 13.0" in shown
    assert "found by       filelist" in shown
    assert "gpus           2, 1 for this job" in shown
    assert "no: /dev/nvidia1 not permitted" in shown
    told = json.loads(node("gpu", "info", "--json", env={"SLURM_JOB_ID": "7"}).stdout)
    assert told["format"] == 1
    assert told["driver"]["version"] == V
    assert told["job"] == {"SLURM_JOB_ID": "7"}
    assert [(gpu["uuid"], gpu["usable"]) for gpu in told["gpus"]] == [
        (uuid(1), True),
        (uuid(0), True),
    ]
