"""What is shown to a registry so that it knows its user.

No secret ever stands in a repr or in an error's text.
"""

from __future__ import annotations

import base64

from udocker.errors import UsageError
from udocker.reference import HUB
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IDENTITY_TOKEN_USER = "<token>"
"""The user by which docker and its helpers say that a password is an identity token."""
_HUB_SERVER = "https://index.docker.io/v1/"


@dataclass(frozen=True)
class Credentials:
    """A user name and password, or an identity token that is worth bearer tokens."""

    username: str
    password: str = ""
    identity_token: str = ""
    """OAuth2 refresh token; where there is one, the password is not used."""
    registry_token: str = ""
    """Bearer token that is used as it is; no token server is asked."""
    origin: str = ""
    """The file, helper or variable that they were found in."""

    @property
    def basic(self) -> str:
        """The value of an `Authorization` header. Source: RFC 7617.

        What was no UTF-8 where it came from goes as it was.
        """
        pair = f"{self.username}:{self.password}".encode("utf-8", "surrogateescape")
        return "Basic " + base64.b64encode(pair).decode("ascii")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of them nobody else may read, in the forms in which it is sent."""
        own = (self.password, self.identity_token, self.registry_token)
        return (self.basic.partition(" ")[2], *filter(None, own))

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


def checked(username: Any, password: Any, identity_token: Any, origin: str) -> Credentials:
    """Return the credentials that were read from `origin`. Raises UsageError."""
    if not all(map(_is_text, (username, password, identity_token))):
        raise UsageError(f"the credentials for {origin} are not text")
    if username == IDENTITY_TOKEN_USER:
        return Credentials("", "", password, origin=origin)
    return Credentials(username, password, identity_token, origin=origin)


def _is_text(value: Any) -> bool:
    """Tell whether a value is a text that can be sent: JSON can name halves of characters."""
    try:
        value.encode("utf-8", "surrogateescape")
    except (AttributeError, UnicodeEncodeError):
        return False
    return True


def server_of(registry: str) -> str:
    """Return the key under which docker and its helpers keep what is for a registry."""
    return _HUB_SERVER if registry == HUB else registry
