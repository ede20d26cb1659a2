"""Layers that registries need not keep, from the web addresses that their descriptors name.

Only for who asks for it: an image then decides which servers are spoken to. They get no
credentials, and what they send has to have the layer's digest, as ever.
Source: image-spec 1.1, descriptor.md, `urls`, and layer.md, "Non-Distributable Layers".
"""

from __future__ import annotations

from udocker.errors import ImageNotFound, RegistryError
from udocker.registry.blobreader import BlobReader
from udocker.registry.connection import Trust
from udocker.registry.route import shown, split
from udocker.registry.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.oci import Descriptor
    from udocker.reference import Reference
    from udocker.registry.patience import Patience
    from udocker.settings import Settings

MAX_URLS = 8


def chunks(
    ref: Reference,
    layer: Descriptor,
    offset: int,
    settings: Settings,
    patience: Patience | None = None,
) -> Iterator[bytes]:
    """Yield a layer's bytes from `offset` on, from the first address that has them.

    Raises RegistryError that tells of all of them, IntegrityError for a layer of another size.
    """
    told = []
    for url in layer.urls[:MAX_URLS]:
        try:
            transport = _transport(url, settings, patience)
            reader = BlobReader(transport, ref, layer, offset, url=url)
            for chunk in reader.chunks():
                yield chunk
                offset = reader.position
            return
        except (RegistryError, ImageNotFound) as error:
            told.append(error.message)
    raise RegistryError(f"the foreign layer {layer.digest} cannot be had: {'; '.join(told)}")


def _transport(url: str, settings: Settings, patience: Patience | None) -> Transport:
    parts = split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise RegistryError(f"{shown(url)} is not an address of the web")
    return Transport(
        parts.netloc,
        settings.environment,
        lambda _: None,
        trust=Trust(settings.insecure),
        patience=patience,
        base=f"{parts.scheme}://{parts.netloc}",
        debug=settings.debug,
    )
