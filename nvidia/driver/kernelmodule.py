"""The NVIDIA kernel module that is loaded: its version, told by it in two places, and its kind."""

from __future__ import annotations

from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host

SYS = "/sys/module/nvidia/version"
PROC = "/proc/driver/nvidia/version"
_PROC_LINE = "NVRM version:"


@dataclass(frozen=True)
class KernelModule:
    """A loaded module."""

    version: str
    flavour: str = ""
    """`open` or `proprietary`; empty when it is not said."""
    other_version: str = ""
    """What `PROC` says where it contradicts `SYS`: never on a sane machine."""


def read(host: Host) -> KernelModule | None:
    """Return the loaded module; None when there is none.

    Source: the line `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05 ...` of
    the open modules, `NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02 ...` of the
    others.
    """
    line = host.text(PROC).partition("\n")[0]
    words = line.split() if line.startswith(_PROC_LINE) else []
    told = [_first_version(host.text(SYS).partition("\n")[0].split()), _first_version(words)]
    known = [version for version in told if version]
    if not known:
        return None
    flavour = ""
    if words:
        flavour = "open" if "Open" in words else "proprietary"
    return KernelModule(known[0], flavour, known[1] if known[-1] != known[0] else "")


def _first_version(words: list[str]) -> str:
    return next((word for word in words if is_version(word)), "")


def is_version(word: str) -> bool:
    """Tell whether `word` is the number of a driver: `580.95.05`, `390.157`."""
    parts = word.split(".")
    return len(parts) in (2, 3) and all(p.isascii() and p.isdigit() and len(p) < 8 for p in parts)
