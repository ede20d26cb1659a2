"""Loaders and library paths of real programs changed, tried by running them, and taken back."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udocker.engines.rebase import elfwriter
from udocker.engines.rebase.elffile import ElfFile
from udocker.errors import UdockerError
from udocker.host import elf

PROGRAM = "int answer(void); int main(void) { return answer(); }"
LIBRARY = "int answer(void) { return 42; }"


def link(path, *words, source=PROGRAM):
    """Compile `source` to `path` and return it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    command = ["gcc", "-x", "c", "-", "-x", "none", *words, "-o", str(path)]
    subprocess.run(command, input=source.encode(), check=True)
    return str(path)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return link(
        f"{tmp_path_factory.mktemp('library')}/libanswer.so",
        *("-shared", "-fPIC", "-Wl,-soname,libanswer.so"),
        source=LIBRARY,
    )


@pytest.fixture(scope="module")
def moved(library, tmp_path_factory):
    """A root with the library in /opt/lib, and the host's loader in /loader."""
    root = str(tmp_path_factory.mktemp("root"))
    os.makedirs(f"{root}/opt/lib")
    shutil.copy(library, f"{root}/opt/lib")
    loader = elf.read("/bin/sh").interpreter
    shutil.copy(loader, f"{root}/loader")
    return root


def change(path, interpreter=None, directory=None, *, shrink=False):
    """Redirect a file on disk; return the change that was made."""
    file = os.open(path, os.O_RDWR)
    try:
        made = elfwriter.redirected(
            ElfFile(file),
            interpreter,
            lambda text: text if directory is None else directory + text,
            shrink=shrink,
        )
        if made:
            made.apply(file)
        return made
    finally:
        os.close(file)


def undo(path, made):
    file = os.open(path, os.O_RDWR)
    for edit in made.edits:
        os.pwrite(file, edit.old, edit.offset)
    os.ftruncate(file, made.size)
    os.close(file)


def content(path):
    with open(path, "rb") as file:
        return file.read()


def status_of(path):
    return subprocess.run([path], capture_output=True, env={}).returncode


KINDS = {
    "pie": ("-pie", "-fPIE"),
    "no-pie": ("-no-pie", "-fno-PIE"),
    "bind-now": ("-Wl,-z,now",),
    "large-pages": ("-Wl,-z,max-page-size=2097152",),
    "stripped": ("-s",),
    "sysv-hash": ("-Wl,--hash-style=sysv",),
    "no-relro": ("-Wl,-z,norelro",),
}


@pytest.mark.parametrize("tags", ["--enable-new-dtags", "--disable-new-dtags"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_finds_loader_and_library_below_another_root(
    kind, tags, library, moved, tmp_path
):
    words = (*KINDS[kind], library, f"-Wl,{tags},-rpath,/opt/lib:$ORIGIN")
    path = link(f"{tmp_path}/program", *words)
    before = content(path)
    assert status_of(path) == 127
    made = change(path, f"{moved}/loader", moved)
    assert status_of(path) == 42
    facts = elf.read(path)
    assert facts.interpreter == f"{moved}/loader"
    assert facts.runpath + facts.rpath == (f"{moved}/opt/lib", "$ORIGIN")
    assert change(path, f"{moved}/loader", None) is None
    undo(path, made)
    assert content(path) == before


def test_a_needed_library_with_an_absolute_name_is_found_below_another_root(moved, tmp_path):
    away = f"{tmp_path}/away.so"
    link(away, "-shared", "-fPIC", source=LIBRARY)
    path = link(f"{tmp_path}/program", away)
    assert elf.read(path).needed[0] == away
    root = f"{tmp_path}/root"
    os.makedirs(root + os.path.dirname(away))
    os.rename(away, root + away)
    assert status_of(path) == 127
    change(path, None, root)
    assert status_of(path) == 42


def test_a_longer_path_and_a_shorter_one_of_the_loader_hold(moved, tmp_path):
    path = link(f"{tmp_path}/program", source="int main(void) { return 7; }")
    long = f"{tmp_path}/{'d' * 200}/{'e' * 200}"
    os.makedirs(long)
    shutil.copy(f"{moved}/loader", f"{long}/loader")
    change(path, f"{long}/loader")
    assert status_of(path) == 7
    short = "/l"
    made = change(path, short)
    assert made.grown == made.size
    assert elf.read(path).interpreter == short


def test_what_was_lengthened_can_be_shortened_in_place(library, moved, tmp_path):
    path = link(f"{tmp_path}/program", library, "-Wl,-rpath,/opt/lib")
    change(path, f"{moved}/loader", moved)
    file = os.open(path, os.O_RDWR)
    made = elfwriter.redirected(
        ElfFile(file), "/loader", lambda text: text[len(moved) :], shrink=True
    )
    made.apply(file)
    os.close(file)
    facts = elf.read(path)
    assert (facts.interpreter, facts.runpath) == ("/loader", ("/opt/lib",))
    assert made.grown == made.size


def test_a_library_that_asks_for_no_loader_gets_none(library, tmp_path):
    path = shutil.copy(library, tmp_path)
    assert change(path, "/some/loader", "/root") is None


def test_a_static_program_stays_as_it_is(tmp_path):
    path = link(f"{tmp_path}/program", "-static", source="int main(void) { return 3; }")
    assert change(path, "/some/loader", "/root") is None


def test_a_program_without_a_note_says_that_it_has_no_room(library, tmp_path):
    words = (library, "-Wl,-rpath,/opt/lib", "-Wl,--build-id=none", "-nostdlib")
    source = "int answer(void); void _start(void) { answer(); }"
    path = link(f"{tmp_path}/program", *words, source=source)
    subprocess.run(["objcopy", "-R", ".note.*", path], check=True)
    before = content(path)
    with pytest.raises(ValueError, match="no room"):
        change(path, None, "/root")
    assert content(path) == before


def test_programs_of_32_bits_are_read_and_written(library, tmp_path):
    source = "void _start(void) { for (;;); }"
    words = ("-m32", "-nostdlib", "-nostartfiles", "-shared", "-Wl,-rpath,/opt/lib")
    try:
        path = link(f"{tmp_path}/program.so", *words, source=source)
    except subprocess.CalledProcessError:
        pytest.skip("needs gcc for x86")
    subprocess.run(["objcopy", "--add-section", ".x=/dev/null", path], check=True)
    facts = elf.read(path)
    assert (facts.bits, facts.runpath) == (32, ("/opt/lib",))
    change(path, None, "/root")
    assert elf.read(path).runpath == ("/root/opt/lib",)


def test_a_runpath_is_set_where_there_was_none(library, tmp_path):
    path = link(f"{tmp_path}/program", library)
    assert status_of(path) == 127
    elfwriter.set_runpath(path, os.path.dirname(library))
    assert status_of(path) == 42
    assert elf.read(path).runpath == (os.path.dirname(library),)


def test_a_runpath_takes_the_place_of_another_one_and_of_an_rpath(library, tmp_path):
    for number, tags in enumerate(("--enable-new-dtags", "--disable-new-dtags")):
        path = link(f"{tmp_path}/program{number}", library, f"-Wl,{tags},-rpath,/wrong")
        elfwriter.set_runpath(path, os.path.dirname(library))
        assert status_of(path) == 42
        facts = elf.read(path)
        assert (facts.runpath, facts.rpath) == ((os.path.dirname(library),), ())


@pytest.mark.parametrize("text", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF" + bytes(100)])
def test_a_runpath_of_what_is_no_program_is_an_error_that_names_it(text, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(text)
    with pytest.raises(UdockerError, match=str(path)):
        elfwriter.set_runpath(str(path), "/x")
    assert path.read_bytes() == text


def test_symbols_and_versions_are_those_that_other_readers_find(library):
    libc = next(path for path in maps() if os.path.basename(path).startswith("libc"))
    for path in (library, libc):
        file = os.open(path, os.O_RDONLY)
        found = ElfFile(file)
        facts = elf.read(path)
        assert set(facts.version_definitions) <= found.version_definitions()
        expected = {name: {n for n, _ in needs} for name, needs in facts.version_needs}
        assert found.version_needs() == expected
        assert found.needed() == facts.needed
        said = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True)
        names = {line.split()[-1].partition("@")[0] for line in said.stdout.splitlines()}
        versions = facts.version_definitions
        assert names - set(versions) <= found.symbols()
        os.close(file)


def maps():
    """Return the files that this process has mapped."""
    with open("/proc/self/maps") as file:
        return [line.split()[5] for line in file if line.count("/") > 1]


@pytest.fixture(scope="module")
def sample(library, tmp_path_factory):
    path = link(f"{tmp_path_factory.mktemp('sample')}/program", library, "-Wl,-rpath,/opt/lib")
    return content(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_changed_and_brought_back(sample, data):
    damaged = bytearray(sample[: data.draw(st.sampled_from([len(sample), 64, 500, 4096]))])
    places = st.integers(0, min(len(damaged), 1200) - 1)
    for place in data.draw(st.lists(places, max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    file = os.memfd_create("damaged")
    try:
        os.pwrite(file, bytes(damaged), 0)
        made = None
        try:
            found = ElfFile(file)
            made = elfwriter.redirected(found, "/a/loader", lambda text: "/root" + text)
            found.symbols(), found.version_needs(), found.version_definitions()
            assert len(list(found.notes())) < 10000
        except ValueError:
            pass
        if made and made.grown < 1 << 24:
            made.apply(file)
            assert os.fstat(file).st_size == made.grown
            for edit in made.edits:
                os.pwrite(file, edit.old, edit.offset)
            os.ftruncate(file, made.size)
        assert os.pread(file, len(damaged) + 1, 0) == bytes(damaged)
    finally:
        os.close(file)
