"""What a container needs to use the host's GPUs: the sum of driver, GPUs, nodes and placement."""

from __future__ import annotations

from udocker.containers.spec import Bind, ContainerEdits
from udocker.errors import GpuError
from udocker.nvidia import cache, driver, ldconfig, manifests, placement, wishes
from udocker.nvidia.devices import procfiles, selection
from udocker.nvidia.devices.gpus import find_gpus
from udocker.nvidia.devices.nodes import find_nodes, make_missing
from udocker.nvidia.driver import libraries
from udocker.nvidia.wishes import GpuRequest as GpuRequest
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.nvidia.devices.gpus import Gpu
    from udocker.nvidia.driver import Driver
    from udocker.nvidia.placement.placed import Placement
    from udocker.nvidia.wishes import Wish


@dataclass(frozen=True)
class GpuPlan:
    """What to add to a container, and what the user may want to know about it."""

    edits: ContainerEdits = ContainerEdits()
    notes: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    shadows: tuple[Bind, ...] = ()
    """Binds over files of the image that would only mislead: for engines whose binds are cheap."""
    watched: tuple[tuple[str, list[list[int]]], ...] = ()
    """States of files and directories of the image: while they last, so does the plan."""


def gpu_edits(
    host: Host,
    request: GpuRequest,
    image: Root,
    cache_directory: str,
    environment: Mapping[str, str],
) -> GpuPlan:
    """Return what makes the GPUs that `request` means usable in a container from `image`.

    `environment` is the job's. Files are kept in `cache_directory`, of which the plan binds one.
    Raises GpuError, unless the selection is `auto` or `try`, and none was asked for plainly: then
    a note says why not.
    """
    if request.selection == "none":
        return GpuPlan()
    if request.selection == "auto" and not wishes.asks(request):
        return GpuPlan(notes=("gpu: the image does not ask for GPUs; --gpu=all gives them anyway",))
    try:
        return _plan(host, request, image, cache_directory, environment)
    except GpuError as error:
        if request.is_plain or request.selection not in ("auto", "try"):
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
    gpus = _gpus(host, wish, found, cache_directory, environment)
    nodes, node_notes = find_nodes(host, gpus, wish)
    program = dict(request.program_env)
    library_path = program.get("LD_LIBRARY_PATH", "")
    places = (*placement.watched(host.machine, capabilities, library_path), *ldconfig.WATCHED)
    watched = cache.states(image, places)  # before anything is decided by them
    placed = placement.place(
        found,
        capabilities,
        image,
        host.machine,
        cache_directory,
        host_root=host.root,
        mode=request.compat,
        library_path=library_path,
        preload=program.get("LD_PRELOAD", ""),
        states=watched,
    )
    edits = ContainerEdits(
        env=selection.visible_devices(gpus, wish.selection, environment)
        + tuple(pair for pair in placed.variables if pair[0] not in program),
        binds=manifests.portable(_file_binds(found, capabilities), placed.names, cache_directory)
        + procfiles.profile(gpus, capabilities, cache_directory)
        + procfiles.storage(host, wish.opened),
    )
    edits |= nodes | placed.edits | procfiles.services(host, capabilities, environment)
    notes = wish.notes + node_notes + placed.notes
    if libraries.COMPUTE in capabilities:
        notes += _switch_notes(host, gpus)
    notes += _unmet(request, found, gpus, placed)
    shadows = placed.shadow_binds + procfiles.parameters(host, cache_directory)
    if placed.cache_file:
        shadows += ldconfig.binds(image, cache_directory)
    return GpuPlan(edits, notes, gpus, shadows, tuple(watched.items()))


def _gpus(
    host: Host, wish: Wish, found: Driver, directory: str, environment: Mapping[str, str]
) -> tuple[Gpu, ...]:
    """Return the GPUs that are meant, with the names of their parts where those matter."""
    known = find_gpus(host)
    if make_missing(host, known):
        known = find_gpus(host)
    if selection.needs_names(known, wish.selection):
        from udocker.nvidia.devices import partnames

        words = f"{wish.selection},{environment.get(selection.CUDA_VARIABLE, '')}".split(",")
        known = partnames.with_names(known, found, host.boot_id, directory, tuple(words))
    return selection.select(known, wish.selection, environment, whole_names=wish.whole_names)


def _switch_notes(host: Host, gpus: tuple[Gpu, ...]) -> tuple[str, ...]:
    if not host.exists("/dev/nvidia-nvswitch0"):
        return ()
    from udocker.nvidia.devices import nvswitch  # few nodes have such

    return nvswitch.notes(host, len(gpus))


def _unmet(
    request: GpuRequest, found: Driver, gpus: tuple[Gpu, ...], placed: Placement
) -> tuple[str, ...]:
    """Return a note on each requirement of the image that is not met. Raises GpuError if strict."""
    if not wishes.requires(request.program_env):
        return ()
    from udocker.nvidia import requirement

    facts = requirement.facts_of(found.version, len(gpus), placed.cuda)
    return requirement.unmet(request.program_env, facts, strict=request.strict)


def usable(host: Host, found: Driver | None, environment: Mapping[str, str]) -> Driver:
    """Return the driver that was found. Raises GpuError when programs cannot use it, or is none."""
    if found is None:
        from udocker.nvidia import absence

        raise absence.why(host, in_job="SLURM_JOB_ID" in environment)
    if found.obstacle:
        raise GpuError(f"gpu: {found.obstacle}", hint=found.cure)
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
