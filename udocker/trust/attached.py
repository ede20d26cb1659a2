"""Signatures that lie beside an image in its registry, found lazily and believed by nobody.

Source: cosign, specs/SIGNATURE_SPEC.md, "Tag-based Discovery", and BUNDLE_SPEC.md, "Retrieval".
"""

from __future__ import annotations

from udocker.errors import ImageNotFound
from udocker.reference import Reference
from udocker.trust import statements
from udocker.trust.carriers import MAX_SIGNATURES, Carriers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.oci import Descriptor, Digest
    from udocker.registry.client import Client
    from udocker.trust.statements import Signature

SIGNATURE_TYPE = "application/vnd.dev.cosign.artifact.sig.v1+json"
"""Artifact type of a manifest with simple signing payloads, where it is a referrer."""
_PREDICATE = "dev.sigstore.bundle.predicateType"


class Attached:
    """What a repository holds that claims to sign one of its images.

    Each of both ways to find it is asked when the one before is exhausted: who stops at a
    signature that is good asks no further. Raises RegistryError where the registry fails.
    """

    def __init__(self, client: Client, reference: Reference) -> None:
        self._client = client
        self._reference = reference
        self._carriers = Carriers(lambda layer: client.blob(reference, layer))

    @property
    def problems(self) -> list[str]:
        """Why some of what was found is no signature."""
        return self._carriers.problems

    def of(self, digest: Digest) -> Iterator[Signature]:
        """Yield the signatures of an image or index, MAX_SIGNATURES at most."""
        for count, found in enumerate(self._all(digest)):
            if count == MAX_SIGNATURES:
                self._carriers.note(f"only the first {count} signatures were looked at")
                return
            yield found

    def _all(self, digest: Digest) -> Iterator[Signature]:
        registry, repository = self._reference.registry, self._reference.repository
        tag = f"{digest.algorithm}-{digest.hex}.sig"
        if len(tag) <= 128:
            try:
                data = self._client.manifest(Reference(registry, repository, tag, None))[1]
            except ImageNotFound:
                pass
            else:
                yield from self._carriers.simple(data)
        for referrer in self._client.referrers(self._reference, digest):
            if referrer.artifact_type == SIGNATURE_TYPE:
                yield from self._carriers.simple(self._manifest(referrer.descriptor))
            elif referrer.artifact_type.startswith(statements.BUNDLE_PREFIX):
                yield from self._bundle(referrer.descriptor)

    def _manifest(self, descriptor: Descriptor) -> bytes:
        return self._client.manifest(self._reference, descriptor.digest)[1]

    def _bundle(self, descriptor: Descriptor) -> Iterator[Signature]:
        predicate = descriptor.annotation(_PREDICATE)
        if predicate not in (None, statements.SIGN_PREDICATE):
            return  # an attestation of something else
        yield from self._carriers.bundle(self._manifest(descriptor))
