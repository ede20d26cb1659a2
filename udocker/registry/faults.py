"""What went wrong between a registry and us, in words for the user.

Texts of foreign exceptions are not passed on: they hold whole URLs, and with them signatures.
What servers say is cut short and freed of control characters.
"""

from __future__ import annotations

import errno
import math
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead

from udocker import fastjson
from udocker.errors import AccessDenied, ImageNotFound, RegistryError
from udocker.reference import registry_at
from udocker.registry.route import is_loopback, shown, split

RETRIED = frozenset((408, 425, 429, 499, 500, 502, 503, 504, 522))
"""Status codes after which the same request may well be answered."""

_MAX_CHARACTERS = 300
_MAX_ERRORS = 3
_ERROR_MEMBERS = ("code", "message", "details", "error", "error_description")
"""Of registries, token servers and OAuth2 (RFC 6749, section 5.2)."""
_LEAST_SECRET_CHARACTERS = 4
"""Shorter ones are parts of many words."""
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")
"""What OpenSSL makes of an answer in plain http, by its versions."""
_PROXY_USERS = "a proxy that knows its users is written http://USER:PASSWORD@HOST:PORT"
_FINAL_ERRORS = (errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH)


class Unavailable(RegistryError):
    """A failure that may pass: asked again, the registry may answer.

    `retry_after_s` is how long the server asked to be left alone, None where it did not say.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Unreachable(RegistryError):
    """Nobody is there, or nobody who speaks the protocol."""


class NoSuchMethod(RegistryError):
    """The server has nothing at this address for this method (404, 405, 501)."""


class BlobMissing(RegistryError):
    """The registry does not have a blob that a manifest of it names."""


def no_answer(url: str, cause: BaseException, proxy: str = "") -> RegistryError:
    """Return the error for a request that nobody answered, because of `cause`.

    `proxy` is the one that it went through, if any.
    """
    way = f" (through the proxy {shown(proxy)})" if proxy else ""
    text = f"{shown(url)}: no answer: {reason(cause)}{way}"
    if isinstance(cause, ssl.SSLError):
        return _tls_failure(text, url, cause)
    if "Tunnel connection failed: 4" in str(cause):
        return Unreachable(text, hint=_PROXY_USERS)
    if _is_no_http(cause):
        return Unreachable(text, hint="no registry is at that address, or at another port of it")
    is_here = is_loopback(split(url).hostname or "")
    hint = "" if proxy or is_here else "on a node without internet, set https_proxy"
    if _is_final(cause):
        return Unreachable(text, hint=hint or None)
    named = isinstance(cause, (socket.gaierror, socket.timeout))
    return Unavailable(text, hint=hint if named and hint else None)


def _is_final(cause: BaseException) -> bool:
    if isinstance(cause, socket.gaierror):
        return cause.errno != socket.EAI_AGAIN
    return isinstance(cause, OSError) and cause.errno in _FINAL_ERRORS


def _is_no_http(cause: BaseException) -> bool:
    """Tell whether a server said something, and that was no answer of HTTP."""
    return isinstance(cause, HTTPException) and not isinstance(cause, (OSError, IncompleteRead))


def _tls_failure(text: str, url: str, cause: ssl.SSLError) -> RegistryError:
    host = split(url).netloc.rpartition("@")[2]
    directory, why = f"~/.config/containers/certs.d/{host}", str(getattr(cause, "reason", ""))
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = f"put the site's authority in {directory}/ca.crt, or name it in SSL_CERT_FILE"
        if "expired" in cause.verify_message or "not yet valid" in cause.verify_message:
            hint = "who runs the server can renew it; or the clock of this machine is wrong"
        return RegistryError(text, hint=hint)
    if "CERTIFICATE" in why:
        hint = f"it wants a certificate of yours: {directory}/client.cert and client.key"
        return RegistryError(text, hint=hint)
    if why in _NO_TLS:
        hint = "it seems to speak plain http, which --tls-verify=false permits"
        return Unreachable(text, hint=hint)
    cut = isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    return Unavailable(text) if cut else Unreachable(text)


def reason(cause: BaseException) -> str:
    """Return the few words that an operating system or a TLS library gives as its reason."""
    if isinstance(cause, socket.timeout):
        return "it takes too long"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, ssl.SSLError):
        return f"TLS fails ({getattr(cause, 'reason', '') or 'the connection is cut'})"
    if isinstance(cause, OSError):
        return cause.strerror or printable(str(cause)) or "the connection is cut"
    return "what it says is not HTTP" if _is_no_http(cause) else "the connection is cut"


def refusal(
    subject: str,
    host: str,
    status: int,
    body: bytes,
    headers: Mapping[str, str],
    secrets: Iterable[str] = (),
) -> RegistryError | ImageNotFound:
    """Return the error for an answer with `status` about `subject`.

    What the server says is repeated without the `secrets`.
    """
    told = filter(None, (_sentence(body, secrets), limits_told(headers) if status == 429 else ""))
    said = "; ".join(told)
    text = f"{subject}: {host} answers {status}" + (f" ({said})" if said else "")
    if status in (401, 403):
        return denied(text, host)
    if status == 404:
        return ImageNotFound(text, hint="check the spelling; private images look absent as well")
    if status == 407:
        return RegistryError(f"{subject}: the proxy answers 407", hint=_PROXY_USERS)
    if status in RETRIED:
        wait_s = seconds(headers.get("Retry-After", ""))
        return Unavailable(text, hint=_hint(status, host), retry_after_s=wait_s)
    return RegistryError(text)


def denied(text: str, host: str) -> AccessDenied:
    """Return the error for a registry that wants other credentials, or any."""
    hint = f"check the name, or log in: udocker login {registry_at(host)}"
    return AccessDenied(text, hint=hint)


def limits_told(headers: Mapping[str, str]) -> str:
    """Return what a registry says of its limit on pulls; empty: nothing.

    Source: docs.docker.com, "Docker Hub pull usage and limits": `100;w=21600` is 100 in 6 hours.
    """
    limit, left = headers.get("RateLimit-Limit", ""), headers.get("RateLimit-Remaining", "")
    if not limit and not left:
        return ""
    count, _, window = limit.partition(";")
    window_s = window.strip()[len("w=") :] if window.strip().startswith("w=") else ""
    hours = f" in {int(window_s) / 3600:.3g} hours" if _is_number(window_s) else ""
    whose = headers.get("Docker-RateLimit-Source", "")
    for_whom = f" for {whose}" if whose else ""
    left = left.partition(";")[0]
    return printable(f"pulls left{for_whom}: {left or '?'} of {count.strip() or '?'}{hours}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _hint(status: int, host: str) -> str | None:
    if status != 429:
        return None
    return (
        f"its limit is reached: wait, or log in for a higher one: udocker login {registry_at(host)}"
    )


def seconds(retry_after: str) -> float | None:
    """Read a `Retry-After` header: seconds or a date. Source: RFC 9110, section 10.2.3."""
    text = retry_after.strip()
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    try:
        wait_s = parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return max(0.0, wait_s) if math.isfinite(wait_s) else None


def _sentence(body: bytes, secrets: Iterable[str]) -> str:
    """Return what an error's body says. Source: distribution-spec, "Error Codes"."""
    try:
        members = fastjson.loads(body)
    except ValueError:
        return ""
    if not isinstance(members, dict):
        return ""
    errors = members.get("errors")
    if not isinstance(errors, list):
        errors = [members]
    texts = [_error_text(error) for error in errors[:_MAX_ERRORS] if isinstance(error, dict)]
    text = "; ".join(filter(None, texts))
    for secret in secrets:
        if len(secret) >= _LEAST_SECRET_CHARACTERS:
            text = text.replace(secret, "***")
    return printable(text)


def _error_text(error: dict[str, object]) -> str:
    words = (error.get(key) for key in _ERROR_MEMBERS)
    return ": ".join(word for word in words if isinstance(word, str) and word)


def printable(text: str) -> str:
    """Return foreign text fit for a terminal."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean if len(clean) <= _MAX_CHARACTERS else clean[:_MAX_CHARACTERS] + "..."
