"""Requests and answers of HTTP, as they pass. The only user of `requests`.

The process environment is never read: proxies and certificates come from the environment that
the settings hold. Foreign exceptions end here.
"""

from __future__ import annotations

import ssl
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from udocker import __version__, console
from udocker.errors import RegistryError
from udocker.registry import certificates
from udocker.registry.faults import Unavailable, limits_told, no_answer, reason
from udocker.registry.patience import Pace, Patience
from udocker.registry.route import Route, shown
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Body(Protocol):
        """What a request brings, of a known length of 1 or more, from its start at every turn."""

        def __len__(self) -> int:
            """Return the length in bytes."""

        def __iter__(self) -> Iterator[bytes]:
            """Yield all bytes."""


CHUNK_BYTES = 256 << 10
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
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

    def __init__(self, answer: requests.Response, patience: Patience) -> None:
        self._answer = answer
        self._patience = patience
        self._bodiless = answer.request.method == "HEAD"
        self.status = answer.status_code
        self.headers: Mapping[str, str] = answer.headers
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
        # `requests` below urllib3 2 takes an answer that was cut short for a whole one.
        if came_bytes < (self.length_bytes or 0) and not self._bodiless:
            raise Unavailable(f"{shown(self.url)}: the answer breaks off")

    def _next(self) -> bytes:
        """Return what has come by now; nothing at the end only."""
        raw: Any = self._answer.raw
        try:
            if hasattr(raw, "read1"):
                data: bytes = raw.read1(CHUNK_BYTES, decode_content=False)
            else:  # urllib3 below 2.1, whose `read` waits for the last byte of all that it wants
                data = raw._fp.read1(CHUNK_BYTES)
                if not data:
                    raw.release_conn()
        except (HTTPError, HTTPException, OSError) as error:
            why = reason(_root_cause(error))
            raise Unavailable(f"{shown(self.url)}: the answer breaks off: {why}") from error
        return data

    def read(self, limit_bytes: int) -> bytes:
        """Return the body. Raises RegistryError for one of more than `limit_bytes`."""
        body = bytearray()
        for chunk in self.chunks():
            body += chunk
            if len(body) > limit_bytes:
                raise RegistryError(f"{shown(self.url)}: more than {limit_bytes} bytes")
        return bytes(body)

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
            return self.read(_MAX_ERROR_BYTES) if small else b""
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
        self._context: ssl.SSLContext | None = None
        self._session = self._new_session()

    def reopen(self) -> None:
        """Use new connections from here on; a forked process must call it.

        Closing only lets go of this process's descriptors: nothing is sent on the connections,
        which stay the parent's.
        """
        self._session.close()
        self._session = self._new_session()

    def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Mapping[str, str] | bytes | Body | None = None,
        *,
        silence_s: float = 0.0,
    ) -> Response:
        """Send one request and return what comes, redirects as they are.

        `silence_s` is waited for the answer where that is longer than the patience has it; who
        gives it sends much, and may have to wait with that, too.
        """
        self.requests += 1
        patience, proxies = self._patience, self._route.proxies(url)
        # urllib3 lets the time for connecting bound every send as well
        connect_s = patience.read_timeout_s if silence_s else patience.connect_timeout_s
        start = time.monotonic()
        try:
            answer = self._session.request(
                method,
                url,
                headers=dict(headers),
                data=data,
                stream=True,
                allow_redirects=False,
                timeout=(connect_s, max(silence_s, patience.read_timeout_s)),
                proxies=proxies,
            )
        except (requests.RequestException, HTTPError, ValueError) as error:
            failure = _failure(error, url, proxies)
            self._tell(method, url, failure.message.partition(": ")[2], start)
            # The outer exceptions' texts hold whole URLs, and with them signatures.
            raise failure from failure.__cause__
        told = f"{answer.status_code} {limits_told(answer.headers)}".rstrip()
        self._tell(method, url, told, start)
        return Response(answer, patience)

    def _tell(self, method: str, url: str, outcome: str, start: float) -> None:
        if self._debug:
            took_ms = (time.monotonic() - start) * 1000
            console.say(f"udocker: {method} {shown(url)}: {outcome} ({took_ms:.0f} ms)")

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.headers.clear()
        session.headers["User-Agent"] = f"udocker/{__version__}"
        # A transport encoding would hide the bytes that the digest names.
        session.headers["Accept-Encoding"] = "identity"
        session.verify = not self._trust.insecure
        if self._trust.insecure:
            # Who asks for it is not to be told so at every request.
            warnings.simplefilter("ignore", InsecureRequestWarning)
        session.mount("http://", _Adapter(self._tls))
        session.mount("https://", _Adapter(self._tls))
        return session

    def _tls(self) -> ssl.SSLContext:
        """Return how TLS is spoken; made when it is first needed, for that takes 20 ms."""
        if self._context is None:
            self._context = certificates.context(
                self._host,
                self._environment,
                directory=self._trust.directory,
                insecure=self._trust.insecure,
                fallback=requests.utils.DEFAULT_CA_BUNDLE_PATH,
            )
            if urllib3.__version__.startswith("1."):  # type: ignore[attr-defined]
                # It compares names itself, and cannot speak with an address where we want it too.
                self._context.check_hostname = False
        return self._context


class _Adapter(HTTPAdapter):
    """The pools of connections of `requests`, with a TLS context of ours."""

    def __init__(self, tls: Callable[[], ssl.SSLContext]) -> None:
        self._tls = tls
        super().__init__(pool_maxsize=8)

    def get_connection_with_tls_context(self, request: Any, *args: Any, **options: Any) -> Any:
        """Return the pool for a request; of `requests` from 2.32 on."""
        self._use_tls(request.url)
        return super().get_connection_with_tls_context(request, *args, **options)

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        """Return the pool for an address; of `requests` before 2.32."""
        self._use_tls(url)
        return super().get_connection(url, proxies)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pools of connections that go through a proxy."""
        if proxy.lower().startswith("https:"):
            options["proxy_ssl_context"] = self._tls()
        return super().proxy_manager_for(proxy, ssl_context=self._tls(), **options)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Add no other certificates: the context knows them all."""

    def _use_tls(self, url: str) -> None:
        if url.startswith("https:"):
            self.poolmanager.connection_pool_kw["ssl_context"] = self._tls()


def _failure(error: Exception, url: str, proxies: Mapping[str, str]) -> RegistryError:
    """Return what went wrong with a request, its `__cause__` what may be shown of why."""
    proxy = next(iter(proxies.values()), "")
    if not isinstance(error, ValueError):
        cause = _root_cause(error)
        failure = no_answer(url, cause, proxy)
        failure.__cause__ = cause
        return failure
    if "Missing dependencies for SOCKS" in str(error):
        return RegistryError(
            f"the proxy {shown(proxy)} speaks SOCKS, for which the package PySocks is needed",
            hint="pip install 'udocker[socks]', or utils/bootstrap.sh --with socks",
        )
    return RegistryError(
        f"{shown(url)}: this address, or its proxy, cannot be used",
        hint="proxies are http://host:port, https://..., socks4a://... or socks5h://...",
    )


def _root_cause(error: Exception) -> BaseException:
    """Return what the operating system, TLS or HTTP said, below what libraries made of it.

    The first such exception is taken: further down may be one that our caller is handling.
    Texts of the libraries' own exceptions hold whole URLs: none of them is returned.
    """
    below: BaseException | None = error
    while below is not None:
        plain = isinstance(below, (OSError, HTTPException))
        if plain and not isinstance(below, requests.RequestException):
            # PySocks has the system's own word inside its exceptions.
            inner = getattr(below, "socket_err", None)
            return inner if isinstance(inner, OSError) else below
        if "CertificateError(" in repr(below):  # of urllib3 1, for another host's certificate
            other = ssl.SSLCertVerificationError()
            other.verify_message = "it is for another host, which does not match"
            return other
        below = below.__cause__ or below.__context__
    return OSError()
