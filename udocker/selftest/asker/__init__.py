"""A program that asks the kernel for files in every way there is, made where no compiler is.

It is the one program that needs neither libc nor loader, so nothing but the kernel, or whoever
stands before it, answers. It carries a list of system calls out, writes the answers into the list
and the list to standard output.

    asker MINE HOSTS SAME DIRECTORY

Each word but the last is the path of a file that is asked for; the last is their directory.
`CODE` is what the assembler makes of the files beside this one; tests/test_leaks.py compares.
Source: syscalls(2), arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h, io_uring(7).
"""

from __future__ import annotations

import struct

from udocker.engines.machinecode import DATA_ADDRESS, Loader, executable
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Value = Union[int, "Place"]

TARGETS = ("mine", "hosts", "same")
"""The files that are asked for: one of the container, one of the host, one that both have."""
CODE = {
    "x86_64": (
        "4989e44883ec4041bd00004100498b5d0831c9498b54cd1089d883e00348c1eb0283f8017215740c83f802"
        "740c498b54d408eb07488b12eb028b12488914ccffc183f90672cd488b3c24488b742408488b5424104c8b"
        "5424184c8b4424204c8b4c2428498b45004883f8ff74184883f8fe74184883f8fd74170f05498945404983"
        "c548eb8848891437ebf08b0437ebeb488d0437ebe5"
    ),
    "aarch64": (
        "f3030091ff0301d13408a0d2950640f9090080d28a4200914b7969f8ac064092b5fe42d34c0100b49f0900"
        "f1e0000054830000546b0e0b8b6b0540f9040000146b0140f9020000146b0140b9eb7b29f8290500913f19"
        "00f103feff54e00740a9e20f41a9e41742a9880240f91f0500b1200100541f0900b1200100541f0d00b120"
        "010054010000d4802200f994220191dfffff17026821f8fcffff17006861b8faffff170000018bf8ffff17"
    ),
}
_COLUMN = {"x86_64": 0, "aarch64": 1}
_NUMBERS = {
    "open": (2, None),
    "stat": (4, None),
    "lstat": (6, None),
    "access": (21, None),
    "readlink": (89, None),
    "chmod": (90, None),
    "rename": (82, None),
    "rmdir": (84, None),
    "fstat": (5, 80),
    "mmap": (9, 222),
    "write": (1, 64),
    "close": (3, 57),
    "exit_group": (231, 94),
    "socket": (41, 198),
    "connect": (42, 203),
    "chdir": (80, 49),
    "execve": (59, 221),
    "statfs": (137, 43),
    "getxattr": (191, 8),
    "listxattr": (194, 11),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "ftruncate": (77, 46),
    "dup3": (292, 24),
    "memfd_create": (319, 279),
    "openat": (257, 56),
    "newfstatat": (262, 79),
    "renameat": (264, 38),
    "readlinkat": (267, 78),
    "fchmodat": (268, 53),
    "faccessat": (269, 48),
    "utimensat": (280, 88),
    "name_to_handle_at": (303, 264),
    "renameat2": (316, 276),
    "execveat": (322, 281),
    "statx": (332, 291),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "open_tree": (428, 428),
    "openat2": (437, 437),
    "faccessat2": (439, 439),
    "fchmodat2": (452, 452),
    "getxattrat": (464, 464),
    "listxattrat": (465, 465),
    "open_tree_attr": (467, 467),
    "file_getattr": (468, 468),
}
_STORE, _LOAD, _ADD = -1, -2, -3
"""Entries that are no calls: write 64 bits to, read 32 bits from an address and an offset; add."""
_ENTRY_BYTES, _RESULT = 72, 64
_HERE, _NOFOLLOW = -100, 0x100
_STAT_SIZE, _STATX_SIZE, _STATX_WANTED = 48, 40, 0x200
_RING, _PAGE = 40, 4096
"""The descriptor of the ring, and what is mapped of it."""
_REQUESTS_OFFSET = 0x10000000
_TAIL, _COMPLETED, _RESULT_OF_REQUEST = 44, 100, 8
"""Where io_uring_params says the tail of the submissions and the completions to be."""
_OPENAT_REQUEST = 18


@dataclass(frozen=True)
class Place:
    """A value that is known only where the program lies in memory, or when it runs."""

    kind: str
    """`buffer`: an address; `half`: the 32 bits there; `result`: of an entry; `word`."""
    number: int


@dataclass(frozen=True)
class Answer:
    """What one way to ask said of one file."""

    result: int
    """As the kernel returns it: an errno is negative."""
    size: int | None
    """The file's size in bytes, where the answer tells it."""


def program(machine: str, loader: Loader | None = None) -> bytes:
    """Return the executable for one of the machines in CODE."""
    return executable(machine, bytes.fromhex(CODE[machine]), _questions(machine).data(), loader)


def answers(machine: str, output: bytes) -> dict[str, dict[str, Answer]]:
    """Return what the program has written: by file (of TARGETS), by the name of the call.

    Raises ValueError for what it cannot have written.
    """
    return _questions(machine).read(output)


class _Questions:
    """The list of calls, and where the answers lie in it."""

    def __init__(self, machine: str) -> None:
        self._column = _COLUMN[machine]
        self._entries: list[tuple[int, tuple[Value, ...]]] = []
        self._buffers = b""
        self._asked: dict[tuple[str, str], tuple[int, int | None]] = {}

    def knows(self, call: str) -> bool:
        """Tell whether the machine has the call."""
        return _NUMBERS[call][self._column] is not None

    def call(self, name: str, *args: Value) -> Place:
        """Add a call and return its result."""
        number = _NUMBERS[name][self._column]
        assert number is not None
        return self.entry(number, *args)

    def entry(self, number: int, *args: Value) -> Place:
        """Add an entry and return its result."""
        self._entries.append((number, args))
        return Place("result", len(self._entries) - 1)

    def buffer(self, content: bytes) -> Place:
        """Return the address of memory that holds `content` at first."""
        place = Place("buffer", len(self._buffers))
        self._buffers += content.ljust(-(-len(content) // 16) * 16, b"\0")
        return place

    def note(self, target: str, name: str, result: Place, size: Place | None = None) -> None:
        """The result, and what lies at `size`, are an answer."""
        self._asked[target, name] = (result.number, size.number if size else None)

    def data(self) -> bytes:
        """Return the list as it lies in memory."""
        whole = len(self._entries) * _ENTRY_BYTES + len(self._buffers) + 2 * _ENTRY_BYTES
        entries = [*self._entries]
        written = (_NUMBERS["write"][self._column] or 0, (1, DATA_ADDRESS, whole))
        entries += [written, (_NUMBERS["exit_group"][self._column] or 0, (0,))]
        self._first_buffer = DATA_ADDRESS + len(entries) * _ENTRY_BYTES
        return b"".join(self._packed(*entry) for entry in entries) + self._buffers

    def read(self, output: bytes) -> dict[str, dict[str, Answer]]:
        """Return the answers in what came out."""
        if len(output) != len(self.data()):
            raise ValueError(f"{len(output)} bytes are no answers")
        found: dict[str, dict[str, Answer]] = {target: {} for target in TARGETS}
        buffers = self._first_buffer - DATA_ADDRESS
        for (target, name), (index, size_at) in self._asked.items():
            (result,) = struct.unpack_from("<q", output, index * _ENTRY_BYTES + _RESULT)
            size = None
            if size_at is not None and result >= 0:
                (size,) = struct.unpack_from("<Q", output, buffers + size_at)
            found[target][name] = Answer(result, size)
        for by_name in found.values():
            by_name["io_uring"] = _of_ring(by_name.pop("io_uring_setup"), by_name["io_uring"])
        return found

    def _packed(self, number: int, args: tuple[Value, ...]) -> bytes:
        kinds, values = 0, []
        for position in range(6):
            kind, value = self._value(args[position] if position < len(args) else 0)
            kinds |= kind << 2 * position
            values.append(value)
        return struct.pack("<q8Q", number, kinds, *(value & (1 << 64) - 1 for value in values), 0)

    def _value(self, value: Value) -> tuple[int, int]:
        if isinstance(value, int):
            return 0, value
        if value.kind == "result":
            return 1, DATA_ADDRESS + value.number * _ENTRY_BYTES + _RESULT
        if value.kind == "word":
            return 3, value.number
        return (2 if value.kind == "half" else 0), self._first_buffer + value.number


def _of_ring(made: Answer, asked: Answer) -> Answer:
    """Return what the ring answered, 32 bits with a sign; if none was made, why."""
    if made.result < 0:
        return made
    return Answer(asked.result - (1 << 32 if asked.result >= 1 << 31 else 0), None)


def _questions(machine: str) -> _Questions:
    made = _Questions(machine)
    for number, target in enumerate(TARGETS):
        path = Place("word", 1 + number)
        _ask_old(made, target, path)
        _ask_new(made, target, path)
        _ask_ring(made, target, path)
    made.call("chdir", Place("word", 1 + len(TARGETS)))
    for target in TARGETS:
        _ask_open(
            made, target, "openat", (_HERE, _name(made, target), 0), "openat in its directory"
        )
    address = made.buffer(struct.pack("<H", 1) + b"hosts\0")
    made.note("hosts", "connect", made.call("connect", made.call("socket", 1, 1, 0), address, 8))
    return made


def _ask_old(made: _Questions, target: str, path: Place) -> None:
    """Ask by calls that all versions of Linux have."""
    for name, before in (("stat", ()), ("lstat", ()), ("newfstatat", (_HERE,))):
        if made.knows(name):
            status = made.buffer(bytes(256))
            asked = made.call(name, *before, path, status)
            made.note(target, name, asked, Place("buffer", status.number + _STAT_SIZE))
    status, text = made.buffer(bytes(256)), made.buffer(bytes(128))
    watcher = made.call("inotify_init1", 0)
    for name, args in (
        ("access", (path, 0)),
        ("faccessat", (_HERE, path, 0)),
        ("readlink", (path, text, 64)),
        ("readlinkat", (_HERE, path, text, 64)),
        ("chmod", (path, 0o644)),
        ("fchmodat", (_HERE, path, 0o644)),
        ("utimensat", (_HERE, path, 0, 0)),
        ("statfs", (path, status)),
        ("rename", (path, path)),
        ("renameat", (_HERE, path, _HERE, path)),
        ("rmdir", (path,)),
        ("chdir", (path,)),
        ("execve", (path, 0, 0)),
        ("getxattr", (path, made.buffer(b"user.none\0"), text, 64)),
        ("listxattr", (path, text, 64)),
        ("inotify_add_watch", (watcher, path, 2)),
    ):
        if made.knows(name):
            made.note(target, name, made.call(name, *args))
    made.call("close", watcher)
    _ask_open(made, target, "open", (path, 0))
    _ask_open(made, target, "openat", (_HERE, path, 0))


def _ask_new(made: _Questions, target: str, path: Place) -> None:
    """Ask by calls that came in this order since 2.6.39."""
    handle = made.buffer(struct.pack("<I", 128) + bytes(140))
    made.note(
        target,
        "name_to_handle_at",
        made.call("name_to_handle_at", _HERE, path, handle, made.buffer(bytes(8)), 0),
    )
    text = made.buffer(bytes(128))
    for name, args in (
        ("renameat2", (_HERE, path, _HERE, path, 0)),
        ("execveat", (_HERE, path, 0, 0, 0)),
        ("faccessat2", (_HERE, path, 0, 0)),
        ("fchmodat2", (_HERE, path, 0o644, 0)),
        ("listxattrat", (_HERE, path, 0, text, 64)),
        ("file_getattr", (_HERE, path, text, 24, 0)),
    ):
        made.note(target, name, made.call(name, *args))
    described = made.buffer(bytes(256))
    asked = made.call("statx", _HERE, path, 0, _STATX_WANTED, described)
    made.note(target, "statx", asked, Place("buffer", described.number + _STATX_SIZE))
    _ask_open(made, target, "openat2", (_HERE, path, made.buffer(bytes(24)), 24))
    _ask_open(made, target, "open_tree", (_HERE, path, 0))
    _ask_open(made, target, "open_tree_attr", (_HERE, path, 0, 0, 0))


def _ask_open(
    made: _Questions, target: str, name: str, args: tuple[Value, ...], noted: str = ""
) -> None:
    """Open a file, and ask for the size of what was opened; noted under the name of the call."""
    if made.knows(name):
        status = made.buffer(bytes(256))
        opened = made.call(name, *args)
        made.call("fstat", opened, status)
        made.call("close", opened)
        made.note(target, noted or name, opened, Place("buffer", status.number + _STAT_SIZE))


def _ask_ring(made: _Questions, target: str, path: Place) -> None:
    """Open a file by io_uring: the kernel does it, unseen by whoever looks at system calls."""
    parameters = made.buffer(bytes(128))
    # where no ring is made, its place is taken by memory of which nobody knows
    memory = made.call("memfd_create", made.buffer(b"none\0"), 0)
    made.call("ftruncate", memory, 2 * _REQUESTS_OFFSET)
    place = made.call("dup3", memory, _RING, 0)
    ring = made.call("io_uring_setup", 4, parameters)
    made.call("dup3", ring, _RING, 0)
    queue = made.call("mmap", 0, _PAGE, 3, 1, place, 0)
    requests = made.call("mmap", 0, _PAGE, 3, 1, place, _REQUESTS_OFFSET)
    made.entry(_STORE, requests, 0, _OPENAT_REQUEST | _HERE << 32)
    made.entry(_STORE, requests, 16, path)
    made.entry(_STORE, queue, Place("half", parameters.number + _TAIL), 1)
    made.call("io_uring_enter", place, 1, 1, 1, 0, 0)
    completions = made.entry(_ADD, queue, Place("half", parameters.number + _COMPLETED))
    completed = made.entry(_LOAD, completions, _RESULT_OF_REQUEST)
    for descriptor in (memory, place, ring):
        made.call("close", descriptor)
    made.note(target, "io_uring_setup", ring)
    made.note(target, "io_uring", completed)


def _name(made: _Questions, text: str) -> Place:
    return made.buffer(text.encode() + b"\0")
