"""Signatures that a layout brings along with its images, as `cosign save` and `oras copy -r` do.

They are kept beside the images, where `verify --key` and policies look before they ask a
registry: believed as little as what a registry sends.
"""

from __future__ import annotations

from udocker.errors import ImageNotFound, IntegrityError, InvalidDocument
from udocker.trust.carriers import MAX_SIGNATURES, Carriers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from udocker.oci import Digest
    from udocker.transfer.archives.layoutsource import LayoutSource
    from udocker.trust.kept import KeptSignatures
    from udocker.trust.statements import Signature


def keep_signatures(
    kept: KeptSignatures, beside: Iterable[LayoutSource], digests: Iterable[Digest]
) -> None:
    """Keep what is said to sign one of `digests`. Raises StoreError."""
    for number, signature in enumerate(_signatures(beside)):
        if number == MAX_SIGNATURES:
            return
        for digest in digests:
            if str(digest) in signature.digests:
                kept.keep(digest, signature)


def _signatures(beside: Iterable[LayoutSource]) -> Iterator[Signature]:
    """Yield the signatures in what is no image; what is broken or none is passed over."""
    for source in beside:
        carriers = Carriers(source.blob)
        try:
            manifest = source.document()[1]
            yield from carriers.simple(manifest)
            yield from carriers.bundle(manifest)
        except (ImageNotFound, IntegrityError, InvalidDocument):
            continue
