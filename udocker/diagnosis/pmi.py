"""How ranks of a parallel program find each other: what the batch step offers, what images take.

Source: Slurm, mpi_guide.html; PMIx standard 4.1, section 3.4; MPICH, hydra's environment.
"""

from __future__ import annotations

import os

from udocker.diagnosis import mpi
from udocker.diagnosis.finding import OK, WARN, Finding
from udocker.host.loader import library_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.diagnosis.mpi import Mpi
    from udocker.host.loader import Loader
    from udocker.host.probe import Host

PMIX, PMI, PALS = "PMIx", "PMI", "PALS"
_SIGNS = {
    PMIX: ("PMIX_RANK", "PMIX_NAMESPACE"),
    PMI: ("PMI_FD", "PMI_PORT", "PMI_RANK", "PMI_CONTROL_PORT"),
    PALS: ("PALS_RANKID", "PALS_APID"),
}
_RANKS = {PMIX: "PMIX_RANK", PMI: "PMI_RANK", PALS: "PALS_RANKID"}
_SERVER = "PMIX_SERVER_TMPDIR"
_HASH = "PMIX_MCA_gds"
_LIBRARIES = ("libpmix.so.2", "libpmi2.so.0", "libpmi.so.0")
_ALONE = "each rank believes to be alone"


def offered(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return by which protocols the step of this `environment` speaks with its ranks."""
    return tuple(kind for kind, names in _SIGNS.items() if any(map(environment.get, names)))


def of_step(host: Host, environment: Mapping[str, str]) -> Finding:
    """Return what is to be said of the batch step around this process."""
    kinds = offered(environment)
    if not kinds:
        return _without(environment)
    faults = (_server_fault(host, environment), _descriptor_fault(environment))
    for text, fix in filter(None, faults):
        return Finding("pmi", WARN, text, fix)
    rank = next(filter(None, (environment.get(_RANKS[kind]) for kind in kinds)), "unknown")
    plugin = environment.get("SLURM_MPI_TYPE")
    asked = f", srun --mpi={plugin}" if plugin else ""
    version = environment.get("PMIX_VERSION")
    server = f", server {version}" if version else ""
    return Finding("pmi", OK, f"{' and '.join(kinds)}, rank {rank}{asked}{server}")


def of_image(environment: Mapping[str, str], loader: Loader, own: tuple[Mpi, ...]) -> Finding:
    """Return whether an image with these MPI libraries understands what the step offers.

    `environment` is that of its programs.
    """
    if not own:
        return Finding("image_pmi", OK, "the image has no MPI")
    has = _libraries(loader, own[0], library_path(environment))
    names = ", ".join(has) or ("none" if own[0].family == mpi.OPEN_MPI else "its own PMI")
    kinds = offered(environment)
    if not kinds:
        return Finding("image_pmi", OK, f"{own[0]} has {names}: {mpi.launcher(own)}")
    text, fix = _mismatch(kinds, own[0], has)
    if text:
        return Finding("image_pmi", WARN, text, fix)
    place = environment.get(_SERVER, "")
    if PMIX in kinds and place and environment.get(_HASH) != "hash":
        text = f"{own[0]} has {names}; ranks may look for the PMIx server's memory in {place}"
        fix = f"run with --volume={place}, or with --env={_HASH}=hash"
        return Finding("image_pmi", WARN, text, fix)
    return Finding("image_pmi", OK, f"{own[0]} has {names}, the step offers {' and '.join(kinds)}")


def _without(environment: Mapping[str, str]) -> Finding:
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if tasks.isdecimal() and int(tasks) > 1:
        plugin = environment.get("SLURM_MPI_TYPE", "none")
        text = f"a step of {tasks[:9]} tasks without PMI (srun --mpi={plugin}): with MPI {_ALONE}"
        return Finding("pmi", WARN, text, "srun --mpi=pmix or pmi2; srun --mpi=list tells which")
    return Finding("pmi", OK, "not in a step of several ranks")


def _server_fault(host: Host, environment: Mapping[str, str]) -> tuple[str, str] | None:
    place = environment.get(_SERVER, "")
    if PMIX not in offered(environment) or not place or host.exists(place):
        return None
    text = f"{_SERVER} names {place}, which is not here: the variables are of another step or node"
    return text, "start udocker in the step itself: srun --mpi=pmix udocker run ..."


def _descriptor_fault(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Tell where the connection that a rank has inherited is closed, or its number is none."""
    rank, size = environment.get("PMI_RANK", ""), environment.get("PMI_SIZE", "")
    if rank.isdecimal() and size.isdecimal() and int(rank) >= int(size):
        return f"PMI_RANK={rank} of PMI_SIZE={size}", "unset what is left of another job"
    number = environment.get("PMI_FD", "")
    if not number:
        return None
    try:
        os.fstat(int(number))
    except (OSError, ValueError, OverflowError):
        text = f"PMI_FD={number} is not open: something between srun and udocker has closed it"
        return text, "start udocker by srun directly, without a program in between"
    return None


def _libraries(loader: Loader, own: Mpi, first: tuple[str, ...]) -> tuple[str, ...]:
    """Return the PMI libraries that an MPI uses: Open MPI opens what there is, others are linked.

    What is built into Open MPI's plug-ins counts.
    """
    beside = os.path.dirname(own.path)
    wanted = [name for name in _LIBRARIES if own.family == mpi.OPEN_MPI or name in own.needed]
    found = [name for name in wanted if loader.find(name, (*first, *own.first, beside))]
    plugins = loader.root.listdir(f"{beside}/openmpi")
    builtin = [name for name in plugins if name.startswith("mca_pmix_pmix")]
    return tuple(found or builtin[:1])


def _mismatch(kinds: tuple[str, ...], own: Mpi, has: tuple[str, ...]) -> tuple[str, str]:
    """Return why ranks do not find each other, and what helps; empty: they do."""
    speaks_pmix = any("pmix" in name for name in has)
    has_pmi = any(name in has for name in _LIBRARIES[1:])
    if (speaks_pmix and PMIX in kinds) or (has_pmi and PMI in kinds):
        return "", ""
    if own.family == mpi.OPEN_MPI:
        return _mismatch_of_open_mpi(kinds, own, has)
    if PMI in kinds or (has_pmi and PALS in kinds):
        return "", ""
    if PALS in kinds:
        text = f"the image's {own} has no libpmi.so.0, which speaks the step's PALS: {_ALONE}"
        return text, "mpiexec --pmi=pmix, with an MPI in the image that has PMIx"
    text = f"the image's {own} speaks PMI, the step offers PMIx: unless it was built with that"
    return f"{text}, {_ALONE}", _start("pmi2")


def _mismatch_of_open_mpi(
    kinds: tuple[str, ...], own: Mpi, has: tuple[str, ...]
) -> tuple[str, str]:
    if not has:
        text = f"the image's {own} has neither PMIx nor PMI: {_ALONE}"
        return text, "install libpmix in the image, or use one whose Open MPI has it"
    text = f"the image's {own} has {', '.join(has)}, the step offers {kinds[0]}: {_ALONE}"
    return text, _start("pmix")


def _start(plugin: str) -> str:
    return f"srun --mpi={plugin} udocker run ..."
