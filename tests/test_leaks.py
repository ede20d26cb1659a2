"""The leak probe finds every call that the host answers, and none where it does not."""

import errno
import platform
import subprocess

import pytest
from registries import needs

from udocker.selftest import asker, leaks

ARCH = platform.machine()
NEW = {"statx", "openat2", "faccessat2", "fchmodat2", "execveat", "open_tree", "io_uring"}
"""Calls that PRoot 5.1 passes on as they are."""


@pytest.fixture
def sides(tmp_path):
    """A directory with what a container has of it, and one with what the host has."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for directory, names, text in (
        (inside, ("mine", "same"), "container\n"),
        (outside, ("hosts", "same"), "this is the host\n"),
    ):
        directory.mkdir()
        for name in names:
            (directory / name).write_text(text)
    return inside, outside


@pytest.fixture(params=sorted(asker.CODE))
def ask(request, tmp_path):
    """A function that lets the asker of a machine ask for the files of a directory."""
    machine = request.param
    emulator = [] if machine == ARCH else [f"qemu-{machine}-static"]
    needs(*emulator)
    path = tmp_path / "asker"
    path.write_bytes(asker.program(machine))
    path.chmod(0o755)

    def ask(directory):
        words = [f"{directory}/{target}" for target in asker.TARGETS]
        done = subprocess.run([*emulator, path, *words, directory], capture_output=True, check=True)
        return asker.answers(machine, done.stdout)

    return ask


def test_a_container_of_its_own_answers_every_call_itself(ask, sides):
    assert leaks.leaking(ask(sides[0])) == []


def test_every_call_that_the_host_answers_is_named(ask, sides):
    inside, outside = map(ask, sides)
    known = {call for call, answer in inside["mine"].items() if answer.result != -errno.ENOSYS}
    told = "; ".join(leaks.leaking(outside))
    assert known <= set(told.replace(";", ",").replace(" ", ",").split(",")) | {
        "openat in its directory"
    }
    assert "find a file of the host" in told and "miss a file of the container" in told
    assert "find the host's file under the same name" in told


@pytest.mark.parametrize("call", ["stat", "statx", "openat", "io_uring", "execveat"])
def test_one_call_that_the_host_answers_is_enough(sides, tmp_path, call):
    inside, outside = (answers_of(directory, tmp_path) for directory in sides)
    if call not in inside["mine"] or outside["hosts"][call].result < -errno.EACCES:
        pytest.skip(f"this machine has no {call}")
    mixed = {target: {**inside[target], call: outside[target][call]} for target in asker.TARGETS}
    assert [sentence.partition(" ")[0] for sentence in leaks.leaking(mixed)][:1] == [call]


def answers_of(directory, tmp_path):
    path = tmp_path / "own"
    path.write_bytes(asker.program(ARCH))
    path.chmod(0o755)
    words = [f"{directory}/{target}" for target in asker.TARGETS]
    done = subprocess.run([path, *words, directory], capture_output=True, check=True)
    return asker.answers(ARCH, done.stdout)


def test_calls_that_are_not_there_leak_nothing_but_must_not_be_all(sides, tmp_path):
    refused = asker.Answer(-errno.ENOSYS, None)
    found = answers_of(sides[0], tmp_path)
    some = {t: {**calls, "statx": refused, "openat2": refused} for t, calls in found.items()}
    assert leaks.leaking(some) == []
    none = {t: dict.fromkeys(calls, refused) for t, calls in found.items()}
    assert leaks.leaking(none) == ["openat open nothing"]


def test_an_output_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="3 bytes"):
        asker.answers(ARCH, b"abc")


# Engines


def udocker_leaks(user, mode, refused=None):
    """Return which checks fail, and how, for a mode; PRoot's list of refused calls may be other."""
    script = SCRIPT.format(mode=mode, refused=refused)
    done = user.run([user.python, "-c", script], timeout=120)
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


SCRIPT = """
import os, sys
from udocker.engines import select
from udocker.host.probe import Host
from udocker.registry.loopback import LoopbackRegistry
from udocker.selftest import leaks, sample, trial
from udocker.selftest.bench import Bench, launcher
from udocker.values import replace
words = list(launcher())
if {refused!r}:
    change = "from udocker.engines import proot; proot.REFUSED = {refused!r}; "
    words[-1] = words[-1].replace("from udocker.cli", change + "from udocker.cli")
home = os.environ["HOME"]
layout, directory = home + "/layout", home + "/bench"
os.mkdir(directory)
sample.build(layout, os.environ["PATH"])
with LoopbackRegistry(layout) as host:
    bench = Bench(directory, host + "/" + sample.NAME, dict(os.environ), tuple(words))
    bench.pull(quiet=True)
(way,) = select.ways({mode!r})[:1]
engine = select.make(way, bench.store)
obstacle = engine.obstacle(Host())
if obstacle:
    print("obstacle", obstacle, sep="\\t")
    sys.exit()
bench = replace(bench, engine={mode!r}, features=engine.features)
for failure in trial.failures_of(bench, leaks.CHECKS):
    print(failure.check, failure.detail, sep="\\t")
"""


@pytest.mark.parametrize("mode", ["userns", "N1", "proot", "P2", "fakechroot", "runc", "bwrap"])
def test_nothing_leaks_through_an_engine(unprivileged, mode):
    failures = udocker_leaks(unprivileged, mode)
    if "obstacle" in failures:
        pytest.skip(f"{mode} cannot be used here: {failures['obstacle']}")
    assert failures == {}


@pytest.mark.parametrize("mode", ["P1", "P2"])
def test_without_its_list_of_refused_calls_proot_is_found_out(unprivileged, mode):
    needs("proot")
    failures = udocker_leaks(unprivileged, mode, ("mseal",))
    told = set(failures["no system call is answered by the host"].replace(",", "").split())
    if "statx" not in told:
        pytest.skip("needs a PRoot that does not know all calls")
    assert NEW - told <= {"io_uring"}  # which a container around this machine may forbid
    assert set(failures) == {check.__name__.replace("_", " ") for check in leaks.CHECKS}
