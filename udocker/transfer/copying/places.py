"""Where images can be copied from and to: `transport:...`, as skopeo and podman write it."""

from __future__ import annotations

from udocker.errors import UsageError
from udocker.values import dataclass

DOCKER, OCI, OCI_ARCHIVE, DOCKER_ARCHIVE = "docker", "oci", "oci-archive", "docker-archive"
STORE = "udocker"
_FILES = (OCI, OCI_ARCHIVE, DOCKER_ARCHIVE)
_OTHERS = {
    "dir": "oci:DIRECTORY is a layout that others read as well",
    "docker-daemon": "docker save NAME | udocker load; udocker save NAME | docker load",
    "containers-storage": "podman save NAME | udocker load; udocker save NAME | podman load",
    "ostree": "oci:DIRECTORY or oci-archive:FILE",
    "sif": "apptainer build FILE.sif oci-archive:FILE makes one of an OCI archive",
    "tarball": "udocker import FILE",
    "oras": "udocker copies artifacts like images, by docker://NAME",
}
"""Transports of skopeo, podman and apptainer that are not had here, and the way to go."""
HINT = "docker://NAME, oci:DIRECTORY[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME] " + (
    "or udocker:NAME"
)


@dataclass(frozen=True)
class Location:
    """A place for an image: in a registry, in the store, in a directory or in an archive."""

    transport: str
    name: str
    """What the image is called there; may be empty in files."""
    path: str = ""
    """File or directory; empty for registries and the store."""

    @staticmethod
    def parse(text: str) -> Location:
        """Read `transport:...`; a name without a transport is one in a registry.

        Raises UsageError for a transport that is not had, or has no path.
        """
        transport, colon, rest = text.partition(":")
        if transport in _OTHERS and colon:
            raise UsageError(f"{text}: no transport {transport!r} here", hint=_OTHERS[transport])
        if transport == STORE and colon:
            return Location(STORE, rest)
        if transport in _FILES and colon:
            path, _, name = rest.partition(":")
            if not path:
                raise UsageError(f"{text!r} names no file", hint=HINT)
            return Location(transport, name, path)
        if transport == DOCKER and rest.startswith("//"):
            return Location(DOCKER, rest[2:])
        return Location(DOCKER, text)

    def __str__(self) -> str:
        if self.transport == DOCKER:
            return f"docker://{self.name}"
        return ":".join(filter(None, (self.transport, self.path, self.name)))
