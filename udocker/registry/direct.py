"""Connections straight to servers, kept open between requests.

Made of http.client: `requests` knows the ways through proxies, but takes 70 ms to import, as long
as all the rest of a pull that finds everything here.
"""

from __future__ import annotations

import base64
import select
from collections.abc import Mapping
from http.client import (
    BadStatusLine,
    HTTPConnection,
    HTTPMessage,
    HTTPResponse,
    HTTPSConnection,
    parse_headers,
)
from urllib.parse import quote, unquote, urlencode

from udocker.registry.route import origin, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from typing import Protocol, Union

    class Body(Protocol):
        """What a request brings, of a known length of 1 or more, from its start at every turn."""

        def __len__(self) -> int:
            """Return the length in bytes."""

        def __iter__(self) -> Iterator[bytes]:
            """Yield all bytes."""

    Data = Union[Mapping[str, str], bytes, Body, None]
    """A form, or what a body is."""

MAX_IDLE = 8
"""Connections to one server that are kept."""
MAX_ANNOUNCED = 9
"""Answers that may come before the one that counts."""
_AS_IT_IS = "!#$%&'()*+,/:;=?@[]~"
"""What is not quoted in an address: it is there to mean something. Source: RFC 3986."""


class Direct:
    """Connections to any servers. Several threads may use them; a forked process may not."""

    def __init__(self, new_tls: Callable[[], ssl.SSLContext]) -> None:
        """`new_tls` is called when a server of https is first spoken to: it takes 20 ms."""
        self._new_tls = new_tls
        self._tls: ssl.SSLContext | None = None
        self._idle: dict[tuple[str, str, int | None], list[HTTPConnection]] = {}

    def close(self) -> None:
        """Let go of the connections; nothing is sent on them."""
        while self._idle:
            for connection in self._idle.popitem()[1]:
                connection.close()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Data,
        timeouts_s: tuple[float, float],
    ) -> DirectAnswer:
        """Send a request and return the answer's head, once it is there.

        `timeouts_s` bounds the connecting and every send, and the wait for the answer. Raises
        OSError, HTTPException; ValueError for an address that cannot be used.
        """
        connection = self._connection(url, timeouts_s[0])
        try:
            _ask(connection, method, url, _head(url, headers, data), _bytes_of(data))
            connection.sock.settimeout(timeouts_s[1])
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        return DirectAnswer(url, response, connection, self._idle.setdefault(origin(url), []))

    def _connection(self, url: str, timeout_s: float) -> HTTPConnection:
        """Return a connection to the server of an address, one that is open if there is one."""
        scheme, host, port = origin(url)
        idle = self._idle.get((scheme, host, port), [])
        while idle:
            try:
                kept = idle.pop()
            except IndexError:  # another thread was quicker
                break
            if _is_quiet(kept):
                kept.sock.settimeout(timeout_s)
                return kept
            kept.close()
        if not host or scheme not in ("http", "https") or not host.isprintable() or " " in host:
            raise ValueError("no address of a web server")
        return self._opened(scheme, host, port, timeout_s)

    def _opened(self, scheme: str, host: str, port: int | None, timeout_s: float) -> HTTPConnection:
        made = HTTPConnection(host, port, timeout=timeout_s)
        if scheme == "https":
            self._tls = self._tls or self._new_tls()
            made = HTTPSConnection(host, port, timeout=timeout_s, context=self._tls)
        made.response_class = _Final
        try:
            made.connect()
        except BaseException:
            made.close()
            raise
        return made


class _Final(HTTPResponse):
    """An answer behind those that only announce it, such as 103, which http.client takes for it.

    Source: RFC 9110, section 15.2: clients must be able to read them.
    """

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_ANNOUNCED):
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 < found[1] < 200 or found[1] == 101:
                return found
            parse_headers(self.fp)
        raise BadStatusLine("no end of them")


class DirectAnswer:
    """What a server answered: its head, and its body as it comes."""

    def __init__(
        self,
        url: str,
        response: HTTPResponse,
        connection: HTTPConnection,
        idle: list[HTTPConnection],
    ) -> None:
        """At its end the connection becomes one of the `idle` ones."""
        self.url = url
        self.status = response.status
        self.headers: Mapping[str, str] = Headers(response.headers)
        self._response = response
        self._connection: HTTPConnection | None = connection
        self._idle = idle

    def read1(self, most_bytes: int) -> bytes:
        """Return what has come by now, undecoded; nothing at the end only, or where it is cut."""
        data = self._response.read1(most_bytes)
        if not data:
            self._keep()
        return data

    def _keep(self) -> None:
        """Let others have the connection if nothing else comes on it."""
        connection, response = self._connection, self._response
        is_over = response.isclosed() or response.length == 0
        if connection and connection.sock and is_over and len(self._idle) < MAX_IDLE:
            self._connection = None
            response.close()
            self._idle.append(connection)

    def close(self) -> None:
        """Drop what has not been read, and the connection with it."""
        self._response.close()
        if self._connection:
            self._connection.close()


class Headers(Mapping[str, str]):
    """The headers of an answer by their names, in whatever case; those that repeat are joined."""

    def __init__(self, message: HTTPMessage) -> None:
        self._message = message

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._message.get_all(name) or self._none(name))

    def _none(self, name: str) -> list[str]:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.lower() for name in self._message))

    def __len__(self) -> int:
        return len(dict.fromkeys(name.lower() for name in self._message))


def _is_quiet(connection: HTTPConnection) -> bool:
    """Tell whether a connection on which nothing is awaited is still open."""
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return not poll.poll(0)


def _ask(
    connection: HTTPConnection,
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes | Body | None,
) -> None:
    parts = split(url)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    try:
        connection.request(method, quote(target, _AS_IT_IS), body, headers)
    except (BrokenPipeError, ConnectionResetError):
        pass  # a server may answer before it has read everything, and close


def _head(url: str, headers: Mapping[str, str], data: Data) -> dict[str, str]:
    """Return all headers of a request that http.client does not know itself."""
    made = dict(headers)
    if isinstance(data, Mapping):
        made["Content-Type"] = "application/x-www-form-urlencoded"
    elif data is not None:
        made["Content-Length"] = str(len(data))
    parts = split(url)
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        made["Authorization"] = "Basic " + base64.b64encode(pair).decode("ascii")
    return made


def _bytes_of(data: Data) -> bytes | Body | None:
    if isinstance(data, Mapping):
        return urlencode(data, errors="surrogateescape").encode()
    return data
