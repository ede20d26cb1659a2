"""Where an image comes from, in the words of policies: a transport, and scopes in it.

Source: containers-policy.json(5), "Supported transports and their scopes"; containers/image,
docker/policyconfiguration/naming.go and oci/internal/oci_util.go.
"""

from __future__ import annotations

import os

from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.reference import Reference

DOCKER, OCI, OCI_ARCHIVE, DOCKER_ARCHIVE = "docker", "oci", "oci-archive", "docker-archive"
DIRECTORY, TARBALL = "dir", "tarball"


@dataclass(frozen=True)
class Place:
    """What a policy looks an image up by."""

    transport: str
    scopes: tuple[str, ...]
    """Most specific first; without the empty one, which stands for the whole transport."""
    reference: Reference | None = None
    """The image's name in a registry; None: it comes from a file."""


def in_registry(reference: Reference) -> Place:
    """Return the place of an image of a registry: its name, its parents, wildcards of its host."""
    version = f"@{reference.digest}" if reference.digest else f":{reference.tag or 'latest'}"
    scopes = [reference.name + version, *_parents(reference.name)]
    host = reference.registry.partition(":")[0]
    while "." in host:
        host = host.partition(".")[2]
        scopes.append(f"*.{host}")
    return Place(DOCKER, tuple(scopes), reference)


def in_file(transport: str, path: str, name: str = "") -> Place:
    """Return the place of an image in an archive, or in a directory in which it has that name.

    An image that comes through a pipe has no path: only the transport's default is for it.
    """
    if not path or transport not in (OCI, OCI_ARCHIVE, DIRECTORY):
        return Place(transport, ())
    whole = os.path.realpath(path)
    scopes = [f"{whole}:{name}"] if name and transport != DIRECTORY else []
    return Place(transport, (*scopes, *(found for found in _parents(whole) if found)))


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
