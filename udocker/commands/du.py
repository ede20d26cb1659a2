"""`udocker du`."""

from __future__ import annotations

import click

from udocker import console, trees
from udocker.commands.imagelist import split
from udocker.commands.stores import Stores
from udocker.errors import StoreError
from udocker.images.collection import sizes, unneeded
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.images.store import Image


@click.command()
@click.option("-v", "--verbose", is_flag=True, help="Every image and container by itself.")
@click.pass_obj
def command(settings: Settings, verbose: bool) -> None:
    """Show what of the store takes how much of the disk, and what could be freed.

    Layers as they came and unpacked trees count once, however many images share them; UNIQUE is
    what removing that image alone would free. The site's stores are not looked at.
    """
    stores = Stores(settings)
    images, containers = stores.images.images(), stores.containers.containers(broken=_tell)
    parts = {image.name: sizes(stores.images, image) for image in images}
    holders: dict[str, int] = {}
    for part in parts.values():
        for key in part:
            holders[key] = holders.get(key, 0) + 1
    if verbose:
        _put_images(images, parts, holders)
        _put_containers(containers)
    else:
        _put_sums(stores, images, containers, parts)


def _put_sums(
    stores: Stores,
    images: tuple[Image, ...],
    containers: list[Container],
    parts: dict[str, dict[str, int]],
) -> None:
    used = {container.manifest for container in containers}
    active = [image for image in images if image.manifest.digest in used]
    idle = [image.name for image in images if image.manifest.digest not in used]
    whole = _joined(parts, [image.name for image in images])
    needed = _joined(parts, [image.name for image in active])
    rest = unneeded(stores.images, stores.kept)
    left = sum(map(trees.size_bytes, stores.images.leftovers()))
    running = [c for c in containers if stores.containers.is_running(c)]
    written = {container.id: trees.size_bytes(container.directory) for container in containers}
    idle_bytes = sum(size for c in containers for size in [written[c.id]] if c not in running)
    counts = (len(images), len(active))
    rows = [
        _row("Images", *counts, sum(whole.values()), sum(whole.values()) - sum(needed.values())),
        _row("Containers", len(containers), len(running), sum(written.values()), idle_bytes),
        _row("Left over", len(rest.blobs) + len(rest.trees), 0, *[rest.size_bytes + left] * 2),
    ]
    for name, title in (("engines", "Engines"), ("cache", "Cache")):
        size = trees.size_bytes(f"{stores.settings.directory}/{name}")
        rows.append((title, "", "", console.human_size(size), ""))
    console.table(("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"), rows)
    if idle or rest.size_bytes + left:
        console.say("udocker prune frees what is left over, prune --all unused images too")


def _row(kind: str, total: int, active: int, size: int, reclaimable: int) -> tuple[str, ...]:
    share = f" ({100 * reclaimable // size}%)" if size else ""
    freed = console.human_size(reclaimable) + share
    return (kind, str(total), str(active), console.human_size(size), freed)


def _joined(parts: dict[str, dict[str, int]], names: list[str]) -> dict[str, int]:
    """Return all that these images are made of, each once."""
    return {key: size for name in names for key, size in parts[name].items()}


def _put_images(
    images: tuple[Image, ...], parts: dict[str, dict[str, int]], holders: dict[str, int]
) -> None:
    rows = []
    for image in images:
        part = parts[image.name]
        unique = sum(size for key, size in part.items() if holders[key] == 1)
        tree = sum(size for key, size in part.items() if key.startswith("tree"))
        sums = (sum(part.values()), tree, sum(part.values()) - unique, unique)
        rows.append((*split(image.name), image.short_id, *map(console.human_size, sums)))
    titles = ("REPOSITORY", "TAG", "IMAGE ID", "SIZE", "TREE", "SHARED", "UNIQUE")
    console.table(titles, rows)


def _put_containers(containers: list[Container]) -> None:
    if not containers:
        return
    console.put("")
    rows = [
        (c.id[:12], c.image, console.human_size(trees.size_bytes(c.directory))) for c in containers
    ]
    console.table(("CONTAINER ID", "IMAGE", "SIZE"), rows)


def _tell(error: StoreError) -> None:
    console.say_error(error)
