"""What one registry says of an image: its digest, its manifests, its tags.

Source: distribution-spec 1.1, "Pulling manifests" and "Listing Tags".
"""

from __future__ import annotations

import hashlib

from udocker import fastjson, oci
from udocker.errors import IntegrityError, InvalidDocument, RegistryError
from udocker.oci import Descriptor, Digest
from udocker.reference import Reference, is_tag
from udocker.registry.pages import pages
from udocker.registry.transport import Request, Transport
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.registry.transport import Answer

ACCEPT = ", ".join((*oci.INDEX_TYPES, *oci.MANIFEST_TYPES))
MAX_TAGS = 1 << 18

_BEFORE_TEXT = b"\xef\xbb\xbf \t\r\n"
_KNOWN_TYPES = (*oci.INDEX_TYPES, *oci.MANIFEST_TYPES, *oci.DOCKER_SCHEMA1)


def head(transport: Transport, ref: Reference) -> Digest | None:
    """Return the digest that a name has now, None where the registry does not tell.

    One request where the registry wants no credentials, and none that Docker Hub counts. Some
    answer GET only.
    """
    request = _manifest_request("HEAD", ref, ref.digest)
    answer = transport.fetch(replace(request, accepted=(200, 405, 501)), 0)
    digest = _stated_digest(answer.headers, ref)
    if digest and ref.digest and digest != ref.digest:
        raise IntegrityError(f"{ref}: the registry has {digest} under this digest")
    return digest


def manifest(
    transport: Transport, ref: Reference, digest: Digest | None
) -> tuple[Descriptor, bytes]:
    """Return a manifest or an index as it was sent, and what it is.

    `digest` chooses another manifest of the same repository, one that an index names. Raises
    IntegrityError where the bytes are not those of a digest that is known, and InvalidDocument
    for what is neither manifest nor index.
    """
    pinned = digest or ref.digest
    request = _manifest_request("GET", ref, pinned)
    answer = transport.fetch(request, oci.MAX_DOCUMENT_BYTES)
    if _sent_type(answer.headers) in oci.DOCKER_SCHEMA1:
        raise _too_old(ref)  # before the digest, which is that of a part of it: it is signed
    stated = _stated_digest(answer.headers, ref)
    for expected in filter(None, (pinned, stated)):
        actual = _digest_of(answer.body, expected.algorithm)
        if actual != expected:
            raise IntegrityError(f"{ref}: the registry sends {actual} instead of {expected}")
    media_type = _media_type(answer.headers, answer.body, ref, pinned=pinned is not None)
    name = pinned or stated or Digest.of(answer.body)
    return Descriptor(media_type, name, len(answer.body)), answer.body


def tags(transport: Transport, ref: Reference) -> list[str]:
    """Return the tags of a repository in the registry's order."""

    def ask(path: str) -> Answer:
        request = Request("GET", path, ref.repository, ref.name)
        return transport.fetch(request, oci.MAX_DOCUMENT_BYTES)

    what = f"{ref.name}: the registry's list of tags"
    found: list[str] = []
    for answer in pages(ask, f"/v2/{ref.repository}/tags/list", what):
        problem = f"{ref.name}: a web page came in place of a list of tags"
        _refuse_web_page(answer.headers, answer.body, problem)
        found += _tags_of_page(answer.body, ref)
        if len(found) > MAX_TAGS:
            raise RegistryError(f"{what} does not end")
    return found


def _manifest_request(method: str, ref: Reference, digest: Digest | None) -> Request:
    path = f"/v2/{ref.repository}/manifests/{digest or ref.tag or 'latest'}"
    subject = f"{ref.name}@{digest}" if digest else str(ref)
    return Request(method, path, ref.repository, subject, headers=(("Accept", ACCEPT),))


def _stated_digest(headers: Mapping[str, str], ref: Reference) -> Digest | None:
    text = headers.get("Docker-Content-Digest")
    if not text:
        return None
    try:
        stated = Digest.parse_any(text.strip())
    except InvalidDocument as error:
        raise RegistryError(f"{ref}: the registry states no digest: {error.message}") from error
    return stated if stated.is_known else None  # what cannot be compared says nothing


def _digest_of(data: bytes, algorithm: str) -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, data).hexdigest())


def _media_type(headers: Mapping[str, str], body: bytes, ref: Reference, *, pinned: bool) -> str:
    """Return what a document is: `Content-Type` and its own word must not contradict each other.

    With a digest the bytes are what was asked for, whatever a server says that they are.
    Source: distribution-spec, "Pulling manifests"; image-spec media-types.md, "Media Type
    Conflicts".
    """
    sent = _sent_type(headers)
    _refuse_web_page(headers, body, f"{ref}: a web page came in place of a manifest")
    own, looks, version = _own_type(body, ref)
    if own in oci.DOCKER_SCHEMA1 or version == 1:
        raise _too_old(ref)
    if own and sent in _KNOWN_TYPES and own != sent and not pinned:
        raise InvalidDocument(f"{ref}: came as {sent}, but says that it is {own[:100]!r}")
    media_type = own or (sent if sent in _KNOWN_TYPES else looks or sent)
    if media_type not in _KNOWN_TYPES:
        raise InvalidDocument(f"{ref}: {media_type[:100]!r} is neither an image nor an index")
    return media_type


def _sent_type(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_web_page(headers: Mapping[str, str], body: bytes) -> bool:
    """Tell whether an answer is for people: from a server that is no registry.

    Its type alone does not tell: quay.io calls `true` text/html, too, in answer to /v2/.
    """
    return _sent_type(headers) == "text/html" and body.lstrip(_BEFORE_TEXT).startswith(b"<")


def _refuse_web_page(headers: Mapping[str, str], body: bytes, problem: str) -> None:
    if is_web_page(headers, body):
        hint = "there is no registry at that address, or the network wants a login first"
        raise InvalidDocument(problem, hint=hint)


def _too_old(ref: Reference) -> InvalidDocument:
    return InvalidDocument(
        f"{ref}: an image of Docker's schema 1 of before 2017, which is not read any more",
        hint=f"skopeo copy --format=oci docker://{ref} oci-archive:FILE; udocker load -i FILE",
    )


def _own_type(body: bytes, ref: Reference) -> tuple[str, str, object]:
    """Return the `mediaType` that a document has, what it looks like, and its `schemaVersion`.

    Before image-spec 1.1 OCI's need not have said what they are, and a file server cannot.
    """
    try:
        members = fastjson.from_outside(body)
    except ValueError as error:
        raise InvalidDocument(f"{ref}: the manifest is not JSON: {error}") from error
    if not isinstance(members, dict):
        raise InvalidDocument(f"{ref}: the manifest is not a JSON object")
    own, looks = members.get("mediaType"), ""
    if "manifests" in members:
        looks = oci.OCI_INDEX
    elif "config" in members and "layers" in members:
        looks = oci.OCI_MANIFEST
    return own if isinstance(own, str) else "", looks, members.get("schemaVersion")


def _tags_of_page(body: bytes, ref: Reference) -> list[str]:
    try:
        members = fastjson.from_outside(body)
    except ValueError:
        members = None
    tags = (members.get("tags") or []) if isinstance(members, dict) else None
    if not isinstance(tags, list) or not all(isinstance(t, str) and is_tag(t) for t in tags):
        raise RegistryError(f"{ref.name}: the registry's list of tags is not one")
    return tags
