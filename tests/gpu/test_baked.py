"""An image with an older driver in it, run on a dressed machine: the host's wins by every way."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile

import pytest

from gpu import drivertree
from udocker.containers.hostfiles import files_of
from udocker.containers.store import ContainerStore
from udocker.host import loader
from udocker.host.root import Root, Stack
from udocker.images.store import ImageStore
from udocker.nvidia import driver, placement

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can dress a machine"),
]
WHERE = f"usr/lib/{drivertree.MACHINE}-linux-gnu"
OLD = f"{WHERE}/libcuda.so.550.54"
LEGACY = "usr/local/nvidia/lib64"
NAME = "baked:1"

PROBE = """
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **names) {
    for (int i = 1; i < count; ++i) {
        void *held = dlopen(names[i], RTLD_NOW);
        int (*version)(int *) = held ? dlsym(held, "cuDriverGetVersion") : 0, number = 0;
        if (version)
            version(&number);
        printf("%s %d %s\\n", names[i], number, held ? "" : dlerror());
    }
    return 0;
}
"""
USER = """
int cuDriverGetVersion(int *);
int used(void) { int number = 0; cuDriverGetVersion(&number); return number; }
"""


@pytest.fixture(scope="module")
def archive(public_directory):
    """The words that import an image: a program that opens libraries, and an older driver."""
    directory = os.path.join(public_directory, "baked")
    os.makedirs(directory)
    compile_c(PROBE, f"{directory}/probe", "-ldl")
    drivertree.write(directory, "libcuda.so.1", drivertree.compiled()["cuda"])
    words = ["-shared", "-fPIC", f"-Wl,-rpath,/{LEGACY}", f"{directory}/libcuda.so.1"]
    compile_c(USER, f"{directory}/libuser.so", *words)
    old = drivertree.stub_library("libcuda.so.1")
    files = {"bin/probe": content(f"{directory}/probe"), OLD: old}
    files[f"{LEGACY}/libcuda.so.1"] = old
    files["opt/libuser.so"] = content(f"{directory}/libuser.so")
    for path, host_path in loader.closure([f"{directory}/probe"], Root("")).items():
        if not path.startswith(directory):
            files[path[1:]] = content(host_path)
    with tarfile.open(f"{directory}/image.tar", "w") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
        member = tarfile.TarInfo(f"{WHERE}/libcuda.so.1")
        member.type, member.linkname = tarfile.SYMTYPE, "libcuda.so.550.54"
        tar.addfile(member)
    variable = f"ENV LD_LIBRARY_PATH=/{LEGACY}"
    return ["import", "--quiet", "--change", variable, f"{directory}/image.tar", NAME]


def compile_c(source, path, *words):
    command = ["gcc", "-x", "c", "-", "-x", "none", *words, "-o", path]
    subprocess.run(command, input=source.encode(), check=True)


def content(path):
    with open(path, "rb") as file:
        return file.read()


@pytest.fixture
def probe(dressed, unprivileged, archive):
    """A function that opens libraries in a container; the numbers are versions of their CUDA."""
    unprivileged.udocker(*archive)
    udocker = dressed()

    def opened(engine, *names, options=("--gpu",)):
        done = udocker("run", f"--engine={engine}", *options, NAME, "/bin/probe", *names)
        lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
        assert len(lines) == len(names), done.stderr
        return {name: int(number) for name, number, _ in lines}, done

    return opened


@pytest.mark.parametrize("engine", ["N2", "P1", "F3"])
def test_names_give_the_hosts_driver(probe, engine):
    versions, done = probe(engine, "libcuda.so.1", "libcuda.so")
    assert versions == {"libcuda.so.1": 13000, "libcuda.so": 13000}, done
    assert "image contains its own libcuda.so.1 (550.54" in done.stderr
    assert f"LD_LIBRARY_PATH without /{LEGACY}" in done.stderr


def test_where_binds_are_cheap_even_whole_paths_and_runpaths_give_it(probe):
    names = [f"/{OLD}", f"/{WHERE}/libcuda.so.1", f"/{LEGACY}/libcuda.so.1", "/opt/libuser.so"]
    for name in names:
        versions, done = probe("N2", name)
        assert versions == {name: 13000}, done


def test_without_gpus_the_image_is_as_it_was(probe):
    versions, _ = probe("N2", f"/{OLD}", options=())
    assert versions == {f"/{OLD}": 0}


def test_containers_of_one_image_are_judged_once(unprivileged, archive, machine, tmp_path):
    unprivileged.udocker(*archive)
    host, kept = machine(), str(tmp_path / "kept")
    found = driver.load(host, kept)
    place = os.path.join(unprivileged.home, ".udocker")
    store = ContainerStore(place, ImageStore(place).trees)
    answers = set()
    for name, engine in (("a", "N2"), ("b", "N2"), ("c", "P1")):
        unprivileged.udocker("create", f"--name={name}", NAME)
        unprivileged.udocker("run", f"--engine={engine}", name, "/bin/probe")
        files = files_of(store.find(name))
        assert isinstance(files, Stack) == (engine == "N2")
        made = placement.place(found, ("compute",), files, host.machine, kept)
        answers.add(made.cache_file)
    assert len(answers) == 1
