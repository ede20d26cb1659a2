"""NVML asked in a process of its own: a broken driver may take that one down, or let it hang."""

from __future__ import annotations

from udocker.nvidia.devices import elsewhere
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.nvidia.driver import Driver


@dataclass(frozen=True)
class Seen:
    """A GPU that NVML lists in this job."""

    uuid: str
    minor: int
    name: str
    memory_bytes: int
    arch: str = ""
    """Compute capability, `9.0`; empty: unknown."""
    brand: str = ""


def ask(driver: Driver, timeout_s: float = 60) -> tuple[Seen, ...]:
    """Return the GPUs that NVML of `driver` sees here, in its order.

    Raises GpuError with the cause: its own, or that it crashed, or was still silent after
    `timeout_s` (a GPU that nobody keeps awake takes seconds).
    """

    def list_them() -> list[list[Any]]:
        from udocker.nvidia.devices import nvml

        return [
            [g.uuid, g.minor, g.name, g.memory_bytes, g.arch, g.brand]
            for g in nvml.list_gpus(driver)
        ]

    return tuple(Seen(*fields) for fields in elsewhere.ask(list_them, timeout_s))
