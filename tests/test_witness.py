"""A machine of which is noted what was asked, and whether it says the same later."""

import os

import pytest

from udocker import fastjson
from udocker.host.probe import Host
from udocker.host.witness import Variables, Witness


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/b").write_text("1")
    (tmp_path / "dir/a").write_text("2")
    os.symlink("nothing", tmp_path / "link")
    os.mkfifo(tmp_path / "node", 0o640)
    return tmp_path


def asked(tree):
    """Ask everything and return the notes as they come back from a file."""
    witness = Witness(Host(str(tree)))
    assert witness.names("/dir") == ["a", "b"] and witness.names("/none") == []
    assert witness.text("/dir/a") == "2" and witness.text("/dir") == ""
    assert witness.exists("/link") and not witness.exists("/none")
    assert witness.is_directory("/dir") and not witness.is_directory("/link")
    status = os.stat(tree / "dir")
    assert witness.state("/dir") == [status.st_dev, status.st_ino, status.st_mtime_ns]
    assert witness.state("/link") == witness.access("/none") == []
    mode, group, may_read, may_write = witness.access("/node")
    assert (mode & 0o777, group, may_read, may_write) == (0o640, os.stat(tree).st_gid, 1, 1)
    return fastjson.loads(fastjson.dumps(witness.asked))


CHANGES = {
    "a name more": lambda tree: (tree / "dir/c").write_text(""),
    "a text": lambda tree: (tree / "dir/a").write_text("3"),
    "a link gone": lambda tree: (tree / "link").unlink(),
    "a link that leads somewhere": lambda tree: (tree / "nothing").mkdir(),
    "a directory in the place of nothing": lambda tree: (tree / "none").mkdir(),
    "a mode": lambda tree: (tree / "node").chmod(0o600),
    "a directory made anew": lambda tree: [
        os.rename(tree / "dir", tree / "old"),
        (tree / "dir").mkdir(),
        os.rename(tree / "old/a", tree / "dir/a"),
        os.rename(tree / "old/b", tree / "dir/b"),
    ],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_machine_that_has_changed_does_not_say_what_it_said(tree, change):
    notes = asked(tree)
    assert Host(str(tree)).still_says(notes)
    (tree / "other").write_text("nobody asked for this")
    assert Host(str(tree)).still_says(notes)
    change(tree)
    assert not Host(str(tree)).still_says(notes)


def test_the_first_answer_is_the_one_that_is_noted(tree):
    witness = Witness(Host(str(tree)))
    assert not witness.exists("/made")
    (tree / "made").write_text("")
    assert witness.exists("/made")
    assert not Host(str(tree)).still_says(witness.asked)


@pytest.mark.parametrize("notes", [[["forget", "/", 1]], [["text", "/"]], [1], [["text", 1, ""]]])
def test_what_is_no_note_is_told(notes):
    with pytest.raises((LookupError, TypeError, ValueError)):
        Host().still_says(notes)


def test_variables_that_were_asked_for_are_noted_with_those_that_are_not_set():
    variables = Variables({"A": "1", "B": "2"})
    assert variables.get("A") == "1" and variables.get("C", "x") == "x" and "D" not in variables
    assert variables.asked == {"A": "1", "C": None, "D": None}
    assert dict(variables) == {"A": "1", "B": "2"} and variables.asked["B"] == "2"
