"""The read side of the distribution API: what an image is, its documents and its blobs.

Source: distribution-spec 1.1, "Pull" and "Content Discovery".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from udocker import fastjson, oci
from udocker.errors import ImageNotFound, IntegrityError, InvalidDocument, RegistryError
from udocker.oci import Descriptor, Digest
from udocker.reference import Reference, api_host, is_tag
from udocker.registry.connection import Trust
from udocker.registry.credentials import Credentials, find_credentials
from udocker.registry.faults import Unavailable
from udocker.registry.patience import Patience
from udocker.registry.referrers import Referrer, referrers
from udocker.registry.route import join, split
from udocker.registry.transport import Request, Transport
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from udocker.registry.connection import Response
    from udocker.settings import Settings

ACCEPT = ", ".join((*oci.INDEX_TYPES, *oci.MANIFEST_TYPES))
MIN_PROGRESS_BYTES = 1 << 20
"""A connection that brings less before it breaks counts as an attempt in vain."""
MAX_TAGS = 1 << 18
MAX_TAG_PAGES = 1 << 12

_KNOWN_TYPES = (*oci.INDEX_TYPES, *oci.MANIFEST_TYPES, *oci.DOCKER_SCHEMA1)


class Client:
    """A registry as its readers see it. After a fork each process calls `reopen` first.

    `registry` is a reference's `registry`; `credentials` win over what the user keeps in files.
    """

    def __init__(
        self,
        registry: str,
        settings: Settings,
        *,
        credentials: Credentials | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.registry = registry
        self._given = credentials
        self._environment = settings.environment
        self._found: dict[str, Credentials | None] = {}
        self._transport = Transport(
            api_host(registry),
            settings.environment,
            self._credentials,
            trust=Trust(settings.insecure),
            patience=patience,
            debug=settings.debug,
        )

    @property
    def transport(self) -> Transport:
        """The session with the registry itself."""
        return self._transport

    @property
    def requests(self) -> int:
        """How many HTTP requests have been sent so far."""
        return self._transport.requests

    def reopen(self) -> None:
        """Use new connections from here on, as a forked process must; tokens are kept."""
        self._transport.reopen()

    def login(self) -> None:
        """Return if the registry accepts the credentials (or wants none). Raises AccessDenied."""
        request = Request("GET", "/v2/", "", self.registry)
        self._transport.fetch(request, oci.MAX_DOCUMENT_BYTES)

    def head(self, ref: Reference) -> Digest | None:
        """Return the digest that a name has now, None where the registry does not tell.

        One request where the registry wants no credentials, and none that Docker Hub counts.
        Some answer GET only.
        """
        request = _manifest_request("HEAD", ref, ref.digest)
        answer = self._transport.fetch(replace(request, accepted=(200, 405, 501)), 0)
        digest = _stated_digest(answer.headers, ref)
        if digest and ref.digest and digest != ref.digest:
            raise IntegrityError(f"{ref}: the registry has {digest} under this digest")
        return digest

    def manifest(self, ref: Reference, digest: Digest | None = None) -> tuple[Descriptor, bytes]:
        """Return a manifest or an index as it was sent, and what it is.

        `digest` chooses another manifest of the same repository, one that an index names.
        Raises IntegrityError where the bytes are not those of a digest that is known, and
        InvalidDocument for what is neither manifest nor index.
        """
        pinned = digest or ref.digest
        request = _manifest_request("GET", ref, pinned)
        answer = self._transport.fetch(request, oci.MAX_DOCUMENT_BYTES)
        stated = _stated_digest(answer.headers, ref)
        for expected in filter(None, (pinned, stated)):
            actual = _digest_of(answer.body, expected.algorithm)
            if actual != expected:
                raise IntegrityError(f"{ref}: the registry sends {actual} instead of {expected}")
        media_type = _media_type(answer.headers, answer.body, ref, pinned=pinned is not None)
        name = pinned or stated or Digest.of(answer.body)
        return Descriptor(media_type, name, len(answer.body)), answer.body

    def blob(self, ref: Reference, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from `offset` to its end, over as many connections as it takes.

        The size is enforced; the digest is for the reader to check. Raises IntegrityError for a
        blob of another size, RegistryError when attempts in a row bring nothing.
        """
        return _BlobReader(self._transport, ref, descriptor, offset).chunks()

    def tags(self, ref: Reference) -> list[str]:
        """Return the tags of a repository in the registry's order."""
        path = f"/v2/{ref.repository}/tags/list"
        tags: list[str] = []
        for _ in range(MAX_TAG_PAGES):
            request = Request("GET", path, ref.repository, ref.name)
            answer = self._transport.fetch(request, oci.MAX_DOCUMENT_BYTES)
            tags += _tags_of_page(answer.body, ref)
            following = _next_page(answer.headers.get("Link", ""), path)
            if following is None:
                return tags
            if len(tags) > MAX_TAGS:
                break
            path = following
        raise RegistryError(f"{ref.name}: the registry's list of tags does not end")

    def referrers(self, ref: Reference, digest: Digest) -> tuple[Referrer, ...]:
        """Return what the registry has that refers to the manifest `digest`, such as signatures."""
        return referrers(self._transport, ref, digest, _next_page)

    def _credentials(self, repository: str) -> Credentials | None:
        if self._given:
            return self._given
        if repository not in self._found:
            found = find_credentials(self.registry, repository, self._environment)
            self._found[repository] = found
        return self._found[repository]


class _BlobReader:
    """One blob on its way: where it got to, and whether the server can go on from there."""

    def __init__(
        self, transport: Transport, ref: Reference, descriptor: Descriptor, offset: int
    ) -> None:
        self._transport = transport
        self._ref = ref
        self._descriptor = descriptor
        self._position = offset
        self._ranges = True
        self._subject = f"blob {descriptor.digest} of {ref.name}"

    def chunks(self) -> Iterator[bytes]:
        failures = 0
        while self._position < self._descriptor.size_bytes:
            start = self._position
            try:
                yield from self._one_connection()
            except Unavailable as error:
                progress = self._position - start
                failures = 1 if progress >= MIN_PROGRESS_BYTES else failures + 1
                if failures >= self._transport.patience.attempts:
                    raise
                self._transport.patience.wait(failures, error)

    def _one_connection(self) -> Iterator[bytes]:
        """Yield what one answer brings. Raises Unavailable unless that is all the rest."""
        with self._open() as response:
            skip = self._prefix_bytes(response)
            for chunk in response.chunks():
                wanted = chunk[skip:] if skip else chunk
                skip -= len(chunk) - len(wanted)
                if wanted:
                    self._advance(len(wanted))
                    yield wanted
        size = self._descriptor.size_bytes
        if self._position < size:
            raise Unavailable(f"{self._subject}: ends after {self._position} of {size} bytes")

    def _advance(self, count: int) -> None:
        self._position += count
        if self._position > self._descriptor.size_bytes:
            raise self._too_long()

    def _too_long(self) -> IntegrityError:
        size = self._descriptor.size_bytes
        return IntegrityError(f"{self._subject}: the registry sends more than its {size} bytes")

    def _open(self) -> Response:
        path = f"/v2/{self._ref.repository}/blobs/{self._descriptor.digest}"
        resumed = self._ranges and self._position
        request = Request(
            "GET",
            path,
            self._ref.repository,
            self._subject,
            headers=(("Range", f"bytes={self._position}-"),) if resumed else (),
            accepted=(200, 206, 416) if resumed else (200,),
        )
        try:
            return self._transport.open(request)
        except ImageNotFound as error:
            raise self._missing(error) from error

    def _missing(self, error: ImageNotFound) -> RegistryError:
        if not self._descriptor.urls:
            return RegistryError(error.message, hint="the image is not complete in its registry")
        return RegistryError(
            f"{self._subject}: a foreign layer, which the registry does not keep",
            hint="foreign layers (of Windows, mostly) are not fetched from other servers",
        )

    def _prefix_bytes(self, response: Response) -> int:
        """Return how many bytes of an answer come before the position."""
        size, length = self._descriptor.size_bytes, response.length_bytes
        if response.status == 200:
            if length is not None and length > size:
                raise self._too_long()
            return self._position
        sent = response.headers.get("Content-Range", "").strip()
        if response.status == 206 and sent in self._good_ranges():
            return 0
        self._ranges = False
        raise Unavailable(f"{self._subject}: no bytes from {self._position} on, but {sent[:80]!r}")

    def _good_ranges(self) -> tuple[str, ...]:
        size = self._descriptor.size_bytes
        span = f"bytes {self._position}-{size - 1}"
        return f"{span}/{size}", f"{span}/*"


def _manifest_request(method: str, ref: Reference, digest: Digest | None) -> Request:
    path = f"/v2/{ref.repository}/manifests/{digest or ref.tag or 'latest'}"
    subject = f"{ref.name}@{digest}" if digest else str(ref)
    return Request(method, path, ref.repository, subject, headers=(("Accept", ACCEPT),))


def _stated_digest(headers: Mapping[str, str], ref: Reference) -> Digest | None:
    text = headers.get("Docker-Content-Digest")
    if not text:
        return None
    try:
        return Digest.parse(text.strip())
    except InvalidDocument as error:
        raise RegistryError(f"{ref}: the registry states no digest: {error.message}") from error


def _digest_of(data: bytes, algorithm: str) -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, data).hexdigest())


def _media_type(headers: Mapping[str, str], body: bytes, ref: Reference, *, pinned: bool) -> str:
    """Return what a document is: `Content-Type` and its own word must not contradict each other.

    With a digest the bytes are what was asked for, whatever a server says that they are.
    Source: distribution-spec, "Pulling manifests"; image-spec media-types.md, "Media Type
    Conflicts".
    """
    sent = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    own, version = _own_type(body, ref)
    if sent in oci.DOCKER_SCHEMA1 or own in oci.DOCKER_SCHEMA1 or version == 1:
        raise InvalidDocument(
            f"{ref}: an image of Docker's schema 1 of before 2017, which is not read any more",
            hint="pull it with an old docker, push it again",
        )
    if own and sent in _KNOWN_TYPES and own != sent and not pinned:
        raise InvalidDocument(f"{ref}: came as {sent}, but says that it is {own[:100]!r}")
    media_type = own or sent
    if media_type not in _KNOWN_TYPES:
        raise InvalidDocument(f"{ref}: {media_type[:100]!r} is neither an image nor an index")
    return media_type


def _own_type(body: bytes, ref: Reference) -> tuple[str, object]:
    """Return the `mediaType` and `schemaVersion` that a document has."""
    try:
        members = fastjson.loads(body)
    except ValueError as error:
        raise InvalidDocument(f"{ref}: the manifest is not JSON: {error}") from error
    if not isinstance(members, dict):
        raise InvalidDocument(f"{ref}: the manifest is not a JSON object")
    own = members.get("mediaType")
    return own if isinstance(own, str) else "", members.get("schemaVersion")


def _tags_of_page(body: bytes, ref: Reference) -> list[str]:
    try:
        members = fastjson.loads(body)
    except ValueError:
        members = None
    tags = (members.get("tags") or []) if isinstance(members, dict) else None
    if not isinstance(tags, list) or not all(isinstance(t, str) and is_tag(t) for t in tags):
        raise RegistryError(f"{ref.name}: the registry's list of tags is not one")
    return tags


def _next_page(link: str, path: str) -> str | None:
    """Return path and query of the next page. Source: distribution-spec, "Listing Tags"."""
    target, bracket, parameters = link.strip().partition(">")
    if not bracket or target[:1] != "<" or "next" not in parameters:
        return None
    # Only path and query are taken: a list does not go on at another server.
    parts = split(join(path, target[1:]))
    return f"{parts.path}?{parts.query}" if parts.path.startswith("/v2/") else None
