"""What of the host's GPUs a container sees."""

from __future__ import annotations

import os

from udocker.errors import GpuError
from udocker.host.root import Root
from udocker.nvidia.edits import GpuRequest, gpu_edits
from udocker.selftest.bench import CheckFailed
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.containers.spec import ContainerEdits
    from udocker.host.probe import Host
    from udocker.nvidia.devices.gpus import Gpu
    from udocker.selftest.bench import Bench
    from udocker.selftest.sample import Sample

_LIST_NODES = 'for n in /dev/nvidia[0-9]*; do [ -r "$n" ] && [ -w "$n" ] && echo "$n"; done; true'


@dataclass(frozen=True)
class HostGpus:
    """What a container in this job is to see: GPUs, or the reason why there are none."""

    gpus: tuple[Gpu, ...] = ()
    reason: str = ""
    smi: str = ""
    """Where the container has `nvidia-smi`; empty: it has none, or one without its libraries."""

    def __str__(self) -> str:
        models = dict.fromkeys(gpu.model or "GPU" for gpu in self.gpus)
        counts = {model: sum(gpu.model == model for gpu in self.gpus) for model in models}
        return ", ".join(f"{count} x {model}" for model, count in counts.items()) or "none"


def find(
    host: Host, tree: str, sample: Sample, cache: str, environment: Mapping[str, str]
) -> HostGpus:
    """Return what a container of the image unpacked at `tree` is to see.

    `cache` is a directory for files that are made for containers.
    """
    try:
        plan = gpu_edits(host, GpuRequest("all"), Root(tree), cache, environment)
    except GpuError as error:
        return HostGpus(reason=error.message)
    smi = _smi(plan.edits) if sample.has_smi_libraries else ""
    return HostGpus(plan.gpus, smi=smi)


def _smi(edits: ContainerEdits) -> str:
    places = (bind.destination for bind in edits.binds)
    return next((place for place in places if os.path.basename(place) == "nvidia-smi"), "")


def check(bench: Bench, expected: HostGpus) -> None:
    """Raise CheckFailed unless `--gpu=try` shows just the `expected` GPUs."""
    done = bench.shell(_LIST_NODES, "--gpu=try")
    done.expect()
    nodes = done.output.decode(errors="replace").split()
    wanted = [gpu.node for gpu in expected.gpus]
    if sorted(nodes) != sorted(wanted):
        raise CheckFailed(f"device nodes {nodes}, not {wanted}")
    if expected.smi:
        listed = bench.run(expected.smi, "-L", options=("--rm", "--gpu=try"))
        listed.expect()
        count = sum(line.startswith(b"GPU ") for line in listed.output.splitlines())
        if count != len(wanted):
            raise CheckFailed(f"nvidia-smi lists {count} GPUs, not {len(wanted)}")
