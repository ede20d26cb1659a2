"""What will run, as plain values: everything that an engine needs to know and nothing else.

Host paths and paths in the container are `str`: `pathlib` costs 11 ms of start-up. Fields and
parameters say which one they hold.
"""

from __future__ import annotations

import os

from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Protocol

    from udocker.containers.container import Container
    from udocker.disk import Lock
    from udocker.host.probe import Host
else:
    Protocol = object


@dataclass(frozen=True)
class Bind:
    """A host file or directory that shows at a path of the container (mounts below it too)."""

    source: str
    """Host path."""
    destination: str
    """Absolute path in the container; made where it does not exist."""
    readonly: bool = False


@dataclass(frozen=True)
class DeviceNode:
    """A device node of the host that shows at a path of the container."""

    source: str
    """Host path of the node."""
    destination: str
    """Absolute path in the container."""


@dataclass(frozen=True)
class Symlink:
    """A symbolic link that the container must have."""

    path: str
    """Absolute path of the link in the container."""
    target: str


@dataclass(frozen=True)
class ContainerEdits:
    """Changes to a container, in CDI's word and shape; `a | b` has both, b's later.

    `library_dirs` are directories of the container that hold injected libraries, for engines
    whose loader does not read the container's ld.so.cache: searched before the image's own;
    `fallback_library_dirs` hold those that count only where the image has none of that name.
    """

    env: tuple[tuple[str, str], ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    binds: tuple[Bind, ...] = ()
    symlinks: tuple[Symlink, ...] = ()
    library_dirs: tuple[str, ...] = ()
    fallback_library_dirs: tuple[str, ...] = ()
    additional_gids: tuple[int, ...] = ()

    def __or__(self, other: ContainerEdits) -> ContainerEdits:
        return ContainerEdits(
            env=self.env + other.env,
            device_nodes=_joined(self.device_nodes, other.device_nodes),
            binds=_joined(self.binds, other.binds),
            symlinks=_joined(self.symlinks, other.symlinks),
            library_dirs=_joined(self.library_dirs, other.library_dirs),
            fallback_library_dirs=_joined(self.fallback_library_dirs, other.fallback_library_dirs),
            additional_gids=_joined(self.additional_gids, other.additional_gids),
        )


def _joined(values: tuple, others: tuple) -> tuple:  # type: ignore[type-arg]
    """Return both, each value once: to find that out of 60 binds takes 0.1 ms."""
    return tuple(dict.fromkeys(values + others)) if values and others else values or others


@dataclass(frozen=True)
class User:
    """Who the program is inside: numbers, name and home as the container's passwd has them."""

    uid: int
    gid: int
    name: str
    home: str


@dataclass(frozen=True)
class Process:
    """The program: its arguments, environment, directory and user."""

    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str
    user: User
    terminal: bool = False


@dataclass(frozen=True)
class Rootfs:
    """The root file system: a read-only tree with a writable layer, or one writable directory.

    `tree` is the lower directory, `upper` and `work` the writable layer's; without `upper` the
    writable layer lives in memory. `flat` means that `tree` itself is the container's own and
    is written to.
    """

    tree: str
    upper: str | None = None
    work: str | None = None
    flat: bool = False
    volatile: bool = False
    """The writable layer is thrown away after the run: nothing of it need reach the disk."""
    lowers: tuple[str, ...] = ()
    """Read-only directories that take the place of `tree`, the top one first; it is then only
    where they are mounted."""


@dataclass(frozen=True)
class TextFile:
    """A small generated file that shows read-only at a path of the container."""

    destination: str
    text: str


@dataclass(frozen=True)
class Tmpfs:
    """An empty file system in memory that shows at a path of the container."""

    destination: str
    """Absolute path in the container."""
    options: str = ""
    """`name=value` of mount(8), with commas; `ro` and `noexec` as well. Source: tmpfs(5)."""


@dataclass(frozen=True)
class Port:
    """A port of the host that leads to a port of the container. `host_ip` empty: all addresses."""

    host_ip: str
    host_port: int
    """0: any free one."""
    container_port: int
    protocol: str = "tcp"


@dataclass(frozen=True)
class Limit:
    """A limit of the program and all it starts, as setrlimit(2) takes it."""

    name: str
    """As docker writes it: `nofile`, `memlock`, `core`, ..."""
    soft: int
    """-1: unlimited."""
    hard: int


@dataclass(frozen=True)
class RuntimeSpec:
    """One run of a container, whole."""

    rootfs: Rootfs
    process: Process
    hostname: str | None = None
    edits: ContainerEdits = ContainerEdits()
    files: tuple[TextFile, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    readonly: bool = False
    network: str = "host"
    """`host` or `none`."""
    supervised: bool = False
    """A process stays behind for what is to be done at the end; the program dies with it."""
    pid: str = "host"
    """`host`, or `private`: a process namespace of its own, with an init that reaps."""
    ports: tuple[Port, ...] = ()
    """Published ports; only for the network `none`, any other is the host's own."""
    many_ids: bool = False
    """The ids of /etc/subuid and /etc/subgid are mapped too, by newuidmap(1)."""
    limits: tuple[Limit, ...] = ()
    cpus: tuple[int, ...] = ()
    """Processors that the program may use; empty: those of the caller."""
    scratch: str = ""
    """Host directory, not made yet, where an engine may keep small files of this run."""
    kernel: str | None = None
    """The release that uname(2) shall say."""
    joins_as_user: bool = False
    """A program that joins a run is the user of `process`, not whom that run has."""
    system_directories: bool = True
    """The host's /dev, /proc and /sys show in the container."""
    umask: int | None = None
    """Of the program; None: the caller's."""
    force: bool = False
    """Run also what the engine knows to see the host's files instead of the container's."""

    def edited(self, edits: ContainerEdits) -> RuntimeSpec:
        """Return this spec with `edits` added to it."""
        return replace(self, edits=self.edits | edits)


@dataclass(frozen=True)
class Launch:
    """A command that runs the container; its text can be pasted into a shell."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    """Host paths and texts: what must lie in files when the command begins."""
    limits: tuple[Limit, ...] = ()
    cpus: tuple[int, ...] = ()
    directories: tuple[str, ...] = ()
    """Host paths of directories that must be there when the command begins."""
    copies: tuple[tuple[str, str], ...] = ()
    """Host paths of files, and of the copies of them that must be there then: all their own."""
    links: tuple[tuple[str, str], ...] = ()
    """Host paths and targets of symbolic links that must be there when the command begins."""
    cwd: str = ""
    """Host path of the directory in which it begins; empty: the caller's."""
    program: str = ""
    """Host path of the program itself, where the first word is only what it is told to be."""
    umask: int | None = None

    def __str__(self) -> str:
        lines = [f"mkdir -p {quoted(path)}" for path in self.directories]
        lines += [_written(path, text) for path, text in self.files]
        lines += [f"cp {quoted(source)} {quoted(path)}" for source, path in self.copies]
        for path, target in self.links:  # none is made inside of a directory that stands there
            place = quoted(path)
            lines.append(f"mkdir -p {quoted(os.path.dirname(path))}; rmdir {place} 2>/dev/null")
            lines.append(f"ln -sfnT {quoted(target)} {place}")
        lines += [f"cd {quoted(self.cwd)}"] if self.cwd else []
        words = [quoted(f"{name}={value}") for name, value in self.env]
        limits = [f"--{limit.name}={_bounds(limit)}" for limit in self.limits]
        prefix = ["prlimit", *limits, "--"] if limits else []
        prefix += ["taskset", "-c", ",".join(map(str, self.cpus))] if self.cpus else []
        prefix += ["env", "-i", *words] if words else []
        argv = (self.program or self.argv[0], *self.argv[1:])
        command = " ".join(prefix + [quoted(word) for word in argv])
        if self.umask is not None:
            command = f"(umask {self.umask:04o} && exec {command})"
        return "\n".join([*lines, command])


def _written(path: str, text: str) -> str:
    """Return the command that writes a file, its directory made first."""
    directory = quoted(os.path.dirname(path))
    return f"mkdir -p {directory} && printf %s {quoted(text)} >{quoted(path)}"


def _bounds(limit: Limit) -> str:
    return ":".join("unlimited" if n < 0 else str(n) for n in (limit.soft, limit.hard))


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_")


def quoted(word: str) -> str:
    """Return `word` as a shell reads it back (`shlex.quote`, without its import of `re`)."""
    if word and _PLAIN.issuperset(word):
        return word
    text = word.replace("'", "'\"'\"'")
    for character in filter(_is_hidden, set(text)):
        octal = "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
        text = text.replace(character, f"'\"$(printf '{octal}')\"'")
    return f"'{text}'"


def _is_hidden(character: str) -> bool:
    """Tell whether a terminal would not show the character, or no text can hold it (a raw byte)."""
    code = ord(character)
    return (code < 32 and character not in "\t\n") or 127 <= code < 160 or 0xD800 <= code < 0xE000


class Engine(Protocol):
    """A way to run containers."""

    name: str
    mode: str
    """udocker's code of the way in which it runs them: `N2`, `P1`, ..."""
    features: frozenset[str]
    """What of `udocker.containers.features` it can honour."""
    alters: bool
    """`prepare` changes files of the container, `restore` undoes it."""

    def obstacle(self, host: Host) -> str | None:
        """Return why this engine cannot run here, in one sentence; None when it can."""

    def stops_every_call(self, host: Host) -> bool:
        """Tell whether every system call of a program costs so much that GPUs are no use."""

    def obstacle_of(self, container: Container) -> str | None:
        """Return why it cannot run this container, in one sentence; None when it can."""

    def obstacle_to_mode(self, host: Host, container: Container | None) -> str | None:
        """Return why it cannot run exactly as its mode says, where that was asked for."""

    def rootfs(self, host: Host, container: Container) -> Rootfs:
        """Return the root file system that the container gets from this engine."""

    def prepare(self, container: Container, rootfs: Rootfs) -> None:
        """Make what `rootfs` needs beside the container (changes the disk).

        Runs of one container may prepare it at the same time when `rootfs` is flat.
        """

    def restore(self, container: Container) -> None:
        """Undo what `prepare` changed in the container's own files, for another engine."""

    def plan(self, spec: RuntimeSpec, lock: int | None = None) -> Launch:
        """Return the command that runs `spec`. Changes nothing.

        `lock` is a descriptor of the container's lock, by which later runs find this one.
        """

    def namespaces(self, lock: Lock) -> tuple[int, ...]:
        """Return descriptors of what a running container's processes share, by its lock.

        They keep it from vanishing before it is joined. Empty when no process is left, or
        when this engine's containers are not joined: another process in the same root is then
        as good.
        """

    def join(self, spec: RuntimeSpec, namespaces: tuple[int, ...]) -> Launch:
        """Return the command that runs the program of `spec` in `namespaces`, another run's."""

    def start(self, launch: Launch) -> NoReturn:
        """Become the program of `launch`, or say why not and exit (125, 126, 127)."""

    def attendant(self) -> Attendant | None:
        """Return who looks after the process that `start` becomes; None: it is the program.

        None also says that the process need not be supervised at all.
        """


class Attendant(Protocol):
    """What an engine knows of the process that stands between udocker and the program."""

    def watch(self, child: int) -> None:
        """The engine's process has been started: called once, by its parent, before all else."""

    def receiver(self, child: int) -> int:
        """Return the pid that signals for the program are sent to."""

    def exit_code(self, child: int, status: int) -> int:
        """Return the program's exit code, from the wait status of the engine's process."""
