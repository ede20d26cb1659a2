"""The embedded engine's hands: enter namespaces, lay out a root file system, exec a program.

Stand-alone and stdlib only: `python3 -I -S sandbox.py OPTIONS -- PROGRAM ARG...` does the same
as calling `main`; no other module of the project is imported. Words on the command line become
a list of operations, the list is carried out in order, the process becomes the program.

How it is done, and why:
- One unprivileged user namespace maps the caller to 0. In it the root is mounted, then
  `chroot` goes there, so that every name that is made or mounted on is resolved inside the
  container: a link in an image cannot lead a mount or a mkdir to the host.
- A second user and mount namespace follows. It maps 0 to the wanted uid, and it locks every
  mount made so far: the container's root cannot take away what was put over the image.
- What the container sees of the host is opened before its root is mounted, as a detached
  copy of the mounts there (open_tree), so that a bound directory which holds the store does
  not show the container in itself. Kernels before 5.2 bind through /proc/self/fd instead.

Source: user_namespaces(7), mount_namespaces(7), pivot_root(2), mount_setattr(2), seccomp(2);
Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

CLONE_NEWNS, CLONE_NEWUTS = 0x20000, 0x4000000
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SIGKILL = 9
NS_GET_PARENT = 0xB702
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
SCRATCH = "/run/udocker"
"""In every container: an empty file system in memory, for what is injected."""

_libc = ctypes.CDLL(None, use_errno=True)


class SandboxError(Exception):
    """A step failed: `step` says which, `errno` why (None: not the kernel's doing)."""

    exit_code = 125

    def __init__(self, step: str, errno: int | None = None) -> None:
        reason = f": {os.strerror(errno)}" if errno else ""
        super().__init__(step + reason)
        self.step = step
        self.errno = errno


class ProgramError(SandboxError):
    """The program itself cannot be executed; `exit_code` is 126 or 127."""

    def __init__(self, step: str, errno: int, exit_code: int) -> None:
        super().__init__(step, errno)
        self.exit_code = exit_code


# --- system calls -------------------------------------------------------------------------


def _check(result: int, step: str) -> int:
    if result < 0:
        raise SandboxError(step, ctypes.get_errno())
    return result


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises SandboxError naming what was to be mounted where."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode(),
        ctypes.c_ulong(flags),
        os.fsencode(data) if data else None,
    )
    _check(result, f"mount {kind or 'bind'} {source} on {target}")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(flags), "unshare namespaces")


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise SandboxError(f"write {text.strip()!r} to {path}", error.errno) from error


def enter_user_namespace(flags: int, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    """Enter a new user namespace (and others by `flags`) with one uid and one gid mapped."""
    unshare(CLONE_NEWUSER | flags)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{inside[0]} {outside[0]} 1")
    _write("/proc/self/gid_map", f"{inside[1]} {outside[1]} 1")


# --- names in the container (the process is chrooted when these run) -----------------------


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except OSError as error:
        raise SandboxError(f"make the directory {path} in the container", error.errno) from error


def make_mount_point(path: str, *, directory: bool) -> str:
    """Make `path` exist in the container as a directory or file; return it without links."""
    real = os.path.realpath(path)
    if directory:
        _make_directory(real)
    elif not os.path.lexists(real):
        _make_directory(os.path.dirname(real))
        try:
            os.close(os.open(real, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise SandboxError(f"make the file {path} in the container", error.errno) from error
    return real


def make_readonly(path: str) -> None:
    """Make the mount at `path` and all below it read-only, as seen from here."""
    attributes = (ctypes.c_uint64 * 4)(MS_RDONLY, 0, 0, 0)
    result = _libc.syscall(
        SYS_MOUNT_SETATTR,
        AT_FDCWD,
        os.fsencode(path),
        AT_RECURSIVE,
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
    )
    if result < 0:  # before Linux 5.12: one by one
        for point in _mounts_at_or_below(path):
            _remount_readonly(point)


def _mounts_at_or_below(path: str) -> list[str]:
    with open("/proc/self/mountinfo", "rb") as file:
        points = [os.fsdecode(line.split()[4].decode("unicode_escape")) for line in file]
    below = path.rstrip("/") + "/"
    return [point for point in points if point == path or point.startswith(below)]


def _remount_readonly(path: str) -> None:
    present = os.statvfs(path).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | present)


# --- operations ----------------------------------------------------------------------------


class Operation:
    """One change to the container's file system, made while chrooted into it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self) -> None:
        """Open what is needed of the host, before the root is entered."""

    def apply(self) -> None:
        """Make the change."""


class BindMount(Operation):
    """A file or directory of the host shows at `path`, with the mounts below it."""

    def __init__(self, source: str, path: str, *, readonly: bool = False) -> None:
        super().__init__(path)
        self.source = source
        self.readonly = readonly
        self._fd = -1
        self._detached = False

    def open(self) -> None:
        flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC
        path = os.fsencode(self.source)
        self._fd = _libc.syscall(SYS_OPEN_TREE, AT_FDCWD, path, flags)
        self._detached = self._fd >= 0
        if self._detached:
            return
        try:
            self._fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise SandboxError(f"show {self.source} in the container", error.errno) from error

    def apply(self) -> None:
        target = make_mount_point(self.path, directory=stat.S_ISDIR(os.stat(self._fd).st_mode))
        if self._detached:
            self._attach(target)
        else:
            mount(f"/proc/self/fd/{self._fd}", target, "", MS_BIND | MS_REC)
        os.close(self._fd)
        if self.readonly:
            make_readonly(target)

    def _attach(self, target: str) -> None:
        result = _libc.syscall(
            SYS_MOVE_MOUNT,
            self._fd,
            b"",
            AT_FDCWD,
            os.fsencode(target),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
        _check(result, f"show {self.source} at {self.path} in the container")


class TextFile(Operation):
    """A small file, kept in memory, shows read-only at `path`."""

    count = 0

    def __init__(self, path: str, text: str) -> None:
        super().__init__(path)
        self.text = text

    def apply(self) -> None:
        _make_directory(f"{SCRATCH}/files")
        TextFile.count += 1
        source = f"{SCRATCH}/files/{TextFile.count}"
        fd = os.open(source, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(self.text)
        target = make_mount_point(self.path, directory=False)
        mount(source, target, "", MS_BIND)
        make_readonly(target)


class MemoryDirectory(Operation):
    """An empty file system in memory at `path`."""

    def __init__(self, path: str, options: str = "mode=1777") -> None:
        super().__init__(path)
        self.options = options

    def apply(self) -> None:
        target = make_mount_point(self.path, directory=True)
        mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, self.options)


class Directory(Operation):
    """A directory exists at `path`."""

    def apply(self) -> None:
        make_mount_point(self.path, directory=True)


class Link(Operation):
    """A symbolic link stands at `path`, in place of any file there."""

    def __init__(self, target: str, path: str) -> None:
        super().__init__(path)
        self.target = target

    def apply(self) -> None:
        _make_directory(os.path.dirname(self.path))
        try:
            if os.path.lexists(self.path) and not os.path.isdir(self.path):
                os.unlink(self.path)
            os.symlink(self.target, self.path)
        except OSError as error:
            raise SandboxError(f"link {self.path} in the container", error.errno) from error


class Devices(Operation):
    """A /dev of its own: the harmless nodes, the host's terminals and shared memory.

    The mode matters: in a sticky directory `> /dev/null` would fail, for O_CREAT there asks who
    owns the file (protected_regular). The host's pts is kept so that `tty` knows the terminal;
    its shm, because MPI and NCCL ranks meet there.
    """

    NODES = ("null", "zero", "full", "random", "urandom", "tty")
    SHARED = ("pts", "shm", "mqueue", "hugepages")
    LINKS = {
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
        "ptmx": "pts/ptmx",
        "core": "/proc/kcore",
    }

    def __init__(self) -> None:
        super().__init__("/dev")
        names = [name for name in self.NODES + self.SHARED if os.path.lexists(f"/dev/{name}")]
        self._binds = [BindMount(f"/dev/{name}", f"/dev/{name}") for name in names]

    def open(self) -> None:
        for bind in self._binds:
            bind.open()

    def apply(self) -> None:
        MemoryDirectory(self.path, "mode=755").apply()
        for bind in self._binds:
            bind.apply()
        for name, target in self.LINKS.items():
            os.symlink(target, f"/dev/{name}")
        _make_directory("/dev/shm")


class System(Operation):
    """/sys: the host's, or in a network namespace of its own a fresh one that shows it."""

    def __init__(self, *, fresh: bool) -> None:
        super().__init__("/sys")
        self.fresh = fresh
        self._host = BindMount("/sys", "/sys")

    def open(self) -> None:
        self._host.open()

    def apply(self) -> None:
        target = make_mount_point(self.path, directory=True)
        if self.fresh:
            try:
                mount("sysfs", target, "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
                return
            except SandboxError:  # a container around us hides parts of /sys: the kernel says no
                pass
        self._host.apply()


class ReadOnlyRoot(Operation):
    """Nothing of the root file system can be changed; what is mounted in it can."""

    def __init__(self) -> None:
        super().__init__("/")

    def apply(self) -> None:
        _remount_readonly("/")


# --- the root file system ------------------------------------------------------------------


class Root:
    """Where the container's files come from: a tree, with a writable layer unless it is flat."""

    def __init__(self, tree: str, upper: str = "", work: str = "", *, volatile: bool = False) -> None:
        self.tree = tree
        self.upper = upper
        self.work = work
        self.volatile = volatile

    def mount(self) -> str:
        """Mount the root over the tree's own directory (in this namespace); return it."""
        if not self.upper:
            mount(self.tree, self.tree, "", MS_BIND | MS_REC)
        elif self.upper == "memory":
            self._mount_memory_overlay()
        else:
            self._forget_volatile()
            self._mount_overlay(self.tree, self.upper, self.work)
        return self.tree

    def _mount_overlay(self, lower: str, upper: str, work: str) -> None:
        # Leaving an overlay writes the whole file system of its upper layer to the disk
        # (0.4 to 1.7 s with 300 MB to write); volatile spares that for layers thrown away.
        options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
        mount("overlay", self.tree, "overlay", 0, options + (",volatile" if self.volatile else ""))

    def _mount_memory_overlay(self) -> None:
        lower = os.open(self.tree, os.O_PATH | os.O_CLOEXEC)
        mount("tmpfs", self.tree, "tmpfs", 0, "mode=755")
        upper, work = f"{self.tree}/upper", f"{self.tree}/work"
        os.mkdir(upper, 0o755)
        os.mkdir(work, 0o755)
        self._mount_overlay(f"/proc/self/fd/{lower}", upper, work)

    def _forget_volatile(self) -> None:
        mark = f"{self.work}/work/incompat"
        try:  # left by a volatile mount; with it the kernel refuses the layer
            os.unlink(f"{mark}/volatile/dirty")
            os.rmdir(f"{mark}/volatile")
            os.rmdir(mark)
        except OSError:
            pass


def _mount_proc(root: str) -> None:
    """Show the host's /proc in the root, the one mount made from outside of it.

    A fresh proc would need a pid namespace, which CUDA IPC and MPI ranks cannot cross.
    """
    target = f"{root}/proc"
    if not os.path.lexists(target):
        os.mkdir(target, 0o755)
    if os.path.islink(target) or not os.path.isdir(target):
        raise SandboxError("the image's /proc is not a directory")
    mount("/proc", target, "", MS_BIND | MS_REC)


def build(root: Root, operations: Sequence[Operation], cwd: str) -> None:
    """Make `root` with `operations` in it the root of this process, and `cwd` its directory."""
    host = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mount("", "/", "", MS_REC | MS_SLAVE)
    for operation in operations:
        operation.open()
    path = root.mount()
    _mount_proc(path)
    os.chroot(path)
    os.chdir("/")
    for operation in operations:
        operation.apply()
    os.fchdir(host)
    os.chroot(".")
    os.chdir(path)
    _check(_libc.pivot_root(b".", b"."), "pivot_root")
    _check(_libc.umount2(b".", MNT_DETACH), "unmount the host's root")
    os.close(host)
    _change_directory(cwd)


def _change_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise SandboxError(f"change to the directory {path} of the container", error.errno) from error


# --- fake root -----------------------------------------------------------------------------
# A namespace with one uid cannot give files to another. Package managers try, and stop when it
# fails. As Charliecloud showed, it is enough to say that it worked.

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FAKED = {
    # chown fchown lchown fchownat setuid setgid setreuid setregid setgroups setresuid setresgid
    # setfsuid setfsgid capset kexec_load (which is there to test the filter)
    "x86_64": (92, 93, 94, 260, 105, 106, 113, 114, 116, 117, 119, 122, 123, 126, 246),
    # fchownat fchown setregid setgid setreuid setuid setresuid setresgid setfsuid setfsgid
    # setgroups capset kexec_load
    "aarch64": (54, 55, 143, 144, 145, 146, 147, 149, 151, 152, 159, 91, 104),
}
MKNOD = {"x86_64": ((133, 1), (259, 2)), "aarch64": ((33, 2),)}
"""mknod and mknodat: number, and which argument is the mode."""
_LOAD, _JUMP_EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06
_ALLOW, _SUCCEED = 0x7FFF0000, 0x00050000


def fake_root_program(machine: str) -> list[tuple[int, int, int, int]]:
    """Return the BPF program: calls that change owners or ids succeed and do nothing.

    So does mknod of device nodes; fifos and files are made. Other architectures' calls
    (32-bit programs) pass as they are.
    """
    checks: list[tuple[int, int, int, int]] = []
    for number in FAKED[machine]:
        checks += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _SUCCEED)]
    for number, argument in MKNOD[machine]:
        checks += [
            (_JUMP_EQUAL, 0, 6, number),
            (_LOAD, 0, 0, 16 + 8 * argument),
            (_AND, 0, 0, 0o170000),
            (_JUMP_EQUAL, 1, 0, 0o020000),
            (_JUMP_EQUAL, 0, 1, 0o060000),
            (_RETURN, 0, 0, _SUCCEED),
            (_RETURN, 0, 0, _ALLOW),
        ]
    head = [(_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, AUDIT_ARCH[machine]), (_RETURN, 0, 0, _ALLOW)]
    return [*head, (_LOAD, 0, 0, 0), *checks, (_RETURN, 0, 0, _ALLOW)]


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install_fake_root(machine: str) -> None:
    """Install the program for this process and all that come from it, and test it."""
    if machine not in FAKED:
        return
    instructions = fake_root_program(machine)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in instructions))
    program = _FilterProgram(len(instructions), ctypes.addressof(code))
    result = _libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)
    _check(result, "install the seccomp filter of fake root")
    if _libc.syscall(FAKED[machine][-1], 0, 0, 0, 0) != 0:
        raise SandboxError("the seccomp filter of fake root does not work")


# --- network -------------------------------------------------------------------------------


def raise_loopback() -> None:
    """Bring up `lo` in a new network namespace. Source: netdevice(7)."""
    interface_up, siocsifflags = 0x1 | 0x40, 0x8914
    fd = _check(_libc.socket(2, 2 | 0o2000000, 0), "open a socket")
    request = ctypes.create_string_buffer(struct.pack("16sH14x", b"lo", interface_up))
    _check(_libc.ioctl(fd, siocsifflags, request), "bring up the loopback interface")
    os.close(fd)


# --- the program ---------------------------------------------------------------------------


def execute(argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Become the program. Raises ProgramError: 127 when it is not there, 126 when not executable."""
    denied = None
    for path in _candidates(argv[0], env):
        try:
            os.execve(path, list(argv), dict(env))
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.isfile(path):
                reason = f"run {argv[0]}: its interpreter is not in the container"
                raise ProgramError(reason, error.errno or 2, 127) from error
        except PermissionError as error:
            denied = error
        except OSError as error:
            raise ProgramError(f"run {argv[0]}", error.errno or 8, 126) from error
    if denied:
        raise ProgramError(f"run {argv[0]}", denied.errno or 13, 126)
    raise ProgramError(f"run {argv[0]}", 2, 127)


def _candidates(program: str, env: Mapping[str, str]) -> list[str]:
    if "/" in program:
        return [program]
    return [f"{directory or '.'}/{program}" for directory in env.get("PATH", "").split(":")]


# --- words to operations -------------------------------------------------------------------


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
        self.join = 0
        self.program: list[str] = []

    def everything(self) -> list[Operation]:
        """The operations with those that every container has, in the order to apply them.

        Deeper paths come later, so that no mount hides another; equal depths keep their order.
        """
        base: list[Operation] = [
            Devices(),
            System(fresh=self.network == "none"),
            MemoryDirectory(SCRATCH, "mode=755"),
        ]
        asked = sorted(self.operations, key=lambda o: os.path.normpath(o.path).count("/"))
        return [*base, *asked, Directory(self.cwd), *([ReadOnlyRoot()] if self.readonly else [])]


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
    "--tmpfs": (1, lambda p, d: p.operations.append(MemoryDirectory(d))),
    "--cwd": (1, lambda p, d: setattr(p, "cwd", d)),
    "--hostname": (1, lambda p, name: setattr(p, "hostname", name)),
    "--network": (1, lambda p, kind: setattr(p, "network", kind)),
    "--read-only": (0, lambda p: setattr(p, "readonly", True)),
    "--announce": (1, lambda p, fd: setattr(p, "announce", int(fd))),
    "--join": (1, lambda p, pid: setattr(p, "join", int(pid))),
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
        raise SandboxError("a program and a root file system (or a process to join) are needed")
    return plan


def run(plan: Plan, env: Mapping[str, str]) -> NoReturn:
    """Carry out the plan; on success this process is the program. Raises SandboxError."""
    if plan.join:
        enter_namespaces_of(plan.join, plan.cwd)
    else:
        _enter_new_namespaces(plan)
    if plan.announce >= 0:
        announce(plan.announce)
    if plan.die_with_parent:  # after the last change of credentials, which would undo it
        _libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    if plan.fake_root:
        install_fake_root(os.uname().machine)
    execute(plan.program, env)


def _enter_new_namespaces(plan: Plan) -> None:
    assert plan.root is not None
    flags = CLONE_NEWNS
    flags |= CLONE_NEWNET if plan.network == "none" else 0
    flags |= CLONE_NEWUTS if plan.hostname else 0
    enter_user_namespace(flags, (0, 0), (os.geteuid(), os.getegid()))
    if plan.hostname:
        name = os.fsencode(plan.hostname)
        _check(_libc.sethostname(name, len(name)), f"set the host name {plan.hostname}")
    if plan.network == "none":
        raise_loopback()
    umask = os.umask(0o022)
    build(plan.root, plan.everything(), plan.cwd)
    os.umask(umask)
    enter_user_namespace(CLONE_NEWNS, (plan.uid, plan.gid), (0, 0))


def enter_namespaces_of(pid: int, cwd: str) -> None:
    """Enter the container that process `pid` is in, and the directory `cwd` there.

    The kernel lets the owner of a user namespace into it and into those below. What the first
    of the two user namespaces owns has to be entered from it. Source: setns(2), ioctl_ns(2).
    """
    try:
        inner = _open_namespace(pid, "user")
        outer = fcntl.ioctl(inner, NS_GET_PARENT)
        kinds = (("net", CLONE_NEWNET), ("uts", CLONE_NEWUTS))
        owned = [(_open_namespace(pid, name), kind) for name, kind in kinds]
        mounts = _open_namespace(pid, "mnt")
    except OSError as error:
        raise SandboxError(f"join the container of process {pid}", error.errno) from error
    steps = [(outer, CLONE_NEWUSER), *owned, (inner, CLONE_NEWUSER), (mounts, CLONE_NEWNS)]
    for fd, kind in steps:
        if kind in (CLONE_NEWUSER, CLONE_NEWNS) or not _is_own_namespace(fd, kind):
            _check(_libc.setns(fd, kind), f"join the container of process {pid}")
        os.close(fd)
    _change_directory(cwd)


def _open_namespace(pid: int, name: str) -> int:
    return os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


def _is_own_namespace(fd: int, kind: int) -> bool:
    """Tell whether this process is in the namespace already: the host's cannot be entered."""
    name = "net" if kind == CLONE_NEWNET else "uts"
    return os.fstat(fd).st_ino == os.stat(f"/proc/self/ns/{name}").st_ino


def announce(lock: int) -> None:
    """Write into the locked file which process and mount namespace the container is, and let
    others, who wait for that, share the lock."""
    text = f"{os.getpid()} {os.readlink('/proc/self/ns/mnt')}\n"
    os.ftruncate(lock, 0)
    os.pwrite(lock, text.encode(), 0)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
    except OSError:  # a file system without locks: nobody waits
        pass


def probe(directory: str) -> tuple[str, int]:
    """Try the engine in a child process: `("", 0)`, or the step that failed and its errno.

    `directory` is where writable layers will lie; an overlay is mounted there. Steps:
    `namespaces`, `mount`, `overlay`.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, "{} {}".format(*_try(directory)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    answer = os.read(reader, 100).decode().split()
    os.close(reader)
    os.waitpid(child, 0)
    return (answer[0].strip("-"), int(answer[1])) if len(answer) == 2 else ("namespaces", 0)


def _try(directory: str) -> tuple[str, int]:
    step = "namespaces"
    try:
        enter_user_namespace(CLONE_NEWNS, (0, 0), (os.geteuid(), os.getegid()))
        step = "mount"
        mount("", "/", "", MS_REC | MS_SLAVE)
        mount("tmpfs", "/tmp", "tmpfs", 0, "size=64k")
        step = "overlay"
        for name in ("tree", "upper", "work"):
            os.makedirs(f"{directory}/{name}", exist_ok=True)
        Root(f"{directory}/tree", f"{directory}/upper", f"{directory}/work").mount()
        os.mkdir(f"{directory}/tree/made")
        os.rmdir(f"{directory}/tree/made")
    except SandboxError as error:
        return step, error.errno or 0
    except OSError as error:
        return step, error.errno or 0
    return "-", 0


def main(words: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    """Do what `words` say and become the program, or say what failed and exit (125, 126, 127)."""
    try:
        run(parse(words), env)
    except SandboxError as error:
        print(f"udocker: {error}", file=sys.stderr)
        os._exit(error.exit_code)
    except OSError as error:
        print(f"udocker: {error}", file=sys.stderr)
        os._exit(125)


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
