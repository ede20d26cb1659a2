"""Work in several processes or in this one, and what becomes of it when it fails."""

import errno
import os

import pytest

from udocker import console
from udocker.errors import StoreError, UdockerError, UnpackError
from udocker.transfer.parallel import workers


def run(work, count=1):
    workers.run(count, 2, work, range(count), console.progress(quiet=True))


def run_here(work, count=1):
    workers.run_here(work, range(count), console.progress(quiet=True))


EVERYWHERE = pytest.mark.parametrize("run", [run, run_here])


@pytest.mark.parametrize("text", ["plain", "\x00\n" * 3000, "\U0001f433" * 3000, "\ud800" * 9])
def test_an_error_arrives_as_what_it_was_however_long_its_words(text):
    def work(item, report):
        raise UnpackError(text, hint=text)

    with pytest.raises(UnpackError) as caught:
        run(work)
    for words in (caught.value.message, caught.value.hint):
        assert words == text[: len(words)] != ""


@EVERYWHERE
def test_a_full_disk_is_said_with_the_way_out(run):
    def work(item, report):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/store/x")

    with pytest.raises(StoreError, match="/store/x: No space left") as caught:
        run(work)
    assert "UDOCKER_DIR" in caught.value.hint


@EVERYWHERE
def test_too_little_memory_is_said(run):
    def work(item, report):
        raise MemoryError

    with pytest.raises(UdockerError, match="out of memory"):
        run(work)


@EVERYWHERE
def test_what_is_told_of_the_work_arrives(run, monkeypatch, capfd):
    monkeypatch.setattr(console, "progress", lambda *, quiet: console.Lines())

    def work(item, report):
        report.start("layer", 5)
        report.advance(5)
        report.finish("done")

    run(work)
    assert "layer" in capfd.readouterr().err


def test_here_is_this_process_and_the_order_is_kept():
    seen = []
    workers.run_here(
        lambda item, report: seen.append((os.getpid(), item)),
        (2, 0, 1),
        console.progress(quiet=True),
    )
    assert seen == [(os.getpid(), 2), (os.getpid(), 0), (os.getpid(), 1)]


def test_a_worker_that_is_killed_is_an_error():
    with pytest.raises(UdockerError, match="ended before"):
        run(lambda item, report: os.kill(os.getpid(), 9), count=4)


def test_every_item_is_worked_on_once(tmp_path):
    run(lambda item, report: (tmp_path / str(item)).mkdir(), count=50)
    assert len(os.listdir(tmp_path)) == 50


def test_more_items_than_a_pipe_holds_are_all_worked_on(tmp_path):
    count = 50_000
    done = os.open(tmp_path / "done", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        run(lambda item, report: os.write(done, item.to_bytes(4, "little")), count)
    finally:
        os.close(done)
    found = (tmp_path / "done").read_bytes()
    assert sorted(found[i : i + 4] for i in range(0, len(found), 4)) == sorted(
        item.to_bytes(4, "little") for item in range(count)
    )


def test_workers_that_end_before_all_items_are_given_out_are_an_error():
    with pytest.raises(UdockerError, match="ended before"):
        run(lambda item, report: os.kill(os.getpid(), 9), count=50_000)
