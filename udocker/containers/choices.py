"""What a user has set for a container after it was made (`udocker setup`), and who prepared it."""

from __future__ import annotations

from udocker import disk, fastjson
from udocker.errors import StoreError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.container import Container

_BYTES = 1 << 20


@dataclass(frozen=True)
class Choices:
    """Settings of one container; the defaults hold where nothing was set."""

    mode: str = ""
    """Engine or execution mode to run it with; empty: the best one."""
    gpu: str = ""
    """As of `--gpu`; empty: none."""
    prepared: str = ""
    """The execution mode whose engine prepared the container's files last."""


def load(container: Container) -> Choices:
    """Return what was set for the container. Raises StoreError when the file is broken."""
    path = _path(container)
    data = disk.read(path, _BYTES)
    if data is None:
        return Choices()
    try:
        members = fastjson.loads(data)
        values = {name: members[name] for name in ("mode", "gpu", "prepared")}
        if not all(isinstance(value, str) for value in values.values()):
            raise ValueError("not text")
        return Choices(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is broken: {error!r}", hint="remove it") from error


def save(container: Container, choices: Choices) -> None:
    """Keep what was set for the container."""
    members = {"mode": choices.mode, "gpu": choices.gpu, "prepared": choices.prepared}
    disk.write_whole(_path(container), fastjson.dumps(members).encode())


def _path(container: Container) -> str:
    return f"{container.directory}/choices.json"
