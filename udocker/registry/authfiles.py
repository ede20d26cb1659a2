"""Files in which docker, podman and others keep credentials: read, and changed, in their format.

Source: containers-auth.json(5); docker's command line reference, "Configuration files".
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence

from udocker import disk, fastjson
from udocker.errors import StoreError, UsageError
from udocker.reference import HUB
from udocker.registry.credentialhelper import Helper, HelperMissing
from udocker.registry.secret import Credentials, checked, server_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HUB_HOSTS = ("index.docker.io", "registry-1.docker.io")
_MAX_BYTES = 1 << 20
_NO_LINE_ENDS = {ord("\r"): None, ord("\n"): None}


def paths(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return where credentials may lie, the file to be asked first at the beginning.

    A file that REGISTRY_AUTH_FILE names stands alone. DOCKER_CONFIG says where docker's own is,
    which then comes first.
    """
    if environment.get("REGISTRY_AUTH_FILE"):
        return (environment["REGISTRY_AUTH_FILE"],)
    named = environment.get("DOCKER_CONFIG", "")
    home = environment.get("HOME", "")
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    found = (
        _join(named, "config.json"),
        _join(runtime, "containers/auth.json") or f"/run/containers/{os.getuid()}/auth.json",
        _join(_config(environment), "containers/auth.json"),
        "" if named else _join(home, ".docker/config.json"),
        _join(home, ".dockercfg"),
        _join(home, ".apptainer/docker-config.json"),
        _join(home, ".singularity/docker-config.json"),
    )
    return tuple(path for path in found if path)


def own_path(key: str, environment: Mapping[str, str]) -> str:
    """Return the file to keep new credentials in, where later commands find them first.

    That is one that the user names, or that has some under this key already; else, of
    containers/auth.json and docker's config.json below the home, one that is there, or docker's:
    nearly every tool reads it. Raises UsageError where there is no place.
    """
    if environment.get("REGISTRY_AUTH_FILE"):
        return environment["REGISTRY_AUTH_FILE"]
    docker = environment.get("DOCKER_CONFIG") or _join(environment.get("HOME", ""), ".docker")
    lasting = (
        _join(_config(environment), "containers/auth.json"),
        _join(docker, "config.json"),
    )
    for path in paths(environment):
        if os.path.basename(path) in ("auth.json", "config.json") and _AuthFile(path).has(key):
            return path
    if environment.get("DOCKER_CONFIG"):
        return lasting[1]
    there = [path for path in lasting if path and os.path.exists(path)]
    if not any(lasting):
        raise UsageError("there is no place for credentials", hint="set HOME")
    return (there or [lasting[1]])[0]


def _config(environment: Mapping[str, str]) -> str:
    return environment.get("XDG_CONFIG_HOME") or _join(environment.get("HOME", ""), ".config")


def _join(directory: str, name: str) -> str:
    return os.path.join(directory, name) if directory else ""


def find(
    path: str, registry: str, repository: str, environment: Mapping[str, str]
) -> Credentials | None:
    """Return what a file, or the helper that it names, has for a repository: the most specific.

    Helpers keep what is for a whole registry. Raises UsageError for a file that is broken,
    AccessDenied for a helper that fails.
    """
    file = _AuthFile(path)
    below = file.find(_names(registry, repository)[:-1])
    if below:
        return below
    helper = file.helper(registry, environment)
    if helper:
        return helper.find(registry)
    found = file.find((registry,))
    store = file.store(registry, environment)
    if found is None and store:
        try:
            return store.find(registry)
        except HelperMissing:  # the file may come from another machine
            return None
    return found


def save(
    path: str, key: str, registry: str, credentials: Credentials, environment: Mapping[str, str]
) -> str:
    """Keep credentials, or give them to the helper that the file names; return where they are.

    In the file they lie as docker writes them: in base64, not encrypted, for the user's eyes only.
    """
    file = _AuthFile(path)
    if key != registry:
        file.put(key, _entry(credentials))
        return path
    helper = file.helper(registry, environment)
    if helper:
        helper.store(registry, credentials)
        return helper.program
    store = file.store(registry, environment)
    if store:
        try:
            store.store(registry, credentials)
        except HelperMissing:
            store = None
    entry = {} if store else _entry(credentials)
    file.put(key, entry)
    return store.program if store else path


def forget(path: str, key: str | None, environment: Mapping[str, str]) -> bool:
    """Remove what a file, or a helper that it names, keeps under a key, None: under any.

    Tell whether there was something.
    """
    file = _AuthFile(path)
    keys = file.keys() if key is None else [key]
    erased = False
    for one in keys:
        helper = file.helper(one, environment) or file.store(one, environment)
        if helper and "/" not in one:
            erased = _erased(helper, one) or erased
    return file.remove(keys) or erased


def _erased(helper: Helper, registry: str) -> bool:
    """Tell whether a helper had something, which it now has forgotten."""
    try:
        if helper.find(registry) is None:
            return False
        helper.erase(registry)
    except HelperMissing:
        return False
    return True


class _AuthFile:
    """What a file says; raises UsageError where it is broken. A file that is missing is empty."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._parent = os.path.dirname(path) or "."
        self._members = self._read()
        if os.path.basename(path) == ".dockercfg":  # of docker before 1.7
            self._members = {"auths": self._members}

    def has(self, key: str) -> bool:
        """Tell whether something is kept under exactly this key."""
        return key in self.keys()

    def keys(self) -> list[str]:
        """Return the names of registries and repositories under which something is kept."""
        listed = (*self._object("auths"), *self._object("credHelpers"))
        return list(dict.fromkeys(map(_entry_name, listed)))

    def helper(self, registry: str, environment: Mapping[str, str]) -> Helper | None:
        """Return the helper that is for this registry."""
        name = self._own_helpers().get(registry)
        return Helper(name, environment) if name else None

    def store(self, registry: str, environment: Mapping[str, str]) -> Helper | None:
        """Return the helper that is for all registries without one of their own.

        One whose own has no name does without any.
        """
        name = self._members.get("credsStore")
        return Helper(name, environment) if name and registry not in self._own_helpers() else None

    def find(self, names: Sequence[str]) -> Credentials | None:
        """Return the credentials under the first of the names that has some."""
        entries = self._object("auths")
        for name in names:
            # Several keys may mean the same, and some tools leave empty entries behind.
            keys = [key for key in entries if name in (key, _entry_name(key))]
            for key in sorted(keys, key=name.__ne__):
                found = _read_entry(entries[key], key, self.path)
                if found:
                    return found
        return None

    def _own_helpers(self) -> dict[str, Any]:
        return {_entry_name(key): name for key, name in self._object("credHelpers").items()}

    def put(self, key: str, entry: Mapping[str, str]) -> None:
        """Keep an entry, in place of those that mean the same key."""
        self._drop([key])
        self._members["auths"] = {**self._object("auths"), server_of(key): entry}
        self._write()

    def remove(self, keys: list[str]) -> bool:
        """Remove entries; tell whether there were any."""
        if not self._drop(keys):
            return False
        self._write()
        return True

    def _drop(self, keys: list[str]) -> bool:
        entries = self._object("auths")
        self._members["auths"] = {k: v for k, v in entries.items() if _entry_name(k) not in keys}
        return len(self._members["auths"]) < len(entries)

    def _object(self, key: str) -> dict[str, Any]:
        value = self._members.get(key) or {}
        if not isinstance(value, dict):
            raise self._broken(f"has {key!r} that is not an object")
        return value

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                data = file.read(_MAX_BYTES + 1)
            members = fastjson.loads(data) if data.strip() else {}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            # $XDG_RUNTIME_DIR may be another user's, after `su` say.
            if isinstance(error, PermissionError) and not os.access(self._parent, os.X_OK):
                return {}
            # What JSON's reader says about a broken file may quote it: its text is left out.
            reason = error.strerror if isinstance(error, OSError) else "not JSON"
            raise self._broken(f"cannot be read: {reason}") from None
        if len(data) > _MAX_BYTES or not isinstance(members, dict):
            raise self._broken("is not a JSON object of at most 1 MiB")
        return members

    def _write(self) -> None:
        """Replace the file as a whole, for the user's eyes only; a link to it stays a link."""
        path = os.path.realpath(self.path)
        flat = os.path.basename(self.path) == ".dockercfg"
        members = self._members["auths"] if flat else self._members
        try:
            disk.make_directory(os.path.dirname(path))
            disk.write_whole(path, fastjson.dumps(members).encode(), mode=0o600)
        except StoreError as error:
            raise self._broken(f"cannot be written: {error.message}") from error

    def _broken(self, problem: str) -> UsageError:
        return UsageError(
            f"the file of credentials {self.path} {problem}",
            hint="repair or remove it, or name another one in REGISTRY_AUTH_FILE",
        )


def _names(registry: str, repository: str) -> tuple[str, ...]:
    """Return the keys that may hold a repository's credentials, the most specific first."""
    parts = repository.split("/") if repository else []
    below = ("/".join((registry, *parts[:count])) for count in range(len(parts), 0, -1))
    return (*below, registry)


def _entry_name(key: str) -> str:
    """Return the name that a key of `auths` means: older ones are URLs with `/v1/` behind."""
    name = key.partition("://")[2] or key
    host, _, path = name.partition("/")
    if host in _HUB_HOSTS:
        host = HUB
    path = path.strip("/")
    return host if path in ("", "v1", "v2") else f"{host}/{path}"


def _entry(credentials: Credentials) -> dict[str, str]:
    entry = {"auth": credentials.basic.partition(" ")[2]}
    if credentials.identity_token:
        entry["identitytoken"] = credentials.identity_token
    return entry


def _read_entry(entry: Any, key: str, path: str) -> Credentials | None:
    where = f"{key!r} in {path}"
    if not isinstance(entry, dict):
        raise UsageError(f"the credentials for {where} are not an object")
    username, password = entry.get("username"), entry.get("password")
    if entry.get("auth"):
        username, password = _decoded(entry["auth"], where)
    identity_token, token = entry.get("identitytoken") or "", entry.get("registrytoken") or ""
    if token and isinstance(token, str):
        return Credentials(username or "", registry_token=token, origin=path)
    if not username and not identity_token:
        return None
    found = checked(username or "", password or "", identity_token, where)
    return Credentials(found.username, found.password, found.identity_token, origin=path)


def _decoded(text: Any, where: str) -> tuple[str, str]:
    try:
        # Go, and so docker, passes over the line ends that the program base64 writes.
        whole = base64.b64decode(text.translate(_NO_LINE_ENDS), validate=True)
        pair = whole.decode("utf-8", "surrogateescape").rstrip("\0")
    except (AttributeError, ValueError):
        pair = ""
    username, colon, password = pair.partition(":")
    if not colon:
        raise UsageError(f"'auth' for {where} is not base64 of user:password")
    return username, password
