"""Options on what shows in the container: volumes, mounts, memory, devices."""

from __future__ import annotations

import os
import posixpath

from udocker.commands.options import grammar
from udocker.containers.request import NamedVolume
from udocker.containers.spec import Bind, DeviceNode, Tmpfs
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from udocker.commands.words import Values

_WORDS = {"ro", "rw", "z", "Z", "bind", "rbind", "nocopy", "U", "consistent", "cached", "delegated"}
_WORDS |= {"private", "rprivate", "slave", "rslave", "shared", "rshared", "readonly", "copy"}
_WORDS |= {"nosuid", "suid", "nodev", "dev", "exec"}
_TMPFS_ALWAYS = {"rw", "exec", "nosuid", "nodev", "relatime", "notmpcopyup"}
_TMPFS_OPTIONS = {"ro", "noexec", "size", "mode", "nr_inodes", "nr_blocks"}
_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_FIRST | frozenset("_.-")
_SECRETS = "/run/secrets"
_READ_ONLY_TMPFS = ("/run", "/tmp", "/var/tmp")


def wishes(values: Values, environment: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """Return the fields of the request that options on files fill."""
    shown = [parse_volume(text, environment) for text in values.all("volume")]
    memory = [_tmpfs(text) for text in values.all("tmpfs")]
    for text in values.all("mount"):
        made = _mount(text, environment)
        (memory if isinstance(made, Tmpfs) else shown).append(made)  # type: ignore[arg-type]
    if values.flag("bindhome") and environment.get("HOME"):
        shown.append(parse_volume(environment["HOME"], environment))
    shown += [_secret(text) for text in values.all("secret")]
    if values.flag("read_only") and values.flag("read_only_tmpfs"):
        memory += [Tmpfs(path) for path in _READ_ONLY_TMPFS]
    left_out = tuple(_inside(path, "--novol") for path in values.all("novol"))
    last = {found.destination: found for found in shown if found.destination not in left_out}
    notes.extend(_same_named(last.values()))
    devices, named, gpu = _devices(values.all("device"), notes)
    return {
        "binds": tuple(found for found in last.values() if isinstance(found, Bind)),
        "volumes": tuple(found for found in last.values() if isinstance(found, NamedVolume)),
        "volumes_from": values.all("volumes_from"),
        "left_out": left_out,
        "tmpfs": tuple(memory),
        "shm_size": grammar.size(values.all("shm_size")[-1], "--shm-size")
        if values.last("shm_size")
        else 0,
        "readonly": values.flag("read_only"),
        "devices": devices,
        "cdi_devices": named,
        "cdi_directories": tuple(
            host_path(path, "--cdi-dir", environment) for path in values.all("cdi_dir")
        ),
        "cdi_ignore_hooks": values.flag("cdi_ignore_hooks"),
        "system_directories": not values.flag("nosysdirs"),
        "direct_rendering": values.flag("dri"),
        **({"gpu": gpu} if gpu else {}),
    }


def parse_volume(text: str, environment: Mapping[str, str] = os.environ) -> Bind | NamedVolume:
    """Read `SRC|NAME[:DST[:WORDS]]`; SRC alone shows at its own path, as udocker has it."""
    option = f"--volume {text!r}"
    source, _, rest = text.partition(":")
    destination, _, words = rest.partition(":")
    given = {word for word in words.split(",") if word}
    unknown = given - _WORDS
    if unknown:
        raise UsageError(f"{option}: {', '.join(sorted(unknown))} is not known")
    if not source:
        raise UsageError(f"{option}: no host path")
    readonly = bool(given & {"ro", "readonly"})
    if is_path(source):
        path = host_path(source, option, environment)
        return Bind(path, _inside(destination or path, option), readonly=readonly)
    if not destination:
        raise UsageError(f"{option}: no path in the container", hint=f"./{source}, or NAME:DST")
    _check_name(source, option)
    copy = "nocopy" not in given
    return NamedVolume(source, _inside(destination, option), readonly=readonly, copy=copy)


def is_path(source: str) -> bool:
    """Tell whether the source of a volume is a path: other words are names, as docker has it."""
    return source.startswith(("/", ".", "~"))


def host_path(path: str, option: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the absolute form of a path of the host. Raises UsageError."""
    home = environment.get("HOME", "")
    if path == "~" or (path.startswith("~/") and home):
        path = home + path[1:]
    try:
        return os.path.abspath(os.path.expanduser(path))
    except FileNotFoundError:
        raise UsageError(f"{option}: the current directory is gone") from None


def _check_name(name: str, option: str) -> None:
    if len(name) > 200 or name[0] not in _NAME_FIRST or not _NAME_REST.issuperset(name):
        raise UsageError(
            f"{option}: {name!r} is no path of this host and no name of a volume",
            hint=f"./{name} for what lies here; a name has letters, digits, _ . -",
        )


def _same_named(shown: Any) -> list[str]:
    return [
        f"--volume {found.name}:... is the volume of that name, not ./{found.name}"
        for found in shown
        if isinstance(found, NamedVolume) and os.path.isdir(found.name)
    ]


def _inside(path: str, option: str) -> str:
    """Return an absolute path of the container without dots. Raises UsageError for others."""
    clean = posixpath.normpath(path) if path.startswith("/") else ""
    clean = "/" + clean.lstrip("/")
    if not path.startswith("/") or "\0" in path:
        raise UsageError(f"{option}: {path!r} is not an absolute path in the container")
    if clean == "/":
        raise UsageError(f"{option}: nothing can show at {path}, the container's root")
    return clean


def _tmpfs(text: str) -> Tmpfs:
    path, _, words = text.partition(":")
    options = [word for word in words.split(",") if word and word not in _TMPFS_ALWAYS]
    unknown = [word for word in options if word.partition("=")[0] not in _TMPFS_OPTIONS]
    if unknown:
        raise UsageError(f"--tmpfs {text!r}: {', '.join(unknown)} is not known")
    return Tmpfs(_inside(path, "--tmpfs"), ",".join(options))


_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_MOUNT_KEYS = {
    "bind": {"bind-propagation", "consistency", "bind-recursive", "relabel", "U", "chown"},
    "volume": {"volume-nocopy", "volume-driver", "U", "chown"},
    "tmpfs": {"tmpfs-size", "tmpfs-mode", "notmpcopyup"},
}
_HARMLESS = {
    "bind-propagation": {"private", "rprivate", "slave", "rslave", "shared", "rshared"},
    "bind-recursive": {"enabled", "writable"},
    "volume-driver": {"", "local"},
}
"""What some keys may say; the others are not looked at, for they change nothing here."""


def _mount(text: str, environment: Mapping[str, str]) -> Bind | NamedVolume | Tmpfs:
    """Read docker's `--mount`. Source: docker's `opts/mount.go`."""
    option = f"--mount {text!r}"
    fields = [field.partition("=") for field in grammar.csv_fields(text, "--mount")]
    given = {_ALIASES.get(key.strip(), key.strip()): value for key, _, value in fields}
    kind = given.pop("type", "volume")
    known = _MOUNT_KEYS[grammar.one_of(kind, tuple(_MOUNT_KEYS), f"{option}: type")]
    target = _inside(given.pop("target", ""), f"{option}: target")
    source = given.pop("source", "")
    readonly = "readonly" in given and grammar.truth(given.pop("readonly"), f"{option}: readonly")
    for key, value in given.items():
        if key not in known or value not in _HARMLESS.get(key, {value}):
            raise UsageError(f"{option}: {key}={value} is not known for type={kind}")
    if kind == "tmpfs":
        return _memory(target, given, option, readonly=readonly)
    if not source:
        raise UsageError(f"{option}: no source", hint="source=DIRECTORY, or type=tmpfs")
    if kind == "volume":
        _check_name(source, option)
        copy = "volume-nocopy" not in given or not grammar.truth(given["volume-nocopy"], option)
        return NamedVolume(source, target, readonly=readonly, copy=copy)
    return Bind(host_path(source, option, environment), target, readonly=readonly)


def _memory(target: str, given: Mapping[str, str], option: str, *, readonly: bool) -> Tmpfs:
    words = ["ro"] if readonly else []
    if "tmpfs-size" in given:
        words.append(f"size={grammar.size(given['tmpfs-size'], f'{option}: tmpfs-size')}")
    mode = given.get("tmpfs-mode", "0")
    if not (0 < len(mode) <= 5 and set(mode) <= set("01234567")):
        raise UsageError(f"{option}: tmpfs-mode is not octal")
    words += [f"mode={mode}"] if "tmpfs-mode" in given else []
    return Tmpfs(target, ",".join(words))


def _secret(text: str) -> Bind:
    """Read `FILE`, or `id=NAME,src=FILE[,target=PATH]`: there is no store of secrets."""
    option = f"--secret {text!r}"
    fields = [field.partition("=") for field in grammar.csv_fields(text, "--secret")]
    if len(fields) == 1 and not fields[0][1]:
        given = {"source": text}
    else:
        given = {_ALIASES.get(key, key): value for key, _, value in fields}
    kind, source = given.pop("type", "mount"), given.pop("source", "")
    unknown = set(given) - {"id", "target"}
    if unknown or kind not in ("mount", "file") or not source:
        what = f"{', '.join(sorted(unknown))} is not known" if unknown else "no file is named"
        raise UsageError(f"{option}: {what}", hint="--secret id=NAME,src=FILE; --env-file")
    path = host_path(source, option)
    if not os.path.isfile(path):
        raise UsageError(f"{option}: there is no file {path}")
    place = given.get("target") or given.get("id") or os.path.basename(path)
    return Bind(path, _inside(posixpath.join(_SECRETS, place), option), readonly=True)


def _devices(
    given: tuple[str, ...], notes: list[str]
) -> tuple[tuple[DeviceNode, ...], tuple[str, ...], str]:
    """Return the device nodes, the names of devices in CDI's words, and which GPUs these mean."""
    if not given:
        return (), (), ""
    from udocker.commands.options.gpu import CDI_KIND
    from udocker.nvidia.cdi import names

    named = tuple(text for text in given if names.is_qualified(text))
    for text in named:
        try:
            names.parse(text)
        except ValueError as error:
            raise UsageError(f"--device {text!r}: {error}") from error
    nodes = tuple(_device(text, notes) for text in given if text not in named)
    gpus = ",".join(text[len(CDI_KIND) :] for text in named if text.startswith(CDI_KIND))
    return nodes, named, gpus


def _device(text: str, notes: list[str]) -> DeviceNode:
    """Read `SRC[:DST][:rwm]`. What is not there is told when the program is to be started."""
    source, *rest = text.split(":")
    rights = rest.pop() if rest and rest[-1] and set(rest[-1]) <= set("rwm") else "rwm"
    if len(rest) > 1:
        raise UsageError(f"--device {text!r} is not SRC[:DST[:rwm]]")
    if not {"r", "w"} <= set(rights):
        notes.append(f"--device {text}: the caller's rights to the node hold, not {rights!r}")
    source = os.path.normpath(source)
    if not source.startswith("/dev/"):
        raise UsageError(f"--device {text!r}: {source!r} is no device node of this host")
    return DeviceNode(source, _inside(rest[0] if rest else source, f"--device {text!r}"))
