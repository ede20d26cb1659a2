"""What is known of this node's GPUs without asking the driver: for `udocker gpu info`."""

from __future__ import annotations

import os

from udocker.errors import GpuError
from udocker.nvidia import driver, libraries, selection
from udocker.nvidia.gpus import find_gpus
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.probe import Host
    from udocker.nvidia.driver import Driver
    from udocker.nvidia.gpus import Gpu

_VERSION = "/proc/driver/nvidia/version"
JOB_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
    "GPU_DEVICE_ORDINAL",
    "NVIDIA_VISIBLE_DEVICES",
    "SLURM_JOB_ID",
    "SLURM_JOB_GPUS",
    "SLURM_STEP_GPUS",
    "SLURM_GPUS_ON_NODE",
    "SLURM_SHARDS_ON_NODE",
)
"""What the batch system and CUDA say of the GPUs of a job. Source: Slurm, gres.html."""


@dataclass(frozen=True)
class GpuFact:
    """A GPU, and whether this job may use it."""

    index: int
    """Its place in the order of PCI addresses, which is NVML's."""
    gpu: Gpu
    obstacle: str
    """Why this job may not use it; empty: it may."""


@dataclass(frozen=True)
class Share:
    """The libraries that serve one driver capability."""

    capability: str
    count: int
    size_bytes: int


@dataclass(frozen=True)
class Facts:
    """A node, its driver and its GPUs as this job sees them."""

    node: str
    driver: Driver | None
    flavour: str
    """Of the kernel module: `open`, `proprietary`, or empty when it does not say."""
    gpus: tuple[GpuFact, ...]
    job: tuple[tuple[str, str], ...]
    """The variables of `JOB_VARIABLES` that are set, unchanged."""
    shares: tuple[Share, ...]


def gather(host: Host, environment: Mapping[str, str]) -> Facts:
    """Return the facts of `host` as the job with this `environment` sees them."""
    found = driver.find(host)
    return Facts(
        node=os.uname().nodename,
        driver=found,
        flavour=flavour(host),
        gpus=tuple(_gpus(host, environment)),
        job=tuple((name, environment[name]) for name in JOB_VARIABLES if name in environment),
        shares=tuple(_shares(found)) if found else (),
    )


def flavour(host: Host) -> str:
    """Return which kernel module is loaded. Source: nv-procfs.c, `NV_VERSION` of either."""
    line = host.text(_VERSION).partition("\n")[0]
    if "Open Kernel Module" in line:
        return "open"
    return "proprietary" if "Kernel Module" in line else ""


def _gpus(host: Host, environment: Mapping[str, str]) -> Iterator[GpuFact]:
    found = find_gpus(host)
    try:
        usable, reason = selection.of_job(found, environment), ""
    except GpuError as error:
        usable, reason = (), error.message.partition(": ")[2]
    for index, gpu in enumerate(found):
        why = "" if gpu in usable else reason or _obstacle(host, gpu, environment)
        yield GpuFact(index, gpu, why)


def _obstacle(host: Host, gpu: Gpu, environment: Mapping[str, str]) -> str:
    if not host.exists(gpu.node):
        return f"no {gpu.node}"
    if not gpu.accessible:
        return f"{gpu.node} not permitted"
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return f"not in CUDA_VISIBLE_DEVICES={visible}"


def _shares(found: Driver) -> Iterator[Share]:
    for capability in libraries.CAPABILITIES:
        paths = [a.path for a in found.libraries if capability in a.capabilities]
        if paths:
            yield Share(capability, len(paths), sum(map(_size, paths)))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
