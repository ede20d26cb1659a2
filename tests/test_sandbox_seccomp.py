"""Filters of system calls: as the kernel would run them, and as it does."""

import os
import struct

import pytest

from udocker.engines.sandbox import fakeroot, seccomp
from udocker.engines.sandbox.kernel import SandboxError

ALLOW, SUCCEED = 0x7FFF0000, 0x00050000
KINDS = [(machine, kind) for machine in ("x86_64", "aarch64") for kind in (0, 1)]
"""The calls of 64-bit programs and of 32-bit programs on either machine."""


def evaluate(program, architecture, number, arguments=(0,) * 6):
    """Run a seccomp program as the kernel does. Source: seccomp_data in linux/seccomp.h."""
    data = struct.pack("<iIQ6Q", number, architecture, 0, *arguments)
    position, value = 0, 0
    while True:
        code, true, false, k = program[position]
        position += 1
        if code == 0x20:
            value = struct.unpack_from("<I", data, k)[0]
        elif code == 0x54:
            value &= k
        elif code == 0x15:
            position += true if value == k else false
        elif code == 0x35:
            position += true if value >= k else false
        elif code == 0x05:
            position += k
        else:
            assert code == 0x06
            return k


def number_of(name, architecture):
    return seccomp.numbers(name)[seccomp._COLUMNS[architecture]]


@pytest.mark.parametrize(("machine", "kind"), KINDS)
def test_fake_root_fakes_just_what_it_should(machine, kind):
    program = seccomp.program(machine, fakeroot.rules())
    architecture = seccomp.ARCHITECTURES[machine][kind]
    faked = {number_of(name, architecture) for name in fakeroot.OWNERS} - {None}
    assert len(faked) > 12
    for number in range(500):
        wanted = SUCCEED if number in faked else ALLOW
        assert evaluate(program, architecture, number) == wanted
    for name, place in (("mknod", 1), ("mknodat", 2)):
        number = number_of(name, architecture)
        for mode, wanted in (
            (0o020666, SUCCEED),
            (0o060660, SUCCEED),
            (0o010644, ALLOW),
            (0, ALLOW),
        ):
            arguments = [0] * 6
            arguments[place] = mode
            if number is not None:
                assert evaluate(program, architecture, number, arguments) == wanted


@pytest.mark.parametrize(("machine", "kind"), KINDS)
def test_refused_calls_are_not_there_and_others_are(machine, kind):
    architecture = seccomp.ARCHITECTURES[machine][kind]
    names = ["statx", "openat2", "fchmodat2", "471+"]
    program = seccomp.program(machine, [seccomp.Rule(names, seccomp.ENOSYS)])
    refused = {number_of(name, architecture) for name in names[:3]} | set(range(471, 600))
    for number in range(600):
        wanted = SUCCEED | seccomp.ENOSYS if number in refused else ALLOW
        assert evaluate(program, architecture, number) == wanted
    assert evaluate(program, architecture, 0x0F0002) == ALLOW  # 32-bit ARM cannot do without it


def test_calls_of_x32_programs_are_seen():
    program = seccomp.program("x86_64", [seccomp.Rule(["openat2"], seccomp.ENOSYS)])
    assert evaluate(program, seccomp.X86_64, 0x40000000 | 437) == SUCCEED | seccomp.ENOSYS


def test_calls_of_kinds_that_are_not_known_pass():
    assert evaluate(seccomp.program("x86_64", fakeroot.rules()), 0x1234, 92) == ALLOW


def test_the_numbers_are_the_kernels():
    """Where the headers of this machine are installed they are the judge."""
    path = "/usr/include/x86_64-linux-gnu/asm/unistd_{}.h"
    if not os.path.exists(path.format(64)):
        pytest.skip("needs /usr/include/x86_64-linux-gnu/asm (package linux-libc-dev)")
    columns = {0: path.format(64), 1: path.format(32), 2: "/usr/include/asm-generic/unistd.h"}
    for column, header in columns.items():
        known = numbers_of(header)
        for name in (*seccomp._NUMBERS, *seccomp._SINCE_424):
            if name in known:
                assert seccomp.numbers(name)[column] == known[name], (name, header)


def numbers_of(header):
    with open(header) as file:
        words = [
            line.split() for line in file if line.startswith(("#define __NR_", "#define __NR3264_"))
        ]
    return {w[1].split("_", 3)[-1]: int(w[2]) for w in words if len(w) == 3 and w[2].isdigit()}


@pytest.mark.parametrize("name", ["nothing", "5+", "x+", ""])
def test_a_call_that_nobody_knows_cannot_be_refused(name):
    with pytest.raises(SandboxError, match="no number is known"):
        seccomp.Rule([name], seccomp.ENOSYS)


def test_a_machine_that_nobody_knows_has_no_filters():
    with pytest.raises(SandboxError, match="not known for riscv64"):
        seccomp.program("riscv64", fakeroot.rules())


def sandbox(user, *words, check=True):
    script = f"{user.checkout}/udocker/engines/sandbox"
    return user.run([user.python, "-I", "-S", script, "--no-root", *words], check=check)


CALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for number in (332, 437, 439) if __import__("os").uname().machine == "x86_64" else (291, 437, 439):
    libc.syscall(number, *[ctypes.c_long(-1)] * 6)
    print(errno.errorcode[ctypes.get_errno()])
"""


def test_a_program_without_a_root_of_its_own_runs_under_a_filter(unprivileged):
    command = ["--", unprivileged.python, "-c", CALL]
    seen = sandbox(unprivileged, "--refuse", "statx,openat2,471+", *command).stdout.split()
    assert seen[:2] == ["ENOSYS", "ENOSYS"]
    assert seen[2] != "ENOSYS" or os.uname().release < "5.8"
    show = ["--", "grep", "-c", "NoNewPrivs:.1", "/proc/self/status"]
    assert sandbox(unprivileged, "--die-with-parent", *show).stdout == "1\n"


def test_what_cannot_be_refused_is_125(unprivileged):
    done = sandbox(unprivileged, "--refuse", "nothing", "--", "true", check=False)
    assert (done.returncode, done.stdout) == (125, "")
    assert "'nothing'" in done.stderr


def test_fake_root_holds_for_programs_of_32_bits(unprivileged):
    if os.uname().machine != "x86_64":
        pytest.skip("needs x86-64")
    path = f"{unprivileged.home}/tiny"
    with open(path, "wb") as file:
        file.write(elf_of_32_bits(CHOWN_THEN_EXIT))
    os.chmod(path, 0o755)
    unprivileged.own(path)
    plain = unprivileged.run([path], check=False).returncode
    if plain < 0:
        pytest.skip("needs a kernel that runs programs of 32 bits")
    assert plain == 1  # EPERM
    assert sandbox(unprivileged, "--fake-root", "--", path).returncode == 0


CHOWN_THEN_EXIT = bytes.fromhex(
    "b8d4000000"  # mov eax, 212 (chown32)
    "bb60800408"  # mov ebx, the path
    "b901000000"  # mov ecx, 1
    "ba01000000"  # mov edx, 1
    "cd80"  # int 0x80
    "f7d8"  # neg eax
    "89c3"  # mov ebx, eax
    "b801000000"  # mov eax, 1 (exit)
    "cd80"
)


def elf_of_32_bits(code):
    """Return an executable of i386: a header, one segment, the path `/`, the code behind it."""
    base, path = 0x08048000, b"/\0\0\0"
    size = 52 + 32 + 12 + len(path) + len(code)
    start = base + 96 + len(path)
    header = b"\x7fELF\1\1\1" + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, start, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 0x1000)
    return header + segment + bytes(12) + path + code
