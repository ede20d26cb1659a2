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
from udocker.engines.sandbox.root import MEMORY, Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from udocker.engines.sandbox.ids import Ranges


class Plan:
    """What the words say: the root, the operations in order, and how to run the program."""

    def __init__(self) -> None:
        self.root: Root | None = None
        self.operations: list[Operation] = []
        self.uid = self.gid = 0
        self.cwd = "/"
        self.hostname = ""
        self.network = "host"
        self.private_pids = False
        self.published: list[tuple[str, int, int, str]] = []
        """Address and port of the host, port of the container, `tcp` or `udp`."""
        self.uid_ranges: Ranges = ()
        self.gid_ranges: Ranges = ()
        self.set_ids = False
        """The user's ids are among several that are mapped, and have to be taken."""
        self.lowers: list[str] = []
        self.system_directories = True
        self.readonly = False
        self.fake_root = False
        self.no_root = False
        """The program runs where this process runs: no namespaces, no other root."""
        self.refuse: tuple[str, ...] = ()
        self.die_with_parent = False
        self.announce = -1
        self.map_self: tuple[int, int] | None = None
        """Who the program is that joins others, where it is not the same as they are."""
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
        if not self.system_directories:
            return [Devices(shared=False), Directory("/sys"), _scratch()]
        return [Devices(), System(fresh=self.network == "none"), _scratch()]

    def _covers_scratch(self) -> bool:
        """Tell whether something goes into the scratch directory after it has been covered."""
        paths = [operation.path.rstrip("/") + "/" for operation in self.operations]
        inside = any(path.startswith(SCRATCH + "/") for path in paths)
        return inside and any((SCRATCH + "/").startswith(path) for path in paths)


def _scratch() -> Operation:
    return MemoryDirectory(SCRATCH, "mode=755")


def _overlay(plan: Plan, tree: str, upper: str, work: str) -> None:
    plan.root = Root(tree, upper, work, lowers=plan.lowers)


def _volatile_overlay(plan: Plan, tree: str, upper: str, work: str) -> None:
    plan.root = Root(tree, upper, work, lowers=plan.lowers, volatile=True)


def _memory_overlay(plan: Plan, tree: str) -> None:
    plan.root = Root(tree, MEMORY, lowers=plan.lowers, volatile=True)


def _flat(plan: Plan, tree: str) -> None:
    plan.root = Root(tree)


def _ids(plan: Plan, uid: str, gid: str) -> None:
    plan.uid, plan.gid = int(uid), int(gid)


def _ranges(plan: Plan, uids: str, gids: str) -> None:
    from udocker.engines.sandbox.ids import parse_ranges  # few runs need it

    plan.uid_ranges, plan.gid_ranges = parse_ranges(uids), parse_ranges(gids)
    plan.set_ids = True


def _publish(plan: Plan, host_ip: str, host_port: str, port: str, protocol: str) -> None:
    plan.published.append((host_ip, int(host_port), int(port), protocol))


def _map_self(plan: Plan, uid: str, gid: str) -> None:
    plan.map_self = (int(uid), int(gid))


OPTIONS = {
    "--overlay": (3, _overlay),
    "--volatile-overlay": (3, _volatile_overlay),
    "--memory-overlay": (1, _memory_overlay),
    "--flat": (1, _flat),
    "--lower": (1, lambda p, d: p.lowers.append(d)),
    "--ids": (2, _ids),
    "--map-ids": (2, _ranges),
    "--set-ids": (0, lambda p: setattr(p, "set_ids", True)),
    "--bind": (2, lambda p, s, d: p.operations.append(BindMount(s, d))),
    "--ro-bind": (2, lambda p, s, d: p.operations.append(BindMount(s, d, readonly=True))),
    "--text": (2, lambda p, d, text: p.operations.append(TextFile(d, text))),
    "--symlink": (2, lambda p, target, path: p.operations.append(Link(target, path))),
    "--tmpfs": (2, lambda p, d, options: p.operations.append(tmpfs(d, options))),
    "--cwd": (1, lambda p, d: setattr(p, "cwd", d)),
    "--hostname": (1, lambda p, name: setattr(p, "hostname", name)),
    "--network": (1, lambda p, kind: setattr(p, "network", kind)),
    "--publish": (4, _publish),
    "--private-pids": (0, lambda p: setattr(p, "private_pids", True)),
    "--no-system-directories": (0, lambda p: setattr(p, "system_directories", False)),
    "--read-only": (0, lambda p: setattr(p, "readonly", True)),
    "--announce": (1, lambda p, fd: setattr(p, "announce", int(fd))),
    "--join": (1, lambda p, fds: setattr(p, "join", tuple(map(int, fds.split(","))))),
    "--die-with-parent": (0, lambda p: setattr(p, "die_with_parent", True)),
    "--no-root": (0, lambda p: setattr(p, "no_root", True)),
    "--refuse": (1, lambda p, names: setattr(p, "refuse", tuple(names.split(",")))),
    "--map-self": (2, _map_self),
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
    if not plan.program or not (plan.root or plan.join or plan.no_root):
        raise SandboxError("a program and a root file system (or namespaces to join) are needed")
    return plan
