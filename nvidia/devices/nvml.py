"""What the driver itself says about its GPUs: the only user of pynvml, never on the start path."""

from __future__ import annotations

import pynvml

from udocker.errors import GpuError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from udocker.nvidia.driver import Driver

    _T = TypeVar("_T")


@dataclass(frozen=True)
class NvmlGpu:
    """A GPU as NVML describes it."""

    index: int
    uuid: str
    name: str
    minor: int
    pci: str
    """Domain, bus, device and function, `0000:1b:00.0`."""
    memory_bytes: int
    arch: str = ""
    """Compute capability, `9.0`."""
    brand: str = ""
    """In the word of `NVIDIA_REQUIRE_*`: `tesla`, `geforcertx`, ..."""


@dataclass(frozen=True)
class NvmlPart:
    """A MIG device as NVML describes it."""

    gpu_minor: int
    """Of the GPU that it is a part of."""
    gi: int
    ci: int
    uuid: str
    name: str
    """With its profile: `NVIDIA H200 MIG 1g.18gb`."""


_CAUSES = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the kernel module is not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "kernel module and libraries are of different versions: the node was updated without reboot"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open the device nodes",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "its library cannot be loaded",
    pynvml.NVML_ERROR_GPU_IS_LOST: "a GPU has fallen off the bus: the node needs a reboot",
}


_BRANDS = {
    pynvml.NVML_BRAND_UNKNOWN: "unknown",
    pynvml.NVML_BRAND_QUADRO: "quadro",
    pynvml.NVML_BRAND_TESLA: "tesla",
    pynvml.NVML_BRAND_NVS: "nvs",
    pynvml.NVML_BRAND_GRID: "grid",
    pynvml.NVML_BRAND_GEFORCE: "geforce",
    pynvml.NVML_BRAND_TITAN: "titan",
    pynvml.NVML_BRAND_NVIDIA_VAPPS: "vapps",
    pynvml.NVML_BRAND_NVIDIA_VPC: "vpc",
    pynvml.NVML_BRAND_NVIDIA_VCS: "vcs",
    pynvml.NVML_BRAND_NVIDIA_VWS: "vws",
    pynvml.NVML_BRAND_NVIDIA_CLOUD_GAMING: "cloudgaming",
    pynvml.NVML_BRAND_QUADRO_RTX: "quadrortx",
    pynvml.NVML_BRAND_NVIDIA_RTX: "nvidiartx",
    pynvml.NVML_BRAND_NVIDIA: "nvidia",
    pynvml.NVML_BRAND_GEFORCE_RTX: "geforcertx",
    pynvml.NVML_BRAND_TITAN_RTX: "titanrtx",
}
"""Source: nvml.h, nvmlBrandType_t; libnvidia-container 1.18, nvc_info.c, for the words."""


def list_gpus(driver: Driver) -> tuple[NvmlGpu, ...]:
    """Return the GPUs that NVML of `driver` sees in this process, in its order.

    The library stays loaded: a process can ask one driver only. Raises GpuError with the cause.
    """
    return _asked(driver, lambda: tuple(_describe(index) for index in range(_count())))


def list_parts(driver: Driver) -> tuple[NvmlPart, ...]:
    """Return the MIG devices that NVML sees in this process, GPU after GPU, in its order.

    Raises GpuError as `list_gpus` does.
    """
    return _asked(
        driver, lambda: tuple(part for index in range(_count()) for part in _parts(index))
    )


def _count() -> int:
    return int(pynvml.nvmlDeviceGetCount())


def _asked(driver: Driver, question: Callable[[], tuple[_T, ...]]) -> tuple[_T, ...]:
    """Return the answer to `question` by NVML of `driver`."""
    paths = [a.path for a in driver.libraries if a.soname == "libnvidia-ml.so.1"]
    if not paths:
        raise GpuError(f"gpu: driver {driver.version} has no libnvidia-ml.so.1 on disk")
    try:
        # pynvml itself asks only for the name; it opens what it is given, and ours is found
        pynvml.nvmlLib = pynvml.CDLL(paths[0])
        pynvml.nvmlInit()
    except (OSError, pynvml.NVMLError) as error:
        raise _failure(error) from error
    try:
        return question()
    except pynvml.NVMLError as error:
        raise _failure(error) from error
    finally:
        pynvml.nvmlShutdown()


def _describe(index: int) -> NvmlGpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    domain, _, rest = pynvml.nvmlDeviceGetPciInfo(handle).busId.lower().partition(":")
    return NvmlGpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        minor=pynvml.nvmlDeviceGetMinorNumber(handle),
        pci=f"{domain[-4:]}:{rest}",
        memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        arch=_optional(
            lambda: ".".join(map(str, pynvml.nvmlDeviceGetCudaComputeCapability(handle)))
        ),
        brand=_optional(lambda: _BRANDS.get(pynvml.nvmlDeviceGetBrand(handle), "")),
    )


def _optional(question: Callable[[], str]) -> str:
    try:
        return question()
    except pynvml.NVMLError:  # an older driver, or a GPU that has no such thing
        return ""


def _parts(index: int) -> Iterator[NvmlPart]:
    gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(gpu)
        most = pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) if current else 0
    except pynvml.NVMLError:  # a GPU that cannot be parted
        return
    minor = pynvml.nvmlDeviceGetMinorNumber(gpu)
    for number in range(most):
        try:
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, number)
        except pynvml.NVMLError_NotFound:
            continue
        yield NvmlPart(
            gpu_minor=minor,
            gi=pynvml.nvmlDeviceGetGpuInstanceId(part),
            ci=pynvml.nvmlDeviceGetComputeInstanceId(part),
            uuid=pynvml.nvmlDeviceGetUUID(part),
            name=pynvml.nvmlDeviceGetName(part),
        )


def _failure(error: Exception) -> GpuError:
    number = getattr(error, "value", None)
    cause = _CAUSES.get(number, str(error).lower())
    return GpuError(
        f"gpu: NVML failed: {cause}" + (f" (error {number})" if number is not None else ""),
        hint="run nvidia-smi on the host: when it fails too, tell the administrators",
    )
