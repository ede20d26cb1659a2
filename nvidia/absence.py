"""Why a host has no NVIDIA driver that can be used, and what helps."""

from __future__ import annotations

import os

from udocker.errors import GpuError
from udocker.nvidia.devices import nvswitch
from udocker.nvidia.driver import hostlayout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host

_FOREIGN = {
    hostlayout.WSL: (
        "gpu: this is the Windows Subsystem for Linux: its driver belongs to Windows (/dev/dxg,"
        f" {hostlayout.WSL_LIBRARIES}) and --gpu does not serve it",
        f"give it by hand: --volume=/usr/lib/wsl:/usr/lib/wsl --device={hostlayout.WSL_NODE}"
        f" --env=LD_LIBRARY_PATH={hostlayout.WSL_LIBRARIES}",
    ),
    hostlayout.TEGRA: (
        "gpu: this is a Jetson (Tegra): its driver is a part of the board's system, which --gpu"
        " does not serve",
        "let `nvidia-ctk cdi generate --mode=csv --output=/etc/cdi/nvidia.yaml` describe it,"
        " then run with --device=nvidia.com/gpu=all",
    ),
}


def why(host: Host, *, in_job: bool) -> GpuError:
    """Return the error that says why `driver.load` found nothing on `host`."""
    foreign = hostlayout.foreign_platform(host)
    if foreign:
        message, hint = _FOREIGN[foreign]
        return GpuError(message, hint=hint)
    name = os.uname().nodename
    number = nvswitch.count_devices(host, nvswitch.VIDEO, nvswitch.COMPUTING)
    if number:
        return _unused(host, name, number)
    no_driver = f"gpu: no NVIDIA driver on this node ({name})"
    if host.exists("/dev/kfd"):
        return GpuError(f"{no_driver}: its GPUs are AMD's", hint="use --rocm in place of --gpu")
    return GpuError(
        f"{no_driver}: kernel module not loaded",
        hint="this job's node has no GPU: ask for one that has, as sbatch --gres=gpu:1 does"
        if in_job
        else "You are on a login node? Try: srun --gres=gpu:1 udocker run …",
    )


def _unused(host: Host, name: str, number: int) -> GpuError:
    """Return the error for GPUs that the machine has and its NVIDIA driver does not drive."""
    gpus = "an NVIDIA GPU" if number == 1 else f"{number} NVIDIA GPUs"
    if host.exists("/sys/module/nouveau"):
        return GpuError(
            f"gpu: this node ({name}) has {gpus}, but nouveau drives, not NVIDIA's own driver",
            hint="tell the administrators: CUDA needs NVIDIA's driver, and nouveau blacklisted",
        )
    return GpuError(
        f"gpu: this node ({name}) has {gpus}, but no NVIDIA driver: kernel module not loaded",
        hint="tell the administrators: `modprobe nvidia` loads it, or dmesg says why it does not",
    )
