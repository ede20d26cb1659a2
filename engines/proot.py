"""PRoot: names of files are changed in every call by a tracer (modes P1 and P2).

Needs no namespaces, only ptrace. What PRoot does not translate would reach the host's files, so
newer system calls are refused before it begins (see `REFUSED`): libc falls back to older ones.
P1 lets PRoot use seccomp, where it was built with it, to stop programs at calls with names only;
P2 stops them at every call.
"""

from __future__ import annotations

import os
import sys

from udocker import disk
from udocker.containers import features
from udocker.containers.mountpoints import LISTS
from udocker.containers.spec import Bind
from udocker.engines import facts, first, launching, loaders, programs
from udocker.engines.external import ExternalEngine
from udocker.engines.first.listener import Listener
from udocker.engines.places import Places
from udocker.engines.userns import SCRIPT
from udocker.errors import StartError, UdockerError
from udocker.host import ldcache
from udocker.host.root import Root
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    _Pairs = tuple[tuple[str, str], ...]
    from udocker.containers.container import Container
    from udocker.containers.spec import Launch, Rootfs, RuntimeSpec
    from udocker.engines.programs import Installed
    from udocker.host.probe import Host

REFUSED = (
    *("statx", "faccessat2", "openat2", "fchmodat2", "execveat", "execveat_x32"),
    *("name_to_handle_at", "open_by_handle_at"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("open_tree", "move_mount", "fsopen", "fspick", "mount_setattr", "statmount", "listmount"),
    # its flags lie where PRoot does not look: it must know which threads share a directory
    "clone3",
    # rules for names that PRoot has changed would keep its own loader from running
    "landlock_create_ruleset",
    # setxattrat and all that came later
    "463+",
)
"""System calls with names of files that some version of PRoot passes on as they are, or all do.

Source: proot-me/proot, src/syscall/enter.c and src/syscall/sysnums.list; `udocker selftest` asks.
"""
SYSTEM = ("/dev", "/proc", "/sys")
_TEXT_BYTES = 1 << 20
_BROKEN_KERNEL = (2, 33)
_QUIET = ("-v", "-1")
"""PRoot writes a line for each process that a signal kills."""


class ProotEngine(ExternalEngine):
    """Runs containers as directories, seen through PRoot."""

    name = "proot"
    mode = "P1"
    features = frozenset(
        (
            *(features.FAKE_ROOT, features.OTHER_USER, features.KERNEL_RELEASE),
            *(features.STATIC_PROGRAMS, features.MUSL),
            *(features.NESTED_BINDS, features.DEVICES, features.OWN_NAMES),
            features.KEEP_ID,
        )
    )

    def __init__(self, directory: str, mode: str = "") -> None:
        """`directory` is the store's."""
        super().__init__(directory, mode)
        self._listener: Listener | None = None

    def obstacle(self, host: Host) -> str | None:
        """Return why PRoot cannot run here; None when a program has been run with it."""
        if os.uname().machine not in first.CODE:
            return f"there is nothing for processors of the kind {os.uname().machine}"
        try:
            found = self._installed()
        except UdockerError as error:
            return error.message
        from udocker.engines import proottrial

        status = os.stat(found.path)
        key = f"{found.path} {status.st_mtime_ns} {host.text(proottrial.YAMA).strip()}"
        said = facts.remember(
            host,
            self.directory,
            f"proot.{self.mode}",
            key,
            lambda: self._try(found.path),
            failed=bool,
        )
        return proottrial.explain(host, str(said)) if said else None

    def stops_every_call(self, host: Host) -> bool:
        """Tell whether this PRoot stops programs at all calls: in P2, or built without seccomp."""
        if self.mode == "P2":
            return True
        from udocker.engines import proottrial

        found = self._installed()
        key = f"{found.path} {os.stat(found.path).st_mtime_ns}"
        return not facts.remember(
            host, self.directory, "proot.seccomp", key, lambda: proottrial.has_seccomp(found.path)
        )

    def prepare(self, container: Container, rootfs: Rootfs) -> None:
        """Make the copy, and what PRoot needs beside it."""
        super().prepare(container, rootfs)
        loaders.make(self._installed().path, self._cache)
        first.install(rootfs.tree)

    def plan(self, spec: RuntimeSpec, lock: int | None = None) -> Launch:
        """Return the command that runs `spec`. Raises StartError for what PRoot cannot do."""
        _refuse_impossible(spec)
        places, files, copies = _laid_out(spec)
        directories, empty = _to_make(spec, places)
        files += tuple((path, "") for path in empty)
        files += _search_lists(spec, places) if copies else ()
        launch = launching.launch(spec, self._words(spec, places), files)
        return replace(
            launch,
            env=self._environment(dict(launch.env), spec.scratch),
            directories=(spec.scratch, *directories),
            copies=copies,
        )

    def start(self, launch: Launch) -> NoReturn:
        """Become PRoot, in this process: starting Python once more would double the time."""
        from udocker import console
        from udocker.engines.sandbox import run

        try:
            launching.prepare_process(launch)
        except UdockerError as error:
            console.say_error(error)
            os._exit(125)
        run.main(launch.argv[4:], dict(launch.env))

    def attendant(self) -> Listener:
        """Return who hears from the first process, which is the program's parent."""
        self._listener = self._listener or Listener()
        return self._listener

    @property
    def _cache(self) -> str:
        return f"{self.directory}/cache"

    def _installed(self) -> Installed:
        found = programs.find(self.directory, "proot")
        if found is None:
            raise StartError(
                "PRoot is not installed (`udocker install proot` brings it; or the package "
                "proot of Debian, Ubuntu and Fedora)"
            )
        return found

    def _words(self, spec: RuntimeSpec, places: Places) -> tuple[str, ...]:
        listener, process = self.attendant(), spec.process
        listener.program = process.args[0]
        path = dict((*process.env, *spec.edits.env)).get("PATH", "")
        words = ["-r", spec.rootfs.tree, "-w", places.follow(process.cwd)]
        for place, source in places.binds.items():
            words += ["-b", _bind(source, place)]
        words += _identity_words(process.user.uid, process.user.gid)
        words += _kernel_words(spec)
        program = first.words(listener.fd, path, process.args)
        return self._command(*words, *program)

    def _command(self, *words: str) -> tuple[str, ...]:
        python = (sys.executable or "python3", "-I", "-S", SCRIPT)
        filtered = ("--no-root", "--refuse", ",".join(REFUSED), "--")
        return (*python, *filtered, self._installed().path, *_QUIET, *words)

    def _environment(self, env: dict[str, str], scratch: str) -> tuple[tuple[str, str], ...]:
        """Return PRoot's environment, in which the program's is marked as such."""
        own = {"PROOT_TMP_DIR": scratch, **loaders.made(self._installed().path, self._cache)}
        if self.mode == "P2":
            own["PROOT_NO_SECCOMP"] = "1"
        return tuple({**own, **first.environment(env)}.items())

    def _try(self, proot: str) -> str:
        from udocker.engines import proottrial

        loaders.make(proot, self._cache)
        words = self._command()[4:]
        return proottrial.attempt(self._cache, words, dict(self._environment({}, self._cache)))


def _laid_out(spec: RuntimeSpec) -> tuple[Places, _Pairs, _Pairs]:
    """Return what shows where in the container, and the texts and copies to write for that."""
    files, copies = [], []
    binds = [Bind(path, path) for path in SYSTEM] if spec.system_directories else []
    for number, file in enumerate(spec.files):
        files.append((f"{spec.scratch}/text{number}", file.text))
        binds.append(Bind(f"{spec.scratch}/text{number}", file.destination))
    for number, bind in enumerate(spec.edits.binds):
        copy = f"{spec.scratch}/copy{number}"
        is_cache = bind.destination == ldcache.PATH  # which the container's ldconfig replaces
        text = None if is_cache else _writable_text(bind)
        if is_cache:
            copies.append((bind.source, copy))
        elif text is not None:
            files.append((copy, text))
        if is_cache or text is not None:
            bind = Bind(copy, bind.destination)
        binds.append(bind)
    places = Places(spec.rootfs.tree)
    places.bind((*binds, *spec.edits.device_nodes))
    places.link(spec.edits.symlinks)
    return places, tuple(files), tuple(copies)


def _search_lists(spec: RuntimeSpec, places: Places) -> _Pairs:
    """Return files by which the container's own ldconfig lists injected libraries as they are now.

    They stay in the container, where they mean nothing without these directories, and are no
    part of what it has changed.
    """
    place = places.follow(os.path.dirname(LISTS[0]))
    directory = places.host(place)
    own = spec.rootfs.flat and directory == spec.rootfs.tree.rstrip("/") + place
    if not own or not os.access(directory, os.W_OK) or not os.path.isdir(directory):
        return ()
    texts = {
        f"{directory}/{os.path.basename(name)}": "".join(f"{path}\n" for path in named)
        for name, named in zip(LISTS, (spec.edits.library_dirs, spec.edits.fallback_library_dirs))
        if named
    }
    return tuple((path, text) for path, text in texts.items() if not _says(path, text))


def _says(path: str, text: str) -> bool:
    """Tell whether a file has that text: to write it once more would look like a change."""
    return disk.read(path, _TEXT_BYTES) == os.fsencode(text)


def _writable_text(bind: Bind) -> str | None:
    """Return the text of a small file that is to be read only, and which this user could change.

    Root's container must not write the host's /etc/hosts: it gets a copy.
    """
    if not bind.readonly or not os.path.isfile(bind.source) or not os.access(bind.source, os.W_OK):
        return None
    if os.path.getsize(bind.source) > _TEXT_BYTES:
        return None
    data = disk.read(bind.source, _TEXT_BYTES) or b""
    return None if b"\0" in data else data.decode("utf-8", "surrogateescape")


def _to_make(spec: RuntimeSpec, places: Places) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return directories and files that the container's directory lacks, as host paths."""
    if not spec.rootfs.flat:  # the image's tree: nothing may be made there
        return (), ()
    directories, files = places.missing()
    cwd = places.host(places.follow(spec.process.cwd))
    return (directories if os.path.isdir(cwd) else (*directories, cwd)), files


def _bind(source: str, place: str) -> str:
    """Return the word of a bind. Raises StartError for names that PRoot cannot tell apart."""
    if ":" in source:
        raise StartError(
            f"PRoot cannot show {source!r}: its name holds a colon",
            hint="give it another name, or run with another --engine",
        )
    return f"{source}:{place}!"  # the sign says that `place` is no link to be followed


def _identity_words(uid: int, gid: int) -> tuple[str, ...]:
    """Return who the program believes to be, unless it is the caller."""
    if (uid, gid) == (0, 0):
        return ("-0",)
    return () if (uid, gid) == (os.geteuid(), os.getegid()) else ("-i", f"{uid}:{gid}")


def _kernel_words(spec: RuntimeSpec) -> tuple[str, ...]:
    """Return what makes another release of the kernel be told. Raises StartError.

    PRoot then takes flags of fstatat(2) for errors that glibc gives for every file since 2.33.
    """
    if spec.kernel is None:
        return ()
    from udocker.engines.rebase.preload import glibc_of

    glibc = glibc_of(Root(spec.rootfs.tree), os.uname().machine)
    if glibc and glibc.number >= _BROKEN_KERNEL:
        version = ".".join(map(str, glibc.number))
        raise StartError(
            f"PRoot cannot tell programs of glibc {version} another release of the kernel",
            hint="--kernel works in images with glibc before 2.33, and with musl",
        )
    return ("-k", spec.kernel)


def _refuse_impossible(spec: RuntimeSpec) -> None:
    """Raise StartError for what PRoot cannot do, where nothing before this has refused it."""
    asked = {
        features.READ_ONLY_ROOT: spec.readonly,
        features.TMPFS: bool(spec.tmpfs),
        features.HOST_NAME: spec.hostname is not None,
        features.PRIVATE_NETWORK: spec.network != "host",
        features.PROCESS_NAMESPACE: spec.pid != "host",
        features.MANY_IDS: spec.many_ids,
    }
    refused = [feature for feature, is_asked in asked.items() if is_asked]
    if refused:
        raise StartError(
            f"PRoot has no {', '.join(refused)}", hint="--engine userns has, where it can be used"
        )
