"""runc and crun, by themselves and with PRoot inside."""

import os
import shutil
import subprocess

import pytest
from enginecases import EngineCases
from registries import needs
from straight import Straight
from terminals import Terminal
from unprivileged import Unprivileged

from udocker.containers import features
from udocker.containers.spec import Process, Rootfs, RuntimeSpec, User
from udocker.engines.runc import CrunEngine, RuncEngine
from udocker.errors import StartError


@pytest.fixture(scope="module", params=["runc", "crun"])
def engine(request, account):
    name = request.param
    if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        pytest.skip(f"needs {name}")
    user = Unprivileged(account)
    yield Straight(user, name)
    user.close()


@pytest.fixture(params=["R2", "R3"])
def nested(request, unprivileged):
    """runc with PRoot inside."""
    needs("proot")
    return Straight(unprivileged, "runc", request.param)


def test_under_proot_exit_codes_users_and_signals_are_exact(nested):
    cases = {"exit 42": 42, "kill -9 $$": 137, "kill $$": 143, "exec nowhere": 127}
    for script, code in cases.items():
        assert nested.run("sh", "-c", script).returncode == code
    assert nested.run("nowhere").returncode == 127
    assert nested.run("/etc/greeting").returncode == 126
    assert nested.sh("id -u; touch /f && chown 7:8 /f && echo owned") == "0\nowned\n"
    assert (
        nested.sh("id -u; id -g; ls -A /run/udocker 2>&1 | wc -l", uid=1000)[:10] == "1000\n1000\n"
    )
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with nested.popen("sh", "-c", script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(30) == 9


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_stream_that_the_caller_closed_is_none_of_the_runtimes_files(engine, number):
    script = f"readlink /proc/$$/fd/{number} | cat > /tmp/said"
    reader, writer = os.pipe()  # what is passed on beside the streams
    closed = {"preexec_fn": lambda: os.close(number), "pass_fds": (reader,)}
    engine.popen("sh", "-c", script, stdin=subprocess.DEVNULL, **closed).wait(30)
    os.close(reader)
    os.close(writer)
    if not os.path.exists(f"{engine.root}/tmp/said"):
        engine.run("true")  # skips the test where the engine cannot run
    with open(f"{engine.root}/tmp/said") as file:
        assert "/runs/" not in file.read()


class TestRuncAndCrun(EngineCases):
    """By themselves they do what every engine does."""


def terminal(engine, script, **how):
    given = {"terminal": True, **how}
    return Terminal(lambda **options: engine.popen("sh", "-c", script, how=given, **options))


@pytest.mark.parametrize("own", [True, False], ids=["own terminal", "callers terminal"])
def test_a_terminal_is_one_and_the_exit_code_is_exact(engine, own):
    engine.run("true")
    script = "[ -t 0 ] && [ -t 1 ] && stty size; read line; echo got $line; exit 23"
    session = terminal(engine, script, terminal=own)
    session.expect("33 77")
    session.type("words\n")
    session.expect("got words")
    assert session.end() == 23


@pytest.mark.parametrize("own", [True, False], ids=["own terminal", "callers terminal"])
def test_control_c_interrupts_the_program(engine, own):
    engine.run("true")
    script = "trap 'echo interrupted; exit 7' INT; echo ready; sleep 1003 & wait"
    session = terminal(engine, script, terminal=own)
    session.expect("ready")
    session.type("\x03")
    session.expect("interrupted")
    assert session.end() == 7


def test_a_terminal_of_its_own_controls_the_programs_jobs(engine):
    engine.run("true")
    session = terminal(engine, "echo controlled >/dev/tty; exit 3")
    session.expect("controlled")
    assert session.end() == 3


def test_a_memory_file_system_has_the_options_asked_for(engine):
    tmpfs = [["/t", "size=64k"], ["/u", "mode=700"], ["/w", "ro"]]
    script = "df -k /t | tail -n 1; stat -c %a /t /u; ! touch /w/x"
    words = engine.sh(script, tmpfs=tmpfs).split()
    assert (words[1], words[-2:]) == ("64", ["1777", "700"])


def test_a_program_keeps_to_the_processors_of_its_caller(engine):
    engine.run("true")
    cpu = max(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        done = engine.run("sh", "-c", "grep Cpus_allowed_list /proc/self/status; exit 5")
    finally:
        os.sched_setaffinity(0, before)
    assert done.stdout.split()[1] == str(cpu)
    assert done.returncode == 5


def test_another_user_is_one_or_is_refused(engine):
    done = engine.run("id", "-u", uid=1000)
    if engine.name == "runc":
        assert done.returncode == 125
        assert "this one runs as 1000" in done.stderr
    else:
        assert done.stdout == "1000\n"


def test_bytes_that_are_no_text_are_refused(engine):
    done = engine.run("true", env={"A": "\udcff"})
    assert (done.returncode, "is not UTF-8" in done.stderr) == (125, True)


def test_what_the_runtime_says_of_its_failure_is_shown_and_the_code_is_125(engine):
    engine.run("true")
    done = engine.run("true", binds=[["/no/such/place", "/not/here"]])
    assert done.returncode == 125
    assert "no such file" in done.stderr.lower()


def test_the_planned_command_can_be_pasted(unprivileged):
    needs("runc")
    straight = Straight(unprivileged, "runc")
    code = START_PLAN % (straight.root, straight.store)
    plan = unprivileged.run([unprivileged.python, "-c", code]).stdout
    assert "config.json" in plan
    done = unprivileged.run(["sh", "-c", plan], check=False)
    assert (done.stdout, done.returncode) == ("it's ü\n", 3)


START_PLAN = """
from udocker.containers.spec import *
from udocker.engines.runc import RuncEngine
process = Process(("sh", "-c", "echo $A; exit 3"), (("PATH", "/bin"), ("A", "it's ü")), "/",
                  User(0, 0, "", "/"))
root, store = %r, %r
spec = RuntimeSpec(Rootfs(root, flat=True), process, scratch=f"{store}/containers/c/runs/1")
print(RuncEngine(store).plan(spec))
"""


def test_what_cannot_be_done_is_refused_by_name(tmp_path):
    process = Process(("true",), (), "/", User(0, 0, "", "/"))
    spec = RuntimeSpec(Rootfs(str(tmp_path), flat=True), process, pid="private", scratch="/s/c/1")
    for engine in (RuncEngine(str(tmp_path)), CrunEngine(str(tmp_path))):
        with pytest.raises(StartError, match="--pid private"):
            engine.plan(spec)


def test_a_program_that_is_not_installed_is_an_obstacle(tmp_path, monkeypatch):
    from udocker.host.probe import Host

    monkeypatch.setattr(RuncEngine, "name", "no-such-runtime")
    said = RuncEngine(str(tmp_path)).obstacle(Host())
    assert "no-such-runtime is not installed" in said
    assert "udocker install" in said


def test_proot_inside_makes_other_users_possible():
    assert features.OTHER_USER not in RuncEngine("/s").features
    assert features.OTHER_USER in RuncEngine("/s", "R2").features
    assert features.OTHER_USER in CrunEngine("/s").features


@pytest.mark.slow
def test_a_run_of_the_command_line_uses_it(unprivileged, busybox_image):
    needs("runc")
    from udocker.registry.loopback import LoopbackRegistry

    with LoopbackRegistry(busybox_image.path) as address:
        image = f"{address}/library/{busybox_image.reference}"
        unprivileged.udocker("create", "--name=c", "--engine=runc", image)
        command = [unprivileged.python, "-m", "udocker", "run", "c", "sh", "-c", "echo $0 >/f$0"]
        runs = [unprivileged.popen([*command, str(n)]) for n in range(8)]
        assert [run.wait(60) for run in runs] == [0] * 8
        done = unprivileged.udocker("run", "c", "sh", "-c", "cat /f?; exit 4", check=False)
        assert (done.stdout.split(), done.returncode) == (list("01234567"), 4)
        assert isinstance(done, subprocess.CompletedProcess)


def test_a_host_without_user_namespaces_is_told_what_failed(unprivileged):
    needs("unshare")
    code = (
        "import sys; from udocker.engines.runc import RuncEngine; "
        "from udocker.host.probe import Host; print(RuncEngine(sys.argv[1]).obstacle(Host()))"
    )
    off = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    without = ["unshare", "-U", "-c", "--keep-caps", "sh", "-c", off, "sh"]
    done = unprivileged.run([*without, unprivileged.python, "-c", code, unprivileged.home])
    assert "failed to unshare user namespace" in done.stdout
