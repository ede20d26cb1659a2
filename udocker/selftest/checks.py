"""What must hold of every engine: each check is a sentence, false when it raises CheckFailed."""

from __future__ import annotations

import os
import sys

from udocker.containers import features
from udocker.selftest.bench import CheckFailed
from udocker.selftest.sample import DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.selftest.bench import Bench

_NOT_STARTED = 125
_STREAM_BYTES = 1 << 20
_SIDE_BY_SIDE = 8
_SHOWN = ("/dev/", "/proc/", "/sys/")
"""Directories of the host that every container has; a store may lie in /dev/shm."""


def _output_and_errors_come_apart_and_unchanged(bench: Bench) -> None:
    done = bench.shell(r"printf 'one\n\ntwo'; printf three >&2")
    done.expect(b"one\n\ntwo")
    if not done.errors.endswith(b"three"):
        raise CheckFailed(f"standard error was {done.errors[:200]!r}")


def _standard_input_reaches_the_program(bench: Bench) -> None:
    data = os.urandom(_STREAM_BYTES)
    done = bench.run("cat", data=data)
    done.expect()
    if done.output != data:
        raise CheckFailed(f"{len(data)} bytes went in and other {len(done.output)} came out")


def _the_command_of_the_image_runs(bench: Bench) -> None:
    bench.run().expect(b"the command of the image\n")


def _a_script_runs_by_its_interpreter(bench: Bench) -> None:
    bench.run("hello", "you").expect(b"hello you\n")


def _higher_layers_change_and_hide_what_lower_ones_have(bench: Bench) -> None:
    done = bench.shell("cat kept changed emptied/*; ls emptied; [ ! -e removed ]")
    done.expect(b"base\ntop\ntop\nnew\n")


def _variables_come_from_the_image_and_from_options(bench: Bench) -> None:
    script = 'echo "$SELFTEST,$GIVEN"; case $PATH in /selftest/bin:*) ;; *) echo "$PATH";; esac'
    bench.shell(script, "-e", "GIVEN=a b=c").expect(b"image,a b=c\n")
    bench.shell('echo "$SELFTEST"', "--env=SELFTEST=mine").expect(b"mine\n")


def _the_working_directory_is_the_one_asked_for(bench: Bench) -> None:
    bench.shell("pwd").expect(f"{DIRECTORY}\n".encode())
    bench.shell("pwd", "-w", "/tmp").expect(b"/tmp\n")


def _a_volume_shows_and_keeps_files_of_the_caller(bench: Bench) -> None:
    directory = bench.new_directory()
    _write(f"{directory}/given", "outside\n")
    done = bench.shell("cat /data/given; echo inside >/data/made", f"-v{directory}:/data")
    done.expect(b"outside\n")
    if _read(f"{directory}/made") != "inside\n":
        raise CheckFailed("what the program wrote to the volume is not on the host")
    owner = os.stat(f"{directory}/made").st_uid
    if owner != os.geteuid():
        raise CheckFailed(f"the file that the program made belongs to uid {owner}")


def _a_readonly_volume_cannot_be_written_to(bench: Bench) -> None:
    directory = bench.new_directory()
    if features.READ_ONLY_BINDS not in bench.features:
        bench.shell("true", f"-v{directory}:/data:ro").expect(b"", code=_NOT_STARTED)
        return
    _write(f"{directory}/given", "outside\n")
    script = "cat /data/given; echo x 2>&- >/data/made || echo refused"
    bench.shell(script, f"-v{directory}:/data:ro").expect(b"outside\nrefused\n")
    if os.listdir(directory) != ["given"]:
        raise CheckFailed("the program wrote to it")


def _the_exit_code_is_the_programs(bench: Bench) -> None:
    for code in (0, 7):
        bench.shell(f"exit {code}").expect(code=code)


def _a_program_that_is_not_there_gives_127(bench: Bench) -> None:
    bench.run("no-such-program").expect(code=127)


def _a_file_that_cannot_be_executed_gives_126(bench: Bench) -> None:
    bench.run(f"{DIRECTORY}/bin/plain").expect(code=126)


def _a_program_killed_by_signal_15_gives_143(bench: Bench) -> None:
    bench.shell("kill -TERM $$; sleep 5").expect(code=143)


def _a_container_keeps_what_its_programs_wrote(bench: Bench) -> None:
    name = f"kept-{bench.engine}"
    bench.run("sh", "-c", "echo kept >~/file", options=("--name", name)).expect()
    bench.run("sh", "-c", "cat ~/file", options=(), container=name).expect(b"kept\n")
    bench.udocker("rm", name).expect()


def _a_new_container_shows_nothing_of_others(bench: Bench) -> None:
    for _ in range(2):
        bench.shell("cat ~/file 2>&-; echo x >~/file").expect(b"")


def _a_container_run_with_rm_leaves_nothing(bench: Bench) -> None:
    before = _containers(bench)
    bench.shell("echo x >~/file").expect()
    left = _containers(bench) - before
    if left:
        raise CheckFailed(f"left in the store: {', '.join(sorted(left))}")


def _the_user_is_root_inside_when_asked_to(bench: Bench) -> None:
    if features.FAKE_ROOT not in bench.features:
        return
    bench.shell("id -u; id -g", "--userns=host").expect(b"0\n0\n")


def _the_user_keeps_their_id_when_asked_to(bench: Bench) -> None:
    expected = f"{os.geteuid()}\n{os.getegid()}\n".encode()
    done = bench.shell("id -u; id -g", "--userns=keep-id")
    if features.OTHER_USER in bench.features or done.code != _NOT_STARTED:
        done.expect(expected)


def _files_of_the_host_do_not_show(bench: Bench) -> None:
    known = map(os.path.realpath, (sys.executable, bench.directory))
    hidden = [path for path in known if not path.startswith(_SHOWN)]
    script = 'for path; do [ ! -e "$path" ] || echo "$path"; done'
    bench.run("sh", "-c", script, "sh", *hidden).expect(b"")


def _devices_and_proc_are_there(bench: Bench) -> None:
    done = bench.shell(
        "echo x >/dev/null && [ -c /dev/urandom ] && [ -r /proc/self/stat ] && echo ok"
    )
    done.expect(b"ok\n")


def _temporary_files_can_be_made(bench: Bench) -> None:
    bench.shell("echo x >/tmp/file && cat /tmp/file").expect(b"x\n")


def _eight_containers_run_side_by_side(bench: Bench) -> None:
    scripts = [f"echo {number} >/tmp/own; cat /tmp/own" for number in range(_SIDE_BY_SIDE)]
    for number, done in enumerate(bench.side_by_side(scripts)):
        done.expect(f"{number}\n".encode())


CHECKS = (
    _output_and_errors_come_apart_and_unchanged,
    _standard_input_reaches_the_program,
    _the_command_of_the_image_runs,
    _a_script_runs_by_its_interpreter,
    _higher_layers_change_and_hide_what_lower_ones_have,
    _variables_come_from_the_image_and_from_options,
    _the_working_directory_is_the_one_asked_for,
    _a_volume_shows_and_keeps_files_of_the_caller,
    _a_readonly_volume_cannot_be_written_to,
    _the_exit_code_is_the_programs,
    _a_program_that_is_not_there_gives_127,
    _a_file_that_cannot_be_executed_gives_126,
    _a_program_killed_by_signal_15_gives_143,
    _a_container_keeps_what_its_programs_wrote,
    _a_new_container_shows_nothing_of_others,
    _a_container_run_with_rm_leaves_nothing,
    _the_user_is_root_inside_when_asked_to,
    _the_user_keeps_their_id_when_asked_to,
    _files_of_the_host_do_not_show,
    _devices_and_proc_are_there,
    _temporary_files_can_be_made,
    _eight_containers_run_side_by_side,
)


def _containers(bench: Bench) -> set[str]:
    """Return what lies among the containers: `udocker ps` clears leftovers away."""
    return set(os.listdir(f"{bench.store}/containers"))


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(_STREAM_BYTES)
    except OSError:
        return None
