"""The first process of a container: its machine code, and what it tells."""

import os
import platform
import shutil
import signal
import struct
import subprocess

import pytest
from registries import needs

from udocker.engines import first, machinecode
from udocker.selftest import asker

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCES = {
    "first": (f"{ROOT}/engines/first", first),
    "asker": (f"{ROOT}/udocker/selftest/asker", asker),
}
ARCH = platform.machine()


@pytest.mark.parametrize("machine", sorted(first.CODE))
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_code_is_what_the_assembler_makes_of_the_source(name, machine, tmp_path):
    directory, module = SOURCES[name]
    prefix = "" if machine == ARCH else f"{machine}-linux-gnu-"
    needs(f"{prefix}as", f"{prefix}objcopy")
    made = str(tmp_path / "made")
    subprocess.run([f"{prefix}as", "-o", f"{made}.o", f"{directory}/{machine}.s"], check=True)
    copy = [f"{prefix}objcopy", "-O", "binary", "-j", ".text", f"{made}.o", f"{made}.bin"]
    subprocess.run(copy, check=True)
    with open(f"{made}.bin", "rb") as file:
        assert file.read().hex() == module.CODE[machine]


@pytest.fixture(params=sorted(first.CODE))
def start(request, tmp_path):
    """A function that runs a program by the first process of a machine: its end, what it told."""
    machine = request.param
    emulator = [] if machine == ARCH else [f"qemu-{machine}-static"]
    needs(*emulator)
    path = tmp_path / "first"
    path.write_bytes(first.program(machine))
    path.chmod(0o755)

    def start(*args, path_variable="/usr/bin:/bin", env=None, ready=None):
        reader, writer = os.pipe()
        words = first.words(writer, path_variable, args)[1:]
        process = subprocess.Popen(
            [*emulator, str(path), *words],
            env=first.environment(env or {}),
            pass_fds=(writer,),
            stdout=subprocess.PIPE,
            text=True,
        )
        os.close(writer)
        if ready:
            ready(process)
        said, _ = process.communicate(timeout=30)
        with os.fdopen(reader, "rb") as file:
            told = dict(struct.iter_unpack(first.RECORD, file.read()))
        return process.returncode, said, told

    return start


@pytest.mark.parametrize(
    ("script", "code", "status"), [("exit 0", 0, 0), ("exit 7", 7, 7 << 8), ("kill -9 $$", 137, 9)]
)
def test_the_pid_and_the_end_of_the_program_are_told(start, script, code, status):
    returned, said, told = start("sh", "-c", f"echo $$; {script}")
    assert (returned, told) == (code, {first.STARTED: int(said), first.ENDED: status})


@pytest.mark.parametrize(
    ("args", "number"),
    [(("nowhere",), 2), (("",), 2), (("/etc/passwd/x",), 20), (("/etc",), 13), (("plain",), 8)],
)
def test_why_nothing_could_be_executed_is_told(start, tmp_path, args, number):
    plain = tmp_path / "plain"
    plain.write_text("not a program")
    plain.chmod(0o755)
    code, _, told = start(*args, path_variable=f"/nowhere:{tmp_path}")
    number = 2 if number == 20 else number  # a directory that is none is passed over
    assert (code, told[first.FAILED]) == (127, number)


def test_the_directories_of_path_are_tried_in_turn(start):
    code, said, _ = start("echo", "a", "", "b", path_variable="/nowhere:/etc/passwd:/usr/bin:/bin")
    assert (code, said) == (0, "a  b\n")


def test_the_program_gets_the_marked_variables_and_no_others(start, monkeypatch):
    _, said, _ = start("env", env={"A": "1", "LD_PRELOAD": "", "B": "x=y"})
    assert sorted(set(said.splitlines()) - {"PWD"}) == ["A=1", "B=x=y", "LD_PRELOAD="]


def test_the_program_has_no_descriptor_of_it(start):
    _, said, _ = start("sh", "-c", "ls /proc/$$/fd")
    assert set(said.split()) <= {"0", "1", "2", "3"}


def test_a_signal_of_the_terminal_is_the_programs_own(start):
    def interrupt(process):
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)

    script = "echo ready; sleep 0.2; exit 6"
    code, _, told = start("sh", "-c", script, ready=interrupt)
    assert (code, told[first.ENDED]) == (6, 6 << 8)


def test_an_ignored_end_of_children_is_passed_on_and_does_not_matter(tmp_path):
    path = tmp_path / "first"
    path.write_bytes(first.program(ARCH))
    path.chmod(0o755)
    words = first.words(2, "/usr/bin:/bin", ("grep", "SigIgn", "/proc/self/status"))
    done = subprocess.run(
        [str(path), *words[1:]],
        env={},
        capture_output=True,
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        check=False,
    )
    assert dict(struct.iter_unpack(first.RECORD, done.stderr))[first.ENDED] == 0
    assert int(done.stdout.split()[1], 16) >> (signal.SIGCHLD - 1) & 1


def test_a_link_or_another_file_with_its_name_is_replaced(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("kept")
    for make in (os.symlink, shutil.copy):
        make(str(secret), f"{tmp_path}{first.PATH}")
        first.install(str(tmp_path))
        with open(f"{tmp_path}{first.PATH}", "rb") as file:
            assert file.read() == first.program(ARCH)
        os.unlink(f"{tmp_path}{first.PATH}")
    assert secret.read_text() == "kept"


def test_an_executable_may_have_data_and_a_loader(tmp_path):
    needs("readelf")
    loader = machinecode.Loader("/lib/ld.so", ("libc.so.6", "libm.so.6"))
    path = tmp_path / "program"
    path.write_bytes(machinecode.executable(ARCH, b"\x90" * 33, b"data", loader))
    words = ["readelf", "-ldW", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "interpreter: /lib/ld.so" in done.stdout and done.stderr == ""
    assert "[libc.so.6]" in done.stdout and "[libm.so.6]" in done.stdout
