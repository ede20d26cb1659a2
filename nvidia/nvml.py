"""What the driver itself says about its GPUs: the only user of pynvml, never on the start path."""

from __future__ import annotations

import pynvml

from udocker.errors import GpuError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.nvidia.driver import Driver


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


_CAUSES = {
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the kernel module is not loaded",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "kernel module and libraries are of different versions: the node was updated without reboot"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open the device nodes",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "its library cannot be loaded",
    pynvml.NVML_ERROR_GPU_IS_LOST: "a GPU has fallen off the bus: the node needs a reboot",
}


def list_gpus(driver: Driver) -> tuple[NvmlGpu, ...]:
    """Return the GPUs that NVML of `driver` sees in this process, in its order.

    The library stays loaded: a process can ask one driver only. Raises GpuError with the cause.
    """
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
        return tuple(_describe(index) for index in range(pynvml.nvmlDeviceGetCount()))
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
    )


def _failure(error: Exception) -> GpuError:
    number = getattr(error, "value", None)
    cause = _CAUSES.get(number, str(error).lower())
    return GpuError(
        f"gpu: NVML failed: {cause}" + (f" (error {number})" if number is not None else ""),
        hint="run nvidia-smi on the host: when it fails too, tell the administrators",
    )
