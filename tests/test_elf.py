"""ELF facts of files that the compiler has made, and of files that nobody should have made."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udocker.errors import UdockerError
from udocker.host import elf, loader
from udocker.host.root import Root

MACHINE = os.uname().machine


ANSWER = "int getpid(void); int answer(void) { return getpid() ? 42 : 0; }"


def link(directory, name, *words, source=ANSWER):
    """Compile `source` to `directory/name` and return its path."""
    path = os.path.join(directory, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    command = ["gcc", "-x", "c", "-", "-x", "none", *words, "-o", path]
    subprocess.run(command, input=source.encode(), check=True)
    return path


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library with a SONAME, a RUNPATH and versions."""
    directory = tmp_path_factory.mktemp("library")
    (directory / "map").write_text("ANSWER_1 { global: answer; };\nANSWER_2 { } ANSWER_1;\n")
    words = [
        "-shared",
        "-fPIC",
        "-Wl,-soname,libanswer.so.1",
        f"-Wl,--version-script,{directory}/map",
    ]
    return link(directory, "libanswer.so", *words, "-Wl,-rpath,/one:$ORIGIN/two")


def test_a_library_tells_its_name_its_paths_and_its_versions(library):
    facts = elf.read(library)
    assert (facts.bits, facts.machine, facts.dynamic) == (64, MACHINE, True)
    assert facts.soname == "libanswer.so.1"
    assert facts.runpath == ("/one", "$ORIGIN/two")
    assert facts.rpath == ()
    assert facts.needed == ("libc.so.6",)
    assert facts.version_definitions == ("ANSWER_1", "ANSWER_2")
    assert facts.interpreter is None


def test_a_program_tells_its_loader_and_what_it_needs(library, tmp_path):
    source = "int answer(void); int main(void) { return answer(); }"
    facts = elf.read(link(tmp_path, "program", library, source=source))
    assert facts.needed == ("libanswer.so.1", "libc.so.6")
    assert os.path.exists(facts.interpreter)
    assert dict(facts.version_needs)["libanswer.so.1"] == (("ANSWER_1", False),)
    assert facts.soname is None


def test_an_old_rpath_is_told_apart_from_a_runpath(tmp_path):
    words = ["-shared", "-fPIC", "-Wl,--disable-new-dtags", "-Wl,-rpath,/old"]
    facts = elf.read(link(tmp_path, "liba.so", *words))
    assert (facts.rpath, facts.runpath) == (("/old",), ())


def test_a_weak_version_need_is_told_apart(library, tmp_path):
    source = "int answer(void); int main(void) { return answer(); }"
    path = link(tmp_path, "program", library, source=source)
    with open(path, "rb") as file:
        hash_and_flags = file.read().index(struct.pack("<IH", sysv_hash(b"ANSWER_1"), 0))
    weak = patched(path, tmp_path, [(hash_and_flags + 4, b"\2")])
    assert dict(elf.read(weak).version_needs)["libanswer.so.1"] == (("ANSWER_1", True),)


def sysv_hash(name):
    """Return the hash by which versions are compared. Source: System V ABI, "Hash Table"."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high
    return value


@pytest.mark.parametrize("how", ["-static", "-static-pie"])
def test_a_static_program_is_static(tmp_path, how):
    facts = elf.read(link(tmp_path, "program", how, source="int main(void) { return 0; }"))
    assert not facts.dynamic
    assert facts.needed == ()


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(20)]
)
def test_what_is_no_elf_file_has_no_facts(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert elf.read(str(tmp_path / "file")) is None


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        elf.read(str(tmp_path / "none"))


def patched(library, tmp_path, patches):
    with open(library, "rb") as file:
        data = bytearray(file.read())
    for offset, patch in patches:
        data[offset : offset + len(patch)] = patch
    (tmp_path / "patched").write_bytes(data)
    return str(tmp_path / "patched")


SECTION_COUNT, SECTIONS, SEGMENT_COUNT = 60, 40, 56


@pytest.mark.parametrize(
    "patches",
    [
        [(SECTION_COUNT, b"\xff\xff")],
        [(SEGMENT_COUNT, b"\xfe\xff")],
        [(SECTIONS, struct.pack("<Q", 1 << 62))],
    ],
)
def test_absurd_headers_end_quickly(library, tmp_path, patches):
    assert elf.read(patched(library, tmp_path, patches)) is None


def test_a_library_without_section_headers_tells_all_but_its_versions(library, tmp_path):
    facts = elf.read(patched(library, tmp_path, [(SECTION_COUNT, b"\0\0"), (SECTIONS, bytes(8))]))
    assert (facts.soname, facts.needed) == ("libanswer.so.1", ("libc.so.6",))
    assert facts.version_definitions == ()


def test_a_name_without_end_is_not_read_to_the_end_of_the_disk(library, tmp_path):
    path = patched(library, tmp_path, [])
    with open(path, "r+b") as file:
        start = file.read().index(b"\0libanswer.so.1\0") + 1
        # every byte after the SONAME's start is a letter: gigabytes of name
        file.seek(start)
        file.write(b"a" * (elf.MAX_WORK + 4096))
    assert elf.read(path) is None


@settings(deadline=None, max_examples=60)
@given(
    patches=st.lists(st.tuples(st.integers(4, 4000), st.binary(min_size=1, max_size=8)), max_size=5)
)
def test_no_patch_of_a_library_breaks_its_reader(library, tmp_path_factory, patches):
    path = patched(library, tmp_path_factory.getbasetemp(), patches)
    facts = elf.read(path)
    assert facts is None or isinstance(facts, elf.ElfFacts)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A root with a loader and libc, and programs that find libraries in every way."""
    root = str(tmp_path_factory.mktemp("root"))
    for place, path in loader.closure(["/bin/sh"], Root("/")).items():
        os.makedirs(os.path.dirname(root + place), exist_ok=True)
        shutil.copy(path, root + place)
    shared = ["-shared", "-fPIC", "-nostdlib"]
    deep = link(root, "opt/deep/libdeep.so", *shared, "-Wl,-soname,libdeep.so")
    source = "int answer(void); int middle(void) { return answer(); }"
    words = [*shared, "-Wl,-soname,libmiddle.so", "-Wl,-rpath,$ORIGIN/deep", deep]
    middle = link(root, "opt/libmiddle.so", *words, source=source)
    source = "int middle(void); int main(void) { return middle(); }"
    words = [middle, "-Wl,--allow-shlib-undefined", "-Wl,-rpath,$ORIGIN/../opt"]
    link(root, "bin/program", *words, source=source)
    os.symlink("program", f"{root}/bin/alias")
    return root


def test_a_closure_runs_in_a_root_of_its_own(tree, tmp_path):
    for place, path in loader.closure(["/bin/alias"], Root(tree)).items():
        os.makedirs(os.path.dirname(f"{tmp_path}{place}"), exist_ok=True)
        shutil.copy(path, f"{tmp_path}{place}")
    (tmp_path / "proc").mkdir()  # the loader asks it for $ORIGIN
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no user namespaces")
    script = f"mount --rbind /proc {tmp_path}/proc && exec chroot {tmp_path} /bin/alias"
    assert subprocess.run([*command, script], check=False).returncode == 42


def test_a_closure_maps_names_in_the_root_to_real_files(tree):
    files = loader.closure(["/bin/alias"], Root(tree))
    assert files["/bin/alias"] == f"{tree}/bin/program"
    assert f"{tree}/opt/deep/libdeep.so" in files.values()
    assert any(place.endswith("libc.so.6") for place in files)
    assert all(path.startswith(tree) for path in files.values())


def test_a_static_program_needs_only_itself(tmp_path):
    link(tmp_path, "program", "-static", source="int main(void) { return 0; }")
    assert loader.closure(["/program"], Root(str(tmp_path))) == {"/program": f"{tmp_path}/program"}


def test_a_closure_with_a_hole_names_it(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "root")
    os.unlink(tmp_path / "root/opt/deep/libdeep.so")
    with pytest.raises(UdockerError, match=r"libmiddle\.so needs libdeep\.so, which is not there"):
        loader.closure(["/bin/program"], Root(str(tmp_path / "root")))


@pytest.mark.parametrize(
    ("program", "complaint"), [("/none", "is not there"), ("/script", "is not an ELF file")]
)
def test_a_closure_starts_with_elf_files(tmp_path, program, complaint):
    (tmp_path / "script").write_text("#!/bin/sh\n")
    with pytest.raises(UdockerError, match=complaint):
        loader.closure([program], Root(str(tmp_path)))
