"""What can go wrong, in words for the user, and the exit code that each kind gives."""

from __future__ import annotations


class UdockerError(Exception):
    """A failure that the user can read: what happened, to what, and the way out.

    `message` is lower case without a final dot; `hint` names the command or setting that helps.
    Only the command line turns it into text and an exit code.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(UdockerError):
    """The words on the command line, in a setting or in a name do not make sense."""

    exit_code = 2


class InvalidReference(UsageError):
    """An image name does not follow the grammar of references."""


class InvalidDocument(UdockerError):
    """A manifest, config or index from outside is not what its specification says."""


class IntegrityError(UdockerError):
    """Bytes do not have the digest or size that they were announced with."""


class RegistryError(UdockerError):
    """A registry could not be reached or did not answer as the distribution API says."""


class TrustError(UdockerError):
    """An image is not signed as it has to be, or the policy of this machine does not admit it."""


class ImageNotFound(UdockerError):
    """No image of that name, or no access to it."""


class AccessDenied(RegistryError):
    """The registry wants (other) credentials."""


class UnpackError(UdockerError):
    """A layer is broken, hostile or too large to be unpacked."""


class StoreError(UdockerError):
    """The store could not be read or written."""


class DiskFull(StoreError):
    """A file system or a quota of it is full, of bytes or of files."""


class ContainerNotFound(UdockerError):
    """No container of that name or id."""


class StartError(UdockerError):
    """The container could not be started; nothing of the program has run."""

    exit_code = 125


class ProgramNotFound(StartError):
    """The container has no such program."""

    exit_code = 127


class ProgramNotExecutable(StartError):
    """The container's program cannot be executed."""

    exit_code = 126


class GpuError(StartError):
    """A GPU was asked for and cannot be had on this node."""
