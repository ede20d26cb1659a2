"""bubblewrap."""

import os
import subprocess

import pytest
from enginecases import EngineCases
from registries import needs
from straight import Straight
from terminals import Terminal
from unprivileged import Unprivileged

from udocker.containers.spec import Process, Rootfs, RuntimeSpec, Tmpfs, User
from udocker.engines.bwrap import BwrapEngine
from udocker.errors import StartError
from udocker.values import replace


@pytest.fixture(scope="module")
def engine(account):
    needs("bwrap")
    user = Unprivileged(account)
    yield Straight(user, "bwrap", "B1")
    user.close()


class TestBubblewrap(EngineCases):
    """It does what every engine does."""


def terminal(engine, script, **how):
    return Terminal(lambda **options: engine.popen("sh", "-c", script, how=how, **options))


def test_the_terminal_is_the_callers(engine):
    engine.run("true")
    session = terminal(engine, "stty size; tty; read line; echo got $line; exit 23")
    session.expect("33 77")
    session.type("words\n")
    session.expect("got words")
    assert session.end() == 23
    assert "/dev/pts/" in session.text


@pytest.mark.parametrize("pid", ["host", "private"])
def test_control_c_interrupts_the_program_and_not_its_parent(engine, pid):
    engine.run("true")
    script = "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.05; done"
    session = terminal(engine, script, pid=pid)
    session.expect("ready")
    session.type("\x03")
    session.expect("interrupted")
    assert session.end() in ((7,) if pid == "host" else (7, 137))


def test_a_terminal_tells_its_new_size(engine):
    engine.run("true")
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    session = terminal(engine, script)
    session.expect("ready")
    session.resize(44, 88)
    session.expect("44 88")
    assert session.end() == 0


def test_a_process_namespace_has_an_init_that_reaps(engine):
    script = "(sleep 0.05 &); sleep 0.3; ls -d /proc/[0-9]* | wc -l; exit 5"
    done = engine.run("sh", "-c", script, pid="private")
    assert done.returncode == 5
    assert int(done.stdout) < 8
    stop = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    pipe = {"stdout": subprocess.PIPE, "text": True}
    with engine.popen("sh", "-c", stop, how={"pid": "private"}, **pipe) as process:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(30) == 9


def test_another_user_is_one(engine):
    assert engine.sh("id -u; id -g; grep CapEff /proc/self/status", uid=1000).split() == [
        *("1000", "1000", "CapEff:", "0000000000000000"),
    ]


def test_root_may_not_change_mounts(engine):
    place = engine.place()
    script = "mount -o remount,rw,bind /ro; ! touch /ro/x 2>/dev/null && umount /ro; ls /ro/.."
    engine.sh(f"{script}; true", binds=[[place, "/ro", True]])
    assert os.listdir(place) == []


def test_a_memory_file_system_has_the_options_asked_for(engine):
    tmpfs = [["/t", "size=64k"], ["/u", "mode=700"], ["/w", "ro"]]
    script = "df -k /t | tail -n 1; stat -c %a /t /u; ! touch /w/x"
    words = engine.sh(script, tmpfs=tmpfs).split()
    assert (words[1], words[-2:]) == ("64", ["1777", "700"])


def plan_of(tmp_path, **changes):
    process = Process(("sh", "-c", "true"), (("A", "b"),), "/srv", User(0, 0, "", "/"))
    spec = RuntimeSpec(Rootfs(str(tmp_path), flat=True), process, scratch=f"{tmp_path}/s")
    return BwrapEngine(str(tmp_path)).plan(replace(spec, **changes))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", ["--perms", "01777", "--tmpfs", "/t"]),
        (
            "size=50%",
            ["--size", str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)],
        ),
        ("size=2g,mode=0755", ["--perms", "0755", "--size", str(2 << 30)]),
    ],
)
def test_options_of_a_memory_file_system_become_words(tmp_path, options, words):
    needs("bwrap")
    argv = plan_of(tmp_path, tmpfs=(Tmpfs("/t", options),)).argv
    assert any(list(argv[n : n + len(words)]) == words for n in range(len(argv)))


@pytest.mark.parametrize("options", ["noexec", "nr_inodes=5", "size=many"])
def test_options_that_it_has_no_words_for_are_refused(tmp_path, options):
    needs("bwrap")
    with pytest.raises(StartError):
        plan_of(tmp_path, tmpfs=(Tmpfs("/t", options),))


def test_the_programs_environment_is_not_that_of_bwrap(tmp_path):
    needs("bwrap")
    launch = plan_of(tmp_path)
    assert launch.env == (("PATH", "/usr/bin:/bin"),)
    argv = launch.argv
    assert argv[-7:-3] == ("--setenv", "A", "b", "--")
    assert "--unsetenv" in argv
