"""fakechroot: a library in every program changes the names of files (modes F1 to F4).

Needs nothing of the kernel. Only programs that call libc see the container: those that do not
are refused before they start, but what they start themselves is not seen from here. The modes
differ in what keeps the dynamic loader, which libc cannot be asked about, in the container:

F1  programs are run by the container's loader, which is named at each start
F2  as F1; and that loader no longer reads the host's caches and directories
F3  programs name the container's loader themselves, by its host path, and so run as they are
F4  as F3; programs made since the last start are changed too, and those made meanwhile are run
    as in F1
"""

from __future__ import annotations

import os

from udocker import console
from udocker.containers import features
from udocker.containers.accounts import Accounts
from udocker.containers.hostfiles import files_of
from udocker.containers.spec import Launch
from udocker.disk import Lock
from udocker.engines import launching
from udocker.engines.external import ExternalEngine
from udocker.engines.rebase import lookup, preload, showing
from udocker.engines.rebase.rebasing import OUTSIDE, Rebasing
from udocker.errors import StartError, UdockerError
from udocker.host import ldconf
from udocker.host.root import Root
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from udocker.containers.container import Container
    from udocker.containers.spec import Rootfs, RuntimeSpec
    from udocker.engines.rebase.lookup import Program, View
    from udocker.engines.rebase.preload import Glibc
    from udocker.host.probe import Host

_OWN_FILES = ("/etc/passwd", "/etc/group")
"""Generated files that `prepare` has given the container itself."""
_ROOTS_FILES = "/etc/apt/apt.conf.d/"
"""Generated files for a user who seems to be root, which nobody is here."""
_SEPARATORS = frozenset(":; \t\n$")
"""What LD_PRELOAD and LD_LIBRARY_PATH take for something else than a part of a path."""
_LDCONFIG = ("/sbin/ldconfig", "/usr/sbin/ldconfig")
"""Linked statically: it would try to write the host's cache."""
_FAILURES_SHOWN = 3


@dataclass(frozen=True)
class _Ground:
    """What a program of the container starts from."""

    root: str
    """Host path of the root, without links."""
    glibc: Glibc
    library: str
    """Host path of libfakechroot."""

    @property
    def loader(self) -> str:
        """Host path of the container's loader."""
        return self.root + self.glibc.loader


class FakechrootEngine(ExternalEngine):
    """Runs containers as directories, for programs that ask libfakechroot."""

    name = "fakechroot"
    mode = "F3"
    features = frozenset((features.KEEP_ID, features.HOST_LINKS))
    alters = True

    def __init__(self, directory: str, mode: str = "") -> None:
        """`directory` is the store's; `mode` one of F1 to F4."""
        super().__init__(directory, mode)
        if self.mode == "F3":
            self.features = self.features | {features.HOST_LOADER}
        self._grounds: dict[str, _Ground] = {}

    def obstacle(self, host: Host) -> str | None:
        """Return why fakechroot cannot run here: no library, or a processor without a loader."""
        if host.machine not in preload.LOADERS:
            return f"there is nothing for processors of the kind {host.machine}"
        try:
            if next(preload.libraries(self.directory), None):
                return None
        except UdockerError as error:
            return error.message
        return (
            "libfakechroot is not installed (`udocker install libfakechroot` brings it; or the "
            "package libfakechroot of Debian and Ubuntu)"
        )

    def obstacle_of(self, container: Container) -> str | None:
        """Return why the programs of this container cannot be seen, by its C library."""
        if container.location:
            return f"it would have to change the files in {container.location}, the user's own"
        try:
            self._ground(files_of(container))
        except UdockerError as error:
            return error.message
        return None

    def prepare(self, container: Container, rootfs: Rootfs) -> None:
        """Make the copy, and change its files so that loader and kernel stay in it."""
        super().prepare(container, rootfs)
        files = Root(os.path.realpath(container.rootfs))
        with _preparing(container.directory):
            rebasing = self._rebasing(container, self._ground(files).glibc)
            rebasing.apply(*_account_lines(Accounts(files.read)))
            if self.mode == "F4":
                runs = Lock(_runs(container.directory))
                links = showing.Links(container.directory, files.path).standing().links
                rebasing.refresh(alone=runs.acquire(wait=False), volumes=links)
                runs.release()
        _tell(rebasing.failures)

    def restore(self, container: Container) -> None:
        """Bring back all files of the container that `prepare` and runs changed."""
        if not os.path.isdir(container.rootfs):
            return
        root = os.path.realpath(container.rootfs)
        with _preparing(container.directory):
            showing.Links(container.directory, root).remove()
            self._rebasing(container, None).restore()

    def plan(self, spec: RuntimeSpec, lock: int | None = None) -> Launch:
        """Return the command that runs `spec`.

        Raises StartError for what only mounts could do, and for a program that would see the
        host's files.
        """
        _refuse_files(spec)
        files = Root(os.path.realpath(spec.rootfs.tree))
        ground = self._ground(files)
        standing = showing.Links(os.path.dirname(files.path), files.path).standing()
        outside = OUTSIDE if spec.system_directories else ()
        layout = showing.lay_out(files, spec.edits, outside, standing)
        view = lookup.View(files, dict(layout.shown))
        env = _given(spec)
        program = self._program(spec, ground, view, env.get("PATH", ""))
        cwd = view.host_path(spec.process.cwd) or showing.placed(files, spec.process.cwd)
        return Launch(
            program.argv,
            tuple({**env, **self._environment(spec, ground, view, layout.excluded)}.items()),
            limits=spec.limits,
            cpus=spec.cpus,
            directories=() if os.path.isdir(cwd) else (cwd,),
            links=layout.links,
            cwd=cwd,
            program=program.path,
            umask=spec.umask,
        )

    def start(self, launch: Launch) -> NoReturn:
        """Become the program, its volumes being there; or say why not and exit."""
        try:
            self._show(launch)
        except UdockerError as error:
            console.say_error(error)
            os._exit(125)
        super().start(launch)

    def _show(self, launch: Launch) -> None:
        """Make the links of the launch; hold the lock that tells others of this run."""
        root = dict(launch.env)["FAKECHROOT_BASE"]
        directory = os.path.dirname(root)
        with _preparing(directory):
            runs = Lock(_runs(directory))
            alone = runs.acquire(wait=False)
            showing.Links(directory, root).settle(launch.links, alone=alone)
            runs.acquire(shared=True)
            runs.pass_on()

    def _rebasing(self, container: Container, glibc: Glibc | None) -> Rebasing:
        root = os.path.realpath(container.rootfs)
        loader = glibc.loader if glibc else preload.LOADERS[os.uname().machine][0]
        return Rebasing(container.directory, root, self.mode, loader)

    def _ground(self, files: Root) -> _Ground:
        """Return what programs of these files start from. Raises StartError."""
        if files.path not in self._grounds:
            self._grounds[files.path] = self._found_ground(files)
        return self._grounds[files.path]

    def _found_ground(self, files: Root) -> _Ground:
        machine = os.uname().machine
        glibc = preload.glibc_of(files, machine)
        if glibc is None:
            raise StartError(_foreign(files, machine), hint=showing.ENGINES)
        library = preload.choose(tuple(preload.libraries(self.directory)), files, glibc)
        for path in (files.path, library.path):
            if not _SEPARATORS.isdisjoint(path):
                raise StartError(
                    f"fakechroot cannot use {path!r}, for a blank or other sign in it",
                    hint="set UDOCKER_DIR to another directory",
                )
        return _Ground(files.path, glibc, library.path)

    def _program(self, spec: RuntimeSpec, ground: _Ground, view: View, search: str) -> Program:
        """Return what is executed: the program itself, or the loader with it."""
        process = spec.process
        program = lookup.find(view, process.args, search, process.cwd)
        blind = lookup.blind_spot(program.path)
        if blind and not spec.force:
            raise StartError(
                f"{program.argv[0]} of the container is {blind}: under fakechroot it would see "
                "the host's files",
                hint=f"{showing.ENGINES}; or --force",
            )
        if blind or (self.mode in ("F3", "F4") and _names_loader(program.path, ground.root)):
            return program
        words = ("--argv0", program.argv[0]) if ground.glibc.knows_argv0 else ()
        return lookup.Program(
            ground.loader, (ground.loader, *words, program.path, *program.argv[1:])
        )

    def _environment(
        self, spec: RuntimeSpec, ground: _Ground, view: View, excluded: tuple[str, ...]
    ) -> dict[str, str]:
        """Return the variables by which libfakechroot and the loader find the container."""
        given = _given(spec)
        own = [path for path in ldconf.elements(given.get("LD_LIBRARY_PATH", "")) if path]
        preloaded = given.get("LD_PRELOAD", "").replace(":", " ").split()
        first, last = spec.edits.library_dirs, spec.edits.fallback_library_dirs
        searched = dict.fromkeys((*first, *own, *ground.glibc.directories, *last))
        env = {
            "FAKECHROOT": "true",
            "FAKECHROOT_BASE": ground.root,
            "FAKECHROOT_EXCLUDE_PATH": ":".join(excluded),
            "LD_PRELOAD": ":".join((ground.library, *map(view.rebased, preloaded))),
            "LD_LIBRARY_PATH": ":".join(map(view.rebased, searched)),
        }
        if self.mode != "F3":
            # without ..._OPT_ARGV0: with it, libfakechroot loses the last words of scripts
            env["FAKECHROOT_ELFLOADER"] = ground.loader
        nothing = view.files.resolve("/bin/true")
        if nothing and self.mode in ("F3", "F4"):
            env["FAKECHROOT_CMD_SUBST"] = ":".join(f"{path}={nothing}" for path in _LDCONFIG)
        return env


def _given(spec: RuntimeSpec) -> dict[str, str]:
    """Return the program's own environment, without orders to libfakechroot."""
    env = launching.environment(spec)
    return {name: value for name, value in env if not name.startswith("FAKECHROOT")}


def _foreign(files: Root, machine: str) -> str:
    """Return in one sentence why a container without glibc cannot be run."""
    if preload.is_musl(files, machine):
        return "the container's C library is musl, in which libfakechroot cannot be loaded"
    return (
        f"the container has no glibc for {machine}, in which libfakechroot could be loaded: its "
        "programs would see the host's files"
    )


def _names_loader(path: str, root: str) -> bool:
    """Tell whether the program at a host path asks for a loader below the root."""
    from udocker.engines.rebase.elffile import ElfFile

    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return (ElfFile(file).interpreter or "").startswith(f"{root}/")
    finally:
        os.close(file)


def _refuse_files(spec: RuntimeSpec) -> None:
    for file in spec.files:
        path = file.destination
        if path not in _OWN_FILES and not path.startswith(_ROOTS_FILES):
            raise StartError(
                f"fakechroot cannot show another {path} to one run of a container",
                hint=showing.ENGINES,
            )


def _account_lines(accounts: Accounts) -> tuple[str, str]:
    """Return the lines for passwd and group without which the caller has no name."""
    import grp
    import pwd

    uid, gid = os.geteuid(), os.getegid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a uid without a name: some clusters' compute nodes know no names
        name = f"user{uid}"
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = name
    account = "" if accounts.by_uid(uid, gid) else f"{name}:x:{uid}:{gid}:{name}:/:/bin/sh\n"
    return account, "" if f":{gid}:" in accounts.group() else f"{group}:x:{gid}:\n"


def _tell(failures: list[str]) -> None:
    if failures:
        more = len(failures) - _FAILURES_SHOWN
        rest = f", and {more} more" if more > 0 else ""
        shown = "; ".join(failures[:_FAILURES_SHOWN])
        console.warn(f"not changed for fakechroot, and may see the host: {shown}{rest}")


def _preparing(directory: str) -> Lock:
    """Return the lock under which the files of a container are changed, one process at a time."""
    return Lock(f"{directory}/fakechroot.lock")


def _runs(directory: str) -> str:
    """Return the path of the lock that all programs of a container hold."""
    return f"{directory}/fakechroot.runs"
