"""The devices that the specifications of this node describe."""

from __future__ import annotations

import os

from udocker.errors import StartError
from udocker.nvidia.cdi import names, reading
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from udocker.host.probe import Host
    from udocker.nvidia.cdi.spec import Device, Spec

SYSTEM_DIRECTORIES = ("/etc/cdi", "/var/run/cdi")
"""In ascending priority: what vendors install, and what is made at boot."""
VARIABLE = "UDOCKER_CDI_DIRS"
"""Further directories, with colons between them."""
_MOST_FILES = 256
_TOLD = 12


@dataclass(frozen=True)
class Found:
    """A device, with the specification that it is in."""

    spec: Spec
    device: Device


@dataclass(frozen=True)
class Registry:
    """Devices by their qualified names, and what could not be used of the files."""

    directories: tuple[str, ...]
    """Host paths that were searched, in ascending priority."""
    devices: Mapping[str, Found]
    faults: tuple[str, ...] = ()
    """Files that are no valid specification, and devices of which there are two."""

    def resolve(self, wanted: Iterable[str]) -> tuple[Found, ...]:
        """Return the devices of these qualified names, each once.

        Raises StartError that names all that are not there, and what is.
        """
        unique = tuple(dict.fromkeys(wanted))
        missing = [name for name in unique if name not in self.devices]
        if missing:
            raise self._unknown(missing)
        return tuple(self.devices[name] for name in unique)

    def _unknown(self, missing: list[str]) -> StartError:
        what = "device" if len(missing) == 1 else "devices"
        known = [*self.devices]
        told = ", ".join(known[:_TOLD]) + (f", ... ({len(known)})" if len(known) > _TOLD else "")
        parts = [f"searched {', '.join(self.directories)}", f"there is {told or 'no device'}"]
        parts += self.faults
        return StartError(
            f"cdi: no specification on this node has the {what} {', '.join(missing)}",
            hint="; ".join(parts),
        )


def directories(
    host: Host, environment: Mapping[str, str], more: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return where specifications are looked for, as host paths in ascending priority.

    The node's own, the user's, those of `UDOCKER_CDI_DIRS`, and `more`.
    """
    found = [host.path(path) for path in SYSTEM_DIRECTORIES]
    home, runtime = environment.get("HOME", ""), environment.get("XDG_RUNTIME_DIR", "")
    config = environment.get("XDG_CONFIG_HOME", "") or (home and f"{home}/.config")
    found += [f"{path}/cdi" for path in (config, runtime) if path.startswith("/")]
    found += [path for path in environment.get(VARIABLE, "").split(":") if path.startswith("/")]
    return tuple(dict.fromkeys([*found, *more]))


def scan(searched: tuple[str, ...], cache_directory: str | None = None) -> Registry:
    """Return what the files in directories say; of two that say the same the later counts.

    Of a device that two files of one directory describe none can be had: nobody knows which is
    meant. Directories that are not there hold nothing. Source: CDI specification, cache.go.
    """
    devices: dict[str, Found] = {}
    faults: list[str] = []
    for directory in searched:
        here: dict[str, Found] = {}
        twins: dict[str, str] = {}
        for path in files(directory):
            file = reading.load(path, cache_directory)
            if file.spec is None:
                faults.append(f"{path} is not used: {file.fault}")
                continue
            for device in file.spec.devices:
                name = f"{file.spec.kind}={device.name}"
                if name in here:
                    twins[name] = f"{name} is in {here[name].spec.path} and in {path}: not used"
                here[name] = Found(file.spec, device)
        devices.update(here)
        for name in twins:
            del devices[name]
        faults += twins.values()
    return Registry(searched, devices, tuple(faults))


def files(directory: str) -> list[str]:
    """Return the host paths of the specifications in a directory, none where it is not there."""
    try:
        entries = sorted(os.listdir(directory))
    except OSError:
        return []
    found = [name for name in entries if name.endswith(reading.SUFFIXES)]
    return [os.path.join(directory, name) for name in found[:_MOST_FILES]]


def parse_names(texts: Iterable[str]) -> tuple[names.QualifiedName, ...]:
    """Return qualified names, parsed. Raises StartError."""
    found = []
    for text in texts:
        try:
            found.append(names.parse(text))
        except ValueError as error:
            raise StartError(f"cdi: {text!r} names no device: {error}") from error
    return tuple(found)
