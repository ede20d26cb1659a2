"""What programs of several processes or nodes need of a node: memory, links, and who starts them.

None of it keeps GPUs of one node from working, so nothing here is worse than a warning.
"""

from __future__ import annotations

import os
import resource

from udocker.console import human_size
from udocker.diagnosis import hcas, mpi, pmi, rdma
from udocker.diagnosis.finding import OK, WARN, Finding
from udocker.diagnosis.opening import why_closed
from udocker.host.loader import Loader
from udocker.host.root import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.diagnosis.hcas import Hca
    from udocker.host.probe import Host

_LITTLE_SHARED = 1_000_000_000
"""NCCL takes some 10 MB for each GPU, PyTorch's data loaders as much as their batches have."""
_LITTLE_LOCKED = 1 << 30
_VERBS_ABI = range(3, 7)
"""Versions of the kernel's verbs that libibverbs takes. Source: rdma-core, rdma_user_verbs.h."""
_TELL = "tell the administrators of this node"
_OTHERS = {
    "cxi": ("Slingshot", "libcxi and libfabric with its cxi provider"),
    "hfi1": ("Omni-Path", "libpsm2 or libfabric with its opx provider"),
    "efa": ("EFA", "libefa and libfabric with its efa provider"),
}
"""Kernel modules of fabrics that programs do not reach by verbs; what they need in an image."""


def findings(
    host: Host, environment: Mapping[str, str], locked: int | None = None
) -> Iterator[Finding]:
    """Yield what is to be said of `host` for the job with this `environment`.

    `locked` bytes may be locked in memory (-1: any). Nodes of adapters are opened, which wakes
    nothing: the adapter hears of a program only by what it asks for next.
    """
    if locked is None:
        locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    found = hcas.find_hcas(host)
    yield _shared(host)
    yield _memlock(bool(found), locked)
    yield _links(found)
    yield _verbs(host, found)
    yield _others(host, found)
    yield mpi.of_host(host_mpi(host, environment))
    yield pmi.of_step(host, environment)


def image_findings(
    host: Host,
    environment: Mapping[str, str],
    image: Root,
    program_environment: Mapping[str, str],
) -> Iterator[Finding]:
    """Yield what is to be said of an image whose programs have `program_environment`.

    That is what they see: the image's own variables and those of the job that pass.
    """
    loader = Loader(image, host.machine)
    own = mpi.find(loader, program_environment)
    yield rdma.of_image(hcas.find_hcas(host), loader, program_environment)
    yield mpi.of_image(own, host_mpi(host, environment))
    yield pmi.of_image(program_environment, loader, own)


def host_mpi(host: Host, environment: Mapping[str, str]) -> tuple[mpi.Mpi, ...]:
    """Return the MPI libraries of `host` that programs with `environment` find, and others."""
    return mpi.find(Loader(Root(host.root), host.machine), environment)


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


def _links(found: tuple[Hca, ...]) -> Finding:
    """Tell which ports of InfiniBand or RoCE are up."""
    if not found:
        return Finding("infiniband", OK, "none")
    ports = [port for hca in found for port in hca.ports]
    idle = [f"{port.name} {port.state or 'unknown'}" for port in ports if port.state != "ACTIVE"]
    active = [f"{p.name} {p.layer} {p.rate}" for p in ports if p.state == "ACTIVE"]
    if active:
        text = "; ".join(" ".join(words.split()) for words in active)
        return Finding("infiniband", OK, text + (f"; not up: {', '.join(idle)}" * bool(idle)))
    cards = ", ".join(hca.name for hca in found)
    text = f"{cards}: no port is active" + (f" ({', '.join(idle)})" * bool(idle))
    if any(port.state == "INIT" and port.layer == "InfiniBand" for port in ports):
        return Finding("infiniband", WARN, text, "administrators: no subnet manager runs (opensm)")
    if any(port.physical == "Polling" for port in ports):
        fix = "tell the administrators: the cable or the switch's port does not answer"
        return Finding("infiniband", WARN, text, fix)
    return Finding("infiniband", WARN, text, "tell the administrators: ibstat shows the ports")


def _verbs(host: Host, found: tuple[Hca, ...]) -> Finding:
    """Tell whether this job may use the adapters without the kernel in between."""
    if not found:
        return Finding("rdma", OK, "no adapter")
    without = [hca.name for hca in found if not hca.node]
    if without:
        text = f"{', '.join(without)}: the kernel offers no verbs"
        return Finding("rdma", WARN, text, "an administrator: modprobe ib_uverbs")
    version = host.text(f"{hcas.VERBS}/abi_version", 64).strip()
    if version and not (version.isdecimal() and int(version) in _VERBS_ABI):
        text = f"the kernel's verbs have ABI {version[:16]}, libibverbs knows 3 to 6"
        return Finding("rdma", WARN, text, _TELL)
    closed = [f"{hca.node}: {why}" for hca in found for why in [why_closed(host, hca.node)] if why]
    if closed:
        fix = "ask the batch system for the adapter, or the administrators for the nodes (0666)"
        return Finding("rdma", WARN, "; ".join(closed), fix)
    text = f"{', '.join(hca.node for hca in found)} can be opened, verbs ABI {version or 'unknown'}"
    if not host.exists("/dev/infiniband/rdma_cm"):
        text += "; no rdma_cm: connections by address fail (modprobe rdma_ucm)"
    return Finding("rdma", OK, text)


def _others(host: Host, found: tuple[Hca, ...]) -> Finding:
    """Tell of fabrics that verbs are not enough for, by name only."""
    drivers = {hca.driver for hca in found} | {hca.name.partition("_")[0] for hca in found}
    nodes = hcas.names(host, "/dev")
    told = [
        f"{fabric}: programs need {libraries} in the image"
        for name, (fabric, libraries) in _OTHERS.items()
        if name in drivers or any(node.startswith(name) for node in nodes)
    ]
    return Finding("other_fabrics", OK, "; ".join(told) or "none")
