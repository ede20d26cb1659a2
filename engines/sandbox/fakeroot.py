"""Fake root: calls that one user alone cannot make succeed and do nothing.

A namespace with one uid cannot give files to another. Package managers try, and stop when it
fails. As Charliecloud showed, it is enough to say that it worked.
"""

from __future__ import annotations

import os

from udocker.engines.sandbox import seccomp
from udocker.engines.sandbox.kernel import SandboxError, libc

OWNERS = (
    *("chown", "fchown", "lchown", "fchownat", "chown32", "fchown32", "lchown32"),
    *("setuid", "setgid", "setreuid", "setregid", "setgroups", "setresuid", "setresgid"),
    *("setfsuid", "setfsgid", "setuid32", "setgid32", "setreuid32", "setregid32"),
    *("setgroups32", "setresuid32", "setresgid32", "setfsuid32", "setfsgid32", "capset"),
    "kexec_load",  # to test the filter
)
"""Calls that give away files, or become somebody else."""
_KIND_OF_FILE, _CHARACTERS, _BLOCKS = 0o170000, 0o020000, 0o060000


def rules() -> tuple[seccomp.Rule, ...]:
    """Return what succeeds and does nothing: changes of owners and ids, and making device nodes.

    Fifos and files are made.
    """
    nodes = (_CHARACTERS, _BLOCKS)
    return (
        seccomp.Rule(OWNERS),
        seccomp.Rule(["mknod"], argument=1, mask=_KIND_OF_FILE, values=nodes),
        seccomp.Rule(["mknodat"], argument=2, mask=_KIND_OF_FILE, values=nodes),
    )


def install_fake_root() -> None:
    """Fake root for this process and all that come from it, tried; nothing on other machines."""
    machine = os.uname().machine
    if machine not in seccomp.ARCHITECTURES:
        return
    seccomp.install(seccomp.program(machine, rules()), "install the seccomp filter of fake root")
    if libc.syscall(seccomp.own_number("kexec_load"), 0, 0, 0, 0) != 0:
        raise SandboxError("the seccomp filter of fake root does not work")
