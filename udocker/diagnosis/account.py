"""Who this user is to the machine: their range of ids, their job, their GPUs."""

from __future__ import annotations

import os

from udocker.diagnosis.finding import OK, WARN, Finding
from udocker.engines import programs, subids
from udocker.errors import GpuError, StoreError
from udocker.host import job
from udocker.nvidia.devices import selection
from udocker.nvidia.devices.gpus import find_gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.probe import Host

_DRIVER = "/sys/module/nvidia/version"


def findings(host: Host, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is to be said of the caller, whose `environment` this is."""
    yield _many_ids(host)
    yield _gpus(host, environment)
    yield _batch_job(environment)


def _many_ids(host: Host) -> Finding:
    optional = "only --userns auto needs it"
    maps = [name for name in ("newuidmap", "newgidmap") if programs.on_host(name)]
    names = (_user_name(), str(os.getuid()))
    paths = (subids.SUBUID, subids.SUBGID)
    counts = [_count(host.path(path), names) for path in paths]
    if len(maps) < 2:
        return Finding("many_ids", OK, f"no newuidmap and newgidmap: {optional}")
    if not all(counts):
        return Finding("many_ids", OK, f"no range in /etc/subuid and /etc/subgid: {optional}")
    return Finding("many_ids", OK, f"{counts[0]} user ids and {counts[1]} group ids by newuidmap")


def _count(path: str, names: tuple[str, str]) -> int:
    try:
        return sum(count for _, count in subids.ranges(path, names))
    except StoreError:  # it cannot be read
        return 0


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def _gpus(host: Host, environment: Mapping[str, str]) -> Finding:
    found = find_gpus(host)
    if not found:
        return Finding("gpu", OK, "none")
    models = dict.fromkeys(gpu.model or "GPU" for gpu in found)
    counts = (f"{sum(g.model == m for g in found)} x {m}" for m in models)
    text = ", ".join(counts)
    driver = host.text(_DRIVER).strip()
    text += f", driver {driver}" if driver else ""
    try:
        usable = len(selection.of_job(found, environment))
    except GpuError as error:
        return Finding("gpu", WARN, f"{text}: {error.message}", error.hint or "")
    if not usable:
        fix = "ask the batch system for one: srun --gres=gpu:1"
        return Finding("gpu", WARN, f"{text}; this job has none of them", fix)
    return Finding("gpu", OK, f"{text}; {usable} for this job")


def _batch_job(environment: Mapping[str, str]) -> Finding:
    for variable, system in _SYSTEMS.items():
        if environment.get(variable):
            text = f"{system} job {environment[variable]}"
            step = ", a step of it" if job.is_parallel_step(environment) else ""
            return Finding("job", OK, text + step)
    return Finding("job", OK, "none")


_SYSTEMS = {
    "SLURM_JOB_ID": "Slurm",
    "PBS_JOBID": "PBS",
    "LSB_JOBID": "LSF",
    "FLUX_JOB_ID": "Flux",
    "JOB_ID": "Grid Engine",
}
