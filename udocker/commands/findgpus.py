"""What a run gets of the GPUs, found out anew: nothing that is remembered holds."""

from __future__ import annotations

from udocker import console
from udocker.containers import features
from udocker.containers.spec import ContainerEdits
from udocker.host.witness import Variables, Witness
from udocker.nvidia import cache, relocation, remembered
from udocker.nvidia.devices.selection import UNSELECTIVE
from udocker.nvidia.edits import gpu_edits
from udocker.nvidia.wishes import GpuRequest, asks, names_gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.spec import Engine
    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.nvidia.edits import GpuPlan
    from udocker.nvidia.remembered import Answer, Question
    from udocker.settings import Settings


def request_of(
    program_env: tuple[tuple[str, str], ...],
    visible: str,
    selection: str,
    capabilities: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    compat: str,
    strict: bool,
) -> GpuRequest:
    """Return a run's wish as a request; `visible` is the user's own NVIDIA_VISIBLE_DEVICES."""
    return GpuRequest(
        selection,
        capabilities,
        program_env,
        labels,
        compat,
        is_plain=names_gpus(visible),
        strict=strict,
    )


def is_idle(asked: GpuRequest) -> bool:
    """Tell whether GPUs are for images that ask for some, and this one does not."""
    return asked.selection == "auto" and not asks(asked)


def found(
    host: Host, question: Question, asked: GpuRequest, engine: Engine, settings: Settings
) -> Answer:
    """Return what the container gets, as the engine shows it best, and notes for the user.

    It is remembered. Raises GpuError when GPUs were asked for plainly and cannot be had.
    """
    witness, variables = Witness(host), Variables(question.environment)
    plan = gpu_edits(witness, asked, question.image, question.directory, variables)
    env = dict(question.program_env)
    made = _fitted(plan, asked.selection, engine, question.directory, env, question.image)
    if settings.debug:
        _show(host, settings, asked, plan, made[0])
    # the names of parts come from NVML, which keeps none of its own answers longer than it must
    if plan.gpus and not any(gpu.mig for gpu in plan.gpus):
        later = (relocation.OPENCL, *(shadow.destination for shadow in plan.shadows))
        watched = {**dict(plan.watched), **cache.states(question.image, later)}
        remembered.keep(witness, variables, question, watched, made)
    return made


def _fitted(
    plan: GpuPlan, selection: str, engine: Engine, kept: str, env: dict[str, str], image: Root
) -> tuple[ContainerEdits, tuple[str, ...]]:
    """Return the edits of a plan as the engine shows them best, and all notes."""
    whole = plan.edits | ContainerEdits(binds=plan.shadows)
    if features.CHEAP_BINDS in engine.features and features.FEW_MOUNTS not in engine.features:
        return whole, plan.notes
    from udocker.nvidia import staging

    if features.CHEAP_BINDS in engine.features:
        linked = features.OWN_LINKS in engine.features
        return staging.gather_libraries(whole, kept, linked=linked), plan.notes
    ways = staging.Ways(
        links=features.HOST_LINKS in engine.features,
        loader=features.HOST_LOADER in engine.features,
    )
    few = staging.gather(plan.edits, kept, env, image, ways)
    notes = plan.notes + few.notes
    if selection not in UNSELECTIVE:
        shown = "CUDA sees the chosen GPUs only, NVML all that the job may open"
        notes += (f"gpu: {engine.name} hides no device nodes: {shown}",)
    return few.edits, notes


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
