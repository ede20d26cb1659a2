"""The credentials that the user keeps for registries: in variables, files and helpers.

Each source is asked in its turn; the first that has some for a repository is used.
"""

from __future__ import annotations

from collections.abc import Mapping

from udocker.registry import authfiles, enroot
from udocker.registry.secret import Credentials

_PREFIXES = ("UDOCKER", "APPTAINER_DOCKER", "SINGULARITY_DOCKER")
VARIABLES = tuple(f"{prefix}_{what}" for prefix in _PREFIXES for what in ("USERNAME", "PASSWORD"))
"""Variables that hold credentials for whatever registry is asked."""


def find_credentials(
    registry: str, repository: str, environment: Mapping[str, str]
) -> Credentials | None:
    """Return what the user keeps for a repository, None for nothing.

    Sources in order: UDOCKER_USERNAME and UDOCKER_PASSWORD, or apptainer's, then the files of
    `authfiles.paths` with the helpers that they name, then enroot's. Raises UsageError for a file
    that cannot be read and AccessDenied for a credential helper that fails.
    """
    for prefix in _PREFIXES:
        username = environment.get(f"{prefix}_USERNAME")
        if username:
            password = environment.get(f"{prefix}_PASSWORD", "")
            return Credentials(username, password, origin=f"${prefix}_USERNAME")
    return find_in_files(registry, repository, environment)


def find_in_files(
    registry: str, repository: str, environment: Mapping[str, str]
) -> Credentials | None:
    """Return what files and helpers hold for a repository, as `find_credentials` does."""
    for path in authfiles.paths(environment):
        found = authfiles.find(path, registry, repository, environment)
        if found:
            return found
    if environment.get("REGISTRY_AUTH_FILE"):
        return None
    return enroot.find(registry, environment)


def save_credentials(key: str, credentials: Credentials, environment: Mapping[str, str]) -> str:
    """Keep credentials for `key`, a registry or `registry/path`; return where they are: a file
    for the user's eyes only, or the credential helper that the user's files name."""
    registry = key.partition("/")[0]
    path = authfiles.own_path(key, environment)
    return authfiles.save(path, key, registry, credentials, environment)


def forget_credentials(key: str | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Remove what files and helpers keep for a registry, or `registry/path`, None: for any.

    Return the files that had something, or named a helper which had.
    """
    files = authfiles.paths(environment)
    return tuple(path for path in files if authfiles.forget(path, key, environment))
