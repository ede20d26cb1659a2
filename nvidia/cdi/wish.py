"""The devices that a run asks for by name, and who provides them."""

from __future__ import annotations

import os

from udocker.host import ldcache
from udocker.nvidia.cdi import applying, driverfiles, registry
from udocker.nvidia.cdi.driverfiles import KIND as GPU_KIND
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.containers.spec import ContainerEdits
    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.nvidia.cdi.applying import CdiPlan
    from udocker.nvidia.cdi.registry import Found


@dataclass(frozen=True)
class CdiRequest:
    """Devices by their qualified names, and where more specifications are looked for."""

    devices: tuple[str, ...]
    directories: tuple[str, ...] = ()
    """Host paths, searched after all others."""
    ignore_hooks: bool = False
    """Hooks that are not known are left out, not an error."""
    own_gpus: bool = False
    """GPUs are taken from udocker's own discovery, whatever specifications say of them."""
    strict: bool = False
    """What the image requires of driver and GPUs must be met."""


@dataclass(frozen=True)
class Chosen:
    """Devices that specifications describe, and whether GPUs are left to the discovery."""

    devices: tuple[Found, ...]
    left_gpus: bool = False
    described: bool = False
    """A specification has the GPUs, too, which are left."""
    notes: tuple[str, ...] = ()


def choose(
    host: Host, request: CdiRequest, cache_directory: str, environment: Mapping[str, str]
) -> Chosen:
    """Return the devices of `request` as the specifications of this node have them.

    NVIDIA's GPUs are left to the discovery where a specification does not know them, or is not
    of the driver that is loaded, or names a GPU of another job. Raises StartError for names of
    others that no specification has.
    """
    wanted = registry.parse_names(request.devices)
    searched = registry.directories(host, environment, request.directories)
    known = registry.scan(searched, cache_directory)
    gpus = tuple(str(name) for name in wanted if name.kind == GPU_KIND)
    others = known.resolve(str(name) for name in wanted if name.kind != GPU_KIND)
    notes = known.faults
    described = all(name in known.devices for name in gpus)
    if request.own_gpus or not described:
        return Chosen(others, bool(gpus), bool(gpus) and described, notes)
    found = known.resolve(gpus)
    fault = next(filter(None, (_fault(host, device) for device in found)), None)
    if fault:
        notes += (f"cdi: {fault}: GPUs are found without it",)
        return Chosen(others, left_gpus=True, notes=notes)
    return Chosen(known.resolve(map(str, wanted)), notes=notes)


def _fault(host: Host, found: Found) -> str | None:
    """Return why a specification is not to be used for a GPU, in one sentence."""
    path = found.spec.path
    made_for, loaded = driverfiles.version_of(found.spec), driverfiles.loaded_version(host)
    if made_for and loaded and made_for != loaded:
        return f"{path} is of driver {made_for}, but {loaded} is loaded"
    for edits in (found.spec.edits, found.device.edits):
        missing = driverfiles.missing(host, edits)
        if missing:
            return f"{path} is stale, for {missing} is not there"
    nodes = [host.path(node.host_path) for node in found.device.edits.nodes]
    denied = next((node for node in nodes if not os.access(node, os.R_OK | os.W_OK)), None)
    return denied and f"{denied} of {found.spec.kind}={found.device.name} is not this job's"


def plan(
    host: Host,
    chosen: Chosen,
    request: CdiRequest,
    image: Root,
    cache_directory: str,
    present: ContainerEdits,
    program_env: tuple[tuple[str, str], ...] = (),
) -> CdiPlan:
    """Return what the chosen devices need in a container from `image` that has `present` already.

    `program_env` is the program's environment. Raises StartError, as `applying.plan`, and
    GpuError where what the image requires is to be met and is not.
    """
    caches = [bind.source for bind in present.binds if bind.destination == ldcache.PATH]
    made = applying.plan(
        host,
        chosen.devices,
        image,
        cache_directory,
        library_cache=(caches or [""])[-1],
        program_env=program_env,
        ignore_hooks=request.ignore_hooks,
    )
    unmet = _unmet(host, chosen, image, program_env, strict=request.strict)
    return replace(made, notes=made.notes + unmet)


def _unmet(
    host: Host,
    chosen: Chosen,
    image: Root,
    program_env: tuple[tuple[str, str], ...],
    *,
    strict: bool,
) -> tuple[str, ...]:
    """Return a note on each requirement of the image that its GPUs do not meet."""
    gpus = [found.spec for found in chosen.devices if found.spec.kind == GPU_KIND]
    if not gpus:
        return ()
    from udocker.nvidia import wishes

    if not wishes.requires(program_env):
        return ()
    from udocker.nvidia import requirement
    from udocker.nvidia.placement import compat

    version = driverfiles.version_of(gpus[0]) or driverfiles.loaded_version(host)
    if not version:
        return ()
    newer = compat.decide(image, version).cuda
    facts = requirement.facts_of(version, len(gpus), newer)
    return requirement.unmet(program_env, facts, strict=strict)
