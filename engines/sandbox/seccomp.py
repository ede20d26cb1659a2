"""Filters of system calls: some are not made, and answer what the filter says.

A filter is a list of `Rule`s, which becomes a BPF program for the machine's own calls and for
those of 32-bit programs on it. Source: seccomp(2), Documentation/userspace-api/seccomp_filter.rst;
numbers: arch/x86/entry/syscalls/*.tbl, arch/arm/tools/syscall.tbl, asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import os
import struct

from udocker.engines.sandbox.kernel import PR_SET_SECCOMP, SandboxError, check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Instruction = tuple[int, int, int, int]
    """Code, jumps when true and when false, operand. Source: sock_filter in linux/filter.h."""

SEEM_TO_SUCCEED, ENOSYS = 0, 38

X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
"""What the kernel calls a kind of system call. Source: AUDIT_ARCH_* in linux/audit.h."""
ARCHITECTURES = {
    "x86_64": (X86_64, I386),
    "i686": (X86_64, I386),  # a 32-bit Python on either kernel
    "aarch64": (AARCH64, ARM),
    "armv8l": (AARCH64, ARM),
}
"""The kinds of calls that programs of a machine make, its own first."""
_COLUMNS = {X86_64: 0, I386: 1, AARCH64: 2, ARM: 3}
_NUMBERS = {
    "chown": (92, 182, None, 182),
    "fchown": (93, 95, 55, 95),
    "lchown": (94, 16, None, 16),
    "chown32": (None, 212, None, 212),
    "fchown32": (None, 207, None, 207),
    "lchown32": (None, 198, None, 198),
    "fchownat": (260, 298, 54, 325),
    "setuid": (105, 23, 146, 23),
    "setgid": (106, 46, 144, 46),
    "setreuid": (113, 70, 145, 70),
    "setregid": (114, 71, 143, 71),
    "setgroups": (116, 81, 159, 81),
    "setresuid": (117, 164, 147, 164),
    "setresgid": (119, 170, 149, 170),
    "setfsuid": (122, 138, 151, 138),
    "setfsgid": (123, 139, 152, 139),
    "setuid32": (None, 213, None, 213),
    "setgid32": (None, 214, None, 214),
    "setreuid32": (None, 203, None, 203),
    "setregid32": (None, 204, None, 204),
    "setgroups32": (None, 206, None, 206),
    "setresuid32": (None, 208, None, 208),
    "setresgid32": (None, 210, None, 210),
    "setfsuid32": (None, 215, None, 215),
    "setfsgid32": (None, 216, None, 216),
    "capset": (126, 185, 91, 185),
    "kexec_load": (246, 283, 104, 347),
    "mknod": (133, 14, None, 14),
    "mknodat": (259, 297, 33, 324),
    "name_to_handle_at": (303, 341, 264, 370),
    "open_by_handle_at": (304, 342, 265, 371),
    "renameat2": (316, 353, 276, 382),
    "execveat": (322, 358, 281, 387),
    "execveat_x32": (545, None, None, None),
    "statx": (332, 383, 291, 397),
}
_SINCE_424 = (
    *("pidfd_send_signal", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "pidfd_open"),
    *("clone3", "close_range", "openat2", "pidfd_getfd", "faccessat2", "process_madvise"),
    *("epoll_pwait2", "mount_setattr", "quotactl_fd", "landlock_create_ruleset"),
    *("landlock_add_rule", "landlock_restrict_self", "memfd_secret", "process_mrelease"),
    *("futex_waitv", "set_mempolicy_home_node", "cachestat", "fchmodat2", "map_shadow_stack"),
    *("futex_wake", "futex_wait", "futex_requeue", "statmount", "listmount", "lsm_get_self_attr"),
    *("lsm_set_self_attr", "lsm_list_modules", "mseal", "setxattrat", "getxattrat"),
    *("listxattrat", "removexattrat", "open_tree_attr", "file_getattr", "file_setattr"),
)
"""Since Linux 5.1 a new call has one number on all architectures: 424 and what follows."""
_FIRST_SHARED, _FIRST_PRIVATE = 424, 0x0F0000
"""From `_FIRST_PRIVATE` on 32-bit ARM has calls that no program can do without."""

_LOAD, _JUMP, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x54, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE, _OFFSET_ARGUMENTS = 0, 4, 16
_X32_BIT = 0x40000000
_SET_MODE_FILTER, _FILTER_FLAG_SPEC_ALLOW = 1, 4
_SECCOMP = {"x86_64": 317, "aarch64": 277}


class Rule:
    """The calls `names` are not made and return `errno`; 0: they seem to succeed.

    A name may be `NUMBER+`: all calls from that number on, 424 at least. Where `argument` is
    given (its position, from 0), only calls whose argument has, of the bits in `mask`, those of
    one of `values`. Raises SandboxError for names that are not in the table.
    """

    def __init__(
        self,
        names: Iterable[str],
        errno: int = SEEM_TO_SUCCEED,
        *,
        argument: int = -1,
        mask: int = 0,
        values: Sequence[int] = (),
    ) -> None:
        self.names = tuple(names)
        self.errno = errno
        self.argument = argument
        self.mask = mask
        self.values = tuple(values)
        for name in self.names:
            numbers(name)

    def instructions(self, architecture: int) -> list[Instruction]:
        """Return the part of a program for calls of one kind; the call's number is loaded."""
        column = _COLUMNS[architecture]
        known = [(name, numbers(name)[column]) for name in self.names]
        tests: list[Instruction] = []
        for name, number in reversed([(name, n) for name, n in known if n is not None]):
            away = len(tests) + 1  # the answer stands behind the tests and the jump over it
            if name.endswith("+"):
                test = [(_AT_LEAST, 0, 1, number), (_AT_LEAST, 0, away, _FIRST_PRIVATE)]
            else:
                test = [(_EQUAL, away, 0, number)]
            tests = [*test, *tests]
        answer = self._answer()
        return [*tests, (_JUMP, 0, 0, len(answer)), *answer] if tests else []

    def _answer(self) -> list[Instruction]:
        refuse = (_RETURN, 0, 0, _ERRNO | self.errno)
        if self.argument < 0:
            return [refuse]
        count = len(self.values)
        tests = [(_EQUAL, count - n, 0, value) for n, value in enumerate(self.values)]
        load = (_LOAD, 0, 0, _OFFSET_ARGUMENTS + 8 * self.argument)  # the low half of 64 bits
        return [load, (_AND, 0, 0, self.mask), *tests, (_RETURN, 0, 0, _ALLOW), refuse]


def numbers(name: str) -> tuple[int | None, ...]:
    """Return a call's numbers: x86-64, i386, aarch64, arm. Raises SandboxError."""
    if name in _NUMBERS:
        return _NUMBERS[name]
    if name in _SINCE_424:
        return (_FIRST_SHARED + _SINCE_424.index(name),) * 4
    if name.endswith("+") and name[:-1].isdigit() and int(name[:-1]) >= _FIRST_SHARED:
        return (int(name[:-1]),) * 4
    raise SandboxError(f"no number is known for the system call {name!r}")


def program(machine: str, rules: Sequence[Rule]) -> list[Instruction]:
    """Return the BPF program of `rules`; the first that fits a call decides, others allow it.

    Raises SandboxError for a machine whose calls are not known.
    """
    if machine not in ARCHITECTURES:
        raise SandboxError(f"the numbers of system calls are not known for {machine}")
    whole: list[Instruction] = []
    for architecture in ARCHITECTURES[machine]:
        load = [(_LOAD, 0, 0, _OFFSET_NUMBER)]
        if architecture == X86_64:  # the calls of x32 have one bit more
            load.append((_AND, 0, 0, 0xFFFFFFFF & ~_X32_BIT))
        checks = [step for rule in rules for step in rule.instructions(architecture)]
        block = [*load, *checks, (_RETURN, 0, 0, _ALLOW)]
        whole += [(_LOAD, 0, 0, _OFFSET_ARCHITECTURE), (_EQUAL, 1, 0, architecture)]
        whole += [(_JUMP, 0, 0, len(block)), *block]
    return [*whole, (_RETURN, 0, 0, _ALLOW)]


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(instructions: Sequence[Instruction], step: str) -> None:
    """The program filters the calls of this process and of all that come from it.

    no_new_privs must be set. Raises SandboxError, which says that `step` failed.
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in instructions))
    given = ctypes.byref(_FilterProgram(len(instructions), ctypes.addressof(code)))
    # Before Linux 5.16 a filter turns off the processor's guessing of memory addresses, unless
    # it is told not to (4.17): programs would be slower by several per cent.
    seccomp = _SECCOMP.get(os.uname().machine)
    flags = _FILTER_FLAG_SPEC_ALLOW
    if seccomp is None or libc.syscall(seccomp, _SET_MODE_FILTER, flags, given) != 0:
        check(libc.prctl(PR_SET_SECCOMP, 2, given, 0, 0), step)


def refuse(names: Sequence[str]) -> None:
    """The calls `names` answer ENOSYS, as on a kernel that has not got them. Raises SandboxError.

    That they do is tried, with arguments that no call takes.
    """
    machine = os.uname().machine
    install(program(machine, [Rule(names, ENOSYS)]), "refuse system calls")
    nothing = [ctypes.c_long(-1)] * 6
    for name in names:
        number = own_number(name)
        if number is None:
            continue
        if libc.syscall(number, *nothing) != -1 or ctypes.get_errno() != ENOSYS:
            raise SandboxError(f"the filter lets the system call {name} pass")


def own_number(name: str) -> int | None:
    """Return the number by which this process makes a call; None: it is none of its calls."""
    kinds = ARCHITECTURES[os.uname().machine]
    return numbers(name)[_COLUMNS[kinds[ctypes.sizeof(ctypes.c_void_p) == 4]]]
