"""What a container needs to use the host's GPUs: the sum of driver, GPUs, nodes and placement."""

from __future__ import annotations

import os

from udocker.containers.spec import Bind, ContainerEdits
from udocker.errors import GpuError
from udocker.nvidia import driver, libraries, nvswitch, placement, requirement, selection, wishes
from udocker.nvidia.gpus import find_gpus
from udocker.nvidia.nodes import find_nodes
from udocker.nvidia.wishes import GpuRequest as GpuRequest
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.nvidia.driver import Driver
    from udocker.nvidia.gpus import Gpu

_MPS_VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"
_MPS_DIRECTORY = "/tmp/nvidia-mps"


@dataclass(frozen=True)
class GpuPlan:
    """What to add to a container, and what the user may want to know about it."""

    edits: ContainerEdits = ContainerEdits()
    notes: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    shadows: tuple[Bind, ...] = ()
    """Binds over files of the image that would only mislead: for engines whose binds are cheap."""


def gpu_edits(
    host: Host,
    request: GpuRequest,
    image: Root,
    cache_directory: str,
    environment: Mapping[str, str],
) -> GpuPlan:
    """Return what makes the GPUs that `request` means usable in a container from `image`.

    `environment` is the job's. Files are kept in `cache_directory`, of which the plan binds one.
    Raises GpuError, unless the selection is `auto` or `try`: then a note says why not.
    """
    if request.selection == "none":
        return GpuPlan()
    if request.selection == "auto" and not wishes.asks(request):
        return GpuPlan(notes=("gpu: the image does not ask for GPUs; --gpu=all gives them anyway",))
    try:
        return _plan(host, request, image, cache_directory, environment)
    except GpuError as error:
        if request.selection not in ("auto", "try"):
            raise
        return GpuPlan(notes=(f"{error.message}; continuing without GPU",))


def _plan(
    host: Host,
    request: GpuRequest,
    image: Root,
    cache_directory: str,
    environment: Mapping[str, str],
) -> GpuPlan:
    wish = wishes.read(request)
    capabilities = wish.capabilities
    found = usable(host, driver.load(host, cache_directory, environment), environment)
    gpus = selection.select(find_gpus(host), wish.selection, environment)
    nodes, node_notes = find_nodes(host, gpus, capabilities)
    program = dict(request.program_env)
    placed = placement.place(
        found,
        capabilities,
        image,
        host.machine,
        cache_directory,
        host_root=host.root,
        mode=request.compat,
        library_path=program.get("LD_LIBRARY_PATH", ""),
    )
    edits = ContainerEdits(
        env=selection.visible_devices(gpus, wish.selection, environment)
        + tuple(pair for pair in placed.variables if pair[0] not in program),
        device_nodes=nodes,
        binds=_file_binds(found, capabilities),
    )
    edits = edits | placed.edits | _mps_edits(host, capabilities, environment)
    notes = wish.notes + node_notes + placed.notes
    if libraries.COMPUTE in capabilities:
        notes += nvswitch.notes(host, len(gpus))
    facts = requirement.facts_of(found.version, len(gpus), placed.cuda)
    notes += requirement.unmet(request.program_env, facts, strict=request.strict)
    return GpuPlan(edits, notes, gpus, placed.shadow_binds)


def usable(host: Host, found: Driver | None, environment: Mapping[str, str]) -> Driver:
    """Return the driver that was found. Raises GpuError when programs cannot use it, or is none."""
    if found is None:
        from udocker.nvidia import absence

        raise absence.why(host, in_job="SLURM_JOB_ID" in environment)
    if found.obstacle:
        raise GpuError(
            f"gpu: {found.obstacle}",
            hint="tell the administrators (nvidia-smi on the host fails the same way)",
        )
    return found


def _file_binds(found: Driver, capabilities: tuple[str, ...]) -> tuple[Bind, ...]:
    files = [
        Bind(file.source, file.destination, readonly=True)
        for file in found.binaries + found.files
        if file.capability in capabilities
    ]
    # a client writes to its socket, so their directories cannot be read-only
    sockets = [
        Bind(socket.source, socket.destination)
        for socket in found.sockets
        if socket.capability in capabilities
    ]
    return (*files, *sockets)


def _mps_edits(
    host: Host, capabilities: tuple[str, ...], environment: Mapping[str, str]
) -> ContainerEdits:
    """Return the way to the daemon that shares GPUs between processes, if one is set up."""
    named = environment.get(_MPS_VARIABLE, "")
    directory = named or _MPS_DIRECTORY
    usable = directory.startswith("/") and os.path.isdir(host.path(directory))
    if libraries.COMPUTE not in capabilities or not usable:
        return ContainerEdits()
    return ContainerEdits(
        env=((_MPS_VARIABLE, directory),) if named else (),
        binds=(Bind(host.path(directory), directory),),
    )
