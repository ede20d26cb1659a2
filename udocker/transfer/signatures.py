"""The signature of an image that is here, or of a name at its registry."""

from __future__ import annotations

import os

from udocker.oci import Platform
from udocker.reference import Reference
from udocker.registry.client import Client
from udocker.transfer.admission import Evidence
from udocker.transfer.resolve import resolve
from udocker.transfer.source import RegistrySource
from udocker.trust.attached import Attached
from udocker.trust.kept import KeptSignatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from udocker.images.store import Image, ImageStore
    from udocker.settings import Settings
    from udocker.trust.keys import PublicKey
    from udocker.trust.statements import Signature


def find_signature(
    settings: Settings, store: ImageStore, keys: Sequence[PublicKey], image: Image | Reference
) -> tuple[Signature, PublicKey]:
    """Return a signature of the image by one of `keys`, and which of them made it.

    The signature covers the image's manifest, or the index through which its name leads there. As
    with cosign, any name may be signed: it is the content that counts; policies can say more. No
    registry is asked where a good signature was found before. Raises TrustError.
    """
    kept = KeptSignatures(settings.directory)
    if isinstance(image, Reference):
        client = Client(image.registry, settings)
        machine = Platform.of_machine(os.uname().machine)
        resolved = resolve(RegistrySource(client, image), machine)
        digests = (resolved.source, resolved.descriptor.digest)
        evidence = Evidence(kept, digests, Attached(client, image))
        return evidence.find(str(image), keys, lambda _: True)
    name = Reference.parse(image.name)
    attached = Attached(Client(name.registry, settings), name)
    evidence = Evidence(kept, store.digests(image), attached)
    return evidence.find(image.name, keys, lambda _: True)
