"""Fake root: calls that one user alone cannot make succeed and do nothing.

A namespace with one uid cannot give files to another. Package managers try, and stop when it
fails. As Charliecloud showed, it is enough to say that it worked.
"""

from __future__ import annotations

import ctypes
import struct

from udocker.engines.sandbox.kernel import PR_SET_SECCOMP, SandboxError, check, libc

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
    result = libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)
    check(result, "install the seccomp filter of fake root")
    if libc.syscall(FAKED[machine][-1], 0, 0, 0, 0) != 0:
        raise SandboxError("the seccomp filter of fake root does not work")
