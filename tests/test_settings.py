import os
import pwd
import subprocess
import sys

import pytest

from udocker import settings
from udocker.errors import UsageError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def load(tmp_path, flags=None, **environment):
    return settings.load(flags or {}, {"HOME": str(tmp_path), **environment})


def test_flags_beat_environment_beats_file_beats_default(tmp_path):
    (tmp_path / ".udocker").mkdir()
    file = tmp_path / ".udocker" / "udocker.conf"
    assert load(tmp_path).registry == ""
    file.write_text("# mine\n[DEFAULT]\nregistry = file.example\njobs=3\ninsecure = no\n")
    assert load(tmp_path).registry == "file.example"
    assert load(tmp_path).jobs == 3
    assert load(tmp_path, UDOCKER_REGISTRY="env.example").registry == "env.example"
    assert load(tmp_path, {"registry": "f"}, UDOCKER_REGISTRY="e").registry == "f"


def test_a_file_that_is_named_beats_the_usual_ones_and_has_to_be_there(tmp_path):
    (tmp_path / ".udocker").mkdir()
    (tmp_path / ".udocker" / "udocker.conf").write_text("jobs = 3\nregistry = usual.example\n")
    (tmp_path / "other").write_text("jobs = 4\n")
    flags = {"config": str(tmp_path / "other")}
    assert load(tmp_path, flags).jobs == 4
    assert load(tmp_path, flags).registry == "usual.example"
    assert load(tmp_path, flags, UDOCKER_JOBS="5").jobs == 5
    assert settings.origins(flags, {"HOME": str(tmp_path)})["jobs"] == flags["config"]
    with pytest.raises(UsageError, match="missing"):
        load(tmp_path, {"config": str(tmp_path / "missing")})


def test_a_false_word_is_false(tmp_path):
    # udocker 1.3 read `http_insecure = False` as true
    for word in ("0", "no", "False", "off"):
        assert load(tmp_path, UDOCKER_INSECURE=word).insecure is False


@pytest.mark.parametrize(
    ("variable", "value"),
    [("UDOCKER_INSECURE", "perhaps"), ("UDOCKER_JOBS", "-1"), ("UDOCKER_DIR", "/a:b")],
)
def test_a_value_of_the_wrong_kind_is_named(tmp_path, variable, value):
    with pytest.raises(UsageError, match=value):
        load(tmp_path, **{variable: value})


def test_a_broken_line_is_named_with_file_and_number(tmp_path):
    (tmp_path / ".udocker").mkdir()
    (tmp_path / ".udocker" / "udocker.conf").write_text("\njobs\n")
    with pytest.raises(UsageError, match="udocker.conf:2"):
        load(tmp_path)


def test_a_file_in_the_current_directory_is_never_read(tmp_path, monkeypatch):
    for name in ("u.conf", "udocker.conf"):
        (tmp_path / name).write_text("registry = evil.example\n")
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path / "home").registry == ""


def test_the_directory_may_begin_with_a_tilde(tmp_path):
    assert load(tmp_path, UDOCKER_DIR="~/u").directory == f"{tmp_path}/u"


def test_a_file_is_looked_for_in_the_home_that_a_tilde_names(tmp_path):
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "udocker.conf").write_text("registry = file.example\n")
    assert load(tmp_path, UDOCKER_DIR="~/u").registry == "file.example"


@pytest.mark.root
def test_a_user_without_a_home_needs_none_where_a_directory_is_named():
    program = (
        "import os; from udocker import errors, settings; os.setuid(61999)\n"
        "for flags, variables in (({}, {'UDOCKER_DIR': '/d'}), ({'directory': '/d'}, {})):\n"
        "    print(settings.load(flags, variables).directory)\n"
        "try:\n    settings.load({}, {'UDOCKER_DIR': '~/d'})\n"
        "except errors.UsageError as error:\n    print(error.message)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "/d\n/d\nthis user has no home directory\n", done.stderr


def test_what_python_put_into_the_environment_is_not_the_callers(tmp_path):
    assert "LC_CTYPE" not in load(tmp_path, LC_CTYPE="C.UTF-8").environment
    assert load(tmp_path, LC_CTYPE="C.UTF-8", LANG="C").environment["LC_CTYPE"] == "C.UTF-8"


def test_who_has_no_home_in_the_environment_has_that_of_the_account():
    assert settings.home_directory({"HOME": "/h"}) == "/h"
    assert settings.home_directory({}) == pwd.getpwuid(os.getuid()).pw_dir
