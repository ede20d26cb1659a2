"""The read side of the distribution API: images from wherever the user says that they are.

Source: distribution-spec 1.1, "Pull" and "Content Discovery"; containers-registries.conf(5).
"""

from __future__ import annotations

from collections.abc import Iterator

from udocker import console
from udocker.errors import ImageNotFound, IntegrityError, InvalidDocument, RegistryError
from udocker.oci import MAX_DOCUMENT_BYTES
from udocker.reference import api_host
from udocker.registry import configuration, documents, endpoints, foreign
from udocker.registry.blobreader import BlobReader
from udocker.registry.connection import Trust
from udocker.registry.credentials import find_credentials, find_in_files
from udocker.registry.faults import BlobMissing
from udocker.registry.patience import Patience
from udocker.registry.referrers import Referrer, referrers
from udocker.registry.transport import Request, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from udocker.errors import UdockerError
    from udocker.oci import Descriptor, Digest
    from udocker.reference import Reference
    from udocker.registry.endpoints import Endpoint
    from udocker.registry.secret import Credentials
    from udocker.settings import Settings

    T = TypeVar("T")

MIRROR_PATIENCE = Patience(attempts=2, longest_retry_after_s=1)
"""Behind a mirror there is another place to ask: who wants to be left alone for long, is."""

_FAILURES = (RegistryError, ImageNotFound, IntegrityError, InvalidDocument)


class Client:
    """A registry as its readers see it. After a fork each process calls `reopen` first.

    `registry` is a reference's `registry`; `credentials` win over what the user keeps in files.
    An image is looked for where the user's registries.conf says: at mirrors in their order, then
    at the registry itself or where it has moved to. Callers only see the names that they asked
    for.
    """

    def __init__(
        self,
        registry: str,
        settings: Settings,
        *,
        credentials: Credentials | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Raises UsageError for a broken registries.conf, RegistryError for a blocked registry."""
        self.registry = registry
        self._settings = settings
        self._given = credentials
        self._patience = patience
        self._found: dict[tuple[str, str], Credentials | None] = {}
        registries = configuration.load(settings.environment)
        self._registries = endpoints.with_mirrors(registries, settings.mirrors)
        self._transports: dict[tuple[str, bool, bool], Transport] = {}
        self._lost: set[Endpoint] = set()
        """Mirrors that failed, and are asked no more."""
        self.transport = self._transport_to(endpoints.own(registry, self._registries))
        """The session with the registry itself."""

    @property
    def requests(self) -> int:
        """How many HTTP requests have been sent so far."""
        return sum(transport.requests for transport in self._transports.values())

    def reopen(self) -> None:
        """Use new connections from here on, as a forked process must; tokens are kept."""
        for transport in self._transports.values():
            transport.reopen()

    def at_home(self, ref: Reference) -> tuple[Transport, Reference]:
        """Return the way to an image at its registry itself, and its name there: no mirror's."""
        place = endpoints.endpoints(ref, self._registries)[-1]
        return self._transport_to(place), place.reference

    def login(self) -> bool:
        """Return if the registry accepts the credentials; tell whether it wanted any.

        Raises AccessDenied; RegistryError where there is no registry.
        """
        request = Request("GET", "/v2/", "", self.registry, accepted=(200, 404))
        answer = self.transport.fetch(request, MAX_DOCUMENT_BYTES)
        if answer.status == 404 or documents.is_web_page(answer.headers, answer.body):
            raise RegistryError(f"{self.registry} is no registry: it has no /v2/ for programs")
        return self.transport.was_asked

    def head(self, ref: Reference) -> Digest | None:
        """Return the digest that a name has now, None where the registry does not tell.

        One request where the registry wants no credentials, and none that Docker Hub counts.
        Some answer GET only.
        """
        return self._first(ref, documents.head)

    def manifest(self, ref: Reference, digest: Digest | None = None) -> tuple[Descriptor, bytes]:
        """Return a manifest or an index as it was sent, and what it is.

        `digest` chooses another manifest of the same repository, one that an index names.
        Raises IntegrityError where the bytes are not those of a digest that is known, and
        InvalidDocument for what is neither manifest nor index.
        """
        return self._first(ref, lambda at, there: documents.manifest(at, there, digest))

    def blob(self, ref: Reference, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from `offset` to its end, over as many connections as it takes.

        The size is enforced; the digest is for the reader to check. Raises IntegrityError for a
        blob of another size, RegistryError when attempts in a row bring nothing.
        """
        *mirrors, home = self._places(ref)
        for place in mirrors:
            transport = self._transport_to(place)
            try:
                for chunk in BlobReader(transport, place.reference, descriptor, offset).chunks():
                    yield chunk
                    offset += len(chunk)
                return
            except _FAILURES as error:
                self._give_up(place, error)
        reader = BlobReader(self._transport_to(home), home.reference, descriptor, offset)
        try:
            yield from reader.chunks()
        except BlobMissing:
            if not (descriptor.is_foreign and self._settings.foreign_layers):
                raise
            position = reader.position
            yield from foreign.chunks(ref, descriptor, position, self._settings, self._patience)

    def part(self, ref: Reference, descriptor: Descriptor, start: int, end: int) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` up to `end`, from the place that is asked first.

        Raises RegistryError also where there are no ranges. Several threads may do so at a time.
        """
        place = self._places(ref)[0]
        transport = self._transport_to(place)
        return BlobReader(transport, place.reference, descriptor, start, end).chunks()

    def tags(self, ref: Reference) -> list[str]:
        """Return the tags of a repository in the order of the registry itself."""
        return documents.tags(*self.at_home(ref))

    def referrers(self, ref: Reference, digest: Digest) -> tuple[Referrer, ...]:
        """Return what the registry has that refers to the manifest `digest`, such as signatures."""
        return self._first(ref, lambda at, there: referrers(at, there, digest))

    def _first(self, ref: Reference, ask: Callable[[Transport, Reference], T]) -> T:
        """Return what the first place answers that has an answer."""
        *mirrors, home = self._places(ref)
        told = ""
        for place in mirrors:
            try:
                return ask(self._transport_to(place), place.reference)
            except _FAILURES as error:
                self._give_up(place, error)
                if isinstance(error, ImageNotFound):
                    told += f"; mirror {place.reference.registry}: {error.message}"
        try:
            return ask(self._transport_to(home), home.reference)
        except _FAILURES as error:
            error.message += told
            raise

    def leave_mirrors(self, ref: Reference) -> bool:
        """Ask no mirror for an image any more; tell whether there was one to leave."""
        mirrors = self._places(ref)[:-1]
        self._lost.update(mirrors)
        return bool(mirrors)

    def _places(self, ref: Reference) -> list[Endpoint]:
        places = endpoints.endpoints(ref, self._registries)
        return [place for place in places if place not in self._lost]

    def _give_up(self, mirror: Endpoint, error: UdockerError) -> None:
        """Ask a mirror no more; say why, unless it simply does not have the image."""
        self._lost.add(mirror)
        if not isinstance(error, ImageNotFound):
            console.warn(f"mirror {mirror.reference.registry} is passed over: {error.message}")

    def _transport_to(self, place: Endpoint) -> Transport:
        settings, registry = self._settings, place.reference.registry
        insecure = settings.insecure or place.insecure
        key = (registry, insecure, place.is_mirror)
        if key not in self._transports:
            patience = self._patience or (MIRROR_PATIENCE if place.is_mirror else Patience())
            self._transports[key] = Transport(
                api_host(registry),
                settings.environment,
                lambda repository: self._credentials(registry, repository, place.is_mirror),
                trust=Trust(insecure, settings.cert_dir),
                patience=patience,
                debug=settings.debug,
            )
        return self._transports[key]

    def _credentials(self, registry: str, repository: str, mirror: bool) -> Credentials | None:
        """Return what the user keeps for a repository of a registry, or of a mirror's host.

        What was given, and what variables hold, is meant for the registry of the image alone.
        """
        if self._given and not mirror:
            return self._given
        key = (registry, repository)
        if key not in self._found:
            environment = self._settings.environment
            find = find_in_files if mirror else find_credentials
            self._found[key] = find(registry, repository, environment)
        return self._found[key]
