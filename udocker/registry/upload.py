"""The write side of the distribution API: blobs first, then the manifests that name them.

Source: distribution-spec 1.1, "Push". What registries do beyond it is said where it is met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote, urlencode

from udocker.errors import ImageNotFound, IntegrityError, InvalidDocument, RegistryError
from udocker.oci import MAX_DOCUMENT_BYTES, OCI_INDEX, Descriptor, Digest
from udocker.registry.auth import PULL, PUSH, scope
from udocker.registry.faults import Unavailable
from udocker.registry.subjects import subject_of, tag_for, with_entry
from udocker.registry.transport import Answer, Request, Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.reference import Reference
    from udocker.registry.direct import Body

    Read = Callable[[int], Iterator[bytes]]
    """Yields a blob's bytes from an offset on."""

AT_ONCE_BYTES = 1 << 20
"""A blob up to this size comes in the request that names it; a larger one can be resumed."""
PIECE_BYTES = 16 << 20
"""What is sent in one request where larger ones do not get through."""
LEAST_PIECE_BYTES = 64 << 10
MIN_PROGRESS_BYTES = 1 << 20
"""A connection that takes less before it breaks counts as an attempt in vain."""
SILENCE_S = 300.0
"""Registries may hash a whole blob, or move it to another store, before they answer."""
MAX_ORIGINS = 2
"""Repositories that are asked whether they can share a blob."""

_OCTETS = ("Content-Type", "application/octet-stream")


class Repository:
    """A repository that is written to. May be used by several threads."""

    def __init__(self, transport: Transport, ref: Reference) -> None:
        self.transport = transport
        self.ref = ref
        self._opened: dict[Digest, Answer] = {}
        """Uploads that a registry began where it was asked to share."""

    def has(self, blob: Descriptor) -> bool:
        """Tell whether the blob is there already."""
        path = f"/v2/{self.ref.repository}/blobs/{blob.digest}"
        answer = self.ask("HEAD", path, f"blob {blob.digest}", (200, 404, 405, 501))
        return answer.status == 200

    def mount(self, blob: Descriptor, origins: Sequence[str]) -> bool:
        """Let other repositories of the registry share the blob; tell whether one did.

        Registries may refuse, not know how, or hide what the user must not read: then the blob
        is simply sent.
        """
        for origin in origins[:MAX_ORIGINS]:
            path = f"{self._uploads}?{urlencode({'mount': str(blob.digest), 'from': origin})}"
            subject = f"blob {blob.digest}"
            try:
                answer = self.ask("POST", path, subject, (201, 202), scopes=(scope(origin, PULL),))
            except (RegistryError, ImageNotFound):
                continue
            if answer.status == 201:
                return True
            self._opened[blob.digest] = answer
        return False

    def send(self, blob: Descriptor, read: Read, begin: Callable[[int], None]) -> None:
        """Send a blob, in as many attempts as it takes.

        `read(offset)` yields its bytes; `begin(offset)` is told where each attempt begins. The
        registry compares the digest. Raises RegistryError, AccessDenied, IntegrityError.
        """
        if blob.size_bytes <= AT_ONCE_BYTES:
            self._send_at_once(blob, read)
        else:
            _Upload(self, blob, read, begin).run()

    def put_manifest(self, manifest: Descriptor, data: bytes, name: str) -> None:
        """Give a manifest or index, whose content is there, a name: a tag or its digest.

        Raises IntegrityError when the registry has understood other bytes.
        """
        path = f"/v2/{self.ref.repository}/manifests/{name}"
        headers = (("Content-Type", manifest.media_type),)
        subject = f"manifest {name} of {self.ref.name}"
        answer = self.ask("PUT", path, subject, (200, 201, 202), headers=headers, body=data)
        self._check_digest(answer, data, subject)
        about = subject_of(data)
        if about and not answer.headers.get("OCI-Subject"):
            self._list_about(about.digest, manifest, data)

    def _list_about(self, about: Digest, manifest: Descriptor, data: bytes) -> None:
        """A registry that does not keep track of what is about an image has it in a list."""
        tag = tag_for(about)
        path = f"/v2/{self.ref.repository}/manifests/{tag}"
        subject, accept = f"{self.ref.name}:{tag}", (("Accept", OCI_INDEX),)
        answer = self.ask("GET", path, subject, (200, 404), headers=accept)
        listed = with_entry(answer.body if answer.status == 200 else None, manifest, data)
        if listed is not None:
            kind = (("Content-Type", OCI_INDEX),)
            self.ask("PUT", path, subject, (200, 201, 202), headers=kind, body=listed)

    def begin(self, blob: Descriptor) -> Answer:
        """Open an upload: the answer says where it goes on."""
        opened = self._opened.pop(blob.digest, None)
        if opened:
            return opened
        try:
            return self.ask("POST", self._uploads, f"blob {blob.digest}", (202,))
        except ImageNotFound as error:
            hint = "make the repository at the registry first, or check its name"
            raise RegistryError(error.message, hint=hint) from error

    def close(self, place: str, blob: Descriptor, body: bytes | None = None) -> None:
        """End the upload at `place`: the registry gives the blob its name.

        Only once: when the answer is lost, whether it has done so is to be asked.
        """
        where = f"{place}{'&' if '?' in place else '?'}digest={quote(str(blob.digest), safe='')}"
        subject = f"blob {blob.digest} of {self.ref.name}"
        headers, accepted = (_OCTETS,), (201, 204, 200, 404)
        answer = self.ask(
            "PUT", where, subject, accepted, headers=headers, body=body, repeatable=False
        )
        if answer.status == 404:
            raise _forgotten(subject)

    def ask(
        self,
        method: str,
        path: str,
        subject: str,
        accepted: tuple[int, ...],
        *,
        scopes: tuple[str, ...] = (),
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes | Body | None = None,
        repeatable: bool = True,
    ) -> Answer:
        """Send a request that writes, or belongs to writing."""
        request = Request(
            method,
            path,
            self.ref.repository,
            subject,
            headers=headers,
            accepted=accepted,
            access=PUSH,
            scopes=scopes,
            body=body or None,
            repeatable=repeatable,
            silence_s=SILENCE_S if method in ("PUT", "PATCH") else 0.0,
        )
        return self.transport.fetch(request, MAX_DOCUMENT_BYTES)

    @property
    def _uploads(self) -> str:
        return f"/v2/{self.ref.repository}/blobs/uploads/"

    def _send_at_once(self, blob: Descriptor, read: Read) -> None:
        data = b"".join(read(0))
        patience = self.transport.patience
        for failures in range(1, patience.attempts + 1):
            try:
                self.close(self.transport.address(self.begin(blob)), blob, data)
                return
            except Unavailable as error:
                if failures == patience.attempts:
                    raise
                patience.wait(failures, error)
            if self.has(blob):  # only the answer was lost
                return

    @staticmethod
    def _check_digest(answer: Answer, data: bytes, subject: str) -> None:
        text = answer.headers.get("Docker-Content-Digest")
        if not text:
            return
        try:
            stated = Digest.parse_any(text.strip())
        except InvalidDocument as error:
            raise RegistryError(f"{subject}: {error.message}") from error
        if stated.is_known and Digest.of(data, stated.algorithm) != stated:
            raise IntegrityError(f"{subject}: the registry took it for {stated}")


class _Upload:
    """One blob on its way to a registry: how much of it has arrived, and where it goes on."""

    def __init__(
        self, repository: Repository, blob: Descriptor, read: Read, begin: Callable[[int], None]
    ) -> None:
        self._repository = repository
        self._transport = repository.transport
        self._blob = blob
        self._read = read
        self._begin = begin
        self._subject = f"blob {blob.digest} of {repository.ref.name}"
        self._place = ""
        self._offset = 0
        """How much of the blob has arrived."""
        self._piece = 0
        """Most bytes for one request; 0: all that are left."""
        self._least = 0
        """Fewest bytes that the registry takes in a request which is not the last."""

    def run(self) -> None:
        patience = self._transport.patience
        failures = 0
        while True:
            before = self._offset
            try:
                self._attempt()
                return
            except Unavailable as error:
                if self._repository.has(self._blob):  # only the last answer was lost
                    return
                self._find_offset()
                failures = 1 if self._offset - before >= MIN_PROGRESS_BYTES else failures + 1
                if failures >= patience.attempts:
                    raise
                patience.wait(failures, error)
            if failures > 1 and not self._piece:
                # Some proxies cut what is long, or takes long, without a word.
                self._piece = max(PIECE_BYTES, self._least)

    def _attempt(self) -> None:
        if not self._place:
            self._open()
        self._begin(self._offset)
        self._send_rest()
        self._repository.close(self._place, self._blob)

    def _open(self) -> None:
        answer = self._repository.begin(self._blob)
        self._place = self._transport.address(answer)
        self._offset = 0
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        self._least = int(least) if least.isdecimal() and len(least) < 12 else 0

    def _send_rest(self) -> None:
        while self._offset < self._blob.size_bytes:
            left = self._blob.size_bytes - self._offset
            size = min(self._piece or left, left)
            answer = self._patch(size)
            if answer.status == 413:
                self._take_smaller_pieces(size)
                continue
            if answer.status in (404, 416):
                raise _forgotten(self._subject)
            if answer.headers.get("Location"):  # else it goes on where it was
                self._place = self._transport.address(answer)
            sent = self._offset + size
            arrived = _arrived(answer)
            # Some registries say 0-0 whatever came, or count from the request's own beginning.
            self._offset = arrived if self._offset < arrived < sent else sent

    def _patch(self, size: int) -> Answer:
        headers = [_OCTETS]
        if size != self._blob.size_bytes:
            headers.append(("Content-Range", f"{self._offset}-{self._offset + size - 1}"))
        return self._repository.ask(
            "PATCH",
            self._place,
            self._subject,
            (202, 201, 204, 404, 413, 416),
            headers=tuple(headers),
            body=_Part(self._read, self._offset, size),
            repeatable=False,
        )

    def _take_smaller_pieces(self, size: int) -> None:
        """Something between us and the registry limits requests: a web server, mostly."""
        self._piece = max(min(size // 4, PIECE_BYTES), LEAST_PIECE_BYTES, self._least)
        if self._piece >= size:
            raise RegistryError(
                f"{self._subject}: the registry takes no requests of {size} bytes (413)",
                hint="its administrator can raise the limit (nginx: client_max_body_size)",
            )
        self._find_offset()
        if not self._place:
            self._open()
        self._begin(self._offset)

    def _find_offset(self) -> None:
        """Ask how much has arrived; an upload that the registry has given up begins anew."""
        if not self._place:
            return
        accepted = (204, 200, 202, 400, 404, 405, 416)
        answer = self._repository.ask("GET", self._place, self._subject, accepted)
        if answer.status >= 400:
            self._place, self._offset = "", 0
            return
        if answer.headers.get("Location"):
            self._place = self._transport.address(answer)
        self._offset = _arrived(answer)
        if self._offset > self._blob.size_bytes:
            self._place, self._offset = "", 0


def _forgotten(subject: str) -> Unavailable:
    return Unavailable(f"{subject}: the registry knows nothing of the upload any more")


def _arrived(answer: Answer) -> int:
    """Return how many bytes an upload has by its `Range: 0-LAST`, 0 where that is not said.

    Of an empty one docker's registry says 0-0, as it does of one byte, which then comes twice:
    the digest would tell.
    """
    text = answer.headers.get("Range", "").strip()
    first, dash, last = text.rpartition("=")[2].partition("-")
    if not dash or first != "0" or not last.isdecimal() or len(last) > 18:
        return 0
    return int(last) + 1 if int(last) else 0


class _Part:
    """A part of a blob as the body of a request, read anew at every attempt."""

    def __init__(self, read: Read, offset: int, size_bytes: int) -> None:
        self._read = read
        self._offset = offset
        self._size_bytes = size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    def __iter__(self) -> Iterator[bytes]:
        left = self._size_bytes
        try:
            for chunk in self._read(self._offset):
                yield chunk[:left]
                left -= len(chunk)
                if left <= 0:
                    return
        except Unavailable as error:
            # The source has been asked as often as makes sense: that is not this registry's.
            raise RegistryError(error.message, hint=error.hint) from error
        raise IntegrityError(f"a blob ends {left} bytes before its size")
