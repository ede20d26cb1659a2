"""Why a job has no GPU on a node that has a driver, and what helps."""

from __future__ import annotations

from udocker.errors import GpuError
from udocker.nvidia.devices import gpus as known_gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.nvidia.devices.gpus import Gpu

_NO_DEVICES = ("", "-1", "NoDevFiles", "none", "void")
"""Values of `CUDA_VISIBLE_DEVICES` and the like by which batch systems say: none."""


def no_gpu(gpus: tuple[Gpu, ...], environment: Mapping[str, str], variable: str) -> GpuError:
    """Return the error that says why none of the node's `gpus` is the job's.

    `variable` is the one by which `environment` narrows them; empty: none does.
    """
    told = tuple(_told(gpus, environment, variable))
    causes = (*told, *_closed(gpus))
    job = environment.get("SLURM_JOB_ID")
    who = f"job {job}" if job else "this session"
    hint = "" if told else _cure(gpus)
    asking = "ask Slurm for one: --gres=gpu:1" if job else "Try: srun --gres=gpu:1 udocker run …"
    return GpuError(f"gpu: {who} has no GPU ({'; '.join(causes)})", hint=hint or asking)


def _told(gpus: tuple[Gpu, ...], environment: Mapping[str, str], variable: str) -> Iterator[str]:
    value = environment.get(variable, "").strip()
    if variable and value in _NO_DEVICES:
        yield f"{variable} is {value or 'empty'}"
    elif variable and any(gpu.accessible for gpu in gpus):
        yield f"{variable} is {value!r}, which names none that may be opened"


def _closed(gpus: tuple[Gpu, ...]) -> Iterator[str]:
    reasons: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        if not gpu.accessible:
            reasons.setdefault(gpu.denial or "not permitted", []).append(gpu)
    for why, these in reasons.items():
        yield f"{_nodes(these)} {why}"
    for gpu in gpus:
        if gpu.accessible and gpu.mig and not any(part.accessible for part in gpu.mig):
            yield f"no MIG part of {gpu.node} permitted"
    if not gpus:
        yield f"the driver lists none in {known_gpus.DIRECTORY}"


def _nodes(gpus: list[Gpu]) -> str:
    """Return the names of the nodes, many with neighbouring numbers as `/dev/nvidia0..7`."""
    minors = sorted(gpu.minor for gpu in gpus)
    if len(minors) > 2 and minors[-1] - minors[0] == len(minors) - 1:
        return f"/dev/nvidia{minors[0]}..{minors[-1]}"
    return ", ".join(gpu.node for gpu in gpus)


def _cure(gpus: tuple[Gpu, ...]) -> str:
    """Return what helps where no batch system would give a GPU either; empty: one might."""
    if not gpus:
        return "tell the administrators of this node: dmesg says why the driver drives none"
    if all(gpu.denial == known_gpus.MISSING for gpu in gpus):
        words = " ".join(f"-c{gpu.minor}" for gpu in gpus)
        return f"ask the administrators of this node to run `nvidia-modprobe -u {words}`"
    groups = {gpu.group for gpu in gpus}
    if len(groups) == 1 and "" not in groups:
        return (
            "the administrators of this node can add you:"
            f" usermod -aG {groups.pop()} USER; it counts from your next login on"
        )
    return ""
