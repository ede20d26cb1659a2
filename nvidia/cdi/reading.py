"""Files of specifications, JSON and YAML; what they say is remembered, so that YAML is read once.

Files of /etc/cdi are the administrators', others are the user's own or anybody's: their size, the
depth and the number of values in them are bounded, and what YAML has beyond JSON is refused.
"""

from __future__ import annotations

import os
import stat

from udocker import fastjson
from udocker.errors import StoreError
from udocker.nvidia import cache
from udocker.nvidia.cdi import spec
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SUFFIXES = (".json", ".yaml")
"""Names of other files say that they are none. Source: CDI specification, SPEC.md."""

_FORMAT = 1
_MAX_BYTES = 2 << 20
"""Specifications of machines with eight GPUs and all their libraries have 40 KiB."""


@dataclass(frozen=True)
class SpecFile:
    """A file, with its specification or what is wrong with it."""

    path: str
    spec: spec.Spec | None
    fault: str = ""


def load(path: str, cache_directory: str | None = None) -> SpecFile:
    """Return what the file at host path `path` says; it never raises for what is in it.

    With `cache_directory` the document is kept there as JSON, under a name that is another one as
    soon as the file is changed or replaced.
    """
    try:
        status = os.stat(path)
        kept_as = _kept_name(path, status)
        kept = cache.load(cache_directory, kept_as) if cache_directory else None
        if isinstance(kept, list) and len(kept) == 1:
            document = kept[0]
        else:
            document, status = _document(path, status)
            _keep(cache_directory, _kept_name(path, status), document)
        return SpecFile(path, spec.parse(document, path))
    except OSError as error:
        return SpecFile(path, None, error.strerror or str(error))
    except ValueError as error:
        return SpecFile(path, None, str(error))


def _kept_name(path: str, status: os.stat_result) -> str:
    identity = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
    return f"cdi-{cache.digest([_FORMAT, path, identity])}.json"


def _keep(directory: str | None, name: str, document: Any) -> None:
    if directory is None:
        return
    try:
        cache.save(directory, name, fastjson.dumps([document]).encode())
    except (StoreError, TypeError, ValueError):
        return  # only the next start is slower


def _document(path: str, status: os.stat_result) -> tuple[Any, os.stat_result]:
    """Return the JSON value in a file, and the state of the file that was read.

    Raises OSError, and ValueError when it is none.
    """
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)  # it may have been replaced meanwhile
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB")
    if path.endswith(".json"):
        return fastjson.loads(data), status
    from udocker.nvidia.cdi import yamlfile

    return yamlfile.loads(data), status
