"""Machines and images for GPU tests, made of real files."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from collections import namedtuple

import pytest

from gpu import drivertree, hostimage, kerneltree
from udocker.host.probe import Host
from udocker.host.root import Root

FAKENODE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fakenode.sh")


@pytest.fixture
def machine(tmp_path):
    """A function that makes a machine with a driver, as `drivertree.build` takes its words."""

    def make(layout="deb", **words):
        return Host(drivertree.build(str(tmp_path / "machine"), layout, **words))

    return make


@pytest.fixture
def kernel(tmp_path):
    """A function that makes a machine with a kernel module and no file of its driver."""

    def make(**words):
        root = str(tmp_path / "machine")
        kerneltree.build_kernel(root, **words)
        return Host(root)

    return make


@pytest.fixture(scope="session")
def libc(tmp_path_factory):
    """A function that links a libc.so.6 which defines versions, and returns its bytes."""
    directory = str(tmp_path_factory.mktemp("libc"))

    @functools.cache
    def make(*versions):
        text = "".join(f"{name} {{ global: v{n}; }};\n" for n, name in enumerate(versions))
        drivertree.write(directory, "map", text)
        source = "".join(f"int v{n};" for n, _ in enumerate(versions))
        words = ["-Wl,-soname,libc.so.6", f"-Wl,--version-script,{directory}/map"]
        path = os.path.join(directory, "libc.so.6")
        command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", *words, "-o", path]
        subprocess.run(command, input=source.encode(), check=True)
        with open(path, "rb") as file:
            return file.read()

    return make


def glibc_versions(newest):
    """Return the versions that a glibc up to `newest` (`GLIBC_2.36`) defines."""
    last = int(newest.rpartition(".")[2])
    small = ("GLIBC_2.2.5", "GLIBC_2.2.6", "GLIBC_2.3.2", "GLIBC_2.3.3", "GLIBC_2.3.4")
    middle = (f"GLIBC_2.{minor}" for minor in range(3, last + 1))
    kinds = ("GLIBC_ABI_DT_RELR",) if last >= 36 else ()
    return (*small, *middle, *kinds, "GLIBC_PRIVATE")


@pytest.fixture
def image(tmp_path, libc):
    """A function that makes an image's tree: a C library up to `newest`, and further files."""

    def make(newest="GLIBC_2.36", files=(), place=f"usr/lib/{drivertree.MACHINE}-linux-gnu"):
        root = str(tmp_path / "image")
        os.makedirs(root, exist_ok=True)
        if newest:
            drivertree.write(root, f"{place}/libc.so.6", libc(*glibc_versions(newest)))
        for path, content in dict(files).items():
            drivertree.write(root, path, content)
        return Root(root)

    return make


@pytest.fixture
def dressed(machine, unprivileged):
    """A function that dresses this very machine, as `machine` takes its words, and returns one
    that runs udocker on it as a user; it changes the tree before with `change(root)`."""

    def dress(layout="deb", change=None, **words):
        tree = machine(layout, **words).root
        if change is not None:
            change(tree)

        def udocker(*words, deny=(), env=None, null=True):
            options = [word for minor in deny for word in ("--deny", str(minor))]
            options += ["--null-nodes"] * null
            ids = [f"--reuid={unprivileged.uid}", f"--regid={unprivileged.gid}", "--clear-groups"]
            command = ["setpriv", *ids, unprivileged.python, "-m", "udocker", *words]
            return subprocess.run(
                ["bash", FAKENODE, *options, tree, *command],
                env=unprivileged.environment(env),
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )

        return udocker

    return dress


@pytest.fixture(scope="session")
def linked(tmp_path_factory):
    """A function that links a library of that C text and SONAME and returns its bytes."""
    path = str(tmp_path_factory.mktemp("linked") / "library")

    def make(text, soname):
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{soname}", "-o", path]
        subprocess.run(command, input=text.encode(), check=True)
        with open(path, "rb") as file:
            return file.read()

    return make


TORCH = "UDOCKER_TEST_TORCH"
"""Names a directory in which `pip install --target` has put a PyTorch for this Python, of 200 MB
and more: only then it is tried."""
Programs = namedtuple("Programs", "image_words directory python")
"""An image of this machine's Python, as words for `udocker import`; the programs to run in it, in
a directory that every user can read; and the interpreter's path."""


def torch_directory():
    """Return where PyTorch lies, if it was named or this Python has one; empty: there is none."""
    found = importlib.util.find_spec("torch")
    installed = os.path.dirname(os.path.dirname(found.origin)) if found and found.origin else ""
    return os.environ.get(TORCH, installed)


@pytest.fixture(scope="session")
def programs(public_directory):
    """This machine's Python as an image, and what lies in `inside/` to run in it."""
    directory = os.path.join(public_directory, "inside")
    shutil.copytree(os.path.join(os.path.dirname(FAKENODE), "inside"), directory)
    shutil.copy(importlib.util.find_spec("pynvml").origin, directory)
    words = hostimage.build(os.path.join(public_directory, "python.tar"), torch_directory())
    return Programs(words, directory, hostimage.python())
