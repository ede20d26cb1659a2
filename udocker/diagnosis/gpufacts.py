"""What is known of this node's GPUs without asking the driver: for `udocker gpu info`."""

from __future__ import annotations

import os

from udocker.diagnosis import fabric, hcas
from udocker.nvidia import absence, cuda, driver
from udocker.nvidia.amd import amdgpus, rocm
from udocker.nvidia.cdi import driverfiles, registry
from udocker.nvidia.devices import nvswitch, partnames, selection
from udocker.nvidia.devices.gpus import find_gpus
from udocker.nvidia.driver import libraries
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.diagnosis.hcas import Hca
    from udocker.diagnosis.mpi import Mpi
    from udocker.host.probe import Host
    from udocker.nvidia.amd.amdgpus import AmdGpu
    from udocker.nvidia.devices.gpus import Gpu
    from udocker.nvidia.devices.mig import MigDevice
    from udocker.nvidia.driver import Driver

MPS_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
JOB_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    MPS_VARIABLE,
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "GPU_DEVICE_ORDINAL",
    "NVIDIA_VISIBLE_DEVICES",
    rocm.RUNTIME_VARIABLE,
    rocm.HIP_VARIABLES[0],
    "SLURM_JOB_ID",
    "SLURM_JOB_GPUS",
    "SLURM_STEP_GPUS",
    "SLURM_GPUS_ON_NODE",
    "SLURM_SHARDS_ON_NODE",
)
"""What the batch system, CUDA and ROCm say of the GPUs of a job. Source: Slurm, gres.html."""
_CHANNELS = "/dev/nvidia-caps-imex-channels"


@dataclass(frozen=True)
class PartFact:
    """A MIG device, and whether this job may use it."""

    part: MigDevice
    obstacle: str


@dataclass(frozen=True)
class GpuFact:
    """A GPU, and whether this job may use it."""

    index: int
    """Its place in the order of PCI addresses, which is NVML's."""
    gpu: Gpu
    obstacle: str
    """Why this job may not use it; empty: it may."""
    parts: tuple[PartFact, ...] = ()
    """Its MIG devices; programs use them in its place."""


@dataclass(frozen=True)
class AmdFact:
    """A GPU of AMD, and whether this job may use it."""

    index: int
    """Its place in the order of ROCm."""
    gpu: AmdGpu
    obstacle: str
    """Why this job may not use it; empty: it may."""


@dataclass(frozen=True)
class Share:
    """The libraries that serve one driver capability."""

    capability: str
    count: int
    size_bytes: int


@dataclass(frozen=True)
class Specification:
    """A file of CDI that describes devices of this node."""

    path: str
    kind: str
    devices: int
    fault: str = ""
    """Why it is not used for the driver's files; empty: it is, or it is not of NVIDIA's GPUs."""


@dataclass(frozen=True)
class Facts:
    """A node, its driver and its GPUs as this job sees them."""

    node: str
    driver: Driver | None
    absence: str
    """Why there is no driver; empty: there is one."""
    cuda: str
    """The CUDA version that the driver brings, `13.0`; of one newer than known `13.2+`."""
    gpus: tuple[GpuFact, ...]
    job: tuple[tuple[str, str], ...]
    """The variables of `JOB_VARIABLES` that are set, unchanged."""
    shares: tuple[Share, ...]
    services: tuple[tuple[str, str], ...]
    """Names of services and special hardware, and the state of each in words."""
    specifications: tuple[Specification, ...]
    faults: tuple[str, ...] = ()
    """What of CDI's files cannot be used at all."""
    amd: tuple[AmdFact, ...] = ()
    hcas: tuple[Hca, ...] = ()
    """Adapters of InfiniBand and its kin."""
    mpi: tuple[Mpi, ...] = ()
    """The MPI libraries of the host that programs of this job find, and those in usual places."""


def gather(host: Host, environment: Mapping[str, str], cache_directory: str) -> Facts:
    """Return the facts of `host` as the job with this `environment` sees them.

    Only for the names of MIG devices is NVML asked, in a process of its own; what it says is kept
    in `cache_directory`.
    """
    found = driver.find(host, environment)
    known = registry.scan(registry.directories(host, environment))
    return Facts(
        node=os.uname().nodename,
        driver=found,
        absence="" if found else _absence(host),
        cuda=_cuda(found.version) if found else "",
        gpus=tuple(_gpus(host, found, environment, cache_directory)),
        job=tuple((name, environment[name]) for name in JOB_VARIABLES if name in environment),
        shares=tuple(_shares(found)) if found else (),
        services=tuple(_services(host, environment)),
        specifications=tuple(_specifications(host, known, found)),
        faults=known.faults,
        amd=tuple(_amd(host, environment)),
        hcas=hcas.find_hcas(host),
        mpi=fabric.host_mpi(host, environment),
    )


def _absence(host: Host) -> str:
    return absence.why(host, in_job=False).message[len("gpu: ") :]


def _cuda(version: str) -> str:
    found = cuda.version_of(version)
    if found is None:
        return ""
    return f"{found[0]}.{found[1]}" + "+" * cuda.is_newer_than_known(version)


def _gpus(
    host: Host, known: Driver | None, environment: Mapping[str, str], cache_directory: str
) -> Iterator[GpuFact]:
    found = find_gpus(host)
    if known and any(gpu.mig for gpu in found):
        found = partnames.with_names(found, known, host.boot_id, cache_directory, ())
    usable = {gpu.pci: gpu for gpu in selection.of_job(found, environment)}
    for index, gpu in enumerate(found):
        of_job = usable.get(gpu.pci)
        why = "" if of_job else _obstacle(gpu, environment)
        yield GpuFact(index, gpu, why, tuple(_parts(gpu, of_job, environment)))


def _obstacle(gpu: Gpu, environment: Mapping[str, str]) -> str:
    if not gpu.accessible:
        return f"{gpu.node} {gpu.denial}"
    if gpu.mig and not any(part.accessible for part in gpu.mig):
        return "none of its MIG devices can be opened"
    return _unnamed(environment)


def _unnamed(environment: Mapping[str, str]) -> str:
    variable = selection.narrowing_variable(environment)
    return f"not in {variable}={environment[variable]}" if variable else "not this job's"


def _parts(gpu: Gpu, of_job: Gpu | None, environment: Mapping[str, str]) -> Iterator[PartFact]:
    usable = {(part.gi, part.ci) for part in of_job.mig} if of_job else set()
    for part in gpu.mig:
        why = "" if (part.gi, part.ci) in usable else _unnamed(environment)
        yield PartFact(part, why if part.accessible else f"{', '.join(part.nodes)} not permitted")


def _amd(host: Host, environment: Mapping[str, str]) -> Iterator[AmdFact]:
    found = amdgpus.find_gpus(host)
    usable = rocm.of_job(found, environment)
    for index, gpu in enumerate(found):
        closed = gpu.closed.text if gpu.closed else "not among the job's visible devices"
        yield AmdFact(index, gpu, "" if gpu in usable else closed)


def _shares(found: Driver) -> Iterator[Share]:
    for capability in libraries.CAPABILITIES:
        if capability == libraries.COMPAT32:
            paths = [library.path for library in found.libraries32]
        else:
            paths = [a.path for a in found.libraries if capability in a.capabilities]
        if paths:
            yield Share(capability, len(paths), sum(map(_size, paths)))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _services(host: Host, environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what runs beside the driver, or is missing although the hardware wants it."""
    awake = host.exists("/run/nvidia-persistenced/socket")
    yield "persistenced", "runs" if awake else "does not run: GPUs may sleep between programs"
    directory = environment.get(MPS_VARIABLE) or "/tmp/nvidia-mps"
    yield "mps", f"listens in {directory}" if host.exists(f"{directory}/control") else "not used"
    switches = nvswitch.count_devices(host, nvswitch.SWITCH)
    yield "nvswitch", f"{switches} switches" if switches else "none"
    runs = {True: "runs", False: "does not run", None: "cannot be seen"}
    managed = runs[nvswitch.manager_runs(host)]
    yield "fabricmanager", managed if switches or managed == "runs" else "not needed"
    channels = len(_names(host, _CHANNELS))
    yield "imex", f"{channels} channels" if channels else "none"
    storage = [name for name in _names(host, "/dev") if name.startswith("nvidia-fs")]
    yield "gds", f"{len(storage)} nodes" if storage else "none"
    yield "gdrcopy", "/dev/gdrdrv" if host.exists("/dev/gdrdrv") else "none"


def _names(host: Host, directory: str) -> list[str]:
    try:
        return os.listdir(host.path(directory))
    except OSError:
        return []


def _specifications(
    host: Host, known: registry.Registry, found: Driver | None
) -> Iterator[Specification]:
    specs = {device.spec.path: device.spec for device in known.devices.values()}
    for path, spec in specs.items():
        fault = ""
        if spec.kind == driverfiles.KIND and found:
            made_for, lost = driverfiles.version_of(spec), driverfiles.missing(host, spec.edits)
            if lost:
                fault = f"{lost} is not there"
            elif made_for != found.version:
                fault = f"made for driver {made_for or 'unknown'}"
        count = sum(device.spec.path == path for device in known.devices.values())
        yield Specification(path, spec.kind, count, fault)
