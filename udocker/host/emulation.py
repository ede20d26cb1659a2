"""Programs of other processors: whether the kernel knows an emulator for them.

Source: Linux, Documentation/admin-guide/binfmt-misc.rst; elf(5).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from udocker.host.probe import Host

DIRECTORY = "/proc/sys/fs/binfmt_misc"
_HINT = "an administrator can install qemu-user-static with binfmt-support"

_MACHINES = {
    "386": (1, 1, 3),
    "amd64": (2, 1, 62),
    "arm": (1, 1, 40),
    "arm64": (2, 1, 183),
    "loong64": (2, 1, 258),
    "mips64le": (2, 1, 8),
    "ppc64": (2, 2, 21),
    "ppc64le": (2, 1, 21),
    "riscv64": (2, 1, 243),
    "s390x": (2, 2, 22),
}
"""Class (1: 32 bits), data (1: little endian) and machine of ELF files. Source: elf.h."""


def obstacle(host: Host, architecture: str) -> str | None:
    """Return why programs for `architecture` (Go's word) do not start, None where they do."""
    handlers = [h for h in _handlers(host) if _is_for(h, architecture)]
    if not handlers:
        return f"no emulator for {architecture} is registered: {_HINT}"
    if any("F" in handler.get("flags:", "") for handler in handlers):
        return None
    interpreter = handlers[0].get("interpreter", "its emulator")
    return (
        f"{interpreter} is registered without the flag F, so that the image would have to contain "
        f"it: {_HINT}"
    )


def _handlers(host: Host) -> list[dict[str, str]]:
    """Return what is registered and enabled: words by the word before them."""
    if host.text(f"{DIRECTORY}/status").strip() != "enabled":
        return []
    try:
        names = os.listdir(host.path(DIRECTORY))
    except OSError:
        return []
    found = []
    for name in sorted(set(names) - {"register", "status"}):
        lines = host.text(f"{DIRECTORY}/{name}").splitlines()
        if lines[:1] == ["enabled"]:
            pairs = (line.partition(" ") for line in lines[1:])
            found.append({key: value.strip() for key, _, value in pairs})
    return found


def _is_for(handler: dict[str, str], architecture: str) -> bool:
    """Tell whether a handler takes programs of that architecture, by their first bytes."""
    if architecture not in _MACHINES or handler.get("offset", "0") != "0":
        return False
    try:
        magic = bytes.fromhex(handler.get("magic", ""))
        mask = bytes.fromhex(handler.get("mask", "ff" * len(magic)))
    except ValueError:
        return False
    if len(magic) < 20 or len(mask) != len(magic):  # less says nothing of the processor
        return False
    return any(
        all((have ^ want) & care == 0 for have, want, care in zip(header, magic, mask))
        for header in _headers(architecture)
    )


def _headers(architecture: str) -> list[bytes]:
    """Return how programs begin: fixed ones (type 2), and such that lie anywhere (3)."""
    bits, data, machine = _MACHINES[architecture]
    order: Literal["little", "big"] = "little" if data == 1 else "big"
    start = b"\x7fELF" + bytes((bits, data, 1)) + bytes(9)
    return [start + kind.to_bytes(2, order) + machine.to_bytes(2, order) for kind in (2, 3)]
