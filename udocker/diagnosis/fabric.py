"""What programs of several processes or nodes need beside GPUs: shared and locked memory, links."""

from __future__ import annotations

import os
import resource

from udocker.console import human_size
from udocker.diagnosis.finding import OK, WARN, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.probe import Host

_CARDS = "/sys/class/infiniband"
_LITTLE_SHARED = 1_000_000_000
"""NCCL takes some 10 MB for each GPU, PyTorch's data loaders as much as their batches have."""
_LITTLE_LOCKED = 1 << 30


def findings(host: Host, locked: int | None = None) -> Iterator[Finding]:
    """Yield what is to be said of `host`; `locked` bytes may be locked in memory (-1: any)."""
    if locked is None:
        locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    cards = _names(host, _CARDS)
    yield _shared(host)
    yield _memlock(bool(cards), locked)
    yield _links(host, cards)


def _names(host: Host, directory: str) -> list[str]:
    try:
        return sorted(os.listdir(host.path(directory)))
    except OSError:
        return []


def _shared(host: Host) -> Finding:
    try:
        facts = os.statvfs(host.path("/dev/shm"))
    except OSError as error:
        fix = "an administrator: mount -t tmpfs tmpfs /dev/shm"
        return Finding("shm", WARN, f"/dev/shm: {error.strerror}", fix)
    size = facts.f_blocks * facts.f_frsize
    text = f"/dev/shm has {human_size(size)}, {human_size(facts.f_bavail * facts.f_frsize)} free"
    if size < _LITTLE_SHARED:
        fix = "an administrator: mount -o remount,size=50% /dev/shm"
        return Finding("shm", WARN, f"{text}: little for NCCL and data loaders", fix)
    return Finding("shm", OK, text)


def _memlock(has_cards: bool, locked: int) -> Finding:
    """Source: ibv_reg_mr(3): registered memory is locked."""
    if locked == resource.RLIM_INFINITY:
        return Finding("memlock", OK, "unlimited")
    if has_cards and locked < _LITTLE_LOCKED:
        text = f"{human_size(locked)}: RDMA registration will fail"
        fix = "Slurm administrators: PropagateResourceLimitsExcept=MEMLOCK; else limits.conf"
        return Finding("memlock", WARN, text, fix)
    return Finding("memlock", OK, f"{human_size(locked)}; only RDMA needs more")


def _links(host: Host, cards: list[str]) -> Finding:
    """Tell which ports of InfiniBand or RoCE are up. Source: Linux, sysfs-class-infiniband."""
    if not cards:
        return Finding("infiniband", OK, "none")
    ports = [f"{card}/{port}" for card in cards for port in _names(host, f"{_CARDS}/{card}/ports")]
    active = [port for port in ports if "ACTIVE" in _port(host, port, "state")]
    if not active:
        text = f"{', '.join(cards)}: no port is active"
        return Finding("infiniband", WARN, text, "tell the administrators: ibstat shows the ports")
    told = (
        f"{port} {_port(host, port, 'link_layer')} {_port(host, port, 'rate')}" for port in active
    )
    return Finding("infiniband", OK, "; ".join(" ".join(text.split()) for text in told))


def _port(host: Host, port: str, fact: str) -> str:
    card, _, number = port.partition("/")
    return host.text(f"{_CARDS}/{card}/ports/{number}/{fact}", 4096).strip()
