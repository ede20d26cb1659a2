import os
import signal
import subprocess
import sys
import time

import pytest

RUN = """
import os, sys
from udocker.engines import supervise
def start():
    os.execvp(sys.argv[1], sys.argv[1:])
sys.exit(supervise.run(start))
"""


def supervised(*argv, **options):
    return subprocess.Popen([sys.executable, "-c", RUN, *argv], **options)


def wait_for(path):
    for _ in range(500):
        if os.path.exists(path):
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not come")


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_the_exit_code_is_the_programs(script, code):
    assert supervised("sh", "-c", script).wait(30) == code


def test_the_end_is_noticed_where_the_caller_ignored_the_ends_of_children():
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}
    show = ["grep", "SigIgn", "/proc/self/status"]
    said = supervised(*show, stdout=subprocess.PIPE, text=True, **ignore).communicate(timeout=30)[0]
    assert int(said.split()[1], 16) >> (signal.SIGCHLD - 1) & 1  # the program is told as well


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_sent_to_the_supervisor_reaches_the_program(number, tmp_path):
    script = f"trap 'exit 9' {int(number)}; touch {tmp_path}/up; while :; do sleep 0.05; done"
    process = supervised("sh", "-c", script)
    wait_for(tmp_path / "up")
    process.send_signal(number)
    assert process.wait(30) == 9


def test_a_program_that_stops_stops_its_supervisor(tmp_path):
    process = supervised("sh", "-c", f"touch {tmp_path}/up; kill -STOP $$; exit 5")
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(process.pid, signal.SIGCONT)
    _, status = os.waitpid(process.pid, 0)
    assert os.WEXITSTATUS(status) == 5


def test_the_programs_signal_mask_is_the_callers():
    show = "grep SigBlk /proc/self/status"
    process = supervised("sh", "-c", show, stdout=subprocess.PIPE, text=True)
    assert int(process.communicate(timeout=30)[0].split()[1], 16) == 0
