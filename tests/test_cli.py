"""The command line as a whole: help, words that are no command, errors as one sentence."""

import errno
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from udocker import __version__, cli


def udocker(*words):
    command = [sys.executable, "-m", "udocker", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def overview():
    return udocker("--help").stdout


def test_the_overview_names_every_command(overview):
    listed = [line.split()[0] for line in overview.partition("Commands:")[2].splitlines() if line]
    assert listed == list(cli.COMMANDS)


@pytest.mark.parametrize("words", [(), ("help",), ("-h",)])
def test_the_overview_is_shown_in_every_way_of_udocker_1_3(words, overview):
    done = udocker(*words)
    assert (done.returncode, done.stdout, done.stderr) == (0, overview, "")


def test_every_command_has_help_of_its_own():
    with ThreadPoolExecutor(2) as pool:
        shown = list(pool.map(lambda name: udocker(name, "--help"), cli.COMMANDS))
    for name, done in zip(cli.COMMANDS, shown):
        assert done.returncode == 0, name
        assert done.stdout.startswith(f"Usage: udocker {name}") and done.stderr == ""


@pytest.mark.parametrize("name", ["ps", "run"])
def test_help_shows_the_help_of_a_command(name):
    assert udocker("help", name).stdout == udocker(name, "--help").stdout


@pytest.mark.parametrize("words", [("pss",), ("help", "pss")])
def test_a_similar_command_is_suggested(words):
    done = udocker(*words)
    assert done.returncode == 2
    assert "Did you mean 'ps'?" in done.stderr


def test_a_reader_that_goes_away_ends_the_command_as_it_does_others():
    command = [sys.executable, "-m", "udocker", "run", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


@pytest.mark.parametrize("words", [("-V",), ("--version",), ("-q", "version"), ("-D", "version")])
def test_the_version_is_shown(words):
    assert udocker(*words).stdout.split()[-1] == __version__


def test_a_name_of_nothing_is_said_as_such(unprivileged):
    for command in ("inspect", "protect"):
        done = unprivileged.udocker(command, "nothing", check=False)
        assert done.returncode == 1
        assert "no container or image 'nothing' here" in done.stderr


def test_what_is_not_there_is_said_once(unprivileged):
    done = unprivileged.udocker("restart", "nothing", check=False)
    assert done.returncode == 1
    assert done.stderr.count("no container 'nothing'") == 1


def test_all_credentials_are_forgotten_at_once(unprivileged):
    done = unprivileged.udocker("logout", "-a")
    assert done.stderr == "not logged in to any registry\n"


def test_a_file_of_settings_can_be_named(unprivileged):
    path = f"{unprivileged.home}/mine.conf"
    unprivileged.run(["sh", "-c", f"echo jobs = 7 > {path}"])
    shown = unprivileged.udocker(f"--config={path}", "showconf").stdout
    assert ["jobs", "7", path] in [line.split() for line in shown.splitlines()]
    done = unprivileged.udocker(f"--config={path}.not", "run", "image", check=False)
    assert done.returncode == 125
    assert f"cannot read the settings in {path}.not" in done.stderr


def test_what_the_kernel_refuses_where_nobody_expected_it_is_told_with_its_path():
    told = cli._refused(OSError(errno.ESTALE, "Stale file handle", "/nfs/store"))
    assert told.message == "/nfs/store: Stale file handle"
    assert cli._refused(OSError(errno.EIO, "Input/output error")).message == "Input/output error"
