"""The credentials that the user keeps: in variables, files of docker and podman, and helpers.

No secret ever stands in a repr or in an error's text.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Iterator, Mapping

from udocker import disk, fastjson
from udocker.errors import AccessDenied, StoreError, UsageError
from udocker.reference import HUB
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HELPER_TIMEOUT_S = 30

_HUB_SERVER = "https://index.docker.io/v1/"
_HUB_HOSTS = ("index.docker.io", "registry-1.docker.io")
_MAX_FILE_BYTES = 1 << 20
_IDENTITY_TOKEN_USER = "<token>"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Credentials:
    """A user name and password, or an identity token that is worth bearer tokens."""

    username: str
    password: str = ""
    identity_token: str = ""
    """OAuth2 refresh token; where there is one, the password is not used."""
    registry_token: str = ""
    """Bearer token that is used as it is; no token server is asked."""

    @property
    def basic(self) -> str:
        """The value of an `Authorization` header. Source: RFC 7617."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


def find_credentials(
    registry: str, repository: str, environment: Mapping[str, str]
) -> Credentials | None:
    """Return what the user keeps for a repository: the first found, None for nothing.

    Sources in order: UDOCKER_USERNAME and UDOCKER_PASSWORD, then the files that docker, podman
    and skopeo write (`credential_files`). Raises UsageError for a file that cannot be read and
    AccessDenied for a credential helper that fails.
    """
    username = environment.get("UDOCKER_USERNAME")
    if username:
        return Credentials(username, environment.get("UDOCKER_PASSWORD", ""))
    return find_in_files(registry, repository, environment)


def find_in_files(
    registry: str, repository: str, environment: Mapping[str, str]
) -> Credentials | None:
    """Return what files hold for a repository, as `find_credentials` does."""
    for path in credential_files(environment):
        found = _find_in_file(path, registry, repository, environment)
        if found:
            return found
    return None


def save_credentials(
    registry: str, credentials: Credentials, environment: Mapping[str, str]
) -> str:
    """Keep credentials for a registry and return the file they are in, which docker reads too.

    They lie there as docker writes them: in base64, not encrypted, for the user's eyes only.
    """
    files = credential_files(environment)
    if not files:
        raise UsageError("there is no place for credentials", hint="set HOME")
    path = files[0]
    members = _read_file(path)
    if registry in _object(members, "credHelpers", path):
        raise UsageError(f"{path} leaves {registry} to a credential helper", hint="use its store")
    _remove(members, registry, path)
    entry = {"auth": credentials.basic.partition(" ")[2]}
    if credentials.identity_token:
        entry["identitytoken"] = credentials.identity_token
    key = _HUB_SERVER if registry == HUB else registry
    members["auths"] = {**_object(members, "auths", path), key: entry}
    _write_file(path, members)
    return path


def forget_credentials(registry: str | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Remove what files keep for a whole registry, None: for any; return the files that had
    something."""
    changed = []
    for path in credential_files(environment):
        members = _read_file(path)
        if _remove(members, registry, path):
            _write_file(path, members)
            changed.append(path)
    return tuple(changed)


def _remove(members: dict[str, Any], registry: str | None, path: str) -> bool:
    entries = _object(members, "auths", path)
    others = (key for key in entries if registry is not None and _entry_name(key) != registry)
    kept = {key: entries[key] for key in others}
    members["auths"] = kept
    return len(kept) < len(entries)


def _write_file(path: str, members: Mapping[str, Any]) -> None:
    """Replace a file as a whole, for the user's eyes only; a link to it stays a link."""
    path = os.path.realpath(path)
    try:
        disk.make_directory(os.path.dirname(path))
        disk.write_whole(path, fastjson.dumps(members).encode(), mode=0o600)
    except StoreError as error:
        raise _bad_file(path, f"cannot be written: {error.message}") from error


def credential_files(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return where credentials may lie, the first to be asked first.

    Source: containers-auth.json(5); docker's command line reference, `DOCKER_CONFIG`.
    """
    home = environment.get("HOME", "")
    docker = environment.get("DOCKER_CONFIG") or _join(home, ".docker")
    config = environment.get("XDG_CONFIG_HOME") or _join(home, ".config")
    paths = (
        environment.get("REGISTRY_AUTH_FILE", ""),
        _join(docker, "config.json"),
        _join(environment.get("XDG_RUNTIME_DIR", ""), "containers/auth.json"),
        _join(config, "containers/auth.json"),
    )
    return tuple(path for path in paths if path)


def _join(directory: str, name: str) -> str:
    return os.path.join(directory, name) if directory else ""


def _find_in_file(
    path: str, registry: str, repository: str, environment: Mapping[str, str]
) -> Credentials | None:
    members = _read_file(path)
    helpers = _object(members, "credHelpers", path)
    for name in (registry, *_server_names(registry)):
        if name in helpers:
            return _ask_helper(helpers[name], registry, environment, must_exist=True)
    entries = _object(members, "auths", path)
    found = _find_entry(entries, registry, repository, path)
    if found is None and members.get("credsStore"):
        return _ask_helper(members["credsStore"], registry, environment, must_exist=False)
    return found


def _read_file(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        members = fastjson.loads(data) if data.strip() else {}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        # What JSON's reader says about a broken file may quote it: its text is left out.
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise _bad_file(path, f"cannot be read: {reason}") from None
    if len(data) > _MAX_FILE_BYTES or not isinstance(members, dict):
        raise _bad_file(path, "is not a JSON object of at most 1 MiB")
    return members


def _bad_file(path: str, problem: str) -> UsageError:
    return UsageError(
        f"the file of credentials {path} {problem}",
        hint="repair or remove it, or name another one in REGISTRY_AUTH_FILE",
    )


def _object(members: Mapping[str, Any], key: str, path: str) -> dict[str, Any]:
    value = members.get(key) or {}
    if not isinstance(value, dict):
        raise _bad_file(path, f"has {key!r} that is not an object")
    return value


def _find_entry(
    entries: Mapping[str, Any], registry: str, repository: str, path: str
) -> Credentials | None:
    known = {_entry_name(key): key for key in entries}
    known.update((key, key) for key in entries)
    for name in _names(registry, repository):
        key = known.get(name)
        found = _entry_credentials(entries[key], f"{key!r} in {path}") if key else None
        if found:
            return found
    return None


def _names(registry: str, repository: str) -> Iterator[str]:
    """Yield the keys that may hold a repository's credentials, the most specific first."""
    name = f"{registry}/{repository}" if repository else registry
    while name != registry:
        yield name
        name = name.rpartition("/")[0]
    yield registry


def _entry_name(key: str) -> str:
    """Return the name that a key of `auths` means: older ones are URLs with `/v1/` behind."""
    name = key.partition("://")[2] or key
    host, _, path = name.partition("/")
    if host in _HUB_HOSTS:
        host = HUB
    path = path.strip("/")
    return host if path in ("", "v1", "v2") else f"{host}/{path}"


def _entry_credentials(entry: Any, where: str) -> Credentials | None:
    if not isinstance(entry, dict):
        raise UsageError(f"the credentials for {where} are not an object")
    username, password = entry.get("username"), entry.get("password")
    if entry.get("auth"):
        username, password = _decoded(entry["auth"], where)
    identity_token = entry.get("identitytoken") or ""
    if not username and not identity_token:
        return None
    return _credentials(username or "", password or "", identity_token, where)


def _decoded(text: Any, where: str) -> tuple[str, str]:
    try:
        pair = base64.b64decode(text, validate=True).decode("utf-8").rstrip("\0")
    except (TypeError, ValueError):
        pair = ""
    username, colon, password = pair.partition(":")
    if not colon:
        raise UsageError(f"'auth' for {where} is not base64 of user:password")
    return username, password


def _credentials(username: Any, password: Any, identity_token: Any, where: str) -> Credentials:
    if not all(isinstance(value, str) for value in (username, password, identity_token)):
        raise UsageError(f"the credentials for {where} are not text")
    if username == _IDENTITY_TOKEN_USER:
        return Credentials("", "", password)
    return Credentials(username, password, identity_token)


def _server_names(registry: str) -> tuple[str, ...]:
    return (_HUB_SERVER, *_HUB_HOSTS) if registry == HUB else (f"https://{registry}",)


def _ask_helper(
    name: Any, registry: str, environment: Mapping[str, str], *, must_exist: bool
) -> Credentials | None:
    """Ask a credential helper. A general store that is not installed here knows nothing.

    Source: docker-credential-helpers, README.md, "Development".
    """
    if not isinstance(name, str) or not _HELPER_NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    server = _HUB_SERVER if registry == HUB else registry
    try:
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=HELPER_TIMEOUT_S,
            env=dict(environment),
        )
    except FileNotFoundError as error:
        if not must_exist:
            return None
        raise _helper_failure(program, server, "is not installed") from error
    except (OSError, subprocess.TimeoutExpired):
        raise _helper_failure(program, server, "cannot be run, or does not end") from None
    if done.returncode:
        if b"credentials not found" in done.stdout:
            return None
        raise _helper_failure(program, server, f"ends with status {done.returncode}")
    return _helper_answer(done.stdout, program, server)


def _helper_answer(data: bytes, program: str, server: str) -> Credentials | None:
    try:
        members = fastjson.loads(data)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise _helper_failure(program, server, "does not answer with a JSON object")
    username, secret = members.get("Username") or "", members.get("Secret") or ""
    return _credentials(username, secret, "", program) if username or secret else None


def _helper_failure(program: str, server: str, problem: str) -> AccessDenied:
    return AccessDenied(
        f"credential helper {program} {problem}", hint=f"try: echo {server} | {program} get"
    )
