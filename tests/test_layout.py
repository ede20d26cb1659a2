"""Folders at the top are packages below `udocker`, in a checkout and however it is installed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from test_layers import MODULES, module_paths
from unprivileged import ROOT

import udocker

LINKS = {"udocker/engines": "../engines", "udocker/nvidia": "../nvidia"}
PARTS = ("udocker", "engines", "nvidia", "setup.py", "pyproject.toml", "LICENSE", "README.md")


def copy_checkout(target):
    """Copy what a build reads, links as links."""
    os.makedirs(target)
    for part in PARTS:
        source = os.path.join(ROOT, part)
        if os.path.isdir(source):
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, os.path.join(target, part), symlinks=True, ignore=unwanted)
        elif os.path.exists(source):
            shutil.copy2(source, target)
    return target


def build(kind, source, target):
    """Build a `wheel`, `sdist` or `editable` with setuptools' own hook, as pip does; return it."""
    pytest.importorskip("setuptools", minversion="64")
    os.makedirs(target, exist_ok=True)
    program = f"from setuptools.build_meta import *; print(build_{kind}({str(target)!r}))"
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return os.path.join(target, done.stdout.splitlines()[-1])


def modules_in(wheel):
    """Return the dotted names of the modules in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        files = [name[: -len(".py")] for name in archive.namelist() if name.endswith(".py")]
    return {file.replace("/", ".").replace(".__init__", "") for file in files}


def python(program, *, cwd, path):
    """Run `program` in a fresh interpreter of this environment and return what it prints."""
    env = {**os.environ, "PYTHONPATH": str(path)}
    argv = [sys.executable, "-c", program]
    return subprocess.run(
        argv, cwd=cwd, env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    base = tmp_path_factory.mktemp("wheel")
    return build("wheel", copy_checkout(str(base / "checkout")), str(base / "built"))


@pytest.mark.parametrize(("link", "target"), LINKS.items())
def test_a_mapped_folder_shows_in_the_package(link, target):
    assert os.readlink(os.path.join(ROOT, link)) == target


def test_the_folder_nvidia_does_not_hide_the_wheels_of_cuda(tmp_path):
    (tmp_path / "nvidia" / "x").mkdir(parents=True)
    (tmp_path / "nvidia" / "x" / "__init__.py").write_text("version = 12\n")
    program = "import nvidia, nvidia.x, udocker.nvidia; print(nvidia.x.version)"
    assert python(program, cwd=ROOT, path=tmp_path) == "12"


def test_a_wheel_has_every_module_once_and_no_other(wheel):
    assert modules_in(wheel) == {name for name, _ in module_paths()}


def test_a_wheel_names_its_version_command_and_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        texts = {os.path.basename(n): archive.read(n).decode() for n in names if "dist-info" in n}
    assert f"\nVersion: {udocker.__version__}\n" in texts["METADATA"]
    assert "udocker = udocker.__main__:main" in texts["entry_points.txt"]
    assert "udocker/py.typed" in names


def test_a_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    source = build("sdist", copy_checkout(str(tmp_path / "checkout")), str(tmp_path))
    with tarfile.open(source) as archive:
        top = archive.getnames()[0].partition("/")[0]
        archive.extractall(str(tmp_path / "unpacked"))
    again = build("wheel", str(tmp_path / "unpacked" / top), str(tmp_path / "again"))
    assert modules_in(again) == modules_in(wheel)


def test_a_checkout_whose_links_became_text_builds_the_same_wheel(wheel, tmp_path):
    """As an unpacker without links, or Windows, leaves the zip of a commit."""
    checkout = copy_checkout(str(tmp_path / "checkout"))
    for link, target in LINKS.items():
        os.unlink(os.path.join(checkout, link))
        with open(os.path.join(checkout, link), "w") as file:
            file.write(target)
    assert modules_in(build("wheel", checkout, str(tmp_path / "built"))) == modules_in(wheel)


def test_an_editable_install_finds_the_mapped_folders(tmp_path):
    checkout = copy_checkout(str(tmp_path / "checkout"))
    editable = build("editable", checkout, str(tmp_path / "built"))
    with zipfile.ZipFile(editable) as archive:
        archive.extractall(str(tmp_path / "site"))
    program = (
        f"import site; site.addsitedir({str(tmp_path / 'site')!r})\n"
        "import udocker.engines, udocker.nvidia; print(udocker.nvidia.__file__)"
    )
    found = python(program, cwd=str(tmp_path), path="")
    assert os.path.realpath(found) == os.path.join(checkout, "nvidia", "__init__.py")


def test_a_checkout_runs_without_being_installed():
    argv = [sys.executable, "-m", "udocker", "--version"]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert udocker.__version__ in said


def test_the_version_is_written_in_one_place():
    places = [
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert places == ["udocker"]


def annotated(tree):
    """Tell whether a module has an annotation that would be evaluated at run time."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation is not None:
            return True
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
            return True
    return False


def test_annotations_are_never_evaluated():
    late = "from __future__ import annotations"
    eager = [
        name
        for name, tree in MODULES.items()
        if annotated(tree) and late not in map(ast.unparse, tree.body)
    ]
    assert eager == []


def test_every_module_can_be_read_by_python_3_9():
    for _, path in module_paths():
        with open(path, encoding="utf-8") as file:
            ast.parse(file.read(), path, feature_version=(3, 9))
