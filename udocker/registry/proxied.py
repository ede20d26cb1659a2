"""Requests through proxies, of http, https or SOCKS. The only user of `requests`.

It is imported where there is a proxy: `registry.direct` is how all others go.
"""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Callable, Mapping
from http.client import HTTPException

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, InsecureRequestWarning

from udocker.errors import RegistryError
from udocker.registry.route import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.registry.direct import Data


class Proxied:
    """Connections through proxies, kept open between requests."""

    def __init__(self, new_tls: Callable[[], ssl.SSLContext], *, insecure: bool) -> None:
        """`new_tls` is called when a server of https is first spoken to; `insecure` tells whether
        it checks none.
        """
        self._new_tls = new_tls
        self._context: ssl.SSLContext | None = None
        self._insecure = insecure
        self._session = self._new_session()

    def close(self) -> None:
        """Let go of the connections; nothing is sent on them."""
        self._session.close()
        self._session = self._new_session()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Data,
        timeouts_s: tuple[float, float],
        proxies: dict[str, str],
    ) -> ProxiedAnswer:
        """Send a request and return the answer's head, once it is there.

        `timeouts_s` bounds the connecting and every send, and the wait for the answer. Raises
        OSError, HTTPException, of which none shows an address; ValueError for an address that
        cannot be used; RegistryError where a package is missing.
        """
        try:
            answer = self._session.request(
                method,
                url,
                headers=dict(headers),
                data=data,
                stream=True,
                allow_redirects=False,
                timeout=timeouts_s,
                proxies=proxies,
            )
        except (requests.RequestException, HTTPError, ValueError) as error:
            failure = _plain(error, next(iter(proxies.values()), ""))
        else:
            return ProxiedAnswer(answer)
        # The outer exceptions' texts hold whole URLs, and with them signatures.
        raise failure

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.headers.clear()
        session.verify = not self._insecure
        if self._insecure:
            # Who asks for it is not to be told so at every request.
            warnings.simplefilter("ignore", InsecureRequestWarning)
        session.mount("http://", _Adapter(self._tls))
        session.mount("https://", _Adapter(self._tls))
        return session

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = self._new_tls()
            if urllib3.__version__.startswith("1."):  # type: ignore[attr-defined]
                # It compares names itself, and cannot speak with an address where we want it too.
                self._context.check_hostname = False
        return self._context


class ProxiedAnswer:
    """What came through a proxy: its head, and its body as it comes."""

    def __init__(self, answer: requests.Response) -> None:
        self._answer = answer
        self.status = answer.status_code
        self.headers: Mapping[str, str] = answer.headers
        self.url = answer.url

    def read1(self, most_bytes: int) -> bytes:
        """Return what has come by now, undecoded; nothing at the end only, or where it is cut."""
        raw: Any = self._answer.raw
        try:
            if hasattr(raw, "read1"):
                data: bytes = raw.read1(most_bytes, decode_content=False)
            else:  # urllib3 below 2.1, whose `read` waits for the last byte of all that it wants
                data = raw._fp.read1(most_bytes)
                if not data:
                    raw.release_conn()
        except HTTPError as error:
            failure = _root_cause(error)
        else:
            return data
        raise failure

    def close(self) -> None:
        """Drop what has not been read."""
        self._answer.close()


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
        if not verify:  # below urllib3 2 this counts, and not what the context says
            conn.cert_reqs = "CERT_NONE"

    def _use_tls(self, url: str) -> None:
        if url.startswith("https:"):
            self.poolmanager.connection_pool_kw["ssl_context"] = self._tls()


def _plain(error: Exception, proxy: str) -> Exception:
    """Return what went wrong with a request as `Proxied.send` raises it."""
    if not isinstance(error, ValueError):
        return _root_cause(error)
    if "Missing dependencies for SOCKS" in str(error):
        return RegistryError(
            f"the proxy {shown(proxy)} speaks SOCKS, for which the package PySocks is needed",
            hint="pip install 'udocker[socks]', or utils/bootstrap.sh --with socks",
        )
    return ValueError("no address of a web server, or of a proxy")


def _root_cause(error: Exception) -> OSError | HTTPException:
    """Return what the operating system, TLS or HTTP said, below what libraries made of it.

    The first such exception is taken: further down may be one that our caller is handling.
    Texts of the libraries' own exceptions hold whole URLs: none of them is returned.
    """
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, (OSError, HTTPException)) and not isinstance(
            below, requests.RequestException
        ):
            # PySocks has the system's own word inside its exceptions.
            inner = getattr(below, "socket_err", None)
            return inner if isinstance(inner, OSError) else below
        if "CertificateError(" in repr(below):  # of urllib3 1, for another host's certificate
            other = ssl.SSLCertVerificationError()
            other.verify_message = "it is for another host, which does not match"
            return other
        # What goes wrong in a tunnel is never raised by urllib3, which only has it in hand.
        held = next((value for value in below.args if isinstance(value, BaseException)), None)
        below = below.__cause__ or below.__context__ or held
    return OSError()
