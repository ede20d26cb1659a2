"""What is kept of a container's run, and its output: values and files, no container."""

import json
import os
import subprocess

import pytest

from udocker.containers import logs, state
from udocker.containers.container import Container
from udocker.containers.logs import LogReader, LogWriter
from udocker.containers.store import ContainerStore
from udocker.errors import UsageError
from udocker.oci import Digest
from udocker.values import replace


@pytest.fixture
def store(tmp_path):
    return ContainerStore(str(tmp_path), str(tmp_path / "trees"))


@pytest.fixture
def container(store):
    digest = Digest.of(b"")
    identifier = os.urandom(16).hex()
    directory = f"{store.directory}/{identifier}"
    made = Container(identifier, directory, "docker.io/library/a:1", digest, digest, "/tree", 0)
    store.add(made)
    return made


def ended_process():
    """Return the pid of a process that is not there any more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def begun(pid, **more):
    return state.begun(pid, engine="userns", mode="N2", options=("-e", "A=\udcff"), **more)


def test_a_state_is_read_as_it_was_written(container):
    written = replace(begun(os.getpid(), guard=5, keeper=6), finished_ns=7, exit_code=137)
    state.save(container, written)
    assert state.load(container) == written
    assert os.stat(f"{container.directory}/state.json").st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"pid":1}', b'{"host":1}', b"\xff\xfe", b"null"]
)
def test_a_broken_state_says_nothing(container, text):
    with open(f"{container.directory}/state.json", "wb") as file:
        file.write(text)
    assert state.load(container) is None


def test_the_status_is_that_of_the_recorded_process(store, container):
    assert state.condition_of(store, container).status == "created"
    state.save(container, begun(os.getpid()))
    assert state.condition_of(store, container).status == "running"
    state.save(container, begun(ended_process()))
    assert state.condition_of(store, container).status == "exited"


def test_a_process_number_used_again_is_another_process(store, container):
    state.save(container, replace(begun(os.getpid()), birth=1))
    assert state.condition_of(store, container).status == "exited"


def test_a_run_before_the_last_boot_has_ended(store, container):
    state.save(container, replace(begun(os.getpid()), boot_id="another"))
    assert state.condition_of(store, container).status == "exited"


def test_only_another_host_knows_of_the_run_that_it_began(store, container):
    state.save(container, replace(begun(os.getpid()), host="elsewhere"))
    condition = state.condition_of(store, container)
    assert (condition.status, condition.is_running) == ("unknown", False)


def test_who_holds_the_lock_runs_and_who_asks_does_not(store, container):
    with store.lock(container):
        assert state.condition_of(store, container).status == "running"
    with store.lock(container, asks=True) as asking:
        asking.let_go()
        assert state.condition_of(store, container).status == "created"


def test_a_stopped_program_is_paused(store, container):
    process = subprocess.Popen(["sh", "-c", "kill -STOP $$"])
    try:
        os.waitpid(process.pid, os.WUNTRACED)
        state.save(container, begun(process.pid))
        assert state.condition_of(store, container).status == "paused"
    finally:
        process.kill()
        process.wait()


def test_an_end_is_noted_for_the_run_that_ended_only(container):
    state.save(container, begun(os.getpid(), keeper=4))
    state.finish(container, 5, 9)
    assert state.load(container).exit_code is None
    state.finish(container, 4, 9)
    assert state.load(container).exit_code == 9


def test_the_log_is_dockers(tmp_path):
    path = str(tmp_path / "log.json")
    writer = LogWriter(path)
    writer.write("stdout", b"one\ntw")
    writer.write("stderr", b"other\n")
    writer.write("stdout", b"o\nend\xff")
    writer.close()
    with open(path, encoding="utf-8") as file:
        written = [json.loads(line) for line in file]
    assert [(entry["stream"], entry["log"]) for entry in written] == [
        ("stdout", "one\n"),
        ("stderr", "other\n"),
        ("stdout", "two\n"),
        ("stdout", "end\ufffd"),
    ]
    assert all(entry["time"].endswith("Z") and len(entry["time"]) == 30 for entry in written)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_line_without_end_is_cut_between_characters_and_never_kept_whole(tmp_path):
    text = "é" * 50000
    data = b"x" + text.encode()
    writer = LogWriter(str(tmp_path / "log"))
    for start in range(0, len(data), 7777):
        writer.write("stdout", data[start : start + 7777])
        assert len(writer._rest["stdout"]) <= logs.PIECE_BYTES
    writer.close()
    entries = list(LogReader(str(tmp_path / "log")).entries())
    assert "".join(entry.text for entry in entries) == "x" + text
    assert max(len(entry.text.encode()) for entry in entries) <= logs.PIECE_BYTES


@pytest.mark.parametrize("lines", [0, 1, 2, 999, 5000, 10000])
def test_the_last_lines_are_found_from_the_end(tmp_path, lines):
    path = str(tmp_path / "log")
    writer = LogWriter(path)
    written = [f"line {n} " + "y" * (n % 300) + "\n" for n in range(5000)]
    writer.write("stdout", "".join(written).encode())
    writer.close()
    reader = LogReader(path)
    reader.skip_to_last(lines)
    assert [entry.text for entry in reader.entries()] == written[max(0, 5000 - lines) :]


def test_a_long_line_counts_as_one(tmp_path):
    writer = LogWriter(str(tmp_path / "log"))
    writer.write("stdout", b"first\n" + b"z" * 100000 + b"\nlast\n")
    writer.close()
    reader = LogReader(str(tmp_path / "log"))
    reader.skip_to_last(2)
    assert "".join(entry.text for entry in reader.entries()) == "z" * 100000 + "\nlast\n"


def test_what_is_broken_in_a_log_is_left_out_and_what_comes_later_is_read(tmp_path):
    path = str(tmp_path / "log")
    writer = LogWriter(path)
    writer.write("stdout", b"a\n")
    with open(path, "ab") as file:
        file.write(b"\xff{broken\n" + b"[]\n" + b'{"log":1,"stream":"a","time":"b"}\n')
    reader = LogReader(path)
    assert [entry.text for entry in reader.entries()] == ["a\n"]
    writer.write("stdout", b"b\n")
    assert [entry.text for entry in reader.entries()] == ["b\n"]


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("sigterm", 15), ("9", 9), ("RTMIN+3", 37), ("SIGUSR1", 10)],
)
def test_signals_are_written_in_many_ways(text, number):
    from udocker.containers.ending import signal_number

    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "NOPE", "65", "-9", "RTMIN+99", "RTMIN+x"])
def test_what_is_no_signal_is_refused(text):
    from udocker.containers.ending import signal_number

    with pytest.raises(UsageError):
        signal_number(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2024-05-31T12:00:00Z", "2024-05-31T12:00:00.000000000Z"),
        ("2024-05-31T12:00:00.5Z", "2024-05-31T12:00:00.500000000Z"),
        ("2024-05-31T14:00:00+02:00", "2024-05-31T12:00:00.000000000Z"),
        ("1717156800", "2024-05-31T12:00:00.000000000Z"),
        ("1717156800.25", "2024-05-31T12:00:00.250000000Z"),
    ],
)
def test_points_in_time_are_understood(text, meant):
    from udocker.commands.moments import parse_moment

    assert parse_moment(text, "--since") == meant


def test_a_duration_is_that_long_ago():
    from udocker.commands.moments import parse_moment

    assert parse_moment("1h30m", "--since") < parse_moment("10s", "--since")
    for text in ("yesterday", "10", "5 m", "", "2024-13-01"):
        with pytest.raises(UsageError):
            parse_moment(text, "--since")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.State.Running}}", "true"),
        ("{{ .state.running }} {{.Id}}", "true abc"),
        ("{{json .State}}", '{"Running":true,"Code":null}'),
        ('{{index .Labels "a b"}}|{{index .Names 1}}', "c|y"),
        ('{{join .Names ", "}}\\t{{len .Names}}', "x, y\t2"),
        ("{{.Names}} {{.Labels}} {{.State.Code}}", "[x y] map[a b:c] <no value>"),
        ("plain", "plain"),
    ],
)
def test_templates_are_gos(template, text):
    from udocker.commands.templates import fill

    values = {
        "Id": "abc",
        "State": {"Running": True, "Code": None},
        "Labels": {"a b": "c"},
        "Names": ["x", "y"],
    }
    assert fill(template, values) == text


@pytest.mark.parametrize("template", ["{{.Nope}}", "{{.Id.More}}", "{{range .Names}}", "{{}}"])
def test_what_a_template_cannot_say_is_refused(template):
    from udocker.commands.templates import fill

    with pytest.raises(UsageError):
        fill(template, {"Id": "a", "Names": []})
