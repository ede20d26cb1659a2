"""What is installed: the folders `engines` and `nvidia` become packages of `udocker`."""

from __future__ import annotations

import ast
import os

from setuptools import find_packages, setup

HERE = os.path.dirname(os.path.abspath(__file__))
MAPPED = ("engines", "nvidia")
"""Top-level folders that are installed, and imported, as packages of `udocker`."""

DEPENDENCIES = [
    "click>=8.0",
    "requests>=2.28",
    'tomli>=1.1;python_version<"3.11"',
    "pyelftools>=0.29",
    "psutil>=5.9",
    "nvidia-ml-py>=12.535",
    "tqdm>=4.64",
    "zstandard>=0.19",
    "PyYAML>=6.0",
]
EXTRAS = {
    "fast": ["isal>=1.5"],
    "socks": ["PySocks>=1.5.6,!=1.5.7"],
    "trust": ["cryptography>=38"],
    "types": [
        "mypy>=1.14",
        "tomli>=1.1",
        "types-PyYAML",
        "types-psutil",
        "types-requests",
        "types-tqdm",
    ],
    "test": [
        "PySocks>=1.5.6,!=1.5.7",
        "cryptography>=38",
        "hypothesis>=6.80",
        # pytest-xdist 3.8 loses the groups of tests under pytest 9.2, so that both workers make
        # what one makes for all (debootstrap's systems)
        "pytest>=8.0,<9.2",
        "pytest-xdist>=3.5",
        "ruff>=0.8",
        "setuptools>=64",
        "wheel>=0.38",
    ],
}


def version() -> str:
    """Return `udocker.__version__` without importing udocker, whose dependencies may be missing."""
    path = os.path.join(HERE, "udocker", "__init__.py")
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read(), path)
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return str(ast.literal_eval(statement.value))
    raise SystemExit(f"{path}: no __version__")


def readme() -> str:
    """Return the text of README.md, empty where a partial checkout lacks it."""
    try:
        with open(os.path.join(HERE, "README.md"), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def packages() -> list[str]:
    """Return every package; one found through a link is named once, by its mapping."""
    own = find_packages(HERE, include=["udocker", "udocker.*"])
    linked = tuple(f"udocker.{folder}" for folder in MAPPED)
    names = [name for name in own if not name.startswith(linked)]
    for folder in MAPPED:
        below = find_packages(os.path.join(HERE, folder))
        names += [f"udocker.{folder}", *(f"udocker.{folder}.{name}" for name in below)]
    return sorted(names)


setup(
    name="udocker",
    version=version(),
    description="Run containers without root, with the node's GPU",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.9",
    install_requires=DEPENDENCIES,
    extras_require=EXTRAS,
    packages=packages(),
    package_dir={f"udocker.{folder}": folder for folder in MAPPED},
    package_data={"udocker": ["py.typed"]},
    entry_points={"console_scripts": ["udocker = udocker.__main__:main"]},
    zip_safe=False,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
