"""`udocker doctor`: what it says of this machine, and of machines that are trees of files."""

import json
import os
from pathlib import Path

import pytest
from registries import needs

from udocker.diagnosis import account, kernel, storage
from udocker.diagnosis.finding import FAIL, OK, WARN
from udocker.engines.userns import Support
from udocker.host.probe import Host
from udocker.registry.loopback import LoopbackRegistry

KEYS = (
    *("kernel", "distribution", "user_namespaces", "apparmor", "seccomp", "ptrace", "cgroups"),
    *("store", "overlay", "space", "tmpdir", "fuse", "many_ids", "gpu", "job"),
)
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
HYBRID = "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
HYBRID += "32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


def machine(tmp_path, files):
    """Return a machine that has `files`: paths and texts."""
    for path, text in {"/proc/self/ns/user": "", **files}.items():
        place = tmp_path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return Host(str(tmp_path))


def found(findings, key):
    return next(finding for finding in findings if finding.key == key)


def test_every_fact_and_engine_is_told_as_json(unprivileged):
    document = json.loads(unprivileged.udocker("doctor", "--json").stdout)
    assert [fact["key"] for fact in document["host"]] == list(KEYS)
    assert {fact["status"] for fact in document["host"]} <= {OK, WARN, FAIL}
    assert set(document) == {"format", "version", "usable", "engines", "host"}
    ways = [(engine["name"], engine["mode"]) for engine in document["engines"]]
    assert ways[0] == ("userns", "N2")
    assert {name for name, _ in ways} >= {"crun", "runc", "bwrap", "proot", "fakechroot"}
    for engine in document["engines"]:
        assert engine["usable"] == (engine["obstacle"] == "")
        assert set(engine) == {
            *("name", "mode", "automatic", "usable", "obstacle", "fix", "program"),
        }
    assert document["usable"] == any(engine["usable"] for engine in document["engines"])


def test_the_text_names_programs_with_their_versions_and_leaves_nothing(unprivileged):
    needs("proot")
    before = os.listdir(unprivileged.home)
    done = unprivileged.udocker("doctor")
    (line,) = [line for line in done.stdout.splitlines() if line.split()[1:3] == ["proot", "P1"]]
    assert "/proot 5." in line
    assert os.listdir(unprivileged.home) == before
    assert os.listdir(f"{unprivileged.home}/tmp") == []


def test_what_works_is_not_tried_again_when_it_has_been_asked_before(unprivileged):
    def known():
        """Return when each engine that works was tried."""
        files = [*Path(unprivileged.udocker_dir, "cache").glob("*-[BRP][123]-0")]
        worked = [file for file in files if json.loads(file.read_bytes())[1] == ""]
        return {file.name: file.stat().st_mtime_ns for file in worked}

    os.mkdir(unprivileged.udocker_dir, 0o700)
    unprivileged.own(unprivileged.udocker_dir)
    unprivileged.udocker("doctor")
    before = known()
    assert before
    unprivileged.udocker("doctor")
    assert known() == before


def test_a_missing_program_comes_with_the_command_that_brings_it(unprivileged):
    hidden = {"UDOCKER_USE_PROOT_EXECUTABLE": "UDOCKER"}
    document = json.loads(unprivileged.udocker("doctor", "--json", env=hidden).stdout)
    proot = next(engine for engine in document["engines"] if engine["name"] == "proot")
    assert (proot["usable"], proot["program"]) == (False, None)
    assert proot["fix"] == "udocker install proot"


def test_where_nothing_can_run_the_exit_code_is_1(unprivileged):
    needs("unshare")
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    doctor = [unprivileged.python, "-m", "udocker", "doctor"]
    words = ["unshare", "-U", "--map-root-user", "sh", "-c", script, "sh", *doctor]
    if unprivileged.run(["unshare", "-U", "true"], check=False).returncode:
        pytest.skip("needs user namespaces")
    hidden = {"UDOCKER_USE_PROOT_EXECUTABLE": "UDOCKER", "UDOCKER_FAKECHROOT_SO": "UDOCKER"}
    done = unprivileged.run(words, env=hidden, check=False)
    assert done.returncode == 1, done.stdout
    assert "sysctl user.max_user_namespaces" in done.stdout


def test_a_container_can_be_asked_for(unprivileged, busybox_image):
    with LoopbackRegistry(busybox_image.path) as address:
        image = f"{address}/library/{busybox_image.reference}"
        unprivileged.udocker("create", "--name=box", image)
    done = unprivileged.udocker("doctor", "box", check=False)
    assert done.stdout.startswith("ok    userns") == (done.returncode == 0)
    missing = unprivileged.udocker("doctor", "nobody", check=False)
    assert missing.returncode == 1
    assert "no container 'nobody'" in missing.stderr


@pytest.mark.parametrize(
    ("key", "files", "status", "words"),
    [
        ("user_namespaces", {"/proc/sys/user/max_user_namespaces": "0\n"}, FAIL, "max_user_name"),
        (
            "user_namespaces",
            {"/proc/sys/kernel/unprivileged_userns_clone": "0\n"},
            FAIL,
            "unprivileged_userns_clone=1",
        ),
        (
            "apparmor",
            {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"},
            WARN,
            "restrict_unprivileged_userns=0",
        ),
        ("seccomp", {"/proc/self/status": "Seccomp:\t2\n"}, WARN, "container"),
        ("seccomp", {"/proc/self/status": "Seccomp:\t0\nNoNewPrivs:\t1\n"}, WARN, "no_new_privs"),
        ("seccomp", {"/proc/self/status": "Seccomp:\t0\nNoNewPrivs:\t0\n"}, OK, "no filter"),
        ("ptrace", {"/proc/sys/kernel/yama/ptrace_scope": "0\n"}, OK, "trace"),
        ("ptrace", {"/proc/sys/kernel/yama/ptrace_scope": "1\n"}, WARN, "CMA"),
        ("ptrace", {"/proc/sys/kernel/yama/ptrace_scope": "3\n"}, WARN, "PRoot"),
        ("cgroups", {"/proc/self/mountinfo": UNIFIED}, OK, "version 2"),
        ("cgroups", {"/proc/self/mountinfo": HYBRID}, WARN, "crun"),
        ("cgroups", {}, OK, "none is mounted"),
        ("distribution", {"/etc/os-release": 'PRETTY_NAME="Rocky 9"\n'}, OK, "Rocky 9"),
    ],
)
def test_what_the_kernel_says_is_understood(tmp_path, key, files, status, words):
    finding = found(kernel.findings(machine(tmp_path, files)), key)
    assert finding.status == status
    assert words in f"{finding.text} {finding.fix}"


def test_the_file_system_of_the_store_is_the_last_mount_above_it(tmp_path):
    mounts = f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / {tmp_path} rw - nfs4 s:/x rw\n"
    mounts += f"3 2 0:6 / {tmp_path}x rw - tmpfs none rw\n"
    host = machine(tmp_path, {"/proc/self/mountinfo": mounts})
    assert storage.file_system(host, str(tmp_path)) == "nfs4"
    assert storage.file_system(host, "/") == "ext4"
    found_here = list(storage.findings(host, f"{tmp_path}/store", "/tmp", Support("overlay", 22)))
    overlay = found(found_here, "overlay")
    assert (overlay.status, "local" in overlay.fix) == (WARN, True)
    assert found(found_here, "store").status == OK


def test_a_store_that_cannot_be_written_to_is_a_failure(unprivileged):
    environment = {"UDOCKER_DIR": "/proc/nowhere/store", "TMPDIR": "/nowhere"}
    done = unprivileged.udocker("doctor", "--json", env=environment, check=False)
    facts = {fact["key"]: fact for fact in json.loads(done.stdout)["host"]}
    assert facts["store"]["status"] == FAIL
    assert "UDOCKER_DIR" in facts["store"]["fix"]
    assert facts["tmpdir"]["status"] == WARN


def gpu(number):
    information = f"Model:\t NVIDIA X\nGPU UUID:\t GPU-{number}\nDevice Minor:\t {number}\n"
    return {
        f"/proc/driver/nvidia/gpus/0000:0{number}:00.0/information": information,
        f"/dev/nvidia{number}": "",
    }


def test_gpus_are_counted_with_those_of_the_job(tmp_path):
    files = {**gpu(1), **gpu(2), "/sys/module/nvidia/version": "570.86.15\n"}
    host = machine(tmp_path, files)
    environment = {"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "0"}
    findings = list(account.findings(host, environment))
    text = found(findings, "gpu").text
    assert text == "2 x NVIDIA X, driver 570.86.15; 1 for this job"
    assert found(findings, "job").text == "Slurm job 77, a step of it"
    none = found(account.findings(host, {"CUDA_VISIBLE_DEVICES": ""}), "gpu")
    assert (none.status, "srun" in none.fix) == (WARN, True)
