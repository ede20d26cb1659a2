"""Manifests that hold signatures, wherever they lie: what can be read of them, and why not more.

Source: cosign, specs/SIGNATURE_SPEC.md, "Storage", and BUNDLE_SPEC.md, "Storage".
"""

from __future__ import annotations

from udocker import fastjson
from udocker.errors import IntegrityError, InvalidDocument
from udocker.oci import Descriptor, Digest
from udocker.trust import statements
from udocker.trust.statements import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from udocker.trust.statements import Signature

    Fetch = Callable[[Descriptor], Iterable[bytes]]

MAX_SIGNATURES = 256
"""Signatures of one image that are looked at: each may cost a request."""
MAX_PAYLOAD_BYTES = 64 << 10
MAX_BUNDLE_BYTES = 1 << 20
_SIGNATURE = "dev.cosignproject.cosign/signature"
_CERTIFICATE = "dev.sigstore.cosign/certificate"


class Carriers:
    """Reads signatures out of manifests; `fetch` yields the bytes of a layer."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._payloads: dict[Digest, bytes] = {}
        self.problems: list[str] = []
        """Why some of what was found is no signature."""

    def simple(self, manifest: bytes) -> Iterator[Signature]:
        """Yield what the layers with simple signing payloads are; others are passed over."""
        for layer in self._layers(manifest):
            if layer.media_type != statements.SIMPLE_SIGNING:
                continue
            try:
                payload = self._blob(layer, MAX_PAYLOAD_BYTES)
                encoded = layer.annotation(_SIGNATURE)
                keyless = bool(layer.annotation(_CERTIFICATE))
                yield statements.simple(payload, encoded, keyless=keyless)
            except Unreadable as error:
                self.note(str(error))

    def bundle(self, manifest: bytes) -> Iterator[Signature]:
        """Yield the one that is in the bundle that the first layer is."""
        for layer in self._layers(manifest)[:1]:
            try:
                yield statements.bundle(self._blob(layer, MAX_BUNDLE_BYTES))
            except Unreadable as error:
                self.note(str(error))

    def note(self, problem: str) -> None:
        """Remember why something is no signature."""
        if len(self.problems) < MAX_SIGNATURES and problem not in self.problems:
            self.problems.append(problem)

    def _layers(self, manifest: bytes) -> list[Descriptor]:
        try:
            entries = fastjson.from_outside(manifest)["layers"]
            if not isinstance(entries, list):
                raise TypeError("not a list")
            # one that is beyond the bound is read only to notice that there are more
            return [Descriptor.from_json(entry) for entry in entries[: MAX_SIGNATURES + 1]]
        except (ValueError, KeyError, TypeError, InvalidDocument):
            self.note("a manifest that should hold signatures is broken")
            return []

    def _blob(self, layer: Descriptor, limit_bytes: int) -> bytes:
        """Return a blob; the same payload is fetched once, however many keys signed it."""
        if layer.size_bytes > limit_bytes:
            raise Unreadable(f"a payload of {layer.size_bytes} bytes is too large")
        if layer.digest not in self._payloads:
            data = b"".join(self._fetch(layer))
            found = Digest.of(data, layer.digest.algorithm)
            if found != layer.digest:
                raise IntegrityError(f"signature {layer.digest} came as {found}")
            self._payloads[layer.digest] = data
        return self._payloads[layer.digest]
