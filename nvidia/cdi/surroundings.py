"""Where hooks act, and what comes of it, as values."""

from __future__ import annotations

from udocker.containers.spec import Bind, ContainerEdits, DeviceNode
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host
    from udocker.host.root import Root


@dataclass(frozen=True)
class Surroundings:
    """What hooks find: the host, and the container as nodes and mounts have made it."""

    host: Host
    image: Root
    cache_directory: str
    nodes: tuple[DeviceNode, ...] = ()
    binds: tuple[Bind, ...] = ()
    library_cache: str = ""
    """Host path of an ld.so.cache that shows in place of the image's; empty: the image's own."""
    program_env: tuple[tuple[str, str], ...] = ()
    """The environment of the container's program."""


@dataclass(frozen=True)
class Result:
    """What hooks add to the container."""

    edits: ContainerEdits = ContainerEdits()
    notes: tuple[str, ...] = ()
