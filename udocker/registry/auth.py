"""What a registry asks of its clients before it answers, and how they meet it.

Nothing here speaks to the network by itself. No secret ever stands in a repr or an error's text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from udocker import fastjson
from udocker.errors import RegistryError
from udocker.registry.credentials import Credentials
from udocker.registry.faults import denied
from udocker.values import dataclass

DEFAULT_TOKEN_LIFE_S = 60
"""Source: distribution, docs/spec/auth/token.md, `expires_in`."""
PULL, PUSH = "pull", "pull,push"
"""What is to be done in a repository, in the words of token servers."""

_MAX_TOKEN_CHARACTERS = 1 << 16
_MAX_TOKEN_LIFE_S = 86400
_MARGIN_S = 10.0
"""A token is renewed this long before it ends: a request must not outlive it on its way."""
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CHALLENGE_PART = re.compile(
    rf"""[ \t,]* (?:
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
    for part in _CHALLENGE_PART.finditer(header):
        if part["scheme"]:
            challenges.append(Challenge(part["scheme"].lower()))
        elif part["key"] and challenges:
            quoted = part["quoted"]
            value = part["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            last = challenges.pop()
            pair = (part["key"].lower(), value)
            challenges.append(Challenge(last.scheme, (*last.parameters, pair)))
    return tuple(challenges)


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
        self._challenges: dict[tuple[str, str], Challenge] = {}
        self._tokens: dict[tuple[str, ...], tuple[Token, float]] = {}

    def header(self, repository: str, subject: str, access: str = PULL) -> str | None:
        """Return what met a repository's last challenge, with a token that is still good."""
        challenge = self._challenges.get((repository, access))
        return self._respond(challenge, repository, subject, access) if challenge else None

    def meet(
        self, www_authenticate: str, repository: str, subject: str, access: str = PULL
    ) -> str | None:
        """Return what meets the challenge of a 401, None where no known scheme is offered.

        `subject` names in messages what was asked for. Raises AccessDenied without credentials.
        """
        offered = parse_challenges(www_authenticate)
        known = [c for scheme in ("bearer", "basic") for c in offered if c.scheme == scheme]
        if not known:
            return None
        self._challenges[repository, access] = known[0]
        # The token in hand, if any, has just been refused.
        self._tokens.pop(_token_key(known[0], repository, access), None)
        return self._respond(known[0], repository, subject, access)

    def _respond(self, challenge: Challenge, repository: str, subject: str, access: str) -> str:
        if challenge.scheme == "bearer":
            return f"Bearer {self._token(challenge, repository, subject, access)}"
        credentials = self._find_credentials(repository)
        if not credentials or not credentials.username:
            raise denied(f"{subject}: {self._host} wants a user and a password", self._host)
        return credentials.basic

    def _token(self, challenge: Challenge, repository: str, subject: str, access: str) -> str:
        key = _token_key(challenge, repository, access)
        if key in self._tokens:
            token, end = self._tokens[key]
            if time.monotonic() < end:
                return token.secret
        asked = time.monotonic()
        token = Token.from_json(self._fetch(key, repository, subject))
        margin_s = min(_MARGIN_S, token.life_s / 5)
        self._tokens[key] = (token, asked + token.life_s - margin_s)
        return token.secret

    def _fetch(self, key: tuple[str, ...], repository: str, subject: str) -> bytes:
        """Ask the token server. Source: distribution, docs/spec/auth/token.md and oauth.md."""
        realm, service, *scopes = key
        fields = [("service", service)] if service else []
        credentials = self._find_credentials(repository)
        if credentials and credentials.identity_token:
            fields += [("grant_type", "refresh_token"), ("client_id", "udocker")]
            fields += [("scope", " ".join(scopes)), ("refresh_token", credentials.identity_token)]
            return self._ask(realm, {}, dict(fields), subject)
        query = urlencode(fields + [("scope", scope) for scope in scopes])
        headers = {"Authorization": credentials.basic} if credentials else {}
        return self._ask(f"{realm}{'&' if '?' in realm else '?'}{query}", headers, None, subject)


def _token_key(challenge: Challenge, repository: str, access: str) -> tuple[str, ...]:
    """Return realm, service and scopes: what a token is good for."""
    scopes = challenge.scopes
    own = f"repository:{repository}:"
    if repository and (access == PUSH or not scopes):
        # A challenge to a reading request asks for less than the writing ones after it need.
        scopes = (own + access, *(scope for scope in scopes if not scope.startswith(own)))
    return challenge.parameter("realm"), challenge.parameter("service"), *scopes
