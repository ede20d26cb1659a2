"""A registry on this machine's loopback: the read side of the distribution API over a directory.

It serves an OCI image layout to the client of this project and to any other one, so that a pull
can be tried where there is no internet. Source: distribution-spec 1.1; image-spec
image-layout.md.
"""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from udocker import fastjson
from udocker.errors import InvalidDocument, InvalidReference, StoreError
from udocker.oci import INDEX_TYPES, MAX_DOCUMENT_BYTES, REF_NAME, Descriptor, Digest, Index
from udocker.reference import Reference, is_tag
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Any

MAX_PAGE = 1000
IDLE_S = 30
"""A connection on which nothing is asked for so long is closed."""

_MAX_DEPTH = 4


class LoopbackRegistry:
    """Serves the image layout `layout_dir` at 127.0.0.1 between `start` and `stop`.

    An image is named by the annotation `org.opencontainers.image.ref.name` in index.json: a full
    name stands for that repository and tag, a bare tag for this tag of every repository. The
    files are read at every request: what is added to the layout meanwhile is served.
    """

    def __init__(self, layout_dir: str) -> None:
        self._layout = _Layout(layout_dir)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Listen at a free port and return `127.0.0.1:PORT`, which is the registry's name."""
        self._server = _Server(self._layout)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.daemon = True
        self._thread.start()
        return "{}:{}".format(*self._server.server_address)

    def stop(self) -> None:
        """Listen no more. Answers on their way are cut when the process ends."""
        if self._server and self._thread:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class _Refusal:
    """An error as the API writes it. Source: distribution-spec, "Error Codes"."""

    status: int
    code: str
    message: str

    def body(self) -> bytes:
        error = {"code": self.code, "message": self.message}
        return fastjson.dumps({"errors": [error]}).encode()


class _Refused(Exception):
    """Ends the work on a request with a refusal."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.refusal = _Refusal(status, code, message)


class _Layout:
    """The names, documents and blobs of an image layout."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def tags(self, repository: str) -> dict[str, Descriptor]:
        """Return what every tag of a repository names; NAME_UNKNOWN where there is none."""
        found: dict[str, Descriptor] = {}
        for descriptor in self._index().manifests:
            name = descriptor.annotation(REF_NAME) or ""
            tag = name if is_tag(name) else _tag_of(name, repository)
            if tag:
                found[tag] = descriptor
        if not found:
            raise _Refused(404, "NAME_UNKNOWN", f"repository {repository} is not known")
        return found

    def manifest(self, digest: Digest) -> Descriptor | None:
        """Return the manifest or index of that digest which index.json leads to."""
        return next((d for d in self._manifests() if d.digest == digest), None)

    def blob_path(self, digest: Digest) -> str:
        """Return where the blob lies: a digest has neither dots nor slashes."""
        return os.path.join(self._directory, "blobs", digest.algorithm, digest.hex)

    def _index(self) -> Index:
        return Index.from_bytes(_read(os.path.join(self._directory, "index.json")))

    def _manifests(self) -> Iterator[Descriptor]:
        level = list(self._index().manifests)
        seen: set[Digest] = set()
        for _ in range(_MAX_DEPTH):
            yield from level
            indexes = [d for d in level if d.media_type in INDEX_TYPES and d.digest not in seen]
            seen.update(d.digest for d in indexes)
            level = [m for d in indexes for m in self._nested(d)]

    def _nested(self, descriptor: Descriptor) -> tuple[Descriptor, ...]:
        return Index.from_bytes(_read(self.blob_path(descriptor.digest))).manifests


def _tag_of(name: str, repository: str) -> str | None:
    try:
        reference = Reference.parse(name)
    except InvalidReference:
        return None
    return reference.tag if reference.repository == repository else None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, layout: _Layout) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.layout = layout

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a reader that goes away in the middle is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    # Head and body are two writes: Nagle's algorithm would hold the second for 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: this server is part of a command that has its own words."""

    def do_GET(self) -> None:
        try:
            self._answer()
        except _Refused as error:
            self._refuse(error.refusal)
        except (StoreError, InvalidDocument) as error:
            self._refuse(_Refusal(500, "UNKNOWN", error.message))

    do_HEAD = do_GET

    def _refuse_write(self) -> None:
        self.close_connection = True
        self._refuse(_Refusal(405, "UNSUPPORTED", "this registry can only be read"))

    do_POST = do_PUT = do_PATCH = do_DELETE = _refuse_write

    def _answer(self) -> None:
        url = urlsplit(self.path)
        if url.path in ("/v2", "/v2/"):
            self._send_document(b"{}", "application/json")
            return
        repository, kind, name = _split_path(url.path)
        if kind == "tags":
            self._send_tags(repository, parse_qs(url.query))
        elif kind == "manifests":
            self._send_manifest(repository, name)
        else:
            self._send_blob(_digest(name))

    def _send_tags(self, repository: str, query: Mapping[str, list[str]]) -> None:
        last = query.get("last", [""])[-1]
        number = query.get("n", [str(MAX_PAGE)])[-1]
        if not (number.isascii() and number.isdecimal() and len(number) < 9):
            raise _Refused(400, "PAGINATION_NUMBER_INVALID", "n is not a number")
        limit = min(int(number), MAX_PAGE)
        rest = sorted(tag for tag in self.server.layout.tags(repository) if tag > last)
        page, headers = rest[:limit], {}
        if page and len(rest) > limit:
            following = urlencode({"n": limit, "last": page[-1]})
            headers["Link"] = f'</v2/{repository}/tags/list?{following}>; rel="next"'
        body = fastjson.dumps({"name": repository, "tags": page}).encode()
        self._send_document(body, "application/json", headers)

    def _send_manifest(self, repository: str, name: str) -> None:
        layout = self.server.layout
        known = layout.tags(repository)
        found = known.get(name) if is_tag(name) else layout.manifest(_digest(name))
        if found is None:
            raise _Refused(404, "MANIFEST_UNKNOWN", f"{repository} has no manifest {name[:200]}")
        if not _accepts(self.headers.get_all("Accept") or [], found.media_type):
            raise _Refused(404, "MANIFEST_UNKNOWN", f"Accept does not name {found.media_type}")
        body = _read(layout.blob_path(found.digest))
        headers = {"Docker-Content-Digest": str(found.digest), "ETag": f'"{found.digest}"'}
        self._send_document(body, found.media_type, headers)

    def _send_document(
        self, body: bytes, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self._send_head(200, len(body), {"Content-Type": media_type, **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_blob(self, digest: Digest) -> None:
        try:
            file = open(self.server.layout.blob_path(digest), "rb")  # noqa: SIM115
        except OSError:
            raise _Refused(404, "BLOB_UNKNOWN", f"there is no blob {digest}") from None
        with file:
            size = os.fstat(file.fileno()).st_size
            span = _range(self.headers.get("Range", ""), size)
            start, end = span or (0, size)
            if span and start >= end:
                self._refuse(_Refusal(416, "RANGE_INVALID", f"the blob has {size} bytes"), size)
                return
            headers = {
                "Content-Type": "application/octet-stream",
                "Docker-Content-Digest": str(digest),
                "ETag": f'"{digest}"',
                "Accept-Ranges": "bytes",
            }
            if span:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
            self._send_head(206 if span else 200, end - start, headers)
            if self.command != "HEAD" and end > start:
                self.connection.sendfile(file, start, end - start)

    def _refuse(self, refusal: _Refusal, size_bytes: int | None = None) -> None:
        body = refusal.body()
        headers = {"Content-Type": "application/json"}
        if size_bytes is not None:
            headers["Content-Range"] = f"bytes */{size_bytes}"
        if self.close_connection:
            headers["Connection"] = "close"
        self._send_head(refusal.status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: int, length_bytes: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length_bytes))
        self.end_headers()


def _split_path(path: str) -> tuple[str, str, str]:
    """Return repository, kind and name of `/v2/REPOSITORY/{manifests,blobs,tags}/NAME`."""
    front, _, name = path.rpartition("/")
    front, _, kind = front.rpartition("/")
    repository = front[len("/v2/") :]
    known = kind in ("manifests", "blobs") or (kind, name) == ("tags", "list")
    if not path.startswith("/v2/") or not known:
        raise _Refused(404, "UNSUPPORTED", "this registry has no such path")
    if not _is_repository(repository):
        raise _Refused(400, "NAME_INVALID", f"{repository[:200]!r} cannot name a repository")
    return repository, kind, name


def _is_repository(text: str) -> bool:
    try:
        return Reference.parse(f"localhost/{text}").repository == text
    except InvalidReference:
        return False


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDocument as error:
        raise _Refused(400, "DIGEST_INVALID", error.message) from None


def _accepts(accept: list[str], media_type: str) -> bool:
    """Tell whether the `Accept` headers permit a media type; no header permits all."""
    entries = [entry.partition(";")[0].strip() for text in accept for entry in text.split(",")]
    return not any(entries) or bool({media_type, "*/*", "application/*"}.intersection(entries))


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Return start and end of the one range asked for, None for the whole.

    What is not one range of bytes is ignored, as RFC 9110, section 14.2, permits; start is not
    below end where the range has no byte of the blob.
    """
    unit, _, span = header.strip().partition("=")
    first, dash, last = span.partition("-")
    digits = first + last
    if unit != "bytes" or not dash or not (digits.isascii() and digits.isdecimal()):
        return None
    if not first:
        return max(0, size - int(last[:18])), size if int(last[:18]) else 0
    start = int(first[:18])
    end = min(size, int(last[:18]) + 1) if last else size
    return None if last and int(last[:18]) < start else (start, end)
