"""Which program of an engine is used: the caller's, the installed one, the host's."""

import os
import subprocess

import pytest

from udocker.engines import programs
from udocker.errors import UsageError

VERSIONS = (
    *("1.0~", "1.0~rc1", "1.0", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0-10", "1:0.5", "1.0a", "1.0+a"),
    *("1.0.1", "1.9", "1.10", "2.20.1+ds-15", "2.20.1-15", "0", "5.1.0-1.3", "5.1.0-1.3+b1"),
)


@pytest.fixture
def store(tmp_path, monkeypatch):
    for variable in ("UDOCKER_USE_PROOT_EXECUTABLE", "UDOCKER_USE_RUNC_EXECUTABLE"):
        monkeypatch.delenv(variable, raising=False)
    path = tmp_path / "store"
    path.mkdir(mode=0o700)
    return str(path)


def put(path):
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path, "w") as file:
        file.write("#!/bin/sh\necho 1.2.3\n")
    os.chmod(path, 0o755)
    return path


def install(store, name, version, *, current=True):
    path = put(f"{store}/engines/{name}/{version}/{programs.file_name(name)}")
    for directory in (f"{store}/engines", f"{store}/engines/{name}", os.path.dirname(path)):
        os.chmod(directory, 0o700)
    if current:
        link = f"{store}/engines/{name}/current"
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(version, link)
    return path


def test_versions_sort_as_dpkg_sorts_them():
    for first in VERSIONS:
        for second in VERSIONS:
            done = subprocess.run(["dpkg", "--compare-versions", first, "lt", second], check=False)
            less = programs.version_key(first) < programs.version_key(second)
            assert less == (done.returncode == 0), (first, second)


def test_the_installed_version_in_use_comes_before_newer_ones_and_the_hosts(store, monkeypatch):
    used = install(store, "proot", "1.0")
    newer = install(store, "proot", "2.0", current=False)
    host = put(f"{store}/bin/proot")
    monkeypatch.setenv("PATH", os.path.dirname(host))
    paths = [found.path for found in programs.candidates(store, "proot")]
    assert paths[:3] == [used, newer, host]
    assert programs.find(store, "proot").version == "1.0"


def test_a_program_is_found_on_the_callers_path_and_in_sbin(store, monkeypatch):
    monkeypatch.setenv("PATH", "relative:" + os.path.dirname(put(f"{store}/bin/never-heard-of")))
    assert programs.find(store, "never-heard-of").origin == "host"
    monkeypatch.setattr(programs, "PLACES", (f"{store}/bin",))
    monkeypatch.setenv("PATH", "")
    assert programs.find(store, "never-heard-of") is not None
    assert programs.find(store, "nowhere") is None


@pytest.mark.parametrize("place", ["", "engines", "engines/proot", "engines/proot/1.0"])
def test_what_others_could_have_put_into_the_store_is_not_run(store, place):
    path = install(store, "proot", "1.0")
    assert programs.find(store, "proot").path == path
    os.chmod(f"{store}/{place}", 0o770)
    assert path not in [found.path for found in programs.candidates(store, "proot")]


def test_what_everybody_can_write_to_on_path_is_not_run(store, monkeypatch):
    path = put(f"{store}/bin/never-heard-of")
    monkeypatch.setenv("PATH", os.path.dirname(path))
    os.chmod(os.path.dirname(path), 0o1777)
    assert programs.find(store, "never-heard-of") is None


def test_the_callers_variable_names_the_program(store, monkeypatch):
    install(store, "proot", "1.0")
    mine = put(f"{store}/mine/my-proot")
    monkeypatch.setenv("UDOCKER_USE_PROOT_EXECUTABLE", mine)
    found = programs.find(store, "proot")
    assert (found.path, found.origin) == (mine, "$UDOCKER_USE_PROOT_EXECUTABLE")


def test_a_variable_that_names_nothing_is_an_error(store, monkeypatch):
    monkeypatch.setenv("UDOCKER_USE_PROOT_EXECUTABLE", "/nowhere/proot")
    with pytest.raises(UsageError, match="UDOCKER_USE_PROOT_EXECUTABLE"):
        programs.find(store, "proot")


def test_the_value_udocker_means_the_installed_one_only(store, monkeypatch):
    put(f"{store}/bin/proot")
    monkeypatch.setenv("PATH", f"{store}/bin")
    monkeypatch.setenv("UDOCKER_USE_PROOT_EXECUTABLE", "UDOCKER")
    assert programs.find(store, "proot") is None
    assert programs.find(store, "proot" if install(store, "proot", "1.0") else "").version == "1.0"


def test_one_variable_serves_runc_and_crun_by_the_name_of_the_file(store, monkeypatch):
    mine = put(f"{store}/mine/crun-static")
    monkeypatch.setenv("UDOCKER_USE_RUNC_EXECUTABLE", mine)
    assert programs.find(store, "crun").path == mine
    runc = programs.find(store, "runc")
    assert runc is None or runc.path != mine


def test_several_versions_of_a_library_lie_side_by_side(store):
    install(store, "libfakechroot", "2.19-3.3")
    install(store, "libfakechroot", "2.20.1+ds-15")
    found = programs.installed(store)
    assert [f.version for f in found] == ["2.20.1+ds-15", "2.19-3.3"]
    assert all(f.path.endswith("/libfakechroot.so") for f in found)
