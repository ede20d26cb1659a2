"""What a registry asks of its clients before it answers, and how they meet it.

Nothing here speaks to the network by itself. No secret ever stands in a repr or an error's text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlencode

from udocker import fastjson
from udocker.errors import AccessDenied, RegistryError
from udocker.reference import registry_at
from udocker.registry.faults import NoSuchMethod, denied
from udocker.registry.secret import Credentials
from udocker.values import dataclass

DEFAULT_TOKEN_LIFE_S = 60
"""Source: distribution, docs/spec/auth/token.md, `expires_in`."""
PULL, PUSH = "pull", "pull,push"
"""What is to be done in a repository, in the words of token servers."""

_USERS = {"nvcr.io": "$oauthtoken, the password a key of ngc.nvidia.com"}
"""What is peculiar about the users of a registry. Source: docs.nvidia.com, NGC user guide."""
_MAX_TOKEN_CHARACTERS = 1 << 16
_MAX_HEADER_CHARACTERS = 1 << 14
"""More of a challenge is not read."""
_MAX_TOKEN_LIFE_S = 86400
_MARGIN_S = 10.0
"""A token is renewed this long before it ends: a request must not outlive it on its way."""
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CHALLENGE_PART = re.compile(
    rf"""(?:
        (?P<key>{_TOKEN}) [ \t]*=[ \t]* (?: "(?P<quoted>(?:[^"\\]|\\.)*)" | (?P<plain>{_TOKEN}) )
      | (?P<scheme>{_TOKEN}) (?: [ ]+ [A-Za-z0-9._~+/-]+ =* (?=[ \t]*(?:,|$)) )? (?=[ \t,]|$)
      | [^,]+
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Challenge:
    """One way to authenticate that a server offers; scheme and parameter names in lower case."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def parameter(self, name: str) -> str:
        """Return the first parameter of that name, or the empty text."""
        return next((value for key, value in self.parameters if key == name), "")

    @property
    def scopes(self) -> tuple[str, ...]:
        """What access to ask for: several parameters, or several words in one."""
        texts = [value for key, value in self.parameters if key == "scope"]
        return tuple(dict.fromkeys(" ".join(texts).split()))


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Read a `WWW-Authenticate` header; what does not follow its grammar is left out.

    Several headers may be given joined with commas. Source: RFC 9110, section 11.6.1.
    """
    challenges: list[Challenge] = []
    for part in _parts(header[:_MAX_HEADER_CHARACTERS]):
        if part["scheme"]:
            challenges.append(Challenge(part["scheme"].lower()))
        elif part["key"] and challenges:
            quoted = part["quoted"]
            value = part["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            last = challenges.pop()
            pair = (part["key"].lower(), value)
            challenges.append(Challenge(last.scheme, (*last.parameters, pair)))
    return tuple(challenges)


def _parts(header: str) -> Iterator[re.Match[str]]:
    """Yield schemes and parameters; what stands between them is passed over in one go."""
    position = 0
    while position < len(header):
        if header[position] in " \t,":
            position += 1
            continue
        part = _CHALLENGE_PART.match(header, position)
        if part is None:
            return
        yield part
        position = part.end()


@dataclass(frozen=True)
class Token:
    """A bearer token and how long it may be used."""

    secret: str
    life_s: float

    @staticmethod
    def from_json(data: bytes) -> Token:
        """Read a token server's answer. Raises RegistryError."""
        try:
            members = fastjson.loads(data)
        except ValueError:
            members = None
        if not isinstance(members, dict):
            raise RegistryError("the token server's answer is not a JSON object")
        secret = members.get("token") or members.get("access_token")
        if not isinstance(secret, str) or not secret or not _is_header_text(secret):
            raise RegistryError("the token server's answer has no token")
        return Token(secret, _life_s(members.get("expires_in")))

    def __repr__(self) -> str:
        return f"Token(life_s={self.life_s})"


def _is_header_text(text: str) -> bool:
    return len(text) <= _MAX_TOKEN_CHARACTERS and all("!" <= c <= "~" for c in text)


def _life_s(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        return DEFAULT_TOKEN_LIFE_S
    return min(value, _MAX_TOKEN_LIFE_S)


@dataclass(frozen=True)
class Access:
    """What a request is about, and the access that it needs."""

    repository: str
    """Empty for the registry as a whole."""
    subject: str
    """Names in messages what was asked for."""
    actions: str = PULL
    """Of these, more than `pull` is asked for even where the registry's challenge is for less."""
    scopes: tuple[str, ...] = ()
    """Further scopes to ask for, of other repositories say; see `scope`."""

    @property
    def kind(self) -> tuple[str, ...]:
        """What tells this access from others of the same registry."""
        return self.repository, self.actions, *self.scopes


def scope(repository: str, actions: str) -> str:
    """Return the scope for actions, such as `pull,push`, on a repository."""
    return f"repository:{repository}:{actions}"


class Authorizer:
    """The `Authorization` headers for one registry: remembers challenges and tokens.

    `ask(url, headers, form, subject)` returns a token server's answer; with a form it posts.
    """

    def __init__(
        self,
        host: str,
        find_credentials: Callable[[str], Credentials | None],
        ask: Callable[[str, Mapping[str, str], Mapping[str, str] | None, str], bytes],
    ) -> None:
        self._host = host
        self._find_credentials = find_credentials
        self._ask = ask
        self._challenges: dict[tuple[str, ...], Challenge] = {}
        self._tokens: dict[tuple[str, ...], tuple[Token, float]] = {}
        self._shown: set[str] = set()

    def header(self, access: Access) -> str | None:
        """Return what met the last challenge for such access, with a token that is still good."""
        challenge = self._challenges.get(access.kind)
        return self._respond(challenge, access) if challenge else None

    def asks_more(self, www_authenticate: str, access: Access) -> bool:
        """Tell whether a challenge is for another token than the last one for such access."""
        last, offered = self._challenges.get(access.kind), parse_challenges(www_authenticate)
        keys = [_token_key(c, access) for c in offered if c.scheme == "bearer"]
        return bool(keys) and (last is None or keys[0] != _token_key(last, access))

    def meet(self, www_authenticate: str, access: Access) -> str | None:
        """Return what meets the challenge of a 401, None where no way that is known is offered.

        Raises AccessDenied without credentials.
        """
        offered = parse_challenges(www_authenticate)
        bearer = [c for c in offered if c.scheme == "bearer" and c.parameter("realm")]
        known = bearer + [c for c in offered if c.scheme == "basic"]
        if not known:
            return None
        self._challenges[access.kind] = known[0]
        # The token in hand, if any, has just been refused.
        self._tokens.pop(_token_key(known[0], access), None)
        return self._respond(known[0], access)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What servers have been shown, and may repeat in what they say: the longest first."""
        return tuple(sorted(self._shown, key=len, reverse=True))

    @property
    def was_asked(self) -> bool:
        """Tell whether the registry has wanted to know who asks, in a way that is known."""
        return bool(self._challenges)

    def explain(self, error: AccessDenied, access: Access) -> AccessDenied:
        """Return the error with the way out that suits what was shown to the registry."""
        credentials = self._find_credentials(access.repository)
        registry = registry_at(self._host)
        if credentials and credentials.origin:
            error.hint = (
                f"the credentials of {credentials.origin} did not do: udocker login {registry}; "
                f"for what everybody may read, udocker logout {registry}"
            )
        elif registry in _USERS:
            error.hint = f"udocker login {registry}; its user is literally {_USERS[registry]}"
        return error

    def _respond(self, challenge: Challenge, access: Access) -> str:
        if challenge.scheme == "bearer":
            return f"Bearer {self._token(challenge, access)}"
        credentials = self._credentials(access)
        if not credentials or not credentials.username:
            raise denied(f"{access.subject}: {self._host} wants a user and a password", self._host)
        return credentials.basic

    def _credentials(self, access: Access) -> Credentials | None:
        found = self._find_credentials(access.repository)
        if found:
            self._shown.update(found.secrets)
        return found

    def _token(self, challenge: Challenge, access: Access) -> str:
        credentials = self._credentials(access)
        if credentials and credentials.registry_token:
            return credentials.registry_token
        key = _token_key(challenge, access)
        if key in self._tokens:
            token, end = self._tokens[key]
            if time.monotonic() < end:
                return token.secret
        asked = time.monotonic()
        token = Token.from_json(self._fetch(key, credentials, access.subject))
        self._shown.add(token.secret)
        margin_s = min(_MARGIN_S, token.life_s / 5)
        self._tokens[key] = (token, asked + token.life_s - margin_s)
        return token.secret

    def _fetch(self, key: tuple[str, ...], credentials: Credentials | None, subject: str) -> bytes:
        """Ask the token server. Source: distribution, docs/spec/auth/token.md and oauth.md.

        A password goes by GET, which nearly all understand; what one way is not there for
        (404, 405) goes the other.
        """
        if credentials and credentials.identity_token:
            try:
                return self._post(key, credentials, subject)
            except NoSuchMethod:
                if not credentials.username:
                    raise
        try:
            return self._get(key, credentials, subject)
        except NoSuchMethod:
            if not credentials:
                raise
        return self._post(key, credentials, subject)

    def _get(self, key: tuple[str, ...], credentials: Credentials | None, subject: str) -> bytes:
        realm, service, *scopes = key
        fields = [("service", service)] if service else []
        query = urlencode(fields + [("scope", text) for text in scopes])
        headers = {"Authorization": credentials.basic} if credentials else {}
        return self._ask(f"{realm}{'&' if '?' in realm else '?'}{query}", headers, None, subject)

    def _post(self, key: tuple[str, ...], credentials: Credentials, subject: str) -> bytes:
        realm, service, *scopes = key
        form = {"service": service} if service else {}
        form.update(client_id="udocker", scope=" ".join(scopes))
        if credentials.identity_token:
            form.update(grant_type="refresh_token", refresh_token=credentials.identity_token)
        else:
            form.update(grant_type="password", username=credentials.username)
            form.update(password=credentials.password)
        return self._ask(realm, {}, form, subject)


def _token_key(challenge: Challenge, access: Access) -> tuple[str, ...]:
    """Return realm, service and scopes: what a token is good for."""
    scopes = (*challenge.scopes, *access.scopes)
    if access.repository and (access.actions != PULL or not scopes):
        # A challenge to a reading request asks for less than the writing ones after it need.
        scopes = (scope(access.repository, access.actions), *scopes)
    return challenge.parameter("realm"), challenge.parameter("service"), *_joined(scopes)


def _joined(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the scopes with the actions on one thing in one of them."""
    actions: dict[str, dict[str, None]] = {}
    for text in scopes:
        thing, colon, listed = text.rpartition(":")
        words = listed.split(",") if colon else ()
        actions.setdefault(thing if colon else text, {}).update(dict.fromkeys(words))
    return tuple(
        f"{thing}:{','.join(words)}" if words else thing for thing, words in actions.items()
    )
