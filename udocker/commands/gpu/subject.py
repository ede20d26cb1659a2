"""What `udocker gpu` is asked about: an image or a container, as a run would take it."""

from __future__ import annotations

from udocker.commands import runoptions
from udocker.commands.stores import Stores
from udocker.containers import choices
from udocker.containers.assemble import make_spec
from udocker.containers.hostfiles import files_of
from udocker.containers.request import RunRequest
from udocker.containers.spec import Rootfs
from udocker.errors import ImageNotFound
from udocker.nvidia.wishes import GpuRequest
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.settings import Settings

_SOMETHING = ("/bin/true",)
"""For images that name no program: which one it would be says nothing of GPUs."""


@dataclass(frozen=True)
class Subject:
    """An image or container: its files, and what a run of it asks of GPUs."""

    name: str
    files: Root
    request: GpuRequest


def find(
    settings: Settings,
    host: Host,
    name: str,
    gpu: str = "",
    capabilities: str = "",
    compat: str = "",
) -> Subject:
    """Return the container of that name, or else the image.

    `gpu`, `capabilities` and `compat`, as of the options of `run`, count before the container's
    own words; without any all GPUs are meant. Raises ImageNotFound for an image that is not here.
    """
    stores = Stores(settings)
    kept = stores.containers.find(name)
    container = kept or _planned(stores, name)
    wish = RunRequest()
    chosen = ""
    if kept:
        wish = runoptions.options_of(kept, settings.environment)
        chosen = choices.load(kept).gpu
    config = stores.config_of(container)
    runs = replace(wish, args=wish.args or _SOMETHING)
    spec = make_spec(host, container, config, runs, Rootfs(container.tree), settings.environment)
    request = GpuRequest(
        gpu or wish.gpu or chosen or "all",
        tuple(filter(None, (capabilities or wish.gpu_capabilities).split(","))),
        spec.process.env,
        config.labels,
        compat or wish.cuda_compat,
        strict=wish.gpu_strict,
    )
    return Subject(container.image if not kept else name, files_of(container), request)


def _planned(stores: Stores, name: str) -> Container:
    """Return a container of the image, which is not on the disk."""
    image = stores.get_image(name)
    if not stores.images.is_ready(image):
        raise ImageNotFound(f"image {name!r} is not whole here", hint=f"udocker pull {name}")
    return stores.containers.plan(image, stores.images.read_manifest(image).config.digest)
