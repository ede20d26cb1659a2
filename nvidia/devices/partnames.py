"""The UUIDs and the order of MIG devices, which NVML alone knows."""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.errors import GpuError, StoreError
from udocker.nvidia import cache
from udocker.nvidia.devices import elsewhere
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.nvidia.devices.gpus import Gpu
    from udocker.nvidia.driver import Driver

_FORMAT = 1
_PATIENCE_S = 30.0
"""NVML wakes every GPU, which takes seconds each where nothing keeps the driver in memory."""


def with_names(
    gpus: tuple[Gpu, ...], driver: Driver, boot_id: str, directory: str, words: tuple[str, ...]
) -> tuple[Gpu, ...]:
    """Return `gpus` with the UUIDs of their parts, these in NVML's order.

    Kept in `directory` as long as driver, boot and parts are the same; asked anew when a UUID
    among `words` is not known. Raises GpuError when it has to be and NVML cannot be asked; without
    such a word the parts stay as they are.
    """
    wanted = [w for w in words if w.upper().startswith("MIG-") and "/" not in w]
    parts = [[gpu.minor, part.gi, part.ci, part.accessible] for gpu in gpus for part in gpu.mig]
    name = f"mig-{cache.digest(_FORMAT, driver.key, boot_id, os.geteuid(), parts)}.json"
    known = cache.load(directory, name)
    if not _is_answer(known) or not all(_is_known(word, known) for word in wanted):
        known, reason = _ask(driver)
        if reason and wanted:
            raise GpuError(
                f"gpu: {wanted[0]}: that name is known to NVML only; {reason}",
                hint="name the GPU and its part by numbers, --gpu=0:1, or MIG-GPU-<uuid>/<gi>/<ci>",
            )
        if not reason:
            _keep(directory, name, known)
    return tuple(_named(gpu, known) for gpu in gpus)


def _named(gpu: Gpu, known: list[list[Any]]) -> Gpu:
    uuids = {(gi, ci): uuid for minor, gi, ci, uuid in known if minor == gpu.minor}
    order = list(uuids)
    named = [replace(part, uuid=uuids.get((part.gi, part.ci), "")) for part in gpu.mig]
    named.sort(key=lambda p: order.index((p.gi, p.ci)) if (p.gi, p.ci) in uuids else len(order))
    return replace(gpu, mig=tuple(named))


def _is_known(word: str, known: list[list[Any]]) -> bool:
    return any(uuid.lower().startswith(word.lower()) for _, _, _, uuid in known)


def _is_answer(known: Any) -> bool:
    kinds = [int, int, int, str]
    return isinstance(known, list) and all(
        isinstance(entry, list) and [type(value) for value in entry] == kinds for entry in known
    )


def _keep(directory: str, name: str, known: list[list[Any]]) -> None:
    try:
        cache.save(directory, name, fastjson.dumps(known).encode())
    except StoreError:
        pass  # only the next start is slower


def _ask(driver: Driver) -> tuple[list[list[Any]], str]:
    """Return what NVML says of parts, or why it says nothing."""

    def list_them() -> list[list[Any]]:
        from udocker.nvidia.devices import nvml

        return [[part.gpu_minor, part.gi, part.ci, part.uuid] for part in nvml.list_parts(driver)]

    try:
        known = elsewhere.ask(list_them, _PATIENCE_S)
    except GpuError as error:
        return [], error.message.partition(": ")[2]
    return (known, "") if _is_answer(known) else ([], "its answer makes no sense")
