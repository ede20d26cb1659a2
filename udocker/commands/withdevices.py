"""The devices that a run asks for by their names in CDI specifications."""

from __future__ import annotations

from udocker.commands import withgpus
from udocker.commands.options.gpu import CDI_KIND
from udocker.containers import features
from udocker.host import ldcache
from udocker.nvidia.cdi import wish
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import ContainerEdits, Engine, RuntimeSpec
    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.oci import ImageConfig
    from udocker.settings import Settings


def with_devices(
    spec: RuntimeSpec,
    engine: Engine,
    host: Host,
    request: RunRequest,
    settings: Settings,
    image: Root,
    config: ImageConfig,
) -> tuple[RuntimeSpec, tuple[str, ...]]:
    """Return the spec with the devices and GPUs that are wished, and notes for the user.

    GPUs that a specification provides are not looked for a second time, except where binds are
    dear: the discovery, which takes the driver's files from the same specification, needs few of
    them. Raises StartError.
    """
    asked = wish.CdiRequest(
        request.cdi_devices,
        request.cdi_directories,
        ignore_hooks=request.cdi_ignore_hooks,
        own_gpus=_says_more(request) or features.CHEAP_BINDS not in engine.features,
        strict=request.gpu_strict,
    )
    cache = f"{settings.directory}/cache"
    chosen = wish.choose(host, asked, cache, settings.environment)
    named = any(name.startswith(CDI_KIND) for name in request.cdi_devices)
    if named and not chosen.left_gpus:
        request = replace(request, gpu="none")
    elif chosen.described and not _says_more(request):
        request = replace(request, gpu_capabilities="all")  # as the specification has it
    spec, notes = withgpus.with_gpus(spec, engine, host, request, settings, image, config)
    plan = wish.plan(host, chosen, asked, image, cache, spec.edits, spec.process.env)
    spec = replace(_without_older(spec, plan.edits), tmpfs=spec.tmpfs + plan.tmpfs)
    return spec, (*chosen.notes, *notes, *plan.notes)


def _without_older(spec: RuntimeSpec, edits: ContainerEdits) -> RuntimeSpec:
    """Return the spec with `edits`, whose library cache holds what the one before it held."""
    if any(bind.destination == ldcache.PATH for bind in edits.binds):
        others = tuple(bind for bind in spec.edits.binds if bind.destination != ldcache.PATH)
        spec = replace(spec, edits=replace(spec.edits, binds=others))
    return spec.edited(edits)


def _says_more(request: RunRequest) -> bool:
    """Tell whether the options say more of GPUs than their names in specifications."""
    names = [name[len(CDI_KIND) :] for name in request.cdi_devices if name.startswith(CDI_KIND)]
    other = request.gpu is not None and request.gpu != ",".join(names)
    return other or bool(request.gpu_capabilities) or request.cuda_compat != "auto"
