"""Which libfakechroot fits which C library: stand-ins of both, made by the compiler."""

from __future__ import annotations

import os
import subprocess

import pytest

from udocker.engines.rebase import preload
from udocker.errors import UdockerError
from udocker.host import ldcache
from udocker.host.root import Root

MACHINE = os.uname().machine
pytestmark = pytest.mark.skipif(MACHINE not in preload.LOADERS, reason=f"needs no {MACHINE}")
LOADER = preload.LOADERS.get(MACHINE, ("",))[0]
OLD, NEW = ("__xstat", "__lxstat", "__fxstatat", "statx"), ("stat", "lstat", "fstatat", "statx")


def compiled(path, source, *words):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-w", "-x", "c", "-", "-x", "none"]
    subprocess.run([*command, *words, "-o", path], input=source.encode(), check=True)
    return path


def make_libc(path, *versions):
    """Make a `libc.so.6` that defines a function for each version of glibc."""
    names = {version: f"f{version.replace('.', '_')}" for version in versions}
    script = "".join(f"GLIBC_{version} {{ {name}; }};\n" for version, name in names.items())
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.map", "w") as file:
        file.write(script)
    source = "".join(f"void {name}(void) {{}}" for name in names.values())
    words = ("-Wl,-soname,libc.so.6", f"-Wl,--version-script,{path}.map")
    return compiled(path, source, *words)


@pytest.fixture
def library(tmp_path):
    """Make a libfakechroot that needs versions of glibc and has functions."""

    def make(name, versions, functions):
        libc = make_libc(f"{tmp_path}/{name}/libc.so.6", *versions)
        needed = "".join(f"void f{v.replace('.', '_')}(void); " for v in versions)
        calls = "".join(f"f{v.replace('.', '_')}(); " for v in versions)
        body = "".join(f"int {function}(void) {{ return 0; }}" for function in functions)
        source = f"{needed} void all(void) {{ {calls} }} {body}"
        path = compiled(f"{tmp_path}/{name}/libfakechroot.so", source, libc)
        return preload.read(path)

    return make


@pytest.fixture
def system(tmp_path):
    """Make a container's root with a glibc of the given versions."""

    def make(*versions, place="usr/lib"):
        root = f"{tmp_path}/root"
        make_libc(f"{root}/{place}/libc.so.6", *versions)
        os.makedirs(os.path.dirname(root + LOADER), exist_ok=True)
        with open(root + LOADER, "w"):
            pass
        files = Root(root)
        return files, preload.glibc_of(files, MACHINE)

    return make


def test_the_library_for_the_containers_glibc_is_chosen(library, system):
    new = library("new", ["2.34"], NEW)
    old = library("old", ["2.14"], OLD)
    assert (new.glibc, old.glibc) == ((2, 34), (2, 14))
    for versions, chosen in {("2.14", "2.31"): old, ("2.14", "2.34", "2.41"): new}.items():
        files, glibc = system(*versions)
        assert preload.choose((new, old), files, glibc) is chosen
        assert preload.choose((old, new), files, glibc) is chosen


def test_of_two_that_fit_the_first_is_chosen(library, system):
    first, second = (library(name, ["2.34"], NEW) for name in ("first", "second"))
    assert preload.choose((first, second), *system("2.34")) is first


def test_what_does_not_fit_is_told_with_both_versions(library, system):
    new, old = library("new", ["2.34"], NEW), library("old", ["2.14"], OLD)
    files, glibc = system("2.14", "2.33")
    with pytest.raises(UdockerError) as told:
        preload.choose((new, old), files, glibc)
    assert "glibc 2.33: " in told.value.message
    assert f"{new.path} needs glibc 2.34" in told.value.message
    assert f"{old.path} does not see the calls of stat and lstat" in told.value.message
    assert told.value.hint == "udocker install libfakechroot"


@pytest.mark.parametrize("missing", NEW)
def test_a_library_that_misses_one_way_to_ask_does_not_fit(library, system, missing):
    lame = library("lame", ["2.34"], [name for name in NEW if name != missing])
    assert missing in preload.misfit(lame, *system("2.34"))


def test_symbols_that_are_only_used_are_no_functions_of_the_library(library):
    assert "f2_34" not in library("new", ["2.34"], NEW).functions


def test_a_container_with_another_c_library_has_no_glibc(tmp_path, system):
    files, glibc = system("2.31")
    assert glibc.loader == LOADER and glibc.number == (2, 31) and not glibc.knows_argv0
    os.unlink(f"{tmp_path}/root{LOADER}")
    assert preload.glibc_of(files, MACHINE) is None
    os.makedirs(f"{tmp_path}/root/lib", exist_ok=True)
    assert not preload.is_musl(files, MACHINE)
    with open(f"{tmp_path}/root/lib/ld-musl-{MACHINE}.so.1", "w"):
        pass
    assert preload.is_musl(files, MACHINE)


def test_a_libc_that_is_no_library_is_none(tmp_path, system):
    files, _ = system("2.31")
    with open(f"{tmp_path}/root/usr/lib/libc.so.6", "wb") as file:
        file.write(b"\x7fELF" + os.urandom(200))
    assert preload.glibc_of(files, MACHINE) is None


def test_libraries_are_looked_for_where_the_configuration_says(tmp_path, system):
    root = f"{tmp_path}/root"
    for name in ("opt/one", "opt/two", "opt/cached", "etc/ld.so.conf.d", "usr/lib"):
        os.makedirs(f"{root}/{name}")
    os.symlink("/opt/one", f"{root}/opt/same")
    texts = {
        "ld.so.conf": "include ld.so.conf.d/*.conf\n/opt/none # nothing\ninclude /etc/ld.so.conf\n",
        "ld.so.conf.d/a.conf": "# first\n/opt/two\n/opt/same\n",
        "ld.so.conf.d/b.conf": "/opt/one\nrelative\nhwcap 0 /opt/hwcap\n",
        "ld.so.conf.d/c.txt": "/usr\n",
    }
    for name, text in texts.items():
        with open(f"{root}/etc/{name}", "w") as file:
            file.write(text)
    flags = ldcache.FLAGS[MACHINE]
    entry = ldcache.Entry("libx.so", "/opt/cached/libx.so", flags)
    with open(f"{root}/etc/ld.so.cache", "wb") as file:
        file.write(ldcache.serialize(ldcache.LdCache((entry,))))
    found = preload.library_directories(Root(root), MACHINE)
    assert found == ("/opt/two", "/opt/same", "/opt/cached", "/usr/lib")


def test_the_libraries_of_this_host_are_read():
    for library in preload.libraries("/nowhere"):
        assert library.glibc > (2,) and "open" in library.functions
