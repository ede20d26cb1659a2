"""Requests and answers of HTTP, as they pass: straight to their servers, or through proxies.

The process environment is never read: proxies and certificates come from the environment that
the settings hold. Foreign exceptions end here.
"""

from __future__ import annotations

import ssl
import time
import zlib
from collections.abc import Mapping
from http.client import HTTPException, InvalidURL

from udocker import __version__, console
from udocker.errors import RegistryError
from udocker.registry import certificates
from udocker.registry.direct import Direct
from udocker.registry.faults import Unavailable, limits_told, no_answer, reason
from udocker.registry.patience import Pace, Patience
from udocker.registry.route import Route, shown
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from udocker.registry.direct import Data
    from udocker.registry.proxied import Proxied

    class Answer(Protocol):
        """The head of an answer, and its body as it comes."""

        @property
        def status(self) -> int:
            """The status code."""

        @property
        def headers(self) -> Mapping[str, str]:
            """The headers by their names, in whatever case."""

        @property
        def url(self) -> str:
            """Who answers."""

        def read1(self, most_bytes: int) -> bytes:
            """Return what has come by now, undecoded; nothing at the end, or where it is cut."""

        def close(self) -> None:
            """Drop what has not been read."""


CHUNK_BYTES = 256 << 10
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_GZIP = b"\x1f\x8b"
_MAX_ERROR_BYTES = 64 << 10


@dataclass(frozen=True)
class Trust:
    """What is asked of a registry's TLS, and of whoever it sends us to."""

    insecure: bool = False
    """Certificates are not checked, and plain http will do."""
    directory: str = ""
    """Certificates in place of those that lie in a `certs.d` for the registry."""


class Response:
    """The head of an answer, and its body as it comes. Close it, or use it with `with`."""

    def __init__(self, answer: Answer, patience: Patience, *, bodiless: bool) -> None:
        """`bodiless`: whatever length is announced, no body comes."""
        self._answer = answer
        self._patience = patience
        self._bodiless = bodiless
        self.status = answer.status
        self.headers = answer.headers
        self.url = answer.url

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it was sent, undecoded, in parts of at most CHUNK_BYTES.

        Raises Unavailable where it breaks off, or comes so slowly that nobody can be there.
        """
        pace, came_bytes = Pace(self._patience), 0
        while True:
            start = time.monotonic()
            data = self._next()
            if not data:
                break
            came_bytes += len(data)
            if pace.is_dead(time.monotonic() - start, len(data)):
                raise Unavailable(f"{shown(self.url)}: hardly anything comes any more")
            yield data
        # http.client, which all of them are made of, takes what was cut short for a whole one.
        if came_bytes < (self.length_bytes or 0) and not self._bodiless:
            raise Unavailable(f"{shown(self.url)}: the answer breaks off")

    def _next(self) -> bytes:
        """Return what has come by now; nothing at the end only."""
        try:
            return self._answer.read1(CHUNK_BYTES)
        except (HTTPException, OSError) as error:
            why = f"the answer breaks off: {reason(error)}"
            raise Unavailable(f"{shown(self.url)}: {why}") from error

    def read(self, limit_bytes: int) -> bytes:
        """Return the body. Raises RegistryError for one of more than `limit_bytes`."""
        body = bytearray()
        for chunk in self.chunks():
            body += chunk
            if len(body) > limit_bytes:
                raise RegistryError(f"{shown(self.url)}: more than {limit_bytes} bytes")
        return bytes(body)

    def document(self, limit_bytes: int) -> bytes:
        """Return the body as it was before a server compressed it on its way, unasked as it was.

        Raises RegistryError also for one of more than `limit_bytes` then.
        """
        body = self.read(limit_bytes)
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("gzip", "x-gzip") or not body.startswith(_GZIP):
            return body
        inflater = zlib.decompressobj(wbits=31)
        try:
            plain = inflater.decompress(body, limit_bytes + 1)
        except zlib.error:
            raise RegistryError(f"{shown(self.url)}: the answer is broken gzip") from None
        if len(plain) > limit_bytes:
            raise RegistryError(f"{shown(self.url)}: more than {limit_bytes} bytes")
        return plain

    @property
    def length_bytes(self) -> int | None:
        """The announced length of the body."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isdecimal() and len(text) < 19 else None

    @property
    def redirect(self) -> str | None:
        """Where the server sends us instead, None for an answer."""
        return self.headers.get("Location") if self.status in _REDIRECTS else None

    def drain(self) -> bytes:
        """Read what little there is and close: the connection can then be used again."""
        try:
            small = (self.length_bytes or 0) <= _MAX_ERROR_BYTES
            return self.document(_MAX_ERROR_BYTES) if small else b""
        except RegistryError:
            return b""
        finally:
            self.close()

    def close(self) -> None:
        """Drop what has not been read."""
        self._answer.close()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Connection:
    """Connections to a registry and to the servers that it names, kept open between requests.

    `host` says whose certificates are used.
    """

    def __init__(
        self,
        host: str,
        environment: Mapping[str, str],
        trust: Trust,
        patience: Patience,
        *,
        debug: bool = False,
    ) -> None:
        """With `debug`, every request is told on standard error."""
        self.requests = 0
        """Requests sent so far, those for tokens and those in vain included."""
        self._host = host
        self._environment = environment
        self._trust = trust
        self._patience = patience
        self._debug = debug
        self._route = Route(environment)
        self._direct = Direct(self._tls)
        self._proxied: Proxied | None = None

    def reopen(self) -> None:
        """Use new connections from here on; a forked process must call it.

        Closing only lets go of this process's descriptors: nothing is sent on the connections,
        which stay the parent's.
        """
        self._direct.close()
        if self._proxied:
            self._proxied.close()

    def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Data = None,
        *,
        silence_s: float = 0.0,
    ) -> Response:
        """Send one request and return what comes, redirects as they are.

        `silence_s` is waited for the answer where that is longer than the patience has it; who
        gives it sends much, and may have to wait with that, too.
        """
        self.requests += 1
        patience, proxies = self._patience, self._route.proxies(url)
        # the time for connecting bounds every send as well
        connect_s = patience.read_timeout_s if silence_s else patience.connect_timeout_s
        timeouts_s = connect_s, max(silence_s, patience.read_timeout_s)
        start = time.monotonic()
        try:
            answer = self._send(method, url, headers, data, timeouts_s, proxies)
        except (OSError, HTTPException, ValueError, RegistryError) as error:
            failure = _failure(error, url, proxies)
            self._tell(method, url, failure.message.partition(": ")[2], start)
            raise failure from failure.__cause__
        told = f"{answer.status} {limits_told(answer.headers)}".rstrip()
        self._tell(method, url, told, start)
        return Response(answer, patience, bodiless=method == "HEAD")

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Data,
        timeouts_s: tuple[float, float],
        proxies: dict[str, str],
    ) -> Answer:
        # A transport encoding would hide the bytes that the digest names.
        own = {"User-Agent": f"udocker/{__version__}", "Accept-Encoding": "identity"}
        if not proxies:
            return self._direct.send(method, url, {**own, **headers}, data, timeouts_s)
        if self._proxied is None:
            from udocker.registry.proxied import Proxied

            self._proxied = Proxied(self._tls, insecure=self._trust.insecure)
        return self._proxied.send(method, url, {**own, **headers}, data, timeouts_s, proxies)

    def _tell(self, method: str, url: str, outcome: str, start: float) -> None:
        if self._debug:
            took_ms = (time.monotonic() - start) * 1000
            console.say(f"udocker: {method} {shown(url)}: {outcome} ({took_ms:.0f} ms)")

    def _tls(self) -> ssl.SSLContext:
        """Return how TLS is spoken."""
        return certificates.context(
            self._host,
            self._environment,
            directory=self._trust.directory,
            insecure=self._trust.insecure,
        )


def _failure(error: Exception, url: str, proxies: Mapping[str, str]) -> RegistryError:
    """Return what went wrong with a request, its `__cause__` what may be shown of why."""
    if isinstance(error, RegistryError):
        return error
    if isinstance(error, (OSError, HTTPException)) and not isinstance(error, InvalidURL):
        failure = no_answer(url, error, next(iter(proxies.values()), ""))
        failure.__cause__ = error
        return failure
    return RegistryError(
        f"{shown(url)}: this address, or its proxy, cannot be used",
        hint="proxies are http://host:port, https://..., socks4a://... or socks5h://...",
    )
