"""What refers to an image in its registry: signatures, attestations, lists of parts.

Source: distribution-spec 1.1, "Listing Referrers" and "Referrers Tag Schema".
"""

from __future__ import annotations

from udocker import fastjson, oci
from udocker.errors import ImageNotFound, InvalidDocument, RegistryError
from udocker.oci import Descriptor, Digest
from udocker.reference import Reference
from udocker.registry.pages import pages
from udocker.registry.transport import Request
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.registry.transport import Answer, Transport

_ACCEPT = (("Accept", oci.OCI_INDEX),)
MAX_REFERRERS = 1 << 14
_UNKNOWN = (400, 404, 405, 501)
"""What registries of before the API answer to a path that they do not know."""


@dataclass(frozen=True)
class Referrer:
    """A manifest that names an image as its subject."""

    descriptor: Descriptor
    artifact_type: str


def referrers(
    transport: Transport,
    ref: Reference,
    digest: Digest,
) -> tuple[Referrer, ...]:
    """Return what refers to the manifest `digest` in the repository of `ref`.

    A registry that does not know the API has a list under a tag, or nothing.
    """
    subject = f"referrers of {ref.name}@{digest}"
    found: list[Referrer] = []

    def ask(path: str) -> Answer:
        accepted = (200,) if found else (200, *_UNKNOWN)
        request = Request("GET", path, ref.repository, subject, _ACCEPT, accepted)
        return transport.fetch(request, oci.MAX_DOCUMENT_BYTES)

    what = f"{ref.name}: the registry's list of referrers"
    for answer in pages(ask, f"/v2/{ref.repository}/referrers/{digest}", what):
        if answer.status != 200:
            return _under_tag(transport, ref, digest)
        found += _entries(answer.body, ref)
        if len(found) > MAX_REFERRERS:
            raise RegistryError(f"{ref.name}: more than {MAX_REFERRERS} referrers")
    return tuple(found)


def _under_tag(transport: Transport, ref: Reference, digest: Digest) -> tuple[Referrer, ...]:
    """Return what the list under the tag that stands for the digest says."""
    tag = f"{digest.algorithm}-{digest.hex[:64]}"
    path = f"/v2/{ref.repository}/manifests/{tag}"
    request = Request("GET", path, ref.repository, f"{ref.name}:{tag}", _ACCEPT)
    try:
        answer = transport.fetch(request, oci.MAX_DOCUMENT_BYTES)
    except ImageNotFound:
        return ()
    return tuple(_entries(answer.body, ref))


def _entries(body: bytes, ref: Reference) -> list[Referrer]:
    try:
        entries = fastjson.from_outside(body)["manifests"]
        return [
            Referrer(Descriptor.from_json(entry), _word(entry.get("artifactType")))
            for entry in entries
        ]
    except (ValueError, KeyError, TypeError, AttributeError, InvalidDocument) as error:
        raise RegistryError(f"{ref.name}: the registry's list of referrers is broken") from error


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""
