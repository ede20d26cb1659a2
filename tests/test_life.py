"""The running life of a container: detached, joined, stopped, waited for, and killed."""

import json
import os
import signal
import subprocess
import time

import pytest
from unprivileged import Unprivileged

from udocker.registry.loopback import LoopbackRegistry

ENGINES = ("N2", "N1", "P1", "R1", "B1")
LOOP = "while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def image(busybox_image):
    with LoopbackRegistry(busybox_image.path) as address:
        yield f"{address}/library/{busybox_image.reference}"


@pytest.fixture(scope="module")
def user(account, image):
    user = Unprivileged(account)
    user.udocker("pull", image)
    yield user
    user.close()


@pytest.fixture(params=ENGINES)
def engine(request, user):
    """An engine that can be used here."""
    if request.param not in usable(user):
        pytest.skip(f"the engine {request.param} cannot be used here")
    return f"--engine={request.param}"


_usable = {}


def usable(user):
    """Return the modes of which one run works."""
    if user not in _usable:
        image = user.udocker("images", "--quiet").stdout.split()[0]
        runs = {mode: ["run", "--rm", f"--engine={mode}", image, "true"] for mode in ENGINES}
        done = {mode: user.udocker(*words, check=False) for mode, words in runs.items()}
        _usable[user] = {mode for mode in ENGINES if done[mode].returncode == 0}
    return _usable[user]


@pytest.fixture
def name(user):
    """The name of a container that is removed at the end."""
    yield "c"
    user.udocker("rm", "-f", "c")


def detach(user, name, image, script, *options, **more):
    done = user.udocker("run", "-d", f"--name={name}", *options, image, "sh", "-c", script, **more)
    return done.stdout.strip()


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def status(user, name):
    return user.udocker("inspect", "-f", "{{.State.Status}}", name).stdout.strip()


def record(user, identifier):
    with open(f"{user.udocker_dir}/containers/{identifier}/state.json") as file:
        return json.load(file)


def processes_of(user):
    return [
        pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if owner(pid) == user.uid
    ]


def owner(pid):
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().replace("\0", " ")
    except OSError:
        return ""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_container_lives_through_every_engine(user, image, name, engine):
    identifier = detach(user, name, image, "echo up; echo err >&2; exec sleep 1000", engine)
    assert len(identifier) == 32 and set(identifier) <= set("0123456789abcdef")
    assert status(user, name) == "running"
    done = user.udocker("exec", name, "sh", "-c", "cat /etc/greeting; exit 5", check=False)
    assert (done.stdout, done.returncode) == ("hello\n", 5)
    assert user.udocker("exec", name, "nowhere", check=False).returncode == 127
    assert "sleep 1000" in user.udocker("top", name).stdout
    assert user.udocker("stop", name).stdout == f"{name}\n"
    assert user.udocker("wait", name).stdout == "143\n"
    logs = user.udocker("logs", name)
    assert (logs.stdout, logs.stderr) == ("up\n", "err\n")
    user.udocker("start", name)
    assert status(user, name) == "running"
    user.udocker("kill", name)
    assert user.udocker("wait", name).stdout == "137\n"
    assert user.udocker("logs", name).stdout == "up\nup\n"


def test_a_program_that_cannot_start_is_told_at_once(user, image, name, engine):
    done = user.udocker("run", "-d", f"--name={name}", engine, image, "nowhere", check=False)
    assert (done.returncode, done.stdout) == (127, "")
    assert "nowhere" in done.stderr
    user.udocker("rm", name)
    words = ["run", "-d", f"--name={name}", engine, image, "sh", "-c", "exit 127"]
    assert len(user.udocker(*words).stdout) == 33
    assert user.udocker("wait", name).stdout == "127\n"


def test_a_killed_monitor_takes_the_program_along(user, image, name, engine):
    identifier = detach(user, name, image, "sleep 1000 & exec sleep 1001", engine)
    now = record(user, identifier)
    os.kill(now["keeper"], signal.SIGKILL)
    until(lambda: not is_alive(now["pid"]))
    until(lambda: status(user, name) == "exited")
    assert "exited (?)" in user.udocker("ps").stdout
    done = user.udocker("wait", name, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nobody saw" in done.stderr
    user.udocker("start", name)
    assert status(user, name) == "running"


def test_the_caller_gets_its_shell_back_and_its_streams(user, image, name):
    """`id=$(udocker run -d ...)` ends only when nobody holds the pipe any more."""
    read, write = os.pipe()
    command = [user.python, "-m", "udocker", "run", "-d", f"--name={name}", image, "sleep", "900"]
    process = user.popen(command, stdout=write, stderr=write, stdin=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as said:
        assert len(said.read()) == 33
    assert process.wait(60) == 0
    assert status(user, name) == "running"


def test_the_monitor_is_a_daemon_that_holds_nothing_of_its_caller(user, image, name):
    with open(f"{user.home}/open", "w") as mine:
        os.set_inheritable(mine.fileno(), True)
        command = ["run", "-d", f"--name={name}", image, "sleep", "100"]
        number = mine.fileno()
        process = user.popen(
            [user.python, "-m", "udocker", *command],
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(number,),
        )
        identifier = process.communicate(timeout=60)[0].strip()
    now = record(user, identifier)
    for pid in (now["keeper"], now["guard"], now["pid"]):
        held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert f"{user.home}/open" not in held
        assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{now['keeper']}/cwd") == "/"
    streams = [os.readlink(f"/proc/{now['keeper']}/fd/{fd}") for fd in range(3)]
    assert streams == ["/dev/null"] * 3
    os.kill(now["keeper"], signal.SIGHUP)  # as a logout that means all: the program is told
    until(lambda: status(user, name) == "exited")


def waits_for_a_lock(pid):
    """Tell whether a process sleeps in the kernel until it gets a lock. Source: proc_locks(5)."""
    with open("/proc/locks") as file:
        return any("->" in line and f" {pid} " in line for line in file)


def test_rm_removes_the_container_at_its_end(user, image):
    script = "while ! test -e /m/go; do sleep 0.05; done; exit 9"
    identifier = detach(user, "gone", image, script, "--rm", "-v", f"{user.home}:/m")
    command = [user.python, "-m", "udocker", "wait", "gone"]
    waiting = user.popen(command, stdout=subprocess.PIPE, text=True)
    until(lambda: waits_for_a_lock(waiting.pid))
    open(f"{user.home}/go", "w").close()
    assert waiting.communicate(timeout=30)[0] == "9\n"
    os.unlink(f"{user.home}/go")
    until(lambda: not os.path.exists(f"{user.udocker_dir}/containers/{identifier}"))


def test_a_terminal_of_its_own(user, image, name):
    detach(user, name, image, "test -t 0 && test -t 1 && stty size && tty", "-t")
    user.udocker("wait", name)
    assert user.udocker("logs", name).stdout.split()[:2] == ["24", "80"]


def test_standard_input_is_empty_or_open(user, image, name):
    detach(user, name, image, "cat; echo end")
    assert user.udocker("wait", name).stdout == "0\n"
    user.udocker("rm", name)
    detach(user, name, image, "cat; echo end", "-i")
    time.sleep(0.3)
    assert status(user, name) == "running"


def test_the_first_processes_end_is_that_of_all(user, image, name):
    script = "sleep 1234 & while ! test -e /go; do sleep 0.05; done; exit 3"
    detach(user, name, image, script)
    user.udocker("exec", "-d", name, "sleep", "1235")
    user.udocker("exec", name, "touch", "/go", check=False)  # it may be ended as it ends
    assert user.udocker("wait", name).stdout == "3\n"
    assert status(user, name) == "exited"
    until(lambda: not [pid for pid in processes_of(user) if "sleep 123" in command_of(pid)])


def test_exec_sees_the_files_and_has_its_own_wishes(user, image, name):
    detach(user, name, image, f"echo data > /file; {LOOP}", "-e", "A=1", "-v", f"{user.home}:/m")
    until(lambda: user.udocker("exec", name, "cat", "/file", check=False).stdout == "data\n")
    script = "echo $A $B; pwd; id -u; ls -d /m/tmp"
    words = ["-e", "B=2", "-w", "/etc", "-u", "1000:100", "-i", "-t", "--privileged"]
    done = user.udocker("exec", *words, name, "sh", "-c", script)
    assert done.stdout.split("\n")[:4] == ["1 2", "/etc", "1000", "/m/tmp"]
    assert user.udocker("exec", name, "id", "-u").stdout == "0\n"
    assert user.udocker("exec", "-i", name, "cat", input="in\n").stdout == "in\n"


def test_exec_needs_a_running_container(user, image, name):
    user.udocker("create", f"--name={name}", image)
    done = user.udocker("exec", name, "true", check=False)
    assert (done.returncode, "is not running" in done.stderr) == (125, True)
    assert user.udocker("exec", "nowhere", "true", check=False).returncode == 125
    assert user.udocker("exec", name, check=False).returncode == 125
    assert user.udocker("exec", "--help").stdout.startswith("Usage: udocker exec")


def test_a_process_namespace_is_joined_and_ended(user, image, name):
    detach(user, name, image, "exec sleep 1000", "--init")
    listed = user.udocker("exec", name, "ps").stdout
    assert "sleep 1000" in listed and len(listed.splitlines()) < 6
    user.udocker("stop", name)
    assert user.udocker("wait", name).stdout == "143\n"


def test_stop_asks_as_the_container_wishes_and_kills_what_does_not_end(user, image, name):
    detach(user, name, image, f"trap 'exit 3' USR1; echo; {LOOP}", "--stop-signal=USR1")
    until(lambda: user.udocker("logs", name).stdout)
    user.udocker("stop", name)
    assert user.udocker("wait", name).stdout == "3\n"
    user.udocker("rm", name)
    detach(user, name, image, f"trap '' TERM; echo; {LOOP}", "--stop-timeout=1")
    until(lambda: user.udocker("logs", name).stdout)
    begun = time.monotonic()
    user.udocker("stop", name)
    assert 1 <= time.monotonic() - begun < 9
    assert user.udocker("wait", name).stdout == "137\n"
    assert user.udocker("stop", name).stdout == f"{name}\n"


def test_several_are_stopped_at_the_same_time(user, image):
    names = ["s1", "s2", "s3", "s4", "s5"]
    for name in names:
        detach(user, name, image, f"trap '' TERM; echo; {LOOP}")
        until(lambda name=name: user.udocker("logs", name).stdout)
    begun = time.monotonic()
    done = user.udocker("stop", "-t", "4", "s1", "nowhere", *names[1:], check=False)
    assert time.monotonic() - begun < 4 * len(names)
    assert (done.returncode, done.stdout.split()) == (1, names)
    assert user.udocker("wait", *names).stdout == "137\n" * len(names)
    user.udocker("rm", *names)


def test_kill_sends_any_signal_to_the_program(user, image, name):
    detach(user, name, image, f"trap 'echo hup' HUP; trap 'exit 4' INT; echo; {LOOP}")
    until(lambda: user.udocker("logs", name).stdout)
    user.udocker("kill", "-s", "HUP", name)
    until(lambda: "hup" in user.udocker("logs", name).stdout)
    user.udocker("kill", "--signal=INT", name)
    assert user.udocker("wait", name).stdout == "4\n"
    assert user.udocker("kill", name, check=False).returncode == 1
    assert user.udocker("kill", "-s", "NOPE", name, check=False).returncode == 2


def test_a_paused_container_stands_still(user, image, name):
    detach(user, name, image, LOOP)
    user.udocker("pause", name)
    assert status(user, name) == "paused"
    assert user.udocker("exec", name, "true", check=False).returncode == 125
    assert user.udocker("pause", name, check=False).returncode == 1
    user.udocker("unpause", name)
    assert status(user, name) == "running"
    user.udocker("pause", name)
    user.udocker("stop", name)
    assert user.udocker("wait", name).stdout == "143\n"


def test_restart_starts_anew_what_ran_or_not(user, image, name):
    first = record(user, detach(user, name, image, LOOP))
    assert user.udocker("restart", name).stdout == f"{name}\n"
    second = record(user, ids(user, name))
    assert second["pid"] != first["pid"]
    assert status(user, name) == "running"


def ids(user, name):
    return user.udocker("inspect", "-f", "{{.Id}}", name).stdout.strip()


def test_start_attached_is_a_run(user, image, name):
    user.udocker("create", f"--name={name}", image, "sh", "-c", "echo out; exit 6")
    done = user.udocker("start", "-a", name, check=False)
    assert (done.stdout, done.returncode) == ("out\n", 6)
    done = user.udocker("start", name, "nowhere", check=False)
    assert (done.stdout, done.returncode) == (f"{name}\n", 1)


def test_logs_follow_until_the_end(user, image, name):
    detach(user, name, image, "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done; echo last")
    command = [user.python, "-m", "udocker", "logs", "-f", name]
    following = user.popen(command, stdout=subprocess.PIPE, text=True)
    assert following.communicate(timeout=30)[0] == "1\n2\n3\n4\n5\nlast\n"
    assert user.udocker("logs", "--tail=2", name).stdout == "5\nlast\n"
    assert user.udocker("logs", "-n", "0", name).stdout == ""
    assert user.udocker("logs", "--since", "1h", name).stdout.startswith("1\n")
    assert user.udocker("logs", "--until", "1h", name).stdout == ""
    stamped = user.udocker("logs", "-t", "-n1", name).stdout
    assert stamped.endswith("Z last\n") and len(stamped) == 36
    assert user.udocker("logs", "-n", "x", name, check=False).returncode == 2


def test_much_output_is_kept_whole_and_the_log_is_private(user, image, name):
    identifier = detach(user, name, image, "seq 1 100000; printf end")
    user.udocker("wait", name)
    expected = "".join(f"{n}\n" for n in range(1, 100001)) + "end"
    assert user.udocker("logs", name).stdout == expected
    path = f"{user.udocker_dir}/containers/{identifier}/log.json"
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_without_a_log_driver_there_is_no_log(user, image, name):
    identifier = detach(user, name, image, "echo x", "--log-driver=none")
    user.udocker("wait", name)
    assert not os.path.exists(f"{user.udocker_dir}/containers/{identifier}/log.json")
    done = user.udocker("logs", name, check=False)
    assert (done.returncode, "has no log" in done.stderr) == (1, True)


def test_files_of_ids_are_written(user, image, name):
    options = ["--cidfile=cid", "--pidfile=pid"]
    identifier = detach(user, name, image, LOOP, *options)
    with open(f"{user.home}/cid") as file:
        assert file.read() == identifier
    with open(f"{user.home}/pid") as file:
        assert int(file.read()) == record(user, identifier)["pid"]
    again = ["run", "--cidfile=cid", image, "true"]
    assert user.udocker(*again, check=False).returncode == 125
    os.unlink(f"{user.home}/cid")


def test_replace_takes_the_place_of_what_has_the_name(user, image, name):
    first = detach(user, name, image, LOOP)
    second = detach(user, name, image, LOOP, "--replace")
    assert ids(user, name) == second != first
    assert not os.path.exists(f"{user.udocker_dir}/containers/{first}")
    done = user.udocker("run", "-d", f"--name={name}", image, "true", check=False)
    assert done.returncode == 125


def test_a_run_that_takes_too_long_is_killed(user, image, name):
    words = ["run", f"--name={name}", "--timeout=1", image, "sleep", "900"]
    assert user.udocker(*words, check=False).returncode == 137
    user.udocker("rm", name)
    detach(user, name, image, "sleep 100", "--timeout=1")
    assert user.udocker("wait", name).stdout == "137\n"


def test_signals_are_not_passed_on_when_they_are_not_to_be(user, image):
    script = "trap 'echo told' USR1; echo up; sleep 0.5; echo end"
    words = ["run", "--rm", "--sig-proxy=false", image, "sh", "-c", script]
    process = user.popen([user.python, "-m", "udocker", *words], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGUSR1)
    assert process.communicate(timeout=30)[0] == "end\n"


def test_a_run_in_the_foreground_is_seen_while_it_lasts(user, image, name):
    words = ["run", f"--name={name}", image, "sh", "-c", "echo; cat; exit 3"]
    command = [user.python, "-m", "udocker", *words]
    process = user.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert status(user, name) == "running"
    assert user.udocker("inspect", "-f", "{{.State.Pid}}", name).stdout.strip() == str(process.pid)
    process.communicate(timeout=30)
    assert process.returncode == 3
    assert status(user, name) == "exited"
    assert user.udocker("wait", name, check=False).returncode == 1
    assert user.udocker("logs", name, check=False).returncode == 1


def test_removal_by_force_ends_what_runs_and_one_failure_stops_nothing(user, image):
    for name in ("r1", "r2"):
        detach(user, name, image, f"trap '' TERM; {LOOP}")
    done = user.udocker("rm", "r1", "r2", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    user.udocker("stop", "-t0", "r2")
    done = user.udocker("rm", "nowhere", "r1", "r2", check=False)
    assert (done.returncode, done.stdout) == (1, "r2\n")
    assert user.udocker("rm", "-f", "nowhere", "r1").stdout == "r1\n"


def test_a_protected_container_is_neither_ended_nor_removed(user, image, name):
    detach(user, name, image, LOOP)
    user.udocker("protect", name)
    assert user.udocker("rm", "-f", name, check=False).returncode == 1
    assert status(user, name) == "running"
    user.udocker("unprotect", name)
