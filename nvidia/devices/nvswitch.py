"""NVSwitches, and the service without which GPUs behind them refuse every CUDA program."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host

SWITCH, VIDEO, COMPUTING = "0x0680", "0x0300", "0x0302"
"""What a PCI device's class begins with: a bridge of the vendor's own kind, GPUs."""
_PCI = "/sys/bus/pci/devices"
_VENDOR = "0x10de"
_SWITCH_NODE = "/dev/nvidia-nvswitch0"
_SERVICE = "/run/nvidia-fabricmanager"
_COMMAND = "nv-fabricmanager"[:15]
"""What the kernel keeps of the program's name. Source: proc(5), /proc/PID/comm."""


def count_devices(host: Host, *classes: str) -> int:
    """Return how many of NVIDIA's PCI devices are of one of `classes`, with a driver or without."""
    return sum(
        host.text(f"{_PCI}/{name}/vendor").strip() == _VENDOR
        and host.text(f"{_PCI}/{name}/class").startswith(classes)
        for name in host.names(_PCI)
    )


def manager_runs(host: Host) -> bool | None:
    """Tell whether nvidia-fabricmanager runs; None when its processes are hidden from us."""
    if host.exists(f"{_SERVICE}/socket"):
        return True
    number = host.text(f"{_SERVICE}/nv-fabricmanager.pid").strip()
    if number.isdigit() and host.exists(f"/proc/{number}"):
        return True
    if any(host.text(f"/proc/{pid}/comm").strip() == _COMMAND for pid in _processes(host)):
        return True
    return False if host.exists("/proc/1") else None


def _processes(host: Host) -> list[str]:
    return [name for name in host.names("/proc") if name.isdigit()]


def notes(host: Host, gpus: int) -> tuple[str, ...]:
    """Return a note when CUDA cannot start on `gpus` GPUs behind NVSwitches.

    Where the switches belong to another machine than this one (in virtual machines) they do not
    show here, and neither does their service. A sound node is asked for two files.
    """
    if not host.exists(_SWITCH_NODE) or manager_runs(host) is not False:
        return ()
    return (
        f"gpu: {gpus} NVSwitch GPUs but nvidia-fabricmanager is not running:"
        " CUDA would fail with error 802. Node problem, report it.",
    )
