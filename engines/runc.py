"""runc and crun: the run of a container as an OCI bundle (modes R1, R2 and R3).

The bundle and the runtime's own notes lie in the scratch directory of the run. The runtime makes
the container and leaves, so that the program has the caller's own streams (a runc that stays
would copy them through pipes); this process stays in its place, passes signals on and ends as
the program does. Only with a terminal of its own for the program the runtime stays.

In R2 and R3 the program runs under PRoot in there, see `udocker.engines.nested`.
"""

from __future__ import annotations

import os

from udocker import console, disk, trees
from udocker.containers import features
from udocker.containers.spec import Launch
from udocker.engines import (
    bundle,
    executable,
    launching,
    nested,
    programs,
    rehearsal,
    standin,
    supervise,
)
from udocker.engines.external import ExternalEngine
from udocker.engines.first.listener import Listener
from udocker.engines.layout import view
from udocker.errors import StartError, UdockerError
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from udocker.containers.spec import RuntimeSpec
    from udocker.engines.layout import View
    from udocker.engines.programs import Installed
    from udocker.host.probe import Host

_PID_BYTES = 64


class RuncEngine(ExternalEngine):
    """Runs containers as directories, by runc."""

    name = "runc"
    mode = "R1"
    features = frozenset(
        (
            *(features.FAKE_ROOT, features.HOST_NAME, features.PRIVATE_NETWORK, features.TMPFS),
            *(features.READ_ONLY_ROOT, features.READ_ONLY_BINDS),
            *(features.STATIC_PROGRAMS, features.MUSL),
            *(features.NESTED_BINDS, features.DEVICES, features.OWN_NAMES),
            *(features.CHEAP_BINDS, features.FEW_MOUNTS, features.OWN_LINKS),
        )
    )
    options: tuple[str, ...] = ()
    """What stands before the command `run`."""
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    """Where the runtime looks for programs."""

    def __init__(self, directory: str, mode: str = "") -> None:
        """`directory` is the store's."""
        super().__init__(directory, mode)
        self._spec: RuntimeSpec | None = None
        self._seen: View | None = None
        self._lock = -1
        self._listener: Listener | None = None
        self._told_by = -1
        """The descriptor by which the listener is told, as the container has it."""
        if self.mode != "R1":
            self.features = self.features | {features.OTHER_USER}

    def obstacle(self, host: Host) -> str | None:
        """Return why it cannot run here; None when a container has been run with it."""
        try:
            found = self._installed()
            return rehearsal.reason_against(host, self.directory, self, found) or None
        except UdockerError as error:
            return error.message
        finally:
            self._forget()

    def _forget(self) -> None:
        """Nothing is planned, and nobody listens any more."""
        if self._listener:
            self._listener.close()
        self._spec = self._seen = self._listener = None

    def plan(self, spec: RuntimeSpec, lock: int | None = None) -> Launch:
        """Return the command that runs `spec`. Raises StartError for what it cannot do."""
        self._refuse_impossible(spec)
        self._spec, self._lock = spec, -1 if lock is None else lock
        own_terminal = spec.process.terminal and os.isatty(0)
        if self.mode == "R1":
            env = launching.environment(spec)
            text, self._seen = _config(spec, spec.process.args, env, terminal=own_terminal)
        else:
            text, self._seen = self._nested(spec, terminal=own_terminal)
        run = ("run", "--bundle", spec.scratch, "--pid-file", _pid_file(spec.scratch))
        notes = ("--root", f"{spec.scratch}/state", "--log", f"{spec.scratch}/log")
        name = "-".join(spec.scratch.split("/")[-3:])
        words = (self._installed().path, *notes, *self.options, *run, "--no-new-keyring", name)
        env = (("PATH", self.path), ("XDG_RUNTIME_DIR", spec.scratch))
        files, links = bundle.files(spec, text), tuple(self._seen.links)
        return Launch(words, env, files, spec.limits, spec.cpus, links=links)

    def _nested(self, spec: RuntimeSpec, *, terminal: bool) -> tuple[str, View]:
        """Return what `_config` does for the program under PRoot, which `_listener` hears of."""
        self._listener = self._listener or Listener()
        self._listener.program = spec.process.args[0]
        own = (self._lock, self._listener.fd)
        self._told_by = 1 + max(_inherited(*own), default=2)
        while self._told_by in own:
            self._told_by += 1
        found = nested.find(self.directory)
        args = nested.words(spec, found, self._told_by)
        env = nested.environment(found, launching.environment(spec), self.mode)
        return _config(nested.with_files(spec, found), args, env, terminal=terminal)

    def _passed_on(self) -> list[int]:
        """Return the descriptors that the container gets. Raises StartError for no program."""
        assert self._spec and self._seen, "nothing was planned"
        if self._listener is None:
            executable.check_program(self._seen, self._spec.process)
            return _inherited(self._lock)
        os.dup2(self._listener.fd, self._told_by)
        return _inherited(self._lock, self._listener.fd)

    def start(self, launch: Launch) -> NoReturn:
        """Become the runtime, or stay in its place until the program ends; 125, 126, 127."""
        try:
            assert self._spec is not None, "nothing was planned"
            launching.make_links(launch)
            open_files = self._passed_on()
            _fill_gaps(open_files)
            kept = ("--preserve-fds", str(max(open_files, default=2) - 2))
            if '"terminal":true' in launch.files[0][1]:
                launching.become(_with(launch, *kept))
            below = 0 if self._listener is None else nested.DEPTH
            standin.stand_in(_Runtime(launch, kept, self._spec.scratch, below))
        except UdockerError as error:
            console.say_error(error)
            os._exit(max(error.exit_code, 125))

    def attendant(self) -> RuncEngine:
        """Return this engine, which has planned the run."""
        return self

    def watch(self, child: int) -> None:
        """Listen from now on to who runs the program under PRoot."""
        if self._listener:
            self._listener.watch(child)

    def receiver(self, child: int) -> int:
        """Return the pid of the program; of what stands before it while that is not there yet."""
        if self._listener:
            return self._listener.receiver(child)
        return self._program() or child

    def exit_code(self, child: int, status: int) -> int:
        """Return the program's exit code, which is also that of the process before it.

        The files of the run are removed.
        """
        if self._spec is None:
            return supervise.exit_code(status)
        started = os.path.exists(_pid_file(self._spec.scratch))
        trees.remove_tree(self._spec.scratch)
        if self._listener:
            return self._listener.exit_code(child, status)
        code = supervise.exit_code(status)
        return code if started or code in (125, 126, 127) else 125

    def _program(self) -> int:
        return _read_pid(_pid_file(self._spec.scratch)) if self._spec else 0

    def _installed(self) -> Installed:
        found = programs.find(self.directory, self.name)
        if found is None:
            raise StartError(
                f"{self.name} is not installed (`udocker install {self.name}` brings it; or the "
                f"package {self.name} of the distribution)"
            )
        return found

    def _refuse_impossible(self, spec: RuntimeSpec) -> None:
        refused = {
            "--pid private and --init": spec.pid == "private",
            "--publish": spec.ports,
            "--userns auto": spec.many_ids,
            "--kernel": spec.kernel,
            "--nosysdirs": not spec.system_directories and self.name == "runc",
        }
        for option, is_asked in refused.items():
            if is_asked:
                raise StartError(f"{self.name} cannot do what {option} says", hint=_OTHERS)
        if spec.process.user.uid and features.OTHER_USER not in self.features:
            raise StartError(
                f"{self.name} runs programs as root of the container only, for one user alone "
                f"cannot have two ids; this one runs as {spec.process.user.uid}",
                hint=_OTHERS,
            )


def _config(
    spec: RuntimeSpec, args: Sequence[str], env: bundle.Variables, *, terminal: bool
) -> tuple[str, View]:
    """Return config.json for running `args`, and the container as they see it."""
    seen = view(spec)
    faked = spec.process.user.uid == 0  # PRoot alone does not forgive ids that are not mapped
    return bundle.config(spec, args, env, faked=faked, terminal=terminal, seen=seen), seen


class CrunEngine(RuncEngine):
    """Runs containers as directories, by crun."""

    name = "crun"
    features = RuncEngine.features | {features.OTHER_USER}
    options = ("--cgroup-manager", "disabled")
    path = "/var/empty"
    """It would ask newuidmap(1), which complains where the user has no name, and do without."""


_OTHERS = "--engine userns does it, and bwrap"


def _pid_file(scratch: str) -> str:
    return f"{scratch}/pid"


def _read_pid(path: str) -> int:
    try:
        return int(disk.read(path, _PID_BYTES) or b"0")
    except ValueError:
        return 0


def _inherited(*own: int) -> list[int]:
    """Return the descriptors beside the standard streams that programs inherit, but our `own`.

    The container's lock is held by who stays behind, which is there as long as the program is.
    """
    numbers = map(int, os.listdir("/proc/self/fd"))  # one of them is that of the listing
    return [n for n in numbers if n > 2 and n not in own and _is_inherited(n)]


def _fill_gaps(open_files: list[int]) -> None:
    """Every number up to the last of `open_files` is open, as if it were closed: to no use.

    Runtimes are told how many files to pass on, from number 3. runc wants all to be there, crun
    would pass on its own that are among them. What they open first takes the number of a stream
    that the caller closed: programs would write into the runtime's notes. So such a stream is
    /dev/null; both runtimes give streams to the container's user, which needs them truly open.
    """
    for number in range(max(open_files, default=2) + 1):
        if number in open_files or (number < 3 and _is_inherited(number)):
            continue
        nothing = os.open(os.devnull, os.O_PATH if number > 2 else os.O_RDWR)
        if nothing == number:
            os.set_inheritable(nothing, True)
        else:
            os.dup2(nothing, number)
            os.close(nothing)


def _is_inherited(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:
        return False


class _Runtime:
    """A runtime that starts the program and leaves.

    Runtimes of 2024 and later let the program use all processors, whatever the caller may use
    (a batch system binds its steps to some). So there the container is made first, bound, and
    then the program started.
    """

    has_own_session = True
    heir_may_outlive = False

    def __init__(self, launch: Launch, kept: tuple[str, ...], scratch: str, below: int) -> None:
        """`kept` are words about open files. `below`: how many generations the program comes
        after the container's process."""
        self._launch = launch
        self._kept = kept
        self._pid_file = _pid_file(scratch)
        self._below = below
        self._cpus = launch.cpus or tuple(os.sched_getaffinity(0))
        self._is_bound = len(self._cpus) < (os.cpu_count() or 1)
        self._failed: bool | None = None

    def become(self) -> NoReturn:
        """Become the runtime, out of reach of the terminal's signals. Raises StartError."""
        os.setpgid(0, 0)
        if self._is_bound:
            created = _command(self._launch, "create")
            launching.become(_with(replace(self._launch, argv=created), *self._kept))
        launching.become(_with(self._launch, "--detach", *self._kept))

    def program(self) -> int:
        """Return the program's pid; 0: it is not there yet."""
        pid = self.heir()
        for _ in range(self._below if pid else 0):
            pid = next(iter(supervise.children(pid)), 0)
        return pid

    def heir(self) -> int:
        """Return the pid that the runtime wrote: of the program or of what stands before it."""
        return _read_pid(self._pid_file)

    def ended(self, status: int) -> int | None:
        """Return 125 when the runtime has failed; else the program goes on, or begins now."""
        if self._failed is None:
            self._failed = bool(status) or not self.heir()
            if self._is_bound and not self._failed:
                self._failed = not self._start_bound()
        return 125 if self._failed else None

    def _start_bound(self) -> bool:
        """Let the program of a container that has been made begin; tell whether it could."""
        try:
            for thread in os.listdir(f"/proc/{self.heir()}/task"):
                os.sched_setaffinity(int(thread), self._cpus)
        except OSError as error:
            console.warn(f"the program may use other processors than the caller: {error}")
        argv, env = self._launch.argv, dict(self._launch.env)
        words = (*argv[: argv.index("run")], "start", argv[-1])
        pid = os.posix_spawn(argv[0], words, env, setsigmask=())
        return os.waitpid(pid, 0)[1] == 0


def _command(launch: Launch, name: str) -> tuple[str, ...]:
    """Return the words of a launch with another command than `run`."""
    place = launch.argv.index("run")
    return (*launch.argv[:place], name, *launch.argv[place + 1 :])


def _with(launch: Launch, *words: str) -> Launch:
    """Return a launch with more words before the container's name."""
    return replace(launch, argv=(*launch.argv[:-1], *words, launch.argv[-1]))
