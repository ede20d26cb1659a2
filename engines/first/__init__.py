"""The first process of a container, where another program stands between it and udocker.

It starts the container's program and stays as its parent: it tells the program's pid, why it
could not be executed, and how it ended, into a descriptor that the program does not inherit.
PRoot tells none of it: its own exit code is that of whichever process of the container ended
last by itself, its signals are its own, and what its environment holds the program would see.

    first FD CANDIDATE... '' ARG0 ARG...

The program is the first candidate (an absolute path) that can be executed. Of the environment
it gets the variables whose names begin with `+`, without that sign, so that neither the loader
nor the program in between takes them for its own. Signals that a terminal sends to all
processes are left to the program.

`CODE` is what the assembler makes of the files beside this one; tests/test_first.py compares.
"""

from __future__ import annotations

import os

from udocker import disk
from udocker.engines.machinecode import executable
from udocker.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PATH = "/.udocker"
"""Where it lies in containers: where no volume can hide it."""
STARTED, FAILED, ENDED = 1, 2, 3
"""What it tells, each with a number: the program's pid, an errno, a wait status."""
RECORD = "<2I"
"""How it tells that: the kind and the number. Source: struct."""
MARK = "+"
_MAX_BYTES = 1 << 16
CODE = {
    "x86_64": (
        "4c8d642410498b34244531ed0fb60683e830780c456bed0a4101c548ffc6ebec4983c4084d89e6498b0649"
        "83c60880380075f44d89f7498b074983c7084885c075f44c89fe4c89ff488b064883c6084885c074118038"
        "2b75ef48ffc04889074883c708ebe34889074883ec604489efbe02000000ba01000000b8480000000f0548"
        "c7442410ffffffff31ff488d742410488d54241841ba08000000b80e0000000f0531c04889442420488944"
        "242848894424304889442438bf11000000488d742420488d54244041ba08000000b80d0000000f05b83900"
        "00000f0589c5f7dd85c074570f88b500000089c3c704240100000089442404e8bd00000089df488d742404"
        "31d24531d2b83d0000000f0583f8fc74e8c7042403000000e8990000008b7c240489f8c1ef0883e07f7406"
        "8db880000000b8e70000000f05bf11000000488d74244031d241ba08000000b80d0000000f05bf02000000"
        "488d74241831d241ba08000000b80e0000000f05bd02000000498b3c244983c408803f0074204c89f64c89"
        "fab83b0000000f05f7d883f80274df83f81474da89c583f80d74d3c7042402000000896c2404e80a000000"
        "bf7f000000e97bffffff4489ef488d742408ba08000000b8010000000f05c3"
    ),
    "aarch64": (
        "f3030091610e41f814008052490180522014403800c00071640000549402091bfcffff1773220091f50313"
        "aaa08640f800004039c0ffff35f60315aac08640f8e0ffffb5e10316aae20316aa208440f8e00000b40300"
        "40397fac007181ffff5400040091408400f8f9ffff175f0000f9ff8301d1e003142a410080d2220080d228"
        "0380d2010000d400008092e00b00f9000080d2e1430091e2630091030180d2e81080d2010000d4ff7f02a9"
        "ff7f03a9200280d2e1830091e2030191030180d2c81080d2010000d4200280d2010080d2020080d2030080"
        "d2040080d2881b80d2010000d4f703004b000300346006f837f803002a21008052e103002934000094e003"
        "182ae1130091020080d2030080d2882080d2010000d41f10003120ffff5461008052e10300b929000094e1"
        "0740b9207c0853211800724000005420000211c80b80d2010000d4200280d2e1030191020080d2030180d2"
        "c81080d2010000d4400080d2e1630091020080d2030180d2e81080d2010000d457008052608640f8010040"
        "39a1010034e10315aae20316aaa81b80d2010000d4e003004b1f080071e0feff541f500071a0feff54f703"
        "002a1f34007140feff5441008052e15f002903000094e00f8052deffff17e003142ae1030091020180d208"
        "0880d2010000d4c0035fd6"
    ),
}


def program(machine: str) -> bytes:
    """Return the executable for one of the machines in CODE."""
    return executable(machine, bytes.fromhex(CODE[machine]))


def install(rootfs: str) -> None:
    """It lies in the container's own directory; whatever had its name there is replaced."""
    path = rootfs + PATH
    data = program(os.uname().machine)
    if _content(path) != data:
        disk.write_whole(path, data, mode=0o755, sync=False)


def _content(path: str) -> bytes | None:
    """Return what is in a file; None for a link, for what cannot be executed, and for nothing."""
    try:
        if os.path.islink(path) or not os.access(path, os.X_OK):
            return None
        return disk.read(path, _MAX_BYTES)
    except StoreError:
        return None


def words(fd: int, path: str, args: Sequence[str]) -> tuple[str, ...]:
    """Return the words that run `args`, looked up in the directories of `path`."""
    return (PATH, str(fd), *filter(None, candidates(args[0], path)), "", *args)


def candidates(name: str, path: str) -> Iterable[str]:
    """Return where a program may lie: the path it is, or that name in each directory."""
    if "/" in name or not name:
        return (name,)
    return (os.path.join(directory or ".", name) for directory in path.split(":"))


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return `variables` as they are to be given to it."""
    return {MARK + name: value for name, value in variables.items()}
