"""bubblewrap: the run of a container as words for bwrap(1) (mode B1).

It does what the embedded engine does, and is allowed to where a security policy lets only known
programs make user namespaces. Versions: 0.4 (2019, RHEL 8) has what is needed here, but for a
tmpfs with a mode (0.5) and a size (0.7).

With fake root bwrap itself runs below the filter that makes changes of ids seem to succeed: it
makes none, and what it takes away of the capabilities it takes from the bounding set too.
"""

from __future__ import annotations

import os
import sys

from udocker import console, disk, fastjson, trees
from udocker.containers import features
from udocker.containers.spec import Launch
from udocker.engines import executable, launching, programs, rehearsal, standin, supervise
from udocker.engines.bundle import CAPABILITIES
from udocker.engines.external import ExternalEngine
from udocker.engines.layout import text_files, view
from udocker.engines.userns import SCRIPT
from udocker.errors import StartError, UdockerError
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from udocker.containers.spec import RuntimeSpec
    from udocker.engines.layout import Mount, View
    from udocker.engines.programs import Installed
    from udocker.host.probe import Host

_DEV_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
)
_ENVIRONMENT = (("PATH", "/usr/bin:/bin"),)
"""bwrap's own: what an image sets could make the host's loader load a library of the image."""
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_STATUS_BYTES = 1 << 16
_SIGKILL = 9


class BwrapEngine(ExternalEngine):
    """Runs containers as directories, by bubblewrap."""

    name = "bwrap"
    mode = "B1"
    features = frozenset(
        (
            *(features.FAKE_ROOT, features.OTHER_USER, features.HOST_NAME, features.TMPFS),
            *(features.PRIVATE_NETWORK, features.PROCESS_NAMESPACE, features.READ_ONLY_ROOT),
            *(features.READ_ONLY_BINDS, features.STATIC_PROGRAMS, features.MUSL),
            *(features.NESTED_BINDS, features.DEVICES, features.OWN_NAMES),
            *(features.KEEP_ID, features.CHEAP_BINDS, features.FEW_MOUNTS, features.OWN_LINKS),
        )
    )

    def __init__(self, directory: str, mode: str = "") -> None:
        """`directory` is the store's."""
        super().__init__(directory, mode)
        self._spec: RuntimeSpec | None = None
        self._seen: View | None = None

    def obstacle(self, host: Host) -> str | None:
        """Return why it cannot run here; None when a container has been run with it."""
        try:
            found = self._installed()
            return rehearsal.reason_against(host, self.directory, self, found) or None
        except UdockerError as error:
            return error.message

    def plan(self, spec: RuntimeSpec, lock: int | None = None) -> Launch:
        """Return the command that runs `spec`. Raises StartError for what bwrap cannot do."""
        _refuse_impossible(spec)
        self._spec, self._seen = spec, view(spec)
        words = (self._installed().path, *_words(spec, self._seen))
        if spec.process.user.uid == 0:
            python = (sys.executable or "python3", "-I", "-S", SCRIPT)
            words = (*python, "--no-root", "--fake-root", "--", *words)
        files, links = text_files(spec), tuple(self._seen.links)
        return Launch(
            words, _ENVIRONMENT, files, spec.limits, spec.cpus, links=links, umask=spec.umask
        )

    def start(self, launch: Launch) -> NoReturn:
        """Stay in the program's place, which bwrap runs; 125, 126, 127 when it cannot be run."""
        try:
            assert self._spec and self._seen, "nothing was planned"
            launching.make_links(launch)
            executable.check_program(self._seen, self._spec.process)
            standin.stand_in(_Bubblewrap(launch, self._installed().path, self._spec))
        except UdockerError as error:
            console.say_error(error)
            os._exit(max(error.exit_code, 125))

    def attendant(self) -> BwrapEngine:
        """Return this engine, which has planned the run."""
        return self

    def watch(self, child: int) -> None:
        """Nothing has to be done early."""

    def receiver(self, child: int) -> int:
        """Return the pid of the program; of what stands in for it while that is not there yet."""
        return _program(self._spec) or child

    def exit_code(self, child: int, status: int) -> int:
        """Return the program's exit code, which is also that of the process in its place.

        The files of the run are removed.
        """
        if self._spec is not None:
            trees.remove_tree(self._spec.scratch)
        return supervise.exit_code(status)

    def _installed(self) -> Installed:
        found = programs.find(self.directory, "bwrap")
        if found is None:
            raise StartError(
                "bwrap is not installed (`udocker install bwrap` brings it; or the package "
                "bubblewrap of the distribution)"
            )
        return found


class _Bubblewrap:
    """bwrap, which waits for the program as its parent.

    The terminal's signals end it: it does not stay for a program that goes on.
    """

    has_own_session = False

    def __init__(self, launch: Launch, path: str, spec: RuntimeSpec) -> None:
        self._launch = launch
        self._path = path
        self._spec = spec
        self._seen = 0
        self.heir_may_outlive = spec.pid != "host"

    def become(self) -> NoReturn:
        """Become bwrap, which tells in a file what happens. Raises StartError."""
        launch = self._launch
        disk.make_directory(self._spec.scratch)
        fd = os.open(_status_file(self._spec), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.set_inheritable(fd, True)
        place = launch.argv.index(self._path) + 1
        argv = (*launch.argv[:place], "--json-status-fd", str(fd), *launch.argv[place:])
        if place == 1:
            launching.become(replace(launch, argv=argv))
        from udocker.engines.sandbox import run

        launching.prepare_process(launch)
        run.main(argv[_PYTHON_WORDS:], dict(launch.env))

    def program(self) -> int:
        """Return the program's pid; 0 while it is not there."""
        return _program(self._spec)

    def heir(self) -> int:
        """Return the program, or the init of its process namespace.

        That would wait for all other processes in there, and is killed when the program ends.
        """
        first = _first(self._spec)
        self._seen = self._seen or self.program()
        if self._seen != first and not disk.is_alive(self._seen):
            supervise.send((first,), _SIGKILL)
        return first

    def ended(self, status: int) -> int | None:
        """Return the exit code: the program's, or 125 when bwrap has failed."""
        if os.WIFSIGNALED(status) and self.heir():
            return None
        return supervise.exit_code(status) if "exit-code" in _status(self._spec) else 125


_PYTHON_WORDS = 4
"""Words before those of the sandbox, which runs in this process."""


def _status_file(spec: RuntimeSpec) -> str:
    return f"{spec.scratch}/status"


def _status(spec: RuntimeSpec) -> dict[str, int]:
    """Return what bwrap has told so far. Source: bwrap(1), --json-status-fd."""
    found: dict[str, int] = {}
    for line in (disk.read(_status_file(spec), _STATUS_BYTES) or b"").splitlines():
        try:
            found.update(fastjson.loads(line))
        except ValueError:  # not whole yet
            continue
    return found


def _first(spec: RuntimeSpec) -> int:
    """Return the pid of the container's first process; 0: it is not there yet."""
    return _status(spec).get("child-pid", 0)


def _program(spec: RuntimeSpec | None) -> int:
    """Return the pid of the program; 0: it is not there yet."""
    first = _first(spec) if spec else 0
    if first and spec and spec.pid != "host":
        return next(iter(supervise.children(first)), 0)
    return first


def _refuse_impossible(spec: RuntimeSpec) -> None:
    refused = {
        "--publish": spec.ports,
        "--userns auto": spec.many_ids,
        "--kernel": spec.kernel,
    }
    for option, is_asked in refused.items():
        if is_asked:
            raise StartError(f"bwrap cannot do what {option} says", hint="--engine userns can")


def _words(spec: RuntimeSpec, seen: View) -> Iterator[str]:
    process = spec.process
    yield from ("--unshare-user", "--uid", str(process.user.uid), "--gid", str(process.user.gid))
    if process.user.uid == 0:
        for capability in CAPABILITIES:
            yield from ("--cap-add", capability)
    if spec.network != "host":
        yield "--unshare-net"
    if spec.pid != "host":
        yield "--unshare-pid"
    if spec.hostname:
        yield from ("--unshare-uts", "--hostname", spec.hostname)
    yield from ("--bind", os.path.realpath(spec.rootfs.tree), "/")
    for mount in _in_order(seen.placed):
        yield from _mount_words(spec, mount)
    yield from ("--dir", seen.resolve(process.cwd), "--chdir", process.cwd)
    for mount in seen.placed:
        if mount.kind == "tmpfs" and "ro" in mount.options.split(","):
            yield from ("--remount-ro", mount.destination)
    if spec.readonly:
        yield from ("--remount-ro", "/")
    yield from _environment_words(spec)
    yield from ("--", *process.args)


def _in_order(placed: list[Mount]) -> list[Mount]:
    """Return the mounts so that the host's many below /proc and /sys come last, if they can.

    After each bind bwrap reads the list of all mounts there are, these too. Source: bubblewrap
    0.8, bind-mount.c.
    """
    last = [
        mount
        for mount in placed
        if mount.destination in _WITH_MANY
        and not any(other.destination.startswith(f"{mount.destination}/") for other in placed)
    ]
    return [mount for mount in placed if mount not in last] + last


_WITH_MANY = ("/proc", "/sys")


def _environment_words(spec: RuntimeSpec) -> Iterator[str]:
    variables = launching.environment(spec)
    for name, _ in _ENVIRONMENT:
        if name not in dict(variables):
            yield from ("--unsetenv", name)
    for name, value in variables:
        yield from ("--setenv", name, value)


def _mount_words(spec: RuntimeSpec, mount: Mount) -> Iterator[str]:
    where = mount.destination
    if mount.kind == "tmpfs":
        yield from _tmpfs_words(mount)
    elif where == "/proc" and spec.pid != "host":
        yield from ("--proc", where)
    elif mount.kind == "sysfs":  # it knows no mount of a new one
        yield from ("--bind", "/sys", where)
    elif where == "/dev" or where.startswith("/dev/"):
        yield from ("--dev-bind", mount.source, where)
    else:
        yield from ("--ro-bind" if mount.readonly else "--bind", mount.source, where)
    if where == "/dev" and mount.kind == "tmpfs":
        for name, target in _DEV_LINKS:
            yield from ("--symlink", target, f"/dev/{name}")


def _tmpfs_words(mount: Mount) -> Iterator[str]:
    """Yield the words for a tmpfs. Raises StartError for options that bwrap has no words for."""
    options = dict(option.partition("=")[::2] for option in mount.options.split(","))
    size = options.pop("size", "")
    mode = options.pop("mode", "1777")
    options.pop("ro", None)
    if options:
        named = ", ".join(options)
        raise StartError(
            f"bwrap cannot make the tmpfs {mount.destination} with {named}",
            hint="--engine userns or runc can",
        )
    yield from ("--perms", f"0{mode.lstrip('0')}")
    yield from ("--size", str(_bytes(size))) if size else ()
    yield from ("--tmpfs", mount.destination)


def _bytes(size: str) -> int:
    """Return what tmpfs(5) means by a size: a number with k, m, g or t, or % of the memory."""
    number, unit = (size[:-1], size[-1].lower()) if size[-1:].isalpha() else (size, "")
    try:
        if size.endswith("%"):
            pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return pages * int(size[:-1]) // 100
        return int(number) * (_UNITS[unit] if unit else 1)
    except (ValueError, KeyError):
        raise StartError(f"{size!r} is no size of a tmpfs", hint="64m, 1g, 50%") from None
