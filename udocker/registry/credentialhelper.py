"""Programs of others that keep credentials: `docker-credential-NAME get`, `store`, `erase`.

Their output is never shown, for it may hold secrets. Source: docker-credential-helpers,
README.md, "Development".
"""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.errors import AccessDenied, UsageError
from udocker.registry.secret import IDENTITY_TOKEN_USER, Credentials, checked, server_of
from udocker.settings import search_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

TIMEOUT_S = 30
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")


class HelperMissing(AccessDenied):
    """The program is not installed here."""


def _is_name(text: str) -> bool:
    return text[:1] in _LETTERS and _LETTERS.union("._-").issuperset(text)


class Helper:
    """A helper, by the name that a file of credentials gives it.

    Raises UsageError for a name that cannot be one; its methods raise AccessDenied where the
    program fails, HelperMissing where it is not there.
    """

    def __init__(self, name: Any, environment: Mapping[str, str]) -> None:
        if not isinstance(name, str) or not _is_name(name):
            raise UsageError(f"{str(name)[:100]!r} is not the name of a credential helper")
        self.program = f"docker-credential-{name}"
        self._environment = environment

    def find(self, registry: str) -> Credentials | None:
        """Return what it keeps for a registry, None for nothing."""
        data = self._run("get", server_of(registry).encode(), registry)
        if data is None:
            return None
        try:
            members = fastjson.loads(data)
        except ValueError:
            members = None
        if not isinstance(members, dict):
            raise self._failed("does not answer with a JSON object", registry)
        username, secret = members.get("Username") or "", members.get("Secret") or ""
        return checked(username, secret, "", self.program) if username or secret else None

    def store(self, registry: str, credentials: Credentials) -> None:
        """Let it keep credentials."""
        username, secret = credentials.username, credentials.password
        if credentials.identity_token:
            username, secret = IDENTITY_TOKEN_USER, credentials.identity_token
        members = {"ServerURL": server_of(registry), "Username": username, "Secret": secret}
        self._run("store", fastjson.dumps(members).encode(), registry)

    def erase(self, registry: str) -> None:
        """Let it forget what it keeps for a registry, if anything."""
        self._run("erase", server_of(registry).encode(), registry)

    def _run(self, verb: str, data: bytes, registry: str) -> bytes | None:
        """Return what it writes; None where it does not have what is asked for."""
        import subprocess  # not before there is a helper: every pull looks for credentials

        places = (f"{place}/{self.program}" for place in search_path(self._environment))
        program = next((path for path in places if os.access(path, os.X_OK)), None)
        if program is None:
            raise self._failed("is not installed", registry, HelperMissing)
        try:
            done = subprocess.run(
                [program, verb],
                input=data,
                capture_output=True,
                timeout=TIMEOUT_S,
                env=dict(self._environment),
            )
        except (OSError, subprocess.TimeoutExpired):
            raise self._failed("cannot be run, or does not end", registry) from None
        if done.returncode == 0:
            return done.stdout
        if b"credentials not found" in done.stdout:
            return None
        raise self._failed(f"{verb}: ends with status {done.returncode}", registry)

    def _failed(
        self, problem: str, registry: str, kind: type[AccessDenied] = AccessDenied
    ) -> AccessDenied:
        hint = f"try: echo {server_of(registry)} | {self.program} get"
        return kind(f"credential helper {self.program} {problem}", hint=hint)
