"""The GPUs of a run: whose wish counts, what it adds, and what the user is told of it."""

from __future__ import annotations

import os

from udocker import console
from udocker.containers import features
from udocker.containers.spec import ContainerEdits
from udocker.errors import GpuError
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import Engine, RuntimeSpec
    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.nvidia.edits import GpuPlan
    from udocker.nvidia.wishes import GpuRequest
    from udocker.oci import ImageConfig
    from udocker.settings import Settings

_PLACE = "/run/udocker"
"""In a container: where what is injected lies, in a file system in memory."""


def wish(request: RunRequest, settings: Settings) -> str | None:
    """Return which GPUs a run shall have, as `--gpu` takes them; None: nobody wants any.

    What the run or its container says counts before the user's setting. Whoever sets
    `NVIDIA_VISIBLE_DEVICES` for the program, as for docker with NVIDIA's runtime, wants GPUs too.
    """
    selection = settings.gpu if request.gpu is None else request.gpu
    visible = _visible(request, settings)
    if request.gpu is None and visible:
        selection = "none" if "void" in visible.split(",") else "auto"
    return None if selection in ("", "none") else selection


def _visible(request: RunRequest, settings: Settings) -> str:
    """Return the user's own value of the variable; empty: he has not set it."""
    told = dict(request.env)
    if "NVIDIA_VISIBLE_DEVICES" not in told:
        return ""
    value = told["NVIDIA_VISIBLE_DEVICES"]
    return settings.environment.get("NVIDIA_VISIBLE_DEVICES", "") if value is None else value


def wants_any(request: RunRequest, settings: Settings) -> bool:
    """Tell whether a run shall have GPUs of any maker."""
    return wish(request, settings) is not None or request.rocm not in (None, "none")


def with_gpus(
    spec: RuntimeSpec,
    engine: Engine,
    host: Host,
    request: RunRequest,
    settings: Settings,
    image: Root,
    config: ImageConfig,
) -> tuple[RuntimeSpec, tuple[str, ...]]:
    """Return the spec with the GPUs that are wished, and notes for the user.

    Raises GpuError when they were asked for plainly and cannot be had.
    """
    spec, notes = _with_nvidia(spec, engine, host, request, settings, image, config)
    if request.rocm is None:
        return spec, notes
    from udocker.nvidia.amd.rocm import rocm_edits
    from udocker.nvidia.devices import nodes

    plan = rocm_edits(host, request.rocm, image, settings.environment)
    shown, edits = nodes.beside(spec.edits, plan.edits)
    return replace(spec, edits=shown | edits), notes + plan.notes


def _with_nvidia(
    spec: RuntimeSpec,
    engine: Engine,
    host: Host,
    request: RunRequest,
    settings: Settings,
    image: Root,
    config: ImageConfig,
) -> tuple[RuntimeSpec, tuple[str, ...]]:
    selection = wish(request, settings)
    if selection is None:
        return spec, _without(request)
    from udocker.nvidia.devices import nodes
    from udocker.nvidia.edits import gpu_edits
    from udocker.nvidia.wishes import GpuRequest, asks, names_gpus

    asked = GpuRequest(
        selection,
        tuple(filter(None, request.gpu_capabilities.split(","))),
        spec.process.env,
        config.labels,
        request.cuda_compat,
        is_plain=request.gpu is None and names_gpus(_visible(request, settings)),
        strict=request.gpu_strict,
    )
    cache = f"{settings.directory}/cache"
    plan = gpu_edits(host, asked, image, cache, settings.environment)
    if request.gpu is None and selection == "auto" and not asks(asked):
        return spec, ()  # a setting for all images says nothing of those that it does not mean
    edits, notes = _fitted(plan, selection, engine, cache, dict(spec.process.env), image)
    if settings.debug:
        _show(host, settings, asked, plan, edits)
    if features.CHEAP_BINDS in engine.features and edits.library_dirs:
        _check_place(spec)
    shown, edits = nodes.beside(spec.edits, edits)
    return replace(spec, edits=shown | edits), notes


def _check_place(spec: RuntimeSpec) -> None:
    """Raise GpuError where a volume covers the place of the driver and nothing can be made in it.

    A mount needs a directory below it, and the host's /run belongs to root.
    """
    for bind in spec.edits.binds:
        above = bind.destination.rstrip("/")
        covers = f"{_PLACE}/".startswith(f"{above}/")
        if not covers or os.path.isdir(bind.source + _PLACE[len(above) :]):
            continue
        if bind.readonly or not os.access(bind.source, os.W_OK):
            raise GpuError(
                f"gpu: {bind.source} shows at {bind.destination}, and no directory {_PLACE} for "
                "the driver's files can be made in it",
                hint="show only what is needed of it, as -v /run/munge:/run/munge",
            )


def _fitted(
    plan: GpuPlan, selection: str, engine: Engine, cache: str, env: dict[str, str], image: Root
) -> tuple[ContainerEdits, tuple[str, ...]]:
    """Return the edits of a plan as the engine shows them best, and all notes."""
    whole = plan.edits | ContainerEdits(binds=plan.shadows)
    if features.CHEAP_BINDS in engine.features and features.FEW_MOUNTS not in engine.features:
        return whole, plan.notes
    from udocker.nvidia import staging

    if features.CHEAP_BINDS in engine.features:
        return staging.gather_libraries(whole, cache), plan.notes
    from udocker.nvidia.devices.selection import UNSELECTIVE

    ways = staging.Ways(
        links=features.HOST_LINKS in engine.features,
        loader=features.HOST_LOADER in engine.features,
    )
    few = staging.gather(plan.edits, cache, env, image, ways)
    notes = plan.notes + few.notes
    if selection not in UNSELECTIVE:
        shown = "CUDA sees the chosen GPUs only, NVML all that the job may open"
        notes += (f"gpu: {engine.name} hides no device nodes: {shown}",)
    return few.edits, notes


def _without(request: RunRequest) -> tuple[str, ...]:
    """Return a note on options that say how GPUs are given, where none is."""
    told = {
        "--gpu-caps": bool(request.gpu_capabilities),
        "--gpu-strict": request.gpu_strict,
        "--cuda-compat": request.cuda_compat != "auto",
    }
    idle = [option for option, given in told.items() if given and request.gpu is None]
    return (f"{', '.join(idle)} has no effect without --gpu",) if idle else ()


def _show(
    host: Host, settings: Settings, asked: GpuRequest, plan: GpuPlan, few: ContainerEdits
) -> None:
    """Say where the driver's files come from, what was decided, and how much it is."""
    from udocker.nvidia import driver

    found = driver.load(host, f"{settings.directory}/cache", settings.environment)
    what = "no driver"
    if found:
        what = f"driver {found.version} by {found.source}, layout {found.layout}"
    console.say(f"udocker: gpu: {what}; wanted: {asked.selection}")
    gpus = ", ".join(gpu.uuid or gpu.pci for gpu in plan.gpus)
    console.say(f"udocker: gpu: {len(plan.gpus)} GPUs" + f" ({gpus})" * bool(gpus))
    counts = f"{len(few.device_nodes)} nodes, {len(few.binds)} binds, {len(few.symlinks)} links"
    console.say(f"udocker: gpu: {counts}, {len(plan.shadows)} files hidden")
    for name, value in few.env:
        console.say(f"udocker: gpu: {name}={value}")
