"""The tree is the architecture: imports point down, and third-party packages enter by one gate.

Every module is parsed, none is imported, so lazy imports count like all others. Imports under
`TYPE_CHECKING` count too: a type from above is a dependency on what lies above. Only for cycles
do they not count where a protocol names a partner that implements or receives it (`PROTOCOLS`),
because there is no cycle of execution.
"""

from __future__ import annotations

import ast
import os
import pkgutil
import sys
import sysconfig

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDERS = {"udocker": "udocker", "engines": "udocker.engines", "nvidia": "udocker.nvidia"}

# Highest first. A module may import from its own group and from lines below; groups of one line
# are siblings that never import each other. `package.*` is the package and all below it; a
# module that is named stands where it is named: names of images belong to no registry.
LAYERS = (
    (("udocker.__main__", "udocker.cli"),),
    (("udocker.commands.*",),),
    (("udocker.selftest.*",), ("udocker.provision.*", "udocker.diagnosis.*")),
    (("udocker.transfer.*",), ("udocker.engines.*",), ("udocker.nvidia.*",)),
    (("udocker.containers.*",), ("udocker.trust.*",)),
    (("udocker.images.*",), ("udocker.registry.*",)),
    (("udocker.host.*",),),
    (("udocker.oci", "udocker.reference", "udocker.artifacts", "udocker.platforms"),),
    (
        (
            "udocker",
            "udocker.errors",
            "udocker.settings",
            "udocker.console",
            "udocker.disk",
            "udocker.filesystems",
            "udocker.trees",
            "udocker.values",
            "udocker.fastjson",
        ),
    ),
)
GATES = {
    "click": ("udocker.cli", "udocker.commands.*"),
    "requests": ("udocker.registry.proxied",),
    "urllib3": ("udocker.registry.proxied",),  # what requests is made of
    "certifi": ("udocker.registry.certificates",),  # what requests trusts
    "tomllib": ("udocker.registry.toml",),  # of the standard library from Python 3.11 on
    "tomli": ("udocker.registry.toml",),
    "elftools": ("udocker.host.elf",),
    "psutil": ("udocker.host.processes",),
    "pynvml": ("udocker.nvidia.devices.nvml",),
    "yaml": ("udocker.nvidia.cdi.*",),
    "ctypes": ("udocker.engines.sandbox.*",),
    "tqdm": ("udocker.console",),
    "zstandard": (
        "udocker.images.compression.decompress",
        "udocker.images.compression.codecs",
        "udocker.images.compression.compress",
    ),
    "backports": ("udocker.images.compression.codecs",),
    "compression": ("udocker.images.compression.codecs",),
    "zlib_ng": ("udocker.images.compression.codecs",),
    "cryptography": ("udocker.trust.keys",),
    "isal": ("udocker.images.compression.codecs", "udocker.images.compression.compress"),
}
PROTOCOLS = {("udocker.containers.spec", "udocker.containers.container")}
STANDALONE = ("udocker.engines.sandbox.*",)
"""A package that runs alone, without site-packages: nothing else of udocker."""

MAY_EXIT = ("udocker.__main__", "udocker.cli")
MAY_RAISE_SYSTEM_EXIT = (*MAY_EXIT, *STANDALONE)
MAY_PRINT = ("udocker.console", "udocker.commands.*", *STANDALONE)
MAY_IMPORT_BY_NAME = ("udocker.cli", "udocker.commands.group", "udocker.engines.select")


def matches(name, patterns):
    """Tell whether a module is one of `patterns` (`a.b`, or `a.b.*` with all below)."""
    return any(
        name == pattern or (pattern.endswith(".*") and f"{name}.".startswith(pattern[:-1]))
        for pattern in patterns
    )


def module_paths():
    """Yield (dotted name, path) of every module; links are not followed."""
    for folder, package in FOLDERS.items():
        top = os.path.join(ROOT, folder)
        for directory, folders, files in os.walk(top):
            folders[:] = [name for name in folders if name != "__pycache__"]
            dotted = os.path.relpath(directory, top).replace(os.sep, ".")
            parent = package if dotted == "." else f"{package}.{dotted}"
            for file in files:
                if file.endswith(".py"):
                    stem = file[: -len(".py")]
                    path = os.path.join(directory, file)
                    yield parent if stem == "__init__" else f"{parent}.{stem}", path


def parse(path):
    with open(path, encoding="utf-8") as file:
        return ast.parse(file.read(), path)


MODULES = {name: parse(path) for name, path in module_paths()}


def imported(tree):
    """Yield (module, line) for every import statement, relative ones as `.`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield ".", node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield member if member in MODULES else node.module, node.lineno


def own_imports(name):
    """Return the modules of this project that the module `name` imports, with the lines."""
    found = imported(MODULES[name])
    return [(target, line) for target, line in found if target.partition(".")[0] == "udocker"]


def standard_names():
    """Return the top-level names of the standard library (3.9 does not list them itself)."""
    known = getattr(sys, "stdlib_module_names", None)
    if known is not None:
        return known
    library = sysconfig.get_path("stdlib")
    places = [library, os.path.join(library, "lib-dynload")]
    return {module.name for module in pkgutil.iter_modules(places)} | {*sys.builtin_module_names}


def place(name):
    """Return (line, group) of a module in LAYERS, None when it has none."""
    places = [
        ((line, group), patterns)
        for line, groups in enumerate(LAYERS)
        for group, patterns in enumerate(groups)
        if matches(name, patterns)
    ]
    named = [found for found, patterns in places if name in patterns]
    return next(iter([*named, *(found for found, _ in places)]), None)


def layer_fault(importer, target):
    """Return why `importer` may not import `target`, None when it may."""
    mine, other = place(importer), place(target)
    if mine is None or other is None or target == "udocker":
        return None  # a module without a line is told by its own test
    if other[0] < mine[0]:
        return f"{target} lies above {importer}"
    if other[0] == mine[0] and other[1] != mine[1]:
        return f"{target} and {importer} are siblings"
    return None


def gate_fault(importer, target):
    """Return why a foreign module may not be imported by `importer`, None when it may."""
    top = target.partition(".")[0]
    if top in GATES:
        gates = GATES[top]
        return None if matches(importer, gates) else f"{top} enters by {' or '.join(gates)} only"
    if top in ("udocker", "__future__") or top in standard_names():
        return None
    return f"{top} is neither of the standard library nor a dependency with a gate"


def cycle_from(start, edges):
    """Return the modules of a cycle through `start`, empty when there is none."""
    paths = [[start]]
    seen = set()
    while paths:
        path = paths.pop()
        for target in edges[path[-1]]:
            if target == start:
                return [*path, start]
            if target not in seen:
                seen.add(target)
                paths.append([*path, target])
    return []


def called(tree):
    """Yield (dotted name, line) of every plain call and of every raised exception."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            yield ast.unparse(node.func), node.lineno
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
            yield node.exc.id, node.lineno


def forbidden_calls(words, allowed):
    """Return `module:line: call` of every call of one of `words` outside the allowed modules."""
    return [
        f"{name}:{line}: {call}"
        for name, tree in MODULES.items()
        if not matches(name, allowed)
        for call, line in called(tree)
        if call in words
    ]


def faults(check):
    """Return what `check(importer, target)` says against any import, with its place."""
    return [
        f"{importer}:{line}: {fault}"
        for importer, tree in MODULES.items()
        for target, line in imported(tree)
        for fault in [check(importer, target)]
        if fault
    ]


def test_every_module_has_a_line():
    homeless = [name for name in MODULES if place(name) is None]
    assert homeless == [], f"add it to LAYERS: {homeless}"


def test_imports_are_absolute():
    assert faults(lambda _, target: "relative import" if target == "." else None) == []


def test_imports_point_down_and_never_to_a_sibling():
    assert faults(layer_fault) == []


def test_third_party_packages_enter_by_their_gates_only():
    assert faults(lambda name, target: None if target == "." else gate_fault(name, target)) == []


def test_no_module_imports_itself_through_others():
    edges = {
        name: {
            target
            for target, _ in own_imports(name)
            if target in MODULES and target != name and (name, target) not in PROTOCOLS
        }
        for name in MODULES
    }
    assert [cycle for name in MODULES for cycle in [cycle_from(name, edges)] if cycle] == []


@pytest.mark.parametrize("name", [name for name in MODULES if matches(name, STANDALONE)])
def test_a_package_that_runs_alone_imports_nothing_else_of_udocker(name):
    found = own_imports(name)
    assert [target for target, _ in found if not matches(target, STANDALONE)] == []


def test_modules_are_imported_by_name_in_the_command_line_only():
    hidden = {"__import__", "importlib.import_module", "import_module"}
    assert forbidden_calls(hidden, MAY_IMPORT_BY_NAME) == []


def test_only_the_command_line_exits():
    assert forbidden_calls({"sys.exit", "exit", "quit"}, MAY_EXIT) == []
    assert forbidden_calls({"SystemExit"}, MAY_RAISE_SYSTEM_EXIT) == []


def test_only_console_and_commands_print():
    assert forbidden_calls({"print"}, MAY_PRINT) == []


@pytest.mark.parametrize(
    ("importer", "target", "fault"),
    [
        ("udocker.images.store", "udocker.registry.client", "siblings"),
        ("udocker.engines.proot", "udocker.nvidia.cdi", "siblings"),
        ("udocker.containers.spec", "udocker.engines.userns", "above"),
        ("udocker.errors", "udocker.oci", "above"),
        ("udocker.reference", "udocker.registry.client", "above"),
        ("udocker.images.store", "udocker.reference", ""),
        ("udocker.selftest", "udocker.commands.run", "above"),
        ("udocker.commands.run", "udocker.engines.select", ""),
        ("udocker.cli", "udocker.__main__", ""),
        ("udocker.containers.store", "udocker", ""),
    ],
)
def test_the_rule_of_layers_tells_good_from_bad(importer, target, fault):
    found = layer_fault(importer, target) or ""
    assert fault in found and bool(fault) == bool(found)


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("udocker.registry.proxied", "requests.adapters", True),
        ("udocker.registry.connection", "requests", False),
        ("udocker.commands.run", "click", True),
        ("udocker.commands_of_mine", "click", False),
        ("udocker.oci", "hashlib", True),
        ("udocker.oci", "numpy", False),
    ],
)
def test_the_rule_of_gates_tells_good_from_bad(importer, target, allowed):
    assert (gate_fault(importer, target) is None) == allowed


def test_a_cycle_is_found_whatever_its_length():
    edges = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"d"}}
    assert cycle_from("a", edges) == ["a", "b", "c", "a"]
    assert cycle_from("d", edges) == ["d", "d"]
    assert cycle_from("e", {"e": {"a"}, "a": set()}) == []
