"""Containers through PRoot: nothing of the host, nothing of PRoot, nothing left."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time

import pytest
from registries import needs
from unprivileged import Unprivileged, remove_tree

from udocker.containers import features
from udocker.containers.spec import Bind, ContainerEdits, Process, Rootfs, RuntimeSpec, Tmpfs, User
from udocker.engines import proot, proottrial
from udocker.engines.rebase import preload
from udocker.errors import StartError
from udocker.host import loader
from udocker.host.probe import Host
from udocker.host.root import Root
from udocker.registry.loopback import LoopbackRegistry
from udocker.values import replace

FORBID_PTRACE = """
import ctypes, os, platform, struct, sys
number = {"x86_64": 101, "aarch64": 117}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(4, ctypes.addressof(code))), 0, 0) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""
NO_EXECUTION = "mount -t tmpfs -o noexec,mode=1777 tmpfs /tmp && exec "
ENDED_S = 10


@pytest.fixture(scope="module")
def image(busybox_image):
    with LoopbackRegistry(busybox_image.path) as address:
        yield f"{address}/library/{busybox_image.reference}"


@pytest.fixture(scope="module")
def user(account, image):
    needs("proot")
    user = Unprivileged(account)
    user.udocker("pull", image)
    yield user
    user.close()


@pytest.fixture(params=["P1", "P2"])
def run(request, user, image):
    """A function that runs a program, by default in a container of its own."""

    def run(*args, options=("--rm",), container=image, **how):
        return user.udocker("run", f"--engine={request.param}", *options, container, *args, **how)

    run.mode = request.param
    run.words = [user.python, "-m", "udocker", "run", f"--engine={request.param}"]
    return run


@pytest.fixture
def kept(user, image):
    """A container that stays, and where its files lie."""
    identifier = user.udocker("create", image).stdout.strip()
    yield identifier, f"{user.udocker_dir}/containers/{identifier}/rootfs"
    user.udocker("rm", "-f", identifier)


@pytest.fixture
def outside(user):
    """A directory of the host that containers do not show, with a secret in it."""
    path = tempfile.mkdtemp(prefix="udocker-test-", dir="/var/tmp")
    with open(f"{path}/secret", "w") as file:
        file.write("secret\n")
    user.own(path)
    yield path
    remove_tree(path)


def until(condition):
    end = time.monotonic() + ENDED_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def words_of(uid):
    """Return the command lines of a user's processes."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == uid:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    found.append(file.read().decode(errors="replace").split("\0"))
    return found


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("true; kill -9 $$", 137),
        ("kill -11 $$", 139),
        ("sleep 1 & exit 3", 3),
        ("(sleep 0.02; exit 0) & exit 3", 3),
    ],
)
def test_the_exit_code_is_the_programs_whoever_ends_after_it(run, script, code):
    done = run("sh", "-c", script, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize(
    ("program", "code"), [("nowhere", 127), ("", 127), ("/etc", 126), ("/etc/greeting", 126)]
)
def test_a_program_that_cannot_be_executed_gives_126_or_127_and_is_named(run, program, code):
    done = run(program, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(f"udocker: run {program}: ")


def test_the_program_sees_nothing_of_proots_environment(run):
    given = {"LD_PRELOAD": "/lib/of-the-image.so", "LD_LIBRARY_PATH": "/lib"}
    options = [f"-e{name}={value}" for name, value in given.items()]
    done = run("env", options=("--rm", *options))
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert {name: found[name] for name in given} == given
    assert not [name for name in found if "PROOT" in name or name.startswith("+")]
    assert done.stderr == ""  # the loader would tell what it cannot preload into PRoot


def test_what_the_program_left_running_ends_with_it(run, user):
    run("sh", "-c", "sleep 2001 & (sleep 2001 &) ; (setsid sleep 2001 &) ; echo started")
    assert not [words for words in words_of(user.uid) if "2001" in words]


def test_a_signal_sent_to_udocker_reaches_the_program_alone(run, user, image):
    script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    with user.popen(
        [*run.words, "--rm", image, "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(ENDED_S) == 9
        assert process.stderr.read() == ""  # PRoot tells of itself when it gets that signal


def test_a_signal_that_comes_before_the_program_waits_for_it(run, user, image):
    with user.popen([*run.words, "--rm", image, "sleep", "2002"]) as process:
        until(lambda: any("/.udocker" in words for words in words_of(user.uid)))
        process.terminate()
        assert process.wait(ENDED_S) == 143


def test_killed_programs_never_see_the_host(run, user, image, outside):
    """A traced program whose tracer dies runs on, and its names are then the host's."""
    trace = f"{outside}/trace"
    script = f"mkdir -p {outside}; echo ready; while :; do : >>{trace}; (: >>{trace}); done"
    for _ in range(3):
        with user.popen(
            [*run.words, "--rm", image, "sh", "-c", script], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "ready\n"
            process.kill()
            process.wait(ENDED_S)
            until(lambda: not any(trace in " ".join(words) for words in words_of(user.uid)))
        assert not os.path.exists(trace)


def test_nothing_is_left_in_the_hosts_directory_for_temporary_files(run, user):
    run("true", options=("--rm", "-v", f"{user.home}:/not/there/yet"))
    left = [entry for entry in os.scandir("/tmp") if entry.name.startswith("proot")]
    assert not [entry for entry in left if entry.stat().st_uid == user.uid]


@pytest.mark.root
def test_where_nothing_in_tmp_can_be_executed_programs_run(run, user, image):
    needs("unshare", "setpriv")
    become = f"setpriv --reuid={user.uid} --regid={user.gid} --clear-groups "
    command = " ".join([*run.words, "--rm", image, "echo", "yes"])
    words = ["unshare", "--mount", "sh", "-c", NO_EXECUTION + become + command]
    done = subprocess.run(
        words, env=user.environment(), cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("yes\n", "")


def test_a_user_is_who_was_asked_for(run, user):
    script = "id -u; id -g"
    assert run("sh", "-c", script).stdout == "0\n0\n"
    options = ("--rm", "--user=1234:2345")
    assert run("sh", "-c", script, options=options).stdout == "1234\n2345\n"
    own = f"{user.uid}\n{user.gid}\n"
    assert run("sh", "-c", script, options=("--rm", "--userns=keep-id")).stdout == own


def test_links_of_the_image_lead_nothing_to_the_host(run, kept, outside):
    identifier, rootfs = kept
    trap = f"rm -rf /.udocker /trap; ln -s {outside}/secret /.udocker; ln -s {outside} /trap"
    run("sh", "-c", trap, options=(), container=identifier)
    for words in (["-w", "/trap/made"], ["-v", "/etc/hostname:/trap/file"], ["-v", "/usr:/trap/d"]):
        run("true", options=words, container=identifier)
    assert os.listdir(outside) == ["secret"]
    with open(f"{outside}/secret") as file:
        assert file.read() == "secret\n"
    assert sorted(os.listdir(f"{rootfs}{outside}")) == ["d", "file", "made"]


def test_names_that_proot_has_signs_for_are_names(run, user):
    place = f"{user.home}/odd!"
    os.makedirs(place, exist_ok=True)
    user.own(place)
    options = ("--rm", f"-v{place}:/mnt/a b!", "-w", "/mnt/a b!")
    run("sh", "-c", "echo x >made", options=options)
    assert os.listdir(place) == ["made"]
    os.unlink(f"{place}/made")


def test_a_name_that_proot_cannot_tell_from_a_place_is_refused():
    with pytest.raises(StartError, match="colon"):
        proot._bind("/data/a:b", "/mnt")
    assert proot._bind("/data/a", "/mnt/b:c!") == "/data/a:/mnt/b:c!!"


@pytest.mark.parametrize(
    "option", ["--read-only", "--tmpfs=/mnt", "--hostname=box", "--network=none", "-v/usr:/mnt:ro"]
)
def test_what_proot_cannot_do_is_refused_with_who_can(user, image, option):
    words = ["run", "--engine=P1", "--rm", option, image, "true"]
    done = user.udocker(*words, check=False)
    assert done.returncode == 125
    assert "engines that can: userns" in done.stderr


SPEC = RuntimeSpec(
    Rootfs("/tree", flat=True),
    Process(("true",), (), "/", User(0, 0, "root", "/root")),
    scratch="/s",
)


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        ({"readonly": True}, features.READ_ONLY_ROOT),
        ({"tmpfs": (Tmpfs("/mnt"),)}, features.TMPFS),
        ({"hostname": "box"}, features.HOST_NAME),
        ({"network": "none"}, features.PRIVATE_NETWORK),
        ({"pid": "private"}, features.PROCESS_NAMESPACE),
        ({"many_ids": True}, features.MANY_IDS),
    ],
)
def test_nothing_that_was_asked_for_is_left_out_in_silence(tmp_path, change, feature):
    with pytest.raises(StartError, match=feature):
        proot.ProotEngine(str(tmp_path)).plan(replace(SPEC, **change))


def test_the_plan_says_what_is_refused_bound_and_run(user, image, kept):
    identifier, rootfs = kept
    user.udocker("run", "--engine=P1", identifier, "true")
    words = ["run", "--engine=P1", "--dry-run", "--user=5:6", "-v", "/usr:/mnt", identifier, "prog"]
    plan = user.udocker(*words, env={"PATH": os.environ["PATH"]}).stdout.splitlines()[-1]
    assert f"--no-root --refuse {','.join(proot.REFUSED)} -- " in plan
    assert f"-r {rootfs} -w / -b '/dev:/dev!' -b '/proc:/proc!' -b '/sys:/sys!'" in plan
    assert " -b '/usr:/mnt!' " in plan
    assert plan.endswith(" /bin/prog '' prog")
    assert " -i 5:6 /.udocker " in plan


def test_a_release_of_the_kernel_is_told(user, image):
    engine = proot.ProotEngine(user.udocker_dir)
    assert features.KERNEL_RELEASE in engine.features
    done = user.udocker(
        "run", "--engine=P1", "--rm", "--kernel=4.19.0-udocker", image, "uname", "-r", check=False
    )
    if "no such option" in done.stderr:
        pytest.skip("needs the option --kernel")
    assert done.stdout == "4.19.0-udocker\n"


@pytest.mark.parametrize(
    ("scope", "said", "found"),
    [
        (
            "2",
            "proot error: ptrace(TRACEME): Operation not permitted",
            "kernel.yama.ptrace_scope = 2",
        ),
        ("1", "proot error: ptrace(TRACEME): Operation not permitted", "capability SYS_PTRACE"),
        ("", "strange\nthings", "PRoot does not work here: strange things"),
    ],
)
def test_why_programs_cannot_be_traced_is_told(tmp_path, scope, said, found):
    path = tmp_path / proottrial.YAMA[1:]
    path.parent.mkdir(parents=True)
    path.write_text(f"{scope}\n")
    assert found in proottrial.explain(Host(str(tmp_path)), said)


def test_where_tracing_is_forbidden_the_obstacle_is_told_and_not_remembered(unprivileged, image):
    needs("proot")
    unprivileged.udocker("pull", image)
    run = [unprivileged.python, "-m", "udocker", "run", "--engine=P1", "--rm", image, "true"]
    done = unprivileged.run([unprivileged.python, "-c", FORBID_PTRACE, *run], check=False)
    assert done.returncode == 125
    assert "tracing processes is not permitted" in done.stderr
    assert unprivileged.run(run).stderr == ""


def test_where_proot_is_not_installed_the_way_to_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(proot.programs, "find", lambda directory, name: None)
    obstacle = proot.ProotEngine(str(tmp_path)).obstacle(Host())
    assert "udocker install proot" in obstacle


def test_files_of_the_host_that_root_could_change_are_copies(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    binds = (Bind(str(hosts), "/etc/hosts", readonly=True), Bind(str(hosts), "/mnt"))
    places, files, copies = proot._laid_out(replace(SPEC, edits=ContainerEdits(binds=binds)))
    assert places.binds["/mnt"] == str(hosts)
    assert files == ((places.binds["/etc/hosts"], "127.0.0.1 localhost\n"),) and copies == ()


def test_a_release_of_the_kernel_is_not_told_to_a_glibc_that_would_fail(tmp_path):
    host = Root("/")
    for path in loader.closure(["/bin/sh"], host):
        os.makedirs(os.path.dirname(f"{tmp_path}{path}"), exist_ok=True)
        shutil.copy(path, f"{tmp_path}{path}")
    glibc = preload.glibc_of(host, os.uname().machine)
    if glibc is None or glibc.number < (2, 33):
        pytest.skip("needs a host with glibc 2.33 or later")
    spec = replace(SPEC, rootfs=Rootfs(str(tmp_path), flat=True), kernel="4.19.0")
    with pytest.raises(StartError, match="another release of the kernel"):
        proot.ProotEngine(str(tmp_path)).plan(spec)
