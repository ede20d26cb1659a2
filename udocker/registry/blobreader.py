"""A blob from one registry, over as many connections as it takes.

Source: distribution-spec 1.1, "Pulling blobs"; RFC 9110, section 14.
"""

from __future__ import annotations

from udocker.errors import AccessDenied, ImageNotFound, IntegrityError, RegistryError
from udocker.registry.faults import BlobMissing, Unavailable, Unreachable, printable
from udocker.registry.route import shown
from udocker.registry.transport import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.oci import Descriptor
    from udocker.reference import Reference
    from udocker.registry.connection import Response
    from udocker.registry.transport import Transport

_NOT_OF_RANGES = (AccessDenied, Unavailable, Unreachable)
"""What would be said of a request without a range as well."""
MIN_PROGRESS_BYTES = 1 << 20
"""A connection that brings less before it breaks counts as an attempt in vain."""


class BlobReader:
    """One blob on its way: where it got to, and whether the server can go on from there."""

    def __init__(
        self,
        transport: Transport,
        ref: Reference,
        descriptor: Descriptor,
        offset: int,
        end: int | None = None,
        *,
        url: str = "",
    ) -> None:
        """Without `end` the blob is read to its own end.

        `url` is where it lies if that is not the registry; the transport leads there.
        """
        self._transport = transport
        self._path = url or f"/v2/{ref.repository}/blobs/{descriptor.digest}"
        self._repository = "" if url else ref.repository
        self._descriptor = descriptor
        self._position = offset
        self._end = descriptor.size_bytes if end is None else end
        self._is_part = end is not None
        self._ranges = True
        self._subject = f"blob {descriptor.digest} of {ref.name}"

    @property
    def position(self) -> int:
        """How far it got."""
        return self._position

    def chunks(self) -> Iterator[bytes]:
        """Yield what is left of the blob. Raises RegistryError, IntegrityError."""
        failures = 0
        while self._position < self._end:
            start = self._position
            try:
                yield from self._one_connection()
            except Unavailable as error:
                progress = self._position - start
                if self._is_part and not progress:
                    raise  # whoever asks for parts can do without them, and ask less often
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
        if self._position < self._end:
            ends = f"ends after {self._position} of {self._end} bytes"
            raise Unavailable(f"{self._subject}: {ends}")

    def _advance(self, count: int) -> None:
        self._position += count
        if self._position > self._end:
            raise self._too_long()

    def _too_long(self) -> IntegrityError:
        size = self._descriptor.size_bytes
        return IntegrityError(f"{self._subject}: the registry sends more than its {size} bytes")

    def _open(self) -> Response:
        resumed = bool(self._is_part or (self._ranges and self._position))
        last = str(self._end - 1) if self._is_part else ""
        request = Request(
            "GET",
            self._path,
            self._repository,
            self._subject,
            headers=(("Range", f"bytes={self._position}-{last}"),) if resumed else (),
            accepted=(200, 206, 416) if resumed else (200, 206),
        )
        try:
            return self._transport.open(request)
        except ImageNotFound as error:
            raise self._missing(error) from error
        except RegistryError as error:
            if not resumed or self._is_part or isinstance(error, _NOT_OF_RANGES):
                raise
            self._ranges = False  # it may have the whole all the same
            raise Unavailable(error.message) from error

    def _missing(self, error: ImageNotFound) -> BlobMissing:
        if not self._repository or not self._descriptor.urls:
            return BlobMissing(error.message, hint="the image is not complete in its registry")
        hosts = ", ".join(map(_told, self._descriptor.urls[:3]))
        return BlobMissing(
            f"{self._subject}: a foreign layer, which the registry does not keep ({hosts} may)",
            hint="udocker pull --allow-foreign (or UDOCKER_FOREIGN_LAYERS=1) fetches it from there",
        )

    def _prefix_bytes(self, response: Response) -> int:
        """Return how many bytes of an answer come before the position."""
        size, length = self._descriptor.size_bytes, response.length_bytes
        if self._is_part and response.status != 206:
            raise RegistryError(f"{self._subject}: the registry sends no parts of it")
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
        span = f"bytes {self._position}-{self._end - 1}"
        return f"{span}/{size}", f"{span}/*"


def _told(url: str) -> str:
    try:
        return printable(shown(url))
    except RegistryError:
        return "what is no address"
