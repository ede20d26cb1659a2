"""Whether device nodes can be opened, and why not."""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host

_CAUSES = {
    errno.ENOENT: "missing",
    errno.ENXIO: "a node without a driver behind it",
    errno.ENODEV: "a node without a driver behind it",
    errno.EIO: "the device does not answer, it may have fallen off the bus",
    errno.EPERM: "the job's control group does not permit it",
    errno.EACCES: "this user may not open it",
}


def why_closed(host: Host, path: str) -> str:
    """Return why a node cannot be opened; empty: it can.

    It is opened and closed: access(2) does not ask the driver, which may not be there.
    """
    try:
        os.close(os.open(host.path(path), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return _CAUSES.get(error.errno or 0, error.strerror or str(error))
    return ""
