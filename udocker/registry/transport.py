"""HTTP to one registry: bounded, retrying, authenticated.

Redirects are followed here and not by `requests`, which would follow them to plain http and
decide itself where credentials go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from udocker.errors import AccessDenied, ImageNotFound, RegistryError
from udocker.registry.auth import PULL, Access, Authorizer, parse_challenges
from udocker.registry.connection import Connection, Trust
from udocker.registry.faults import NoSuchMethod, Unavailable, Unreachable, denied, refusal
from udocker.registry.patience import Patience
from udocker.registry.route import bases, harmless, is_loopback, join, origin, shown, split
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    from udocker.registry.connection import Response
    from udocker.registry.direct import Body
    from udocker.registry.secret import Credentials

    T = TypeVar("T")

MAX_REDIRECTS = 10
MAX_TOKEN_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True)
class Request:
    """What to ask a registry, and the words that name it in messages."""

    method: str
    path: str
    """Path and query below the registry's host; or a whole address that the registry gave."""
    repository: str
    subject: str
    headers: tuple[tuple[str, str], ...] = ()
    accepted: tuple[int, ...] = (200,)
    """Status codes that are an answer; every other one is an error."""
    access: str = PULL
    """The actions that a token must allow, such as `pull,push`."""
    scopes: tuple[str, ...] = ()
    """Further scopes of it, for other repositories; see `auth.scope`."""
    body: bytes | Body | None = None
    repeatable: bool = True
    """Sent again after a failure that may pass; else that is for the caller to judge."""
    silence_s: float = 0.0
    """Longest wait for the answer where the registry has work to do for it; 0: as usual."""


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    headers: Mapping[str, str]
    body: bytes
    status: int = 200
    url: str = ""
    """Who answered: what a `Location` is relative to."""


class Transport:
    """A session with one registry.

    After a fork each process calls `reopen` and then uses its own copy.
    """

    def __init__(
        self,
        host: str,
        environment: Mapping[str, str],
        find_credentials: Callable[[str], Credentials | None],
        *,
        trust: Trust | None = None,
        patience: Patience | None = None,
        base: str = "",
        debug: bool = False,
    ) -> None:
        """`base` is how URLs begin where that is known; else http or https is found out."""
        self.host = host
        self.patience = patience or Patience()
        trust = trust or Trust()
        self._insecure = trust.insecure
        self._answering: set[tuple[str, str, int | None]] = set()
        """Servers that have answered so far."""
        self._bases = (base,) if base else bases(host, insecure=trust.insecure)
        self._authorizer = Authorizer(host, find_credentials, self._ask_token_server)
        self._connection = Connection(host, environment, trust, self.patience, debug=debug)

    @property
    def requests(self) -> int:
        """Requests sent so far, those for tokens and those in vain included."""
        return self._connection.requests

    @property
    def was_asked(self) -> bool:
        """Tell whether the registry has wanted to know who asks."""
        return self._authorizer.was_asked

    def reopen(self) -> None:
        """Use new connections from here on; tokens are kept. A forked process must call it."""
        self._connection.reopen()

    def fetch(self, request: Request, limit_bytes: int, *, file: bool = False) -> Answer:
        """Return a whole answer of at most `limit_bytes`, trying again while that may help.

        Of a `file` the bytes are as they come: what a server calls its encoding may be its own.
        """

        def attempt() -> Answer:
            with self._answered(request) as response:
                body = (response.read if file else response.document)(limit_bytes)
                return Answer(response.headers, body, response.status, response.url)

        return self._retrying(attempt) if request.repeatable else attempt()

    def open(self, request: Request) -> Response:
        """Return an answer whose body is to be read, trying again while that may help."""
        return self._retrying(lambda: self._answered(request))

    def _retrying(self, attempt: Callable[[], T]) -> T:
        for failures in range(1, self.patience.attempts):
            try:
                return attempt()
            except Unavailable as error:
                self.patience.wait(failures, error)
        return attempt()

    def _answered(self, request: Request) -> Response:
        """Ask once, with credentials where the registry wants them. Raises what is not accepted."""
        access = Access(request.repository, request.subject, request.access, request.scopes)
        try:
            response = self._authorized(request, access)
            if response.status in request.accepted:
                return response
            error = self._failure(response, request.subject)
        except AccessDenied as refused:  # by the token server
            raise self._authorizer.explain(refused, access) from None
        if response.status in (400, 401, 403) and not self._is_own(response.url):
            # The signed address of a redirect has expired; the registry gives a new one.
            raise Unavailable(error.message)
        if isinstance(error, AccessDenied):
            error = self._authorizer.explain(error, access)
        raise error

    def _failure(self, response: Response, subject: str) -> RegistryError | ImageNotFound:
        host, body = split(response.url).netloc.rpartition("@")[2], response.drain()
        secrets = self._authorizer.secrets
        return refusal(subject, host, response.status, body, response.headers, secrets)

    def _authorized(self, request: Request, access: Access) -> Response:
        """Return the answer after every challenge that can be met."""
        response = self._send(request, self._authorizer.header(access))
        if response.status != 401 and not _wants_more_scope(response):
            return response
        response = self._met(response, request, access)
        challenge = response.headers.get("WWW-Authenticate", "")
        # Docker Hub says so of what does not exist, too: the same token again would not help.
        if _wants_more_scope(response) and self._authorizer.asks_more(challenge, access):
            response = self._met(response, request, access)
        return response

    def _met(self, response: Response, request: Request, access: Access) -> Response:
        """Return the answer after a challenge of the registry; the same if it cannot be met."""
        challenge = response.headers.get("WWW-Authenticate", "")
        if not self._is_own(response.url):
            return response
        header = self._authorizer.meet(challenge, access)
        if not header:
            return response
        response.drain()
        return self._send(request, header)

    def _ask_token_server(
        self, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None, subject: str
    ) -> bytes:
        self._check_realm(url)
        if form is None:
            response = self._follow(Request("GET", url, "", subject), url, dict(headers))
        else:
            response = self._connection.exchange("POST", url, headers, form)
        with response:
            if response.status == 200:
                return response.document(MAX_TOKEN_ANSWER_BYTES)
            error = self._failure(response, subject)
            if response.status == 400 and (form or headers):
                # So OAuth2 says that a password or token is none. Source: RFC 6749, section 5.2.
                raise denied(error.message, self.host)
            if response.status in (404, 405, 501):
                raise NoSuchMethod(f"{error.message}, which is its token server")
            raise error

    def _check_realm(self, realm: str) -> None:
        """Refuse a token server that would be sent credentials, or send tokens, in clear text."""
        parts = split(realm)
        if not parts.hostname:
            named = realm.partition("?")[0][:100]
            raise RegistryError(f"{self.host} names a token server that is none: {named!r}")
        clear = parts.scheme == "http" and (
            self._insecure or (self._bases[0][:5] == "http:" and is_loopback(parts.hostname or ""))
        )
        if not clear and parts.scheme != "https":
            raise RegistryError(
                f"{self.host}: its token server {shown(realm)!r} does not speak https",
                hint="--insecure permits it, and sends credentials in clear text",
            )

    def _send(self, request: Request, authorization: str | None) -> Response:
        headers = dict(request.headers)
        whole = not request.path.startswith("/")
        if authorization and (not whole or self._is_own(request.path)):
            headers["Authorization"] = authorization
        if whole:
            return self._follow(request, request.path, headers)
        if len(self._bases) > 1:
            return self._first_contact(request, headers)
        return self._follow(request, self._bases[0] + request.path, headers)

    def _first_contact(self, request: Request, headers: dict[str, str]) -> Response:
        """Send a request and learn from it whether the registry speaks http or https."""
        failures: list[RegistryError] = []
        doubtful: Response | None = None
        for base in self._bases:
            try:
                response = self._follow(request, base + request.path, headers)
            except RegistryError as error:
                failures.append(error)
                continue
            # Servers of TLS answer a request in clear text with 400 (Go, nginx).
            if response.status == 400 and not doubtful:
                doubtful = response
                continue
            if doubtful:
                doubtful.close()
            self._bases = (base,)
            return response
        told = [e for e in failures if not isinstance(e, (Unavailable, Unreachable))]
        if doubtful and not told:
            return doubtful
        raise (told or failures)[0]

    def address(self, answer: Answer) -> str:
        """Return where an answer's `Location` says that work goes on.

        A registry behind a proxy may not know that it is spoken to by https: it is, then, still.
        Raises RegistryError where there is no such header, or it leads to what is no web address.
        """
        location = answer.headers.get("Location")
        if not location:
            raise RegistryError(f"{shown(answer.url)}: the answer does not say where to go on")
        target, came = split(join(answer.url, location)), split(answer.url)
        if (target.scheme, came.scheme) == ("http", "https") and target.hostname == came.hostname:
            target = target._replace(scheme="https", netloc=came.netloc)
        return self._redirected(answer.url, target.geturl())

    def _follow(self, request: Request, url: str, headers: dict[str, str]) -> Response:
        """Send a request and follow redirects; only the first host sees `Authorization`."""
        first = origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._exchange(request, url, headers)
            if response.redirect is None:
                return response
            response.drain()
            url = self._redirected(url, response.redirect)
            if origin(url) != first:
                headers = {key: text for key, text in headers.items() if key != "Authorization"}
        raise RegistryError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects")

    def _exchange(self, request: Request, url: str, headers: dict[str, str]) -> Response:
        """Send one request. A server that answered before, and is gone now, may come back."""
        server = origin(url)
        try:
            response = self._connection.exchange(
                request.method, url, headers, request.body, silence_s=request.silence_s
            )
        except Unreachable as error:
            if server in self._answering:
                raise Unavailable(error.message, hint=error.hint) from error
            raise
        self._answering.add(server)
        return response

    def _redirected(self, url: str, location: str) -> str:
        target = join(url, location)
        parts = split(target)
        if parts.scheme not in ("http", "https") or parts.username is not None:
            raise RegistryError(f"{shown(url)} redirects to what is not a web address")
        if parts.scheme == "http" and split(url).scheme == "https" and not self._insecure:
            raise RegistryError(f"{shown(url)} redirects to plain http ({shown(target)})")
        return target

    def _is_own(self, url: str) -> bool:
        return origin(url) == origin(self._bases[0])


def get(
    url: str, environment: Mapping[str, str], limit_bytes: int, *, insecure: bool = False
) -> bytes:
    """Return the file at a web address, whole. Raises RegistryError; ImageNotFound for a 404."""
    transport, request = _of_file(url, environment, insecure=insecure)
    return transport.fetch(request, limit_bytes, file=True).body


def stream(url: str, environment: Mapping[str, str], *, insecure: bool = False) -> Iterator[bytes]:
    """Yield the file at a web address as it comes.

    Raises RegistryError, also where it breaks off; ImageNotFound for a 404.
    """
    transport, request = _of_file(url, environment, insecure=insecure)
    with transport.open(request) as response:
        yield from response.chunks()


def _of_file(
    url: str, environment: Mapping[str, str], *, insecure: bool
) -> tuple[Transport, Request]:
    """Return what fetches the file at a web address, and the request for it."""
    parts = split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RegistryError(f"{harmless(url)!r} is not the address of a file on the web")
    base = f"{parts.scheme}://{parts.netloc}"
    host = parts.netloc.rpartition("@")[2]
    trust = Trust(insecure=insecure)
    patience = Patience(attempts=3)
    transport = Transport(
        host, environment, lambda _: None, trust=trust, patience=patience, base=base
    )
    return transport, Request("GET", url[len(base) :] or "/", "", shown(url))


def _wants_more_scope(response: Response) -> bool:
    """Tell whether a token was good, but not for this. Source: RFC 6750, section 3.1."""
    if response.status not in (401, 403):
        return False
    offered = parse_challenges(response.headers.get("WWW-Authenticate", ""))
    return any(c.parameter("error") == "insufficient_scope" for c in offered)
