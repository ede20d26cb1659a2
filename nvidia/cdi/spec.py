"""A specification as values that are valid: `parse` refuses all others.

Paths are as the file has them: absolute, of the host or of the container as the names say.
Source: CDI specification 0.3.0 to 1.1.0; fields that a file's `cdiVersion` does not know yet, and
fields that no version knows, make the whole file invalid there too.
"""

from __future__ import annotations

from udocker.nvidia.cdi import names
from udocker.nvidia.cdi.fields import Fields
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0", "1.1.1")
"""Versions of the specification that there are."""

_STAGES = (
    *("prestart", "createRuntime", "createContainer", "startContainer"),
    *("poststart", "poststop"),
)
_NODE_TYPES = ("", "b", "c", "u", "p")
NO_PERMISSIONS = "none"
_MANY = 4096
"""More of one thing than any machine has."""


@dataclass(frozen=True)
class Node:
    """A device node. None: as the host's node is."""

    path: str
    """In the container."""
    host_path: str
    type: str = ""
    """`c`, `u` (both character), `b`, `p`; empty: as the host's node is."""
    major: int | None = None
    minor: int | None = None
    permissions: str = ""
    """Some of `rwm`; `none`: it only shows; empty: all of them."""


@dataclass(frozen=True)
class Mount:
    """A mount. `type` empty: a bind."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


@dataclass(frozen=True)
class Hook:
    """A program that runtimes run while a container starts or ends."""

    stage: str
    path: str
    args: tuple[str, ...] = ()
    """With the program's own name as the first."""
    env: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edits:
    """Changes to a container."""

    env: tuple[tuple[str, str], ...] = ()
    nodes: tuple[Node, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    gids: tuple[int, ...] = ()
    needs_root: tuple[str, ...] = ()
    """Fields that are there and that only root can honour."""


@dataclass(frozen=True)
class Device:
    """A device of a specification."""

    name: str
    edits: Edits


@dataclass(frozen=True)
class Spec:
    """What a file says; `edits` belong to each of its devices, once in a container."""

    version: str
    kind: str
    devices: tuple[Device, ...]
    edits: Edits = Edits()
    path: str = ""
    """Host path of the file, for messages."""


def parse(value: Any, path: str = "") -> Spec:
    """Return the specification in a JSON value. Raises ValueError that says where it is wrong."""
    fields = Fields(value, "", _version(value))
    fields.text("cdiVersion")
    kind = fields.text("kind")
    fault = names.kind_fault(kind)
    if fault:
        raise ValueError(fault)
    if "." in kind.partition("/")[2]:
        fields.demand("0.6.0", "a dot in the class of the kind")
    _annotations(fields)
    edits = _edits(fields.inner("containerEdits"))
    devices = tuple(_device(entry) for entry in fields.entries("devices", _MANY))
    fields.done()
    if not devices:
        raise ValueError("devices: there is none")
    _refuse_twins(devices)
    return Spec(fields.version, kind, devices, edits, path)


def _version(value: Any) -> str:
    version = value.get("cdiVersion") if isinstance(value, dict) else None
    if version is None:
        raise ValueError("there is no cdiVersion: not a CDI specification")
    if version not in VERSIONS:
        text = f"cdiVersion {str(version)[:40]!r} is not known"
        raise ValueError(f"{text} (known: {VERSIONS[0]} to {VERSIONS[-1]})")
    return str(version)


def _refuse_twins(devices: tuple[Device, ...]) -> None:
    seen = set()
    for device in devices:
        if device.name in seen:
            raise ValueError(f"devices: {device.name!r} is there twice")
        seen.add(device.name)


def _device(fields: Fields) -> Device:
    name = fields.text("name", may_be_number=True)
    fault = names.device_fault(name)
    if fault:
        raise ValueError(f"{fields.where}: {fault}")
    if name[0].isdigit():
        fields.demand("0.5.0", f"{fields.where}.name: a name that begins with a digit")
    _annotations(fields)
    edits = _edits(fields.inner("containerEdits"))
    fields.done()
    if edits == Edits():
        raise ValueError(f"{fields.where}: the device {name!r} has no edits")
    return Device(name, edits)


def _annotations(fields: Fields) -> None:
    inner = fields.inner("annotations")
    if inner.names():
        fields.demand("0.6.0", fields.at("annotations"))
    for key in inner.names():
        inner.text(key, needed=False, may_be_number=True)


def _edits(fields: Fields) -> Edits:
    edits = Edits(
        env=tuple(_variable(text, fields.at("env")) for text in fields.texts("env", _MANY)),
        nodes=_each(fields, "deviceNodes", _node),
        mounts=_each(fields, "mounts", _mount),
        hooks=_each(fields, "hooks", _hook),
        gids=_gids(fields),
        needs_root=_needs_root(fields),
    )
    fields.done()
    return edits


def _each(fields: Fields, key: str, read: Callable[[Fields], Any]) -> tuple[Any, ...]:
    return tuple(read(entry) for entry in fields.entries(key, _MANY))


def _variable(text: str, where: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{where}: {text[:80]!r} is not NAME=VALUE")
    return name, value


def _node(fields: Fields) -> Node:
    path = fields.path("path")
    host_path = fields.path("hostPath", needed=False)
    if host_path:
        fields.demand("0.5.0", fields.at("hostPath"))
    kind = fields.one_of("type", _NODE_TYPES)
    permissions = fields.text("permissions", needed=False)
    if permissions != NO_PERMISSIONS and not set(permissions) <= set("rwm"):
        raise ValueError(f"{fields.at('permissions')}: {permissions!r} has more than r, w and m")
    major, minor = fields.number("major"), fields.number("minor")
    for key in ("fileMode", "uid", "gid"):  # the host's node shows, with its own
        fields.number(key)
    fields.done()
    return Node(path, host_path or path, kind, major, minor, permissions)


def _mount(fields: Fields) -> Mount:
    kind = fields.text("type", needed=False)
    if kind:
        fields.demand("0.4.0", fields.at("type"))
    mount = Mount(
        host_path=fields.text("hostPath") if kind == "tmpfs" else fields.path("hostPath"),
        container_path=fields.path("containerPath"),
        options=fields.texts("options", _MANY),
        type=kind,
    )
    fields.done()
    return mount


def _hook(fields: Fields) -> Hook:
    stage = fields.one_of("hookName", _STAGES)
    if not stage:
        raise ValueError(f"{fields.at('hookName')} is missing")
    hook = Hook(
        stage=stage,
        path=fields.path("path"),
        args=fields.texts("args", _MANY),
        env=fields.texts("env", _MANY),
    )
    for text in hook.env:
        _variable(text, fields.at("env"))
    fields.number("timeout")
    fields.done()
    return hook


def _gids(fields: Fields) -> tuple[int, ...]:
    numbers = fields.numbers("additionalGids", _MANY)
    if numbers:
        fields.demand("0.7.0", fields.at("additionalGids"))
    return tuple(number for number in numbers if number)  # 0 says nothing: the specification


def _needs_root(fields: Fields) -> tuple[str, ...]:
    found = []
    if fields.has("intelRdt"):
        fields.demand("0.7.0", fields.at("intelRdt"))
        _intel_rdt(fields.inner("intelRdt"))
        found.append("intelRdt")
    if fields.has("netDevices"):
        fields.demand("1.1.0", fields.at("netDevices"))
        for entry in fields.entries("netDevices", _MANY):
            entry.text("hostInterfaceName")
            entry.text("name")
            entry.done()
        found.append("netDevices")
    return tuple(found)


def _intel_rdt(fields: Fields) -> None:
    for key in ("closID", "l3CacheSchema", "memBwSchema"):
        fields.text(key, needed=False)
    for key in ("enableCMT", "enableMBM"):
        fields.flag(key)
    for key in ("schemata", "enableMonitoring"):
        if fields.has(key):
            fields.demand("1.1.0", fields.at(key))
    fields.texts("schemata", _MANY)
    fields.flag("enableMonitoring")
    fields.done()
