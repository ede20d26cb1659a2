"""`udocker selftest` tells what works, fails where something does not, and leaves no trace."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from gpu import drivertree
from registries import needs

from udocker.containers import features
from udocker.engines import select
from udocker.errors import UdockerError
from udocker.host.root import Root
from udocker.images.compression.decompress import chunks
from udocker.oci import Index, Manifest
from udocker.selftest import checks, leaks, sample, trial
from udocker.selftest.bench import UNBLOCK, Bench, Outcome, launcher
from udocker.values import replace

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FAKENODE = os.path.join(ROOT, "tests", "gpu", "fakenode.sh")
EVERYTHING = frozenset(
    (features.READ_ONLY_BINDS, features.FAKE_ROOT, features.OTHER_USER, features.STATIC_PROGRAMS)
)
NO_NAMESPACES = "echo 0 >/proc/sys/user/max_user_namespaces; exec "


# The whole command


def test_a_user_learns_which_engine_is_usable(unprivileged):
    before = sorted(os.walk(unprivileged.home))
    done = unprivileged.udocker("selftest", "userns")
    header, row = (line.split() for line in done.stdout.splitlines()[:2])
    assert header == ["ENGINE", "MODE", "RESULT", "START-UP", "GPU"]
    assert row[:3] == ["userns", "N2", "usable"] and int(row[3]) > 0
    assert "checking the engine userns" in done.stderr
    assert done.stderr.count(": done (") == 3  # a line for each layer
    assert sorted(os.walk(unprivileged.home)) == before


@pytest.mark.slow
def test_every_engine_is_in_the_table_and_does_what_it_should(unprivileged):
    done = unprivileged.udocker("-q", "selftest", timeout=300)
    _, *rows = (line.split() for line in done.stdout.splitlines())
    ways = [[way.name, way.mode] for way in select.WAYS if way.automatic]
    assert [row[:2] for row in rows[: len(ways)]] == ways
    assert "not true" not in done.stdout


def test_an_engine_that_is_none_is_named(unprivileged):
    done = unprivileged.udocker("selftest", "X9", check=False)
    assert done.returncode == 2
    assert "no engine or execution mode 'X9'" in done.stderr


def test_images_and_settings_of_the_user_do_not_matter_and_stay(unprivileged):
    os.mkdir(unprivileged.udocker_dir)
    with open(f"{unprivileged.udocker_dir}/udocker.conf", "w") as file:
        file.write("engine = proot\nregistry = nowhere.invalid\nquiet = true\n")
    unprivileged.own(unprivileged.udocker_dir)
    before = sorted(os.walk(unprivileged.home))
    proxy = {"http_proxy": "http://127.0.0.1:9", "UDOCKER_DEFAULT_EXECUTION_MODE": "P1"}
    done = unprivileged.udocker("selftest", "userns", env=proxy)
    assert "usable" in done.stdout and done.stderr == ""
    assert sorted(os.walk(unprivileged.home)) == before


def test_where_namespaces_are_off_the_obstacle_is_told(unprivileged):
    udocker = f"{unprivileged.python} -m udocker selftest userns"
    words = ["unshare", "-U", "-c", "--keep-caps", "sh", "-c", NO_NAMESPACES + udocker]
    done = unprivileged.run(words, check=False)
    assert done.returncode == 1, done.stderr
    assert "user namespaces are limited to 0 here" in done.stdout
    assert os.listdir(unprivileged.home) == ["tmp"]


def test_a_zstandard_that_cannot_be_loaded_is_not_needed(unprivileged):
    broken = f"{unprivileged.home}/broken"
    os.mkdir(broken)
    with open(f"{broken}/zstandard.py", "w") as file:
        file.write("raise ImportError('as in a zip file')")
    path = unprivileged.environment()["PYTHONPATH"]
    done = unprivileged.udocker("selftest", "userns", env={"PYTHONPATH": f"{broken}:{path}"})
    assert "usable" in done.stdout


def test_in_a_step_of_a_batch_job_it_is_usable_too(unprivileged):
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "PMI_RANK": "0"}
    assert "usable" in unprivileged.udocker("selftest", "userns", env=step).stdout


@pytest.mark.parametrize("limit", ["-n 64", "-v 400000"])
def test_limits_of_batch_systems_leave_it_usable(unprivileged, limit):
    script = f"ulimit {limit}; exec {unprivileged.python} -m udocker selftest userns"
    assert "usable" in unprivileged.run(["sh", "-c", script]).stdout


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        (">/dev/full", "udocker: cannot write to standard output: No space left on device\n"),
        (">&-", "udocker: cannot write to standard output: it is closed\n"),
        ("2>&-", ""),
    ],
)
def test_output_that_cannot_be_written_is_an_error_and_talk_is_not(unprivileged, redirection, said):
    script = f"exec {unprivileged.python} -m udocker -q images {redirection}"
    done = unprivileged.run(["sh", "-c", script], check=False)
    assert (done.returncode, done.stderr) == (1 if said else 0, said)


def test_without_a_standard_input_nothing_changes(unprivileged):
    words = ["sh", "-c", f"exec {unprivileged.python} -m udocker -q selftest userns <&-"]
    assert "usable" in unprivileged.run(words).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ended_early_it_leaves_nothing(unprivileged, number):
    words = [unprivileged.python, "-m", "udocker", "selftest", "userns"]
    process = unprivileged.popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with process.stderr:
        while b"checking" not in process.stderr.readline():
            assert process.poll() is None
        assert os.listdir(unprivileged.udocker_dir)
        time.sleep(0.1)  # somewhere in the checks
        process.send_signal(number)
        process.stderr.read()
    assert process.wait(30) == 130
    assert os.listdir(unprivileged.home) == ["tmp"]


def test_what_killed_trials_left_is_removed_and_what_others_do_is_not(unprivileged):
    node = os.uname().nodename
    store = unprivileged.udocker_dir
    gone = subprocess.Popen(["true"])
    gone.wait()
    names = [f"selftest.{node}-{pid}.0123abcd" for pid in (gone.pid, os.getpid())]
    for name in names:
        os.makedirs(f"{store}/{name}/store")
    unprivileged.own(store)
    unprivileged.udocker("selftest", "userns")
    assert os.listdir(store) == names[1:]


def test_where_the_store_cannot_be_made_another_directory_is_tried(unprivileged):
    done = unprivileged.udocker("selftest", "userns", env={"UDOCKER_DIR": "/proc/store"})
    assert "images cannot be kept here" in done.stderr and "/proc/store" in done.stderr
    assert "usable" in done.stdout
    assert os.listdir(f"{unprivileged.home}/tmp") == []


@pytest.mark.root
def test_gpus_of_the_node_are_seen_in_containers(tmp_path):
    tree = drivertree.build(str(tmp_path / "tree"), gpus=2)
    udocker = [*launcher(), f"--repo={tmp_path}/store", "selftest", "userns"]
    words = [FAKENODE, "--null-nodes", tree, *udocker]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "usable" in done.stdout and "2 x NVIDIA Fake GPU" in done.stdout


# Checks


STUBS = {
    "does nothing": "pass",
    "fails": "raise SystemExit(1)",
    # Runs the program on the host itself: containers without walls.
    "hides nothing": (
        "import os, sys; words = sys.argv[1:]; at = words.index('image'); "
        "os.execvp(words[at + 1], words[at + 1:])"
    ),
}


@pytest.fixture
def bench(tmp_path):
    """A function that makes a bench whose udocker is a stub."""
    (tmp_path / "store" / "containers").mkdir(parents=True)

    def make(stub):
        words = (sys.executable, "-I", "-S", "-c", f"{UNBLOCK}; {STUBS[stub]}")
        at_home = {**os.environ, "HOME": str(tmp_path)}  # what goes to the host stays in there
        return Bench(str(tmp_path), "image", at_home, words, "stub", EVERYTHING)

    return make


@pytest.mark.parametrize("check", (*checks.CHECKS, *leaks.CHECKS))
def test_every_check_fails_where_engines_do_nothing_or_fail(bench, check):
    for stub in ("does nothing", "fails"):
        if trial.failures_of(bench(stub), [check]):
            return
    pytest.fail("it always holds")


@pytest.fixture
def swept():
    """What checks write in the container's /tmp does not stay where that is the host's."""
    yield
    for name in ("own", "file"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/tmp/{name}")


def test_an_engine_that_hides_nothing_is_found_out(bench, swept):
    failures = trial.failures_of(bench("hides nothing"), checks.CHECKS)
    found = {failure.check: failure.detail for failure in failures}
    assert os.path.realpath(sys.executable) in found["files of the host do not show"]
    assert "a volume shows and keeps files of the caller" in found
    assert "devices and proc are there" not in found


@pytest.mark.parametrize("module", [checks, leaks])
def test_every_check_is_in_the_list(module):
    shape = {"bench": "Bench", "return": "None"}
    made = [f for f in vars(module).values() if getattr(f, "__annotations__", None) == shape]
    assert tuple(made) == module.CHECKS


def test_what_an_engine_lacks_must_be_refused(bench):
    check = next(check for check in checks.CHECKS if "readonly_volume" in check.__name__)
    lacking = replace(bench("hides nothing"), features=frozenset())
    (failure,) = trial.failures_of(lacking, [check])
    assert "exit code 0, not 125" in failure.detail


@pytest.mark.parametrize(
    ("outcome", "expected", "message"),
    [
        (Outcome(0, b"a", b""), (b"a", 0), None),
        (Outcome(0, b"a", b""), (None, 0), None),
        (Outcome(7, b"", b"why"), (b"", 0), "exit code 7, not 0: why"),
        (Outcome(0, b"b\nc", b""), (b"a", 0), "output b; c, not a"),
        (Outcome(0, b"", b""), (b"a", 0), "output nothing, not a"),
    ],
)
def test_a_failure_says_what_was_expected(outcome, expected, message):
    output, code = expected
    if message is None:
        outcome.expect(output, code=code)
        return
    with pytest.raises(UdockerError) as caught:
        outcome.expect(output, code=code)
    assert caught.value.message == message


# The image


def members(layout):
    """Return what the layers of the sample image hold, by name: a link's target, or bytes."""
    with open(f"{layout}/index.json", "rb") as file:
        (entry,) = Index.from_bytes(file.read()).manifests
    with open(f"{layout}/blobs/sha256/{entry.digest.hex}", "rb") as file:
        manifest = Manifest.from_bytes(file.read(), entry.media_type)
    found = {}
    for layer in manifest.layers:
        with open(f"{layout}/blobs/sha256/{layer.digest.hex}", "rb") as file:
            stream = io.BytesIO(b"".join(chunks([file.read()])))
        with tarfile.open(fileobj=stream) as archive:
            for member in archive:
                data = archive.extractfile(member).read() if member.isreg() else member.linkname
                found[member.name] = data
    return found


@pytest.fixture
def host(tmp_path):
    """A function that makes a host of one static binary and of files, links and scripts."""
    needs("busybox")
    root = str(tmp_path / "host")

    def make(binary, others):
        os.makedirs(os.path.dirname(root + binary))
        shutil.copy(shutil.which("busybox"), root + binary)
        for path, text in others.items():
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            if text.startswith("#!"):
                with open(os.open(root + path, os.O_WRONLY | os.O_CREAT, 0o755), "w") as file:
                    file.write(text)
            else:
                os.symlink(text, root + path)
        return Root(root)

    return make


def test_programs_of_a_busybox_are_links_to_it(host, tmp_path):
    programs = {f"/bin/{name}": "/bin/busybox" for name in sample.PROGRAMS}
    made = sample.build(str(tmp_path / "layout"), "", host("/bin/busybox", programs))
    found = members(tmp_path / "layout")
    assert found["bin/sh"] == found["bin/cat"] == "/bin/busybox"
    assert found["bin/busybox"].startswith(b"\x7fELF")
    assert made.path == "/selftest/bin:/bin"


def test_programs_may_be_scripts_of_one_common_binary(host, tmp_path):
    script = "#!/usr/libexec/coreutils --coreutils-prog-shebang=cat\n"
    programs = {f"/usr/bin/{name}": script for name in sample.PROGRAMS}
    programs["/bin"] = "usr/bin"
    sample.build(str(tmp_path / "layout"), "", host("/usr/libexec/coreutils", programs))
    found = members(tmp_path / "layout")
    assert found["usr/bin/cat"] == script.encode()
    assert found["usr/libexec/coreutils"].startswith(b"\x7fELF")


def test_programs_are_found_through_any_chain_of_links(host, tmp_path):
    programs = {f"/store/one/bin/{name}": "../libexec/tool" for name in sample.PROGRAMS}
    programs.update({"/run/system": "/var/profile", "/var/profile": "../store/one"})
    places = "relative:/nowhere:/run/system/bin/"
    machine = host("/store/one/libexec/tool", programs)
    made = sample.build(str(tmp_path / "layout"), places, machine)
    found = members(tmp_path / "layout")
    assert found["run/system"] == "/var/profile" and found["var/profile"] == "../store/one"
    assert found["store/one/bin/sh"] == "../libexec/tool"
    assert found["store/one/libexec/tool"].startswith(b"\x7fELF")
    assert made.path == "/selftest/bin:/run/system/bin"


def test_a_program_that_the_host_lacks_is_named(host, tmp_path):
    programs = {f"/bin/{name}": "busybox" for name in sample.PROGRAMS if name != "id"}
    with pytest.raises(UdockerError, match="no program id"):
        sample.build(str(tmp_path / "layout"), "", host("/bin/busybox", programs))


def test_programs_of_this_host_come_with_their_loader_and_libraries(tmp_path):
    sample.build(str(tmp_path / "layout"), os.environ["PATH"])
    found = members(tmp_path / "layout")
    assert all(name.lstrip("/") == name and ".." not in name.split("/") for name in found)
    assert sum(isinstance(data, bytes) and data[:4] == b"\x7fELF" for data in found.values()) >= 2
    assert found["selftest/.wh.removed"] == b""
