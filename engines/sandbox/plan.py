"""Words to a plan: what to mount, and how to run the program."""

from __future__ import annotations

from udocker.engines.sandbox.kernel import SandboxError
from udocker.engines.sandbox.operations import (
    SCRATCH,
    BindMount,
    Devices,
    Directory,
    Link,
    MemoryDirectory,
    Operation,
    ReadOnlyRoot,
    System,
    TextFile,
    tmpfs,
)
from udocker.engines.sandbox.root import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Plan:
    """What the words say: the root, the operations in order, and how to run the program."""

    def __init__(self) -> None:
        self.root: Root | None = None
        self.operations: list[Operation] = []
        self.uid = self.gid = 0
        self.cwd = "/"
        self.hostname = ""
        self.network = "host"
        self.readonly = False
        self.fake_root = False
        self.die_with_parent = False
        self.announce = -1
        self.join: tuple[int, ...] = ()
        self.program: list[str] = []

    def in_order(self) -> list[Operation]:
        """The operations that were asked for, in the order to apply them.

        Deeper paths come later, so that no mount hides another; equal depths keep their order.
        """
        asked = [*([_scratch()] if self._covers_scratch() else []), *self.operations]
        asked.sort(key=lambda operation: operation.path.rstrip("/").count("/"))
        last: list[Operation] = [ReadOnlyRoot()] if self.readonly else []
        return [*asked, Directory(self.cwd), *last]

    def base(self) -> list[Operation]:
        """What every container has, made first."""
        return [Devices(), System(fresh=self.network == "none"), _scratch()]

    def _covers_scratch(self) -> bool:
        """Tell whether something goes into the scratch directory after it has been covered."""
        paths = [operation.path.rstrip("/") + "/" for operation in self.operations]
        inside = any(path.startswith(SCRATCH + "/") for path in paths)
        return inside and any((SCRATCH + "/").startswith(path) for path in paths)


def _scratch() -> Operation:
    return MemoryDirectory(SCRATCH, "mode=755")


def _overlay(plan: Plan, tree: str, upper: str, work: str) -> None:
    plan.root = Root(tree, upper, work)


def _volatile_overlay(plan: Plan, tree: str, upper: str, work: str) -> None:
    plan.root = Root(tree, upper, work, volatile=True)


def _memory_overlay(plan: Plan, tree: str) -> None:
    plan.root = Root(tree, "memory", volatile=True)


def _flat(plan: Plan, tree: str) -> None:
    plan.root = Root(tree)


def _ids(plan: Plan, uid: str, gid: str) -> None:
    plan.uid, plan.gid = int(uid), int(gid)


OPTIONS = {
    "--overlay": (3, _overlay),
    "--volatile-overlay": (3, _volatile_overlay),
    "--memory-overlay": (1, _memory_overlay),
    "--flat": (1, _flat),
    "--ids": (2, _ids),
    "--bind": (2, lambda p, s, d: p.operations.append(BindMount(s, d))),
    "--ro-bind": (2, lambda p, s, d: p.operations.append(BindMount(s, d, readonly=True))),
    "--text": (2, lambda p, d, text: p.operations.append(TextFile(d, text))),
    "--symlink": (2, lambda p, target, path: p.operations.append(Link(target, path))),
    "--tmpfs": (2, lambda p, d, options: p.operations.append(tmpfs(d, options))),
    "--cwd": (1, lambda p, d: setattr(p, "cwd", d)),
    "--hostname": (1, lambda p, name: setattr(p, "hostname", name)),
    "--network": (1, lambda p, kind: setattr(p, "network", kind)),
    "--read-only": (0, lambda p: setattr(p, "readonly", True)),
    "--announce": (1, lambda p, fd: setattr(p, "announce", int(fd))),
    "--join": (1, lambda p, fds: setattr(p, "join", tuple(map(int, fds.split(","))))),
    "--die-with-parent": (0, lambda p: setattr(p, "die_with_parent", True)),
    "--fake-root": (0, lambda p: setattr(p, "fake_root", True)),
}


def parse(words: Sequence[str]) -> Plan:
    """Return the plan that `words` describe. Raises SandboxError for words it does not know."""
    plan = Plan()
    position = 0
    while position < len(words) and words[position] != "--":
        count, action = OPTIONS.get(words[position], (-1, None))
        values = words[position + 1 : position + 1 + count]
        if action is None or len(values) != count:
            raise SandboxError(f"unknown or incomplete option {words[position]!r}")
        action(plan, *values)  # type: ignore[operator]
        position += 1 + count
    plan.program = list(words[position + 1 :])
    if not plan.program or (plan.root is None and not plan.join):
        raise SandboxError("a program and a root file system (or namespaces to join) are needed")
    return plan
