"""Apptainer and Singularity: the run of a container as words for `apptainer exec` (mode S1).

Where the site has installed it setuid, it runs programs natively on hosts that let users make no
namespaces. Where they may, it is told to make its own (`--userns`). Root of the container is then
who runs it in a namespace of unshare(1), with the embedded engine's fake root: of its own
`--fakeroot` nobody learns which signal has ended a program.

Apptainer sets HOME itself, to the user's directory or to /root, and a few variables of its own.
Its own failures have the exit code 255, which a program may have too.
Source: apptainer-exec(1) of Apptainer 1.4; the words are those of SingularityCE 4 as well.
"""

from __future__ import annotations

import os
import sys

from udocker import console, trees
from udocker.containers import features
from udocker.containers.spec import Launch
from udocker.engines import executable, launching, programs, rehearsal, supervise
from udocker.engines.external import ExternalEngine
from udocker.engines.layout import Points, View, mounts, text_files, view, with_submounts
from udocker.engines.userns import SCRIPT
from udocker.errors import StartError, UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from udocker.containers.spec import DeviceNode, RuntimeSpec
    from udocker.engines.layout import Mount
    from udocker.engines.programs import Installed
    from udocker.host.probe import Host

_UNWANTED = "hostfs,home,cwd,tmp,bind-paths"
"""What sites let show in every container."""
_ENVIRONMENT = (("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"), ("LC_ALL", "C"))
_ITS_OWN = ("HOME",)
"""Variables that it refuses to be told."""
_PYTHON_WORDS = 4
"""Words before those of the sandbox, which runs in this process."""
_BASE = ("/proc", "/sys", "/dev")


class ApptainerEngine(ExternalEngine):
    """Runs containers as directories ("sandboxes"), by Apptainer."""

    name = "apptainer"
    mode = "S1"
    features = frozenset(
        (
            *(features.FAKE_ROOT, features.HOST_NAME, features.PRIVATE_NETWORK),
            *(features.READ_ONLY_ROOT, features.READ_ONLY_BINDS),
            *(features.STATIC_PROGRAMS, features.MUSL),
            *(features.NESTED_BINDS, features.DEVICES, features.OWN_NAMES),
            *(features.KEEP_ID, features.CHEAP_BINDS, features.FEW_MOUNTS),
        )
    )

    def __init__(self, directory: str, mode: str = "") -> None:
        """`directory` is the store's."""
        super().__init__(directory, mode)
        self._spec: RuntimeSpec | None = None
        self._setuid = False

    def obstacle(self, host: Host) -> str | None:
        """Return why it cannot run here; None when a container has been run with it.

        With a user namespace or, where there can be none, by its setuid helper.
        """
        try:
            found = self._installed()
            reason = rehearsal.reason_against(host, self.directory, self, found)
            if not reason:
                return None
            self._setuid = True
            own = os.geteuid()
            if not rehearsal.reason_against(host, self.directory, self, found, uid=own):
                return None
            self._setuid = False
            return reason
        except UdockerError as error:
            return error.message

    def plan(self, spec: RuntimeSpec, lock: int | None = None) -> Launch:
        """Return the command that runs `spec`. Raises StartError for what it cannot do."""
        self._refuse_impossible(spec)
        self._spec = spec
        words = (self._installed().path, *self._words(spec))
        if spec.process.user.uid == 0 and not self._setuid:
            python = (sys.executable or "python3", "-I", "-S", SCRIPT)
            root = ("--no-root", "--fake-root", "--", self._needed("unshare").path, "-r")
            words = (*python, *root, *words)
        directories, empty = _missing(spec)
        files = (*text_files(spec), *((path, "") for path in empty))
        env = (*_ENVIRONMENT, *self._environment(spec))
        return Launch(words, env, files, spec.limits, spec.cpus, directories, umask=spec.umask)

    def start(self, launch: Launch) -> NoReturn:
        """Become Apptainer, or say why not and exit (125, 126, 127)."""
        try:
            assert self._spec is not None, "nothing was planned"
            executable.check_program(view(self._spec), self._spec.process)
            if launch.argv[0] == self._installed().path:
                launching.become(launch)
            launching.prepare_process(launch)
        except UdockerError as error:
            console.say_error(error)
            os._exit(max(error.exit_code, 125))
        from udocker.engines.sandbox import run

        run.main(launch.argv[_PYTHON_WORDS:], dict(launch.env))

    def attendant(self) -> ApptainerEngine:
        """Return this engine, which has planned the run."""
        return self

    def watch(self, child: int) -> None:
        """Nothing has to be done early."""

    def receiver(self, child: int) -> int:
        """Return the pid of Apptainer's process, which passes signals on."""
        return child

    def exit_code(self, child: int, status: int) -> int:
        """Return the program's exit code, which is Apptainer's. The run's files are removed."""
        if self._spec is not None:
            trees.remove_tree(self._spec.scratch)
        return supervise.exit_code(status)

    def _words(self, spec: RuntimeSpec) -> Iterator[str]:
        yield from ("--silent", "exec", "--no-home", "--no-mount", _UNWANTED, "--no-eval")
        yield "--cleanenv"
        if not self._setuid:
            yield "--userns"
        if spec.process.user.uid == 0:
            yield "--no-privs"  # root could make read-only volumes writable
        if not spec.readonly:
            yield "--writable"
        if spec.network != "host":
            yield from ("--net", "--network", "none")
        if spec.hostname:
            yield from ("--uts", "--hostname", spec.hostname)
        yield from ("--pwd", spec.process.cwd)
        points = Points()
        for mount in view(spec).placed:
            yield from _mount_words(mount, points)
        yield from (os.path.realpath(spec.rootfs.tree), *spec.process.args)

    def _environment(self, spec: RuntimeSpec) -> Iterator[tuple[str, str]]:
        prefix = f"{self.name.upper()}ENV_"
        for name, value in launching.environment(spec):
            if name not in _ITS_OWN:
                yield prefix + name, value

    def _installed(self) -> Installed:
        return self._needed(self.name)

    def _needed(self, name: str) -> Installed:
        found = programs.find(self.directory, name)
        if found is None:
            raise StartError(
                f"{name} is not installed (that is the site's to do; a package of that name "
                "is in Fedora, EPEL and Debian)"
            )
        return found

    def _refuse_impossible(self, spec: RuntimeSpec) -> None:
        uid = spec.process.user.uid
        possible = (os.geteuid(),) if self._setuid else (0, os.geteuid())
        refused = {
            "--tmpfs and --shm-size": spec.tmpfs,
            "--pid private and --init": spec.pid != "host",
            "--publish": spec.ports,
            "--userns auto": spec.many_ids,
            "--kernel": spec.kernel,
            "--nosysdirs": not spec.system_directories,
            f"--user {uid}": uid not in possible,
            "--device SRC:DST": any(map(_is_renamed, spec.edits.device_nodes)),
        }
        for option, is_asked in refused.items():
            if is_asked:
                hint = "--engine userns can; --userns keep-id keeps your own user id"
                raise StartError(f"{self.name} cannot do what {option} says", hint=hint)


class SingularityEngine(ApptainerEngine):
    """Runs containers as directories ("sandboxes"), by SingularityCE."""

    name = "singularity"


def _mount_words(mount: Mount, points: Points) -> Iterator[str]:
    """Yield the words for a mount; the host's /proc, /sys and /dev it shows by itself."""
    base = any(mount.destination == d or mount.destination.startswith(f"{d}/") for d in _BASE)
    if mount.kind != "bind" or (base and mount.source == mount.destination):
        return
    for part in with_submounts(mount, points) if mount.readonly else (mount,):
        fields = ["type=bind", f"source={part.source}", f"destination={part.destination}"]
        fields += ["ro"] if part.readonly else []
        yield from ("--mount", ",".join(map(_field, fields)))


def _is_renamed(node: DeviceNode) -> bool:
    """Tell whether a node is to show in /dev, which is the host's, under another name."""
    return node.destination.startswith("/dev/") and node.destination != node.source


def _field(text: str) -> str:
    """Return a field of a line of comma-separated values. Source: RFC 4180."""
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\n') else text


def _missing(spec: RuntimeSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return host paths of the directories, and of the empty files, on which is to be mounted.

    Apptainer makes no mount points in a directory that it may write to.
    """
    seen = View(os.path.realpath(spec.rootfs.tree))
    directories = [seen.host_path(seen.resolve(path)) for path in (*_BASE, spec.process.cwd)]
    files: list[str | None] = []
    for mount in mounts(spec):
        if mount.kind == "bind" and not mount.destination.startswith("/dev/"):
            place = seen.host_path(seen.resolve(mount.destination))
            (directories if os.path.isdir(mount.source) else files).append(place)
        seen.place(mount)
    return _absent(directories), _absent(files)


def _absent(paths: list[str | None]) -> tuple[str, ...]:
    return tuple(path for path in paths if path is not None and not os.path.lexists(path))
