"""The signature of an image that is here, or of a name at its registry."""

from __future__ import annotations

import os

from udocker.oci import Platform
from udocker.reference import Reference
from udocker.registry.client import Client
from udocker.transfer.admission import Evidence
from udocker.transfer.copying.ends import registry_source
from udocker.transfer.resolve import resolve
from udocker.trust.attached import Attached
from udocker.trust.kept import KeptSignatures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from udocker.images.store import Image, ImageStore
    from udocker.oci import Digest
    from udocker.settings import Settings
    from udocker.trust.keys import PublicKey
    from udocker.trust.statements import Signature


def find_signature(
    settings: Settings, store: ImageStore, keys: Sequence[PublicKey], image: Image | str
) -> tuple[Signature, PublicKey]:
    """Return a signature of an image, or of what a name means in its registry, and its key.

    One by any of `keys` will do. It covers the image's manifest, or the index through which its
    name leads there. As with cosign, any name may be signed: it is the content that counts;
    policies can say more. No registry is asked where a good signature was found before. Raises
    TrustError.
    """
    if isinstance(image, str):
        source = registry_source(settings, image)
        resolved = resolve(source, Platform.of_machine(os.uname().machine))
        client, name = source.client, source.reference
        digests: tuple[Digest, ...] = (resolved.source, resolved.descriptor.digest)
    else:
        name = Reference.parse(image.name)
        client, digests = Client(name.registry, settings), store.digests(image)
    kept = KeptSignatures(settings.directory)
    evidence = Evidence(kept, digests, Attached(client, name))
    return evidence.find(str(name), keys, lambda _: True)
