"""A container with a process namespace of its own: what runs there, what is told, what is left."""

import os
import pty
import select
import signal
import subprocess
import termios
import time

import pytest
from test_sandbox import JOIN, Cell


@pytest.fixture
def cell(unprivileged):
    return Cell(unprivileged)


def start(cell, script, *words, **options):
    command = [*cell.command, "--private-pids", *words, "--memory-overlay", cell.tree]
    command += ["--", "/bin/busybox", "sh", "-c", script]
    return cell.user.popen(command, **options)


def run(cell, script, *words, check=True):
    return cell.run("--private-pids", *words, script=script, check=check)


def left(cell):
    """Return the processes of the user that have not ended."""
    found = subprocess.run(
        ["ps", "-o", "pid=,stat=,args=", "-u", str(cell.user.uid)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return [line for line in found.splitlines() if "busybox" in line and line.split()[1][0] != "Z"]


def comes_true(fact):
    for _ in range(1000):
        if fact():
            return True
        time.sleep(0.02)
    return False


def test_a_program_sees_its_own_processes_only(cell):
    seen = run(cell, "cd /proc; echo [0-9]*; busybox cat /proc/1/comm").stdout.split()
    assert seen[:-1] == ["1", "2"]
    assert "python" in seen[-1]


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 42", 42), ("kill -TERM $$", 143), ("kill -9 $$", 137)],
)
def test_exit_codes_are_exact(cell, script, code):
    assert run(cell, script, check=False).returncode == code


def test_a_program_that_cannot_be_run_is_told(cell):
    words = ["--private-pids", "--memory-overlay", cell.tree, "--", "/nowhere"]
    assert cell.user.run([*cell.command, *words], check=False).returncode == 127


def test_what_is_left_behind_is_reaped_and_ends_with_the_program(cell):
    zombies = "busybox grep -l '^State:.Z' /proc/[0-9]*/status"
    script = f"(busybox sleep 0 & busybox sleep 1000 &); busybox sleep 0.2; {zombies}; echo end"
    assert run(cell, script).stdout == "end\n"
    assert comes_true(lambda: not left(cell))


def test_a_signal_reaches_the_program_at_once(cell):
    for script, code in (
        ("trap 'exit 5' TERM; echo; while :; do busybox sleep 0.01; done", 5),
        ("echo; exec busybox sleep 1000", 143),
    ):
        process = start(cell, script, stdout=subprocess.PIPE)
        process.stdout.readline()
        process.terminate()
        assert process.wait(30) == code
        process.stdout.close()


def test_a_signal_to_the_first_process_from_within_reaches_the_program(cell):
    script = "trap 'exit 5' TERM; busybox kill -9 1; busybox kill -TERM 1; while :; do :; done"
    assert run(cell, script, check=False).returncode == 5


def test_a_program_that_signals_its_whole_group_is_told_once(cell):
    script = "trap 'echo told' TERM; kill -TERM 0; busybox sleep 0.2; exit 3"
    process = start(cell, script, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.communicate(timeout=30)[0] == "told\n"
    assert process.returncode == 3


def test_a_killed_run_takes_everything_along(cell):
    script = "trap '' TERM HUP; busybox setsid busybox sleep 1000 & echo; busybox cat"
    process = start(cell, script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert left(cell)
    process.kill()
    process.wait()
    assert comes_true(lambda: not left(cell))
    process.stdin.close()
    process.stdout.close()


def test_it_ends_with_its_parent_where_it_is_told_to(cell):
    script = "echo; busybox cat"
    command = [*cell.command, "--private-pids", "--die-with-parent", "--memory-overlay", cell.tree]
    command += ["--", "/bin/busybox", "sh", "-c", script]
    shell = ["sh", "-c", '"$@" <&3 & exec 3<&-; wait', "sh", *command]
    reader, writer = os.pipe()
    process = cell.user.popen(
        ["sh", "-c", f'exec 3<&{reader}; exec "$@"', *shell[2:3], *shell],
        pass_fds=[reader],
        stdout=subprocess.PIPE,
    )
    os.close(reader)
    process.stdout.readline()
    process.kill()
    process.wait()
    assert comes_true(lambda: not left(cell))
    os.close(writer)
    process.stdout.close()


def test_a_run_that_joins_sees_the_same_processes(cell):
    first = start(cell, "echo; busybox cat; :", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    first.stdout.readline()
    children = f"/proc/{first.pid}/task/{first.pid}/children"
    with open(children) as file:
        program = file.read().split()[-1]
    script = "cd /proc; echo [0-9]*; exit 6"
    words = [program, "--", "/bin/busybox", "sh", "-c", script]
    done = cell.user.run([cell.user.python, "-c", JOIN, *words], check=False)
    first.communicate(timeout=30)
    assert done.returncode == 6
    assert done.stdout.split()[:2] == ["1", "2"]
    assert len(done.stdout.split()) == 4  # init, the shell, its cat, the one that joined


def test_where_no_fresh_proc_can_be_had_the_hosts_is_shown_and_told(cell):
    """As in a container that hides parts of /proc: the kernel then shows no other proc."""
    hide = 'mount --bind /dev/null /proc/version && exec "$@"'
    around = ["unshare", "-U", "-r", "-m", "sh", "-c", hide, "sh"]
    command = [*cell.command, "--private-pids", "--memory-overlay", cell.tree, "--", "/bin/busybox"]
    script = "echo $$; busybox sleep 1000 & busybox sleep 1000 & exit 3"
    done = cell.user.run([*around, *command, "sh", "-c", script], check=False)
    assert (done.returncode, done.stdout) == (3, "2\n")
    assert "shows the host's /proc" in done.stderr
    assert comes_true(lambda: not left(cell))


def test_processes_and_ports_of_its_own_go_together(cell):
    words = ["--network", "none", "--publish", "127.0.0.1", "0", "80", "tcp", "--fake-root"]
    script = "cd /proc; echo [0-9]*; busybox sleep 1000 & exit 3"
    done = run(cell, script, *words, check=False)
    assert (done.returncode, done.stdout) == (3, "1 2 3\n")
    assert comes_true(lambda: not left(cell))


class Terminal:
    """A program on a terminal of its own, as a job of an interactive shell."""

    def __init__(self, cell, *command):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            become = ["setpriv", f"--reuid={cell.user.uid}", f"--regid={cell.user.gid}"]
            become += ["--clear-groups"] if os.geteuid() == 0 else []
            os.chdir("/")
            env = {**cell.user.environment(), "PS1": "> ", "ENV": "/dev/null"}
            words = [*(become if os.geteuid() == 0 else []), *command]
            os.execvpe(words[0], words, env)

    def expect(self, text, timeout_s=60):
        seen = b""
        end = time.monotonic() + timeout_s
        while text not in seen:
            ready = select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]
            assert ready, f"{text} did not come: {seen}"
            seen += os.read(self.fd, 4096)
        return seen

    def send(self, data):
        os.write(self.fd, data)

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal(cell):
    """An interactive shell, and the words by which it runs a program in a container."""
    terminal = Terminal(cell, "bash", "--norc", "--noprofile", "-i")
    words = " ".join([*cell.command, "--private-pids", "--memory-overlay", cell.tree, "--"])
    terminal.send(f"run='{words} /bin/busybox'\n".encode())
    yield terminal
    terminal.close()


def test_ctrl_c_interrupts_the_program_once(terminal):
    script = b'trap "echo caug"ht INT; echo be"gun"; read x; read x; exit 5'
    terminal.send(b"$run sh -c '" + script + b"'\n")
    terminal.expect(b"begun")
    terminal.send(b"\x03")
    assert terminal.expect(b"caught").count(b"caught") == 1
    terminal.send(b"\n\n")
    terminal.send(b"echo code=$?\n")
    assert b"caught" not in terminal.expect(b"code=5")


def test_ctrl_z_stops_the_program_and_fg_goes_on(terminal):
    terminal.send(b"$run sh -c 'echo be\"gun\"; read x; echo got=$x; exit 4'\n")
    terminal.expect(b"begun")
    terminal.send(b"\x1a")
    terminal.expect(b"Stopped")
    terminal.send(b'echo still-"here"; fg\n')
    terminal.expect(b"still-here")
    terminal.send(b"word\n")
    terminal.expect(b"got=word")
    terminal.send(b"echo code=$?\n")
    terminal.expect(b"code=4")


def test_the_size_of_the_terminal_is_told(terminal):
    script = b'trap "busybox stty size" WINCH; echo be"gun"; while :; do busybox sleep 0.05; done'
    terminal.send(b"$run sh -c '" + script + b"'\n")
    terminal.expect(b"begun")
    termios.tcsetwinsize(terminal.fd, (33, 77)) if hasattr(
        termios, "tcsetwinsize"
    ) else pytest.skip("needs Python 3.11")
    terminal.expect(b"33 77")


def test_a_shell_in_the_container_has_job_control(terminal):
    terminal.send(b"$run sh -i\n")
    terminal.expect(b"built-in shell")
    terminal.send(b"busybox sh -c 'echo star\"ted\"; exec busybox sleep 1000'\n")
    terminal.expect(b"started")
    terminal.send(b"\x1a")
    terminal.expect(b"Stopped")
    terminal.send(b'kill -9 %1; echo al"ive"\n')
    terminal.expect(b"alive")
    terminal.send(b"exec busybox sh -c 'exit 8'\n")
    terminal.send(b"echo code=$?\n")
    terminal.expect(b"code=8")


def test_the_terminal_belongs_to_the_caller_again_after_a_shell(cell):
    """Also where the caller is a script, which does not take it back by itself."""
    words = [*cell.command, "--private-pids", "--memory-overlay", cell.tree, "--", "/bin/busybox"]
    script = '"$@" sh -i; echo code=$?; read x; echo got=$x'
    terminal = Terminal(cell, "sh", "-c", script, "sh", *words)
    terminal.expect(b"built-in shell")
    terminal.send(b"exit 8\n")
    terminal.expect(b"code=8")
    terminal.send(b"word\n")
    terminal.expect(b"got=word")
    terminal.close()
