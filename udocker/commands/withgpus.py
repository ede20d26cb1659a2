"""The GPUs of a run: whose wish counts, what it adds, and what the user is told of it."""

from __future__ import annotations

import os

from udocker.containers import features
from udocker.errors import GpuError
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import ContainerEdits, Engine, RuntimeSpec
    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.oci import ImageConfig
    from udocker.settings import Settings

_DRAWING = "/dev/dri"
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

    plan = rocm_edits(host, request.rocm, image, settings.environment)
    shown, edits = beside(spec.edits, plan.edits)
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
    from udocker.nvidia import remembered

    capabilities = tuple(filter(None, request.gpu_capabilities.split(",")))
    visible = _visible(request, settings) if request.gpu is None else ""
    wanted = (selection, capabilities, config.labels, request.cuda_compat, request.gpu_strict)
    question = remembered.Question(
        (*wanted, visible, engine.name, sorted(engine.features)),
        spec.process.env,
        settings.environment,
        image,
        f"{settings.directory}/cache",
    )
    found = None if settings.debug else remembered.recall(host, question)
    if found is None:
        from udocker.commands import findgpus

        asked = findgpus.request_of(spec.process.env, visible, *wanted)
        if request.gpu is None and findgpus.is_idle(asked):
            return spec, ()  # a setting for all images says nothing of those that it does not mean
        found = findgpus.found(host, question, asked, engine, settings)
    edits, notes = found
    if features.CHEAP_BINDS in engine.features and edits.library_dirs:
        _check_place(spec)
    shown, edits = beside(spec.edits, edits)
    return replace(spec, edits=shown | edits), notes


def beside(shown: ContainerEdits, added: ContainerEdits) -> tuple[ContainerEdits, ContainerEdits]:
    """Return both without the nodes of one that the other's make needless or wrong.

    A container sees the host's /dev/dri whole until single nodes of it are given: then those
    alone. Nodes in other directories that it sees whole need no second mount, whose place would
    have to be made on the host.
    """
    given = [node.destination for node in added.device_nodes]
    narrow = any(path.startswith(f"{_DRAWING}/") for path in given)
    kept = [n for n in shown.device_nodes if not (narrow and n.destination == _DRAWING)]
    whole = tuple(f"{node.destination}/" for node in kept)
    new = [node for node in added.device_nodes if not node.destination.startswith(whole)]
    return replace(shown, device_nodes=tuple(kept)), replace(added, device_nodes=tuple(new))


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


def _without(request: RunRequest) -> tuple[str, ...]:
    """Return a note on options that say how GPUs are given, where none is."""
    told = {
        "--gpu-caps": bool(request.gpu_capabilities),
        "--gpu-strict": request.gpu_strict,
        "--cuda-compat": request.cuda_compat != "auto",
    }
    idle = [option for option, given in told.items() if given and request.gpu is None]
    return (f"{', '.join(idle)} has no effect without --gpu",) if idle else ()
