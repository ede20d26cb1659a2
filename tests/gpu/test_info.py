"""`udocker gpu info` tells what a node has, and what of it is the job's."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from gpu import drivertree
from gpu.drivertree import VERSION, uuid
from udocker.diagnosis import gpufacts
from udocker.host.probe import Host

V = VERSION


def obstacles(host, **environment):
    return {f.gpu.minor: f.obstacle for f in gpufacts.gather(host, environment).gpus}


def test_a_machine_without_a_driver_has_no_facts(tmp_path):
    facts = gpufacts.gather(Host(str(tmp_path)), {"SLURM_JOB_ID": "7", "HOME": "/"})
    assert (facts.driver, facts.gpus, facts.shares) == (None, (), ())
    assert facts.job == (("SLURM_JOB_ID", "7"),)


@pytest.mark.parametrize(
    ("line", "flavour"),
    [
        (f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {V}  Release Build", "open"),
        (f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {V}  Mon Jan  1", "proprietary"),
        ("", ""),
    ],
)
def test_the_flavour_is_what_the_module_says(machine, line, flavour):
    host = machine()
    drivertree.write(host.root, "proc/driver/nvidia/version", f"{line}\nGCC version: 12\n")
    assert gpufacts.flavour(host) == flavour


def test_libraries_are_counted_by_capability(machine):
    shares = {s.capability: s for s in gpufacts.gather(machine(), {}).shares}
    assert shares["utility"].count >= 5
    assert shares["compute"].size_bytes > shares["utility"].count
    assert "ngx" in shares


def test_a_gpu_that_is_not_the_jobs_says_why(machine):
    host = machine(gpus=3)
    assert obstacles(host) == {0: "", 1: "", 2: ""}
    assert obstacles(host, CUDA_VISIBLE_DEVICES="0") == {
        2: "",
        1: "not in CUDA_VISIBLE_DEVICES=0",
        0: "not in CUDA_VISIBLE_DEVICES=0",
    }
    os.unlink(host.path("/dev/nvidia1"))
    assert obstacles(host)[1] == "no /dev/nvidia1"


def udocker(*words):
    command = [sys.executable, "-m", "udocker", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_group_lists_its_commands_and_suggests_one():
    assert "  info " in udocker("gpu", "--help").stdout
    done = udocker("gpu", "ifno")
    assert done.returncode == 2
    assert "Did you mean 'info'?" in done.stderr


@pytest.mark.root
def test_a_user_sees_the_node_and_a_program_reads_it(dressed):
    node = dressed(gpus=2)
    shown = node("gpu", "info", deny=[1]).stdout
    assert f"driver       {V} (open)" in shown
    assert "gpus         2, 1 for this job" in shown
    assert "no: /dev/nvidia1 not permitted" in shown
    told = json.loads(node("gpu", "info", "--json", env={"SLURM_JOB_ID": "7"}).stdout)
    assert told["format"] == 1
    assert told["driver"]["version"] == V
    assert told["job"] == {"SLURM_JOB_ID": "7"}
    assert [(gpu["uuid"], gpu["usable"]) for gpu in told["gpus"]] == [
        (uuid(1), True),
        (uuid(0), True),
    ]
