"""The library cache against glibc: `ldconfig` reads what is written, and the reverse."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udocker.host import ldcache, loader
from udocker.host.ldcache import Entry, LdCache
from udocker.host.root import Root

LDCONFIG = shutil.which("ldconfig", path="/sbin:/usr/sbin") or "ldconfig"
FLAGS = ldcache.FLAGS[os.uname().machine]
NAMES = ["liba.so.1", "liba.so.2", "liba.so.10", "liba10.so", "liba9.so", "liba.so", "libA.so.1"]
NAMES += ["libb-2.0.so", "libb-2.0.so.0", "libb++.so.6", "libb_x.so.007", "libb20240101123456.so"]


def compile_library(path, soname, *words):
    """Link the smallest library of that SONAME."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", f"-Wl,-soname,{soname}"]
    source = b"int answer(void) { return 42; }"
    subprocess.run([*command, *words, "-o", path], input=source, check=True)


def listing(cache_file):
    """Return the entries that glibc's own ldconfig sees in a cache, in its order."""
    command = [LDCONFIG, "-p", "-C", str(cache_file)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.strip() for line in text.splitlines() if "=>" in line]


@pytest.fixture(scope="module")
def made_by_ldconfig(tmp_path_factory):
    """A function that has ldconfig make the cache of a directory of libraries, in a format."""
    directory = tmp_path_factory.mktemp("ldconfig")
    for name in NAMES:
        compile_library(f"{directory}/lib/{name}", name)
    shutil.copytree(f"{directory}/lib", f"{directory}/lib/glibc-hwcaps/x86-64-v2")
    (directory / "conf").write_text(f"{directory}/lib\n")

    def make(form):
        cache = directory / f"cache.{form}"
        words = ["-C", str(cache), "-f", f"{directory}/conf", "-c", form]
        subprocess.run([LDCONFIG, *words], check=True, capture_output=True)
        return cache

    return make


@pytest.mark.parametrize("form", ["new", "compat", "old"])
def test_every_format_of_ldconfig_is_read(made_by_ldconfig, form):
    cache = made_by_ldconfig(form)
    read = ldcache.parse(cache.read_bytes())
    assert [f"{e.name} => {e.path}" for e in read.entries] == [
        f"{line.split()[0]} => {line.split()[-1]}" for line in listing(cache)
    ]
    assert set(NAMES) <= {entry.name for entry in read.entries}


def test_entries_are_sorted_as_ldconfig_sorts_them(made_by_ldconfig, tmp_path):
    read = ldcache.parse(made_by_ldconfig("new").read_bytes())
    order = [entry.name for entry in read.entries]
    by_name = {}
    for entry in read.entries:
        by_name.setdefault(entry.name, []).append(entry)
    names = list(by_name)
    random.Random(7).shuffle(names)
    shuffled = tuple(entry for name in names for entry in by_name[name])
    written = ldcache.serialize(LdCache(shuffled, read.hwcaps))
    assert [entry.name for entry in ldcache.parse(written).entries] == order


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the names are those of x86-64")
def test_processor_variants_survive_rewriting(made_by_ldconfig, tmp_path):
    original = made_by_ldconfig("new")
    read = ldcache.parse(original.read_bytes())
    (tmp_path / "cache").write_bytes(ldcache.serialize(read))
    assert "x86-64-v2" in read.hwcaps
    assert listing(tmp_path / "cache") == listing(original)
    assert any('hwcap: "x86-64-v2"' in line for line in listing(tmp_path / "cache"))


def test_ldconfig_lists_what_was_written_with_earlier_entries_first(tmp_path):
    entries = (
        Entry("libcuda.so.1", "/run/udocker/gpu/lib/libcuda.so.1", FLAGS),
        Entry("libz.so.1", "/usr/lib/libz.so.1", FLAGS),
        Entry("libcuda.so.1", "/usr/lib/libcuda.so.1", FLAGS),
    )
    (tmp_path / "cache").write_bytes(ldcache.serialize(LdCache(entries)))
    assert [line.split()[-1] for line in listing(tmp_path / "cache")] == [
        "/usr/lib/libz.so.1",
        "/run/udocker/gpu/lib/libcuda.so.1",
        "/usr/lib/libcuda.so.1",
    ]


def test_a_program_loads_a_library_through_a_written_cache(tmp_path):
    compile_library(f"{tmp_path}/hidden/some-file", "libanswer.so.1")
    source = b"int answer(void); int main(void) { return answer(); }"
    program = ["gcc", "-x", "c", "-", "-x", "none", f"{tmp_path}/hidden/some-file"]
    subprocess.run([*program, "-o", f"{tmp_path}/program"], input=source, check=True)
    with open(ldcache.PATH, "rb") as file:
        host = ldcache.parse(file.read())
    ours = (Entry("libanswer.so.1", f"{tmp_path}/hidden/some-file", FLAGS),)
    (tmp_path / "cache").write_bytes(ldcache.serialize(LdCache(ours + host.entries)))
    script = f"mount --bind {tmp_path}/cache {ldcache.PATH} && exec {tmp_path}/program"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no user namespaces")
    assert (
        subprocess.run([f"{tmp_path}/program"], capture_output=True, check=False).returncode == 127
    )
    assert subprocess.run([*command, script], check=False).returncode == 42


def test_paths_are_those_of_the_right_machine(tmp_path):
    cache = LdCache(
        (Entry("liba.so", "/lib32/liba.so", 3), Entry("liba.so", "/lib/liba.so", FLAGS))
    )
    assert cache.paths("liba.so", FLAGS) == ("/lib/liba.so",)
    assert cache.paths("libb.so", FLAGS) == ()


def test_names_give_what_ldconfig_says():
    """Every name in the cache of this machine, for its own programs."""
    own = loader.Loader(Root(""), os.uname().machine)
    wanted = {}
    for line in listing(ldcache.PATH):
        name, kind, path = line.split(" ", 1)[0], line.split("(", 1)[1], line.split(" => ")[1]
        if kind.startswith("libc6,") and "hwcap" not in kind:
            wanted.setdefault(name, os.path.realpath(path))
    found = {name: own.find(name) for name in wanted}
    assert {n: f.host_path for n, f in found.items() if f} == {
        name: path for name, path in wanted.items() if own.facts(path)
    }
    assert len(wanted) > 20


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
entries = st.builds(
    Entry, texts, texts, st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1)
)


@given(st.lists(entries), st.lists(texts, max_size=4))
def test_what_is_written_is_read_again(held, hwcaps):
    read = ldcache.parse(ldcache.serialize(LdCache(tuple(held), tuple(hwcaps))))
    assert read.hwcaps == tuple(hwcaps)
    for name in {entry.name for entry in held}:
        of_name = [entry for entry in held if entry.name == name]
        assert [entry for entry in read.entries if entry.name == name] == of_name
    assert len(read.entries) == len(held)


SAMPLE = ldcache.serialize(LdCache((Entry("liba.so.1", "/lib/liba.so.1", FLAGS),) * 3, ("v2",)))
OLD_SAMPLE = struct.pack("<12sIiII", b"ld.so-1.7.0\0", 1, 3, 0, 5) + b"liba\0/liba\0"


@given(
    st.sampled_from([SAMPLE, OLD_SAMPLE + b"\0" * 5 + SAMPLE, OLD_SAMPLE]),
    st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=5)), max_size=4),
    st.integers(0, 200),
)
def test_broken_caches_are_value_errors(sample, patches, cut):
    data = bytearray(sample)
    for offset, patch in patches:
        data[offset : offset + len(patch)] = patch
    for broken in (bytes(data), bytes(data[:cut])):
        try:
            assert isinstance(ldcache.parse(broken), LdCache)
        except ValueError:
            continue


def header(count, order=2, extension=0):
    return struct.pack("<20sIIB3xI12x", b"glibc-ld.so.cache1.1", count, 0, order, extension)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not an ld.so.cache"),
        (b"\x7fELF", "not an ld.so.cache"),
        (header(0)[:30], "too early"),
        (header(2**32 - 1), "do not fit"),
        (header(0, order=3), "byte order"),
        (header(0, extension=2**31), "too early"),
        (header(0, extension=4), "extension is broken"),
        (header(1) + struct.pack("<iIIIQ", FLAGS, 72, 2**32 - 1, 0, 0) + b"a\0", "no string"),
        (header(1) + struct.pack("<iIIIQ", FLAGS, 72, 72, 0, 0) + b"a" * 9999, "no string"),
    ],
)
def test_each_fault_is_named(data, complaint):
    with pytest.raises(ValueError, match=complaint):
        ldcache.parse(data)


def test_overlapping_strings_cannot_multiply():
    count = 1000
    text = 48 + 24 * count
    table = b"".join(struct.pack("<iIIIQ", 3, text + n, text + n, 0, 0) for n in range(count))
    with pytest.raises(ValueError, match="larger than four times"):
        ldcache.parse(header(count) + table + b"a" * 4000 + b"\0")


def test_too_large_a_file_is_not_looked_at():
    with pytest.raises(ValueError, match="more than"):
        ldcache.parse(bytes(ldcache.MAX_BYTES + 1))
