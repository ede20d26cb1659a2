"""What a layer says and its tree cannot have without root: given where it can be, else counted."""

from __future__ import annotations

import errno
import os

from udocker.images import override, sidefile
from udocker.images.archives import tar

_KNOWN_NAMESPACES = (b"security", b"trusted", b"system", b"user")
_OF_OVERLAYS = (b"user.overlay.", b"user.fuseoverlayfs.", override.ATTRIBUTE.encode())
"""User attributes by which overlays, and `override`, know what a file is: no layer may say it."""


class LeftOut:
    """Counts what is left out of one layer."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        """What was left out, and how many times."""
        self.noted = sidefile.Noted()
        """What attributes would remember, where the file system has none."""

    def note(self, what: str) -> None:
        """Count one more."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def set_attributes(self, member: tar.Member, descriptor: int, mode: int) -> None:
        """Give a file with `mode` its attributes; one remembers what it has not of the layer."""
        if mode != member.mode or member.owner != tar.ROOT:
            value = override.encode(member.owner, member.mode)
            try:
                os.setxattr(descriptor, override.ATTRIBUTE, value)
            except OSError as error:
                inode = os.fstat(descriptor).st_ino
                if error.errno != errno.ENOTSUP or not self.noted.note(inode, value):
                    self.note("owner or mode")
        for name, value in member.xattrs:
            if not name.startswith(b"user.") or name.startswith(_OF_OVERLAYS):
                self._note_attribute(name)
                continue
            try:
                os.setxattr(descriptor, name, value)
            except OSError:
                # NFS and Lustre have no such attributes, others bound their number and size.
                self._note_attribute(name)

    def attributes_of(self, member: tar.Member, owner: str) -> None:
        """Count the attributes of what is no file or directory; its owner under that name."""
        # Linux has user attributes for files and directories only.
        if member.owner != tar.ROOT:
            self.note(owner)
        for name, _ in member.xattrs:
            self._note_attribute(name)

    def _note_attribute(self, name: bytes) -> None:
        namespace = name.partition(b".")[0]
        kind = namespace.decode() if namespace in _KNOWN_NAMESPACES else "unknown"
        if name.startswith(_OF_OVERLAYS):
            kind = "overlay"
        self.note(f"{kind} attribute")
