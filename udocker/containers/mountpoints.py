"""Where mounts lay in a container's files, noted by each run.

A mount needs a file or directory below it. Those stay behind empty (`leftovers`): an empty
library where a GPU's was shown is worse than none once it is in an image.
"""

from __future__ import annotations

from udocker import disk, fastjson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container
    from udocker.containers.spec import RuntimeSpec

_BYTES = 16 << 20
LISTS = ("/etc/ld.so.conf.d/00-udocker.conf", "/etc/ld.so.conf.d/zz-udocker.conf")
"""Files of ours by which ldconfig finds injected libraries, first and last."""
ALWAYS = ("/run/udocker", "/.udocker", "/dev", "/proc", "/sys", "/etc/resolv.conf", "/etc/hosts")
"""Where engines mount something in every container."""


def note(container: Container, spec: RuntimeSpec) -> None:
    """Remember where a run will mount something. Raises StoreError."""
    path = _path(container)
    known = _parsed(disk.read(path, _BYTES))
    wanted = dict.fromkeys([*known, *_destinations(spec)])
    if len(wanted) > len(known):
        text = fastjson.dumps(list(wanted))
        disk.write_whole(path, text.encode("utf-8", "surrogateescape"), sync=False)


def noted(container: Container) -> tuple[str, ...]:
    """Return where runs may have mounted something: `PATH`, or `PATH -> TARGET` for a link that
    was put there. Raises StoreError."""
    return (*_parsed(disk.read(_path(container), _BYTES)), *ALWAYS, *LISTS)


def _destinations(spec: RuntimeSpec) -> list[str]:
    edits = spec.edits
    found = [bind.destination for bind in edits.binds]
    found += [node.destination for node in edits.device_nodes]
    found += [file.destination for file in spec.files]
    found += [memory.destination for memory in spec.tmpfs]
    return found + [f"{link.path} -> {link.target}" for link in edits.symlinks]


def _parsed(data: bytes | None) -> list[str]:
    try:
        texts = fastjson.loads(data) if data else []
        return [text for text in texts if isinstance(text, str)]
    except (ValueError, TypeError):  # it says nothing that is worth an error
        return []


def _path(container: Container) -> str:
    return f"{container.directory}/mountpoints"
