"""The embedded engine: user namespaces, with nothing to install (modes N1 flat, N2 overlay)."""

from __future__ import annotations

import os
import sys

from udocker import disk, trees
from udocker.containers import features
from udocker.containers.rootfs import own_copy
from udocker.containers.skeleton import is_foreign, make_upper
from udocker.containers.spec import Launch, Rootfs
from udocker.containers.store import announced
from udocker.engines import facts, launching
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from udocker.containers.container import Container
    from udocker.containers.spec import RuntimeSpec
    from udocker.disk import Lock
    from udocker.host.probe import Host

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox")
MEMORY_OVERLAY = (6, 6)
"""The first kernel whose tmpfs has the attributes by which an overlay notes what was removed."""


@dataclass(frozen=True)
class Support:
    """What the kernel lets this user do: `step` is empty, or what failed with `errno`."""

    step: str
    errno: int

    @property
    def namespaces(self) -> bool:
        """Namespaces with mounts in them can be made."""
        return self.step not in ("namespaces", "mount")

    @property
    def overlay(self) -> bool:
        """A writable layer in the store's file system can lie over a tree."""
        return not self.step


class UsernsEngine:
    """Runs containers in a user namespace of the caller's own, natively and in place."""

    name = "userns"
    features = frozenset(
        (
            *(features.OVERLAY, features.FAKE_ROOT, features.OTHER_USER, features.HOST_NAME),
            *(features.PRIVATE_NETWORK, features.TMPFS, features.READ_ONLY_ROOT),
            *(features.READ_ONLY_BINDS, features.STATIC_PROGRAMS, features.MUSL),
            *(features.PROCESS_NAMESPACE, features.PORTS, features.MANY_IDS),
            *(features.NESTED_BINDS, features.DEVICES, features.OWN_NAMES),
            *(features.KEEP_ID, features.CHEAP_BINDS),
        )
    )

    alters = False

    def __init__(self, directory: str, mode: str = "") -> None:
        """`directory` is the store's: its file system decides whether overlays can be had.

        The mode N1 asks for a copy of the tree even where they can.
        """
        self.directory = directory
        self.mode = mode or "N2"
        self.flat = mode == "N1"

    def obstacle(self, host: Host) -> str | None:
        """Return why user namespaces cannot be used here; None when they can."""
        support = self.support(host)
        if support.namespaces:
            return None
        from udocker.engines import refusals

        return refusals.explain(host, support.step, support.errno)

    def stops_every_call(self, host: Host) -> bool:
        """Programs run at their own speed."""
        return False

    def obstacle_of(self, container: Container) -> str | None:
        """Every container can run."""
        return None

    def obstacle_to_mode(self, host: Host, container: Container | None) -> str | None:
        """Return why N2, asked for as such, cannot be had: the other way would be a copy."""
        if self.flat:
            return None
        if container and os.path.isdir(container.rootfs):
            return (
                f"container {container.id[:12]} is a copy and no layer over its image; N1 runs it"
            )
        if self.support(host).overlay:
            return None
        return f"the file system of {self.directory} carries no overlay; N1 makes a copy"

    def rootfs(self, host: Host, container: Container) -> Rootfs:
        """Return the root file system that `container` gets: an overlay where there can be one.

        Else what is thrown away lies over the tree in memory, and what stays is a copy.
        """
        if os.path.isdir(container.rootfs) or self.flat:
            return Rootfs(container.rootfs, flat=True)
        if self.support(host).overlay:
            return Rootfs(
                container.tree, container.upper, container.work, volatile=container.ephemeral
            )
        in_memory = host.kernel >= MEMORY_OVERLAY and not is_foreign(container.tree)
        if container.ephemeral and in_memory:
            return Rootfs(container.tree)
        return Rootfs(container.rootfs, flat=True)

    def prepare(self, container: Container, rootfs: Rootfs) -> None:
        """Make the directories that `rootfs` needs: a writable layer, or a copy of the tree."""
        if rootfs.flat and not os.path.isdir(container.rootfs):
            own_copy(container)
        for path in filter(None, (rootfs.upper, rootfs.work)):
            try:
                if path == container.upper:
                    make_upper(container)
                else:
                    os.mkdir(path, 0o755)
            except FileExistsError:
                pass
            except OSError as error:
                raise disk.store_error(error, path) from error

    def restore(self, container: Container) -> None:
        """Nothing was changed in the container's files."""

    def plan(self, spec: RuntimeSpec, lock: int | None = None) -> Launch:
        """Return the command that runs `spec`: the sandbox script and its words.

        `lock` is a descriptor of the container's lock, by which later runs find this one.
        """
        announce = () if lock is None else ("--announce", str(lock))
        python = (sys.executable or "python3", "-I", "-S", SCRIPT)
        many = self._many_ids() if spec.many_ids else ()
        return launching.launch(spec, (*python, *announce, *many, *_words(spec)))

    def join(self, spec: RuntimeSpec, namespaces: tuple[int, ...]) -> Launch:
        """Return the command that runs the program of `spec` in `namespaces`, another run's.

        Both then share one mount of the writable layer, for two would not know of each other.
        """
        process = spec.process
        words = ["--join", ",".join(map(str, namespaces)), "--cwd", process.cwd]
        if spec.many_ids:
            words += ["--set-ids", "--ids", str(process.user.uid), str(process.user.gid)]
        else:
            if spec.joins_as_user:
                words += ["--map-self", str(process.user.uid), str(process.user.gid)]
            words += ["--fake-root"] if process.user.uid == 0 else []
        words += ["--die-with-parent"] if spec.supervised else []
        python = (sys.executable or "python3", "-I", "-S", SCRIPT)
        return launching.launch(spec, (*python, *words, "--", *process.args))

    def _many_ids(self) -> tuple[str, ...]:
        from udocker.engines import subids

        return ("--map-ids", *subids.maps(self.directory))

    def namespaces(self, lock: Lock) -> tuple[int, ...]:
        """Return descriptors of the namespaces of the container whose lock this is.

        Its first process announced them; any process that is left leads to them.
        """
        from udocker.engines.sandbox.namespaces import open_namespaces

        pid, namespace = announced(lock)
        others = (name for name in os.listdir("/proc") if name.isdigit())
        found = (open_namespaces(candidate, namespace) for candidate in (pid, *others))
        return next(filter(None, found), ()) if namespace else ()

    def start(self, launch: Launch) -> NoReturn:
        """Become the program of `launch`, or say why not and exit (125, 126, 127).

        The sandbox runs in this process: starting Python once more would double the time.
        """
        from udocker.engines.sandbox import run

        launching.prepare_process(launch)
        run.main(launch.argv[4:], dict(launch.env))

    def attendant(self) -> None:
        """Return nobody: the process is the program itself."""

    def support(self, host: Host) -> Support:
        """Return what the kernel allows, found by trying and remembered until the next boot."""
        key = str(_device(self.directory))
        answer = facts.remember(
            host, self.directory, "userns", key, self._probe, failed=_has_no_namespaces
        )
        return Support(*answer)

    def _probe(self) -> tuple[str, int]:
        from udocker.engines.sandbox import run

        scratch = disk.make_directory(f"{self.directory}/cache/probe.{os.urandom(4).hex()}")
        try:
            return run.probe(scratch)
        finally:
            trees.remove_tree(scratch)


def _has_no_namespaces(answer: list[object]) -> bool:
    return answer[0] in ("namespaces", "mount")


def _device(directory: str) -> int:
    disk.make_directory(directory)
    return os.stat(directory).st_dev


def _words(spec: RuntimeSpec) -> Iterator[str]:
    process = spec.process
    yield from _root_words(spec.rootfs)
    yield from ("--ids", str(process.user.uid), str(process.user.gid))
    yield from ("--cwd", process.cwd)
    if process.user.uid == 0 and not spec.many_ids:
        yield "--fake-root"
    if spec.network != "host":
        yield from ("--network", spec.network)
        for port in spec.ports:
            numbers = (str(port.host_port), str(port.container_port))
            yield from ("--publish", port.host_ip, *numbers, port.protocol)
    if spec.pid == "private":
        yield "--private-pids"
    if not spec.system_directories:
        yield "--no-system-directories"
    if spec.hostname:
        yield from ("--hostname", spec.hostname)
    for memory in spec.tmpfs:
        yield from ("--tmpfs", memory.destination, memory.options)
    for file in spec.files:
        yield from ("--text", file.destination, file.text)
    for node in spec.edits.device_nodes:
        yield from ("--bind", node.source, node.destination)
    for bind in spec.edits.binds:
        yield from ("--ro-bind" if bind.readonly else "--bind", bind.source, bind.destination)
    for link in spec.edits.symlinks:
        yield from ("--symlink", link.target, link.path)
    if spec.supervised:
        yield "--die-with-parent"
    if spec.readonly:
        yield "--read-only"
    yield from ("--", *process.args)


def _root_words(rootfs: Rootfs) -> Iterator[str]:
    for lower in rootfs.lowers:
        yield from ("--lower", lower)
    if rootfs.flat:
        yield from ("--flat", rootfs.tree)
    elif rootfs.upper is None or rootfs.work is None:
        yield from ("--memory-overlay", rootfs.tree)
    else:
        option = "--volatile-overlay" if rootfs.volatile else "--overlay"
        yield from (option, rootfs.tree, rootfs.upper, rootfs.work)
