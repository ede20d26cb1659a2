"""Signatures that lie beside an image in its registry, found lazily and believed by nobody.

Source: cosign, specs/SIGNATURE_SPEC.md, "Tag-based Discovery", and BUNDLE_SPEC.md, "Retrieval".
"""

from __future__ import annotations

from udocker import fastjson
from udocker.errors import ImageNotFound, IntegrityError, InvalidDocument
from udocker.oci import Descriptor, Digest
from udocker.reference import Reference
from udocker.trust import statements
from udocker.trust.statements import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.registry.client import Client
    from udocker.trust.statements import Signature

MAX_SIGNATURES = 256
"""Signatures of one image that are looked at: each may cost a request."""
MAX_PAYLOAD_BYTES = 64 << 10
MAX_BUNDLE_BYTES = 1 << 20
SIGNATURE_TYPE = "application/vnd.dev.cosign.artifact.sig.v1+json"
"""Artifact type of a manifest with simple signing payloads, where it is a referrer."""
_SIGNATURE = "dev.cosignproject.cosign/signature"
_CERTIFICATE = "dev.sigstore.cosign/certificate"
_PREDICATE = "dev.sigstore.bundle.predicateType"


class Attached:
    """What a repository holds that claims to sign one of its images.

    Each of both ways to find it is asked when the one before is exhausted: who stops at a
    signature that is good asks no further. Raises RegistryError where the registry fails.
    """

    def __init__(self, client: Client, reference: Reference) -> None:
        self._client = client
        self._reference = reference
        self._payloads: dict[Digest, bytes] = {}
        self.problems: list[str] = []
        """Why some of what was found is no signature."""

    def of(self, digest: Digest) -> Iterator[Signature]:
        """Yield the signatures of an image or index, MAX_SIGNATURES at most."""
        for count, found in enumerate(self._all(digest)):
            if count == MAX_SIGNATURES:
                self._note(f"only the first {count} signatures were looked at")
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
                yield from self._simple(data)
        for referrer in self._client.referrers(self._reference, digest):
            if referrer.artifact_type == SIGNATURE_TYPE:
                yield from self._simple(self._manifest(referrer.descriptor))
            elif referrer.artifact_type.startswith(statements.BUNDLE_PREFIX):
                yield from self._bundle(referrer.descriptor)

    def _manifest(self, descriptor: Descriptor) -> bytes:
        return self._client.manifest(self._reference, descriptor.digest)[1]

    def _simple(self, manifest: bytes) -> Iterator[Signature]:
        for layer in self._layers(manifest):
            if layer.media_type != statements.SIMPLE_SIGNING:
                continue
            try:
                payload = self._blob(layer, MAX_PAYLOAD_BYTES)
                encoded = layer.annotation(_SIGNATURE)
                keyless = bool(layer.annotation(_CERTIFICATE))
                yield statements.simple(payload, encoded, keyless=keyless)
            except Unreadable as error:
                self._note(str(error))

    def _bundle(self, descriptor: Descriptor) -> Iterator[Signature]:
        predicate = descriptor.annotation(_PREDICATE)
        if predicate not in (None, statements.SIGN_PREDICATE):
            return  # an attestation of something else
        for layer in self._layers(self._manifest(descriptor))[:1]:
            try:
                yield statements.bundle(self._blob(layer, MAX_BUNDLE_BYTES))
            except Unreadable as error:
                self._note(str(error))

    def _layers(self, manifest: bytes) -> list[Descriptor]:
        try:
            entries = fastjson.loads(manifest)["layers"]
            if not isinstance(entries, list):
                raise TypeError("not a list")
            # one that is beyond the bound is read only to notice that there are more
            return [Descriptor.from_json(entry) for entry in entries[: MAX_SIGNATURES + 1]]
        except (ValueError, KeyError, TypeError, InvalidDocument):
            self._note("a manifest that should hold signatures is broken")
            return []

    def _blob(self, layer: Descriptor, limit_bytes: int) -> bytes:
        """Return a blob; the same payload is fetched once, however many keys signed it."""
        if layer.size_bytes > limit_bytes:
            raise Unreadable(f"a payload of {layer.size_bytes} bytes is too large")
        if layer.digest not in self._payloads:
            data = b"".join(self._client.blob(self._reference, layer))
            found = Digest.of(data, layer.digest.algorithm)
            if found != layer.digest:
                raise IntegrityError(f"signature {layer.digest} came as {found}")
            self._payloads[layer.digest] = data
        return self._payloads[layer.digest]

    def _note(self, problem: str) -> None:
        if len(self.problems) < MAX_SIGNATURES and problem not in self.problems:
            self.problems.append(problem)
