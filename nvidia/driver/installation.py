"""An installed NVIDIA driver as values: what was found of it, and how that is kept as JSON."""

from __future__ import annotations

from udocker.nvidia.driver import libraries
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIBC_FAMILY = ("libc.so.", "libm.so.", "libpthread.so.", "libdl.so.", "librt.so.", "ld-linux")


@dataclass(frozen=True)
class DriverLibrary:
    """A library of the driver, or a dispatcher that belongs to none. Host paths have no links."""

    path: str
    """Host path."""
    soname: str
    """The name that programs open: its SONAME, or the file name of a plug-in."""
    extra_names: tuple[str, ...]
    """Other names that programs open (`libcuda.so`)."""
    capabilities: tuple[str, ...]
    plugin_directory: str = ""
    """`vdpau` or `gbm` when it is looked for in a directory of that name."""
    bits: int = 64
    """64, or 32 for programs of the machine's smaller sister (i386, armhf)."""
    needed: tuple[str, ...] = ()
    """The names of the libraries that it is linked to."""
    version_needs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """For each needed file: the versions it must define (weak needs are left out)."""
    version_definitions: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    """Where it looks for what it needs, `$ORIGIN` as written: its RUNPATH, else its RPATH."""

    @property
    def glibc_needs(self) -> tuple[str, ...]:
        """The newest `GLIBC_` version and every `GLIBC_ABI_` one that the C library must define."""
        needs = [names for file, names in self.version_needs if file.startswith(_LIBC_FAMILY)]
        names = {name for some in needs for name in some if name.startswith("GLIBC_")}
        numbered = [name for name in names if glibc_version(name)]
        kinds = sorted(name for name in names if name.startswith("GLIBC_ABI_"))
        return (*([max(numbered, key=glibc_version)] if numbered else []), *kinds)


@dataclass(frozen=True)
class DriverFile:
    """A program or configuration file of the driver, and where it goes in a container."""

    source: str
    destination: str
    capability: str


@dataclass(frozen=True)
class Driver:
    """A loaded driver and what of it is on disk."""

    version: str
    """Of the kernel module."""
    key: str
    """Another one whenever anything below may be different."""
    libraries: tuple[DriverLibrary, ...]
    """Driver-locked ones of 64 bits: right only with this kernel module."""
    binaries: tuple[DriverFile, ...] = ()
    files: tuple[DriverFile, ...] = ()
    sockets: tuple[DriverFile, ...] = ()
    """Directories of sockets."""
    other_versions: tuple[str, ...] = ()
    """Versions of libcuda on disk other than the kernel module's."""
    libraries32: tuple[DriverLibrary, ...] = ()
    """Driver-locked ones of 32 bits, for the capability `compat32`."""
    vendor_neutral: tuple[DriverLibrary, ...] = ()
    """The host's dispatchers (libGL, libOpenCL, ...) of either size: for images without any."""
    source: str = ""
    """What told the files: `cdi SPECFILE`, `filelist` (the driver's own list) or `names`."""
    layout: str = ""
    """Where libcuda and NVML lie, in a word for people; two words with `+` between where apart."""
    flavour: str = ""
    """`open` or `proprietary`; empty when the kernel module does not say."""
    doubts: tuple[str, ...] = ()
    """Sentences about what does not fit together on this host, though the driver is usable."""
    unreadable: tuple[str, ...] = ()
    """Files that have the right name but are no library for programs of 64 or 32 bits."""

    @property
    def obstacle(self) -> str | None:
        """Why programs cannot use this driver, in one sentence; None when they can."""
        found = {library.soname.partition(".so")[0] for library in self.libraries}
        missing = [name for name in libraries.CORE if name not in found]
        if not missing:
            return None
        if self.unreadable:
            return (
                f"kernel driver is {self.version} but {self.unreadable[0]} is not a library that"
                " can be read: it is damaged, or not yet written to its end"
            )
        if self.other_versions:
            return (
                f"kernel driver is {self.version} but libcuda on disk is {self.other_versions[-1]}:"
                " the node was updated without reboot"
            )
        name = f"{missing[0]}.so.{self.version}"
        of_32_bits = any(a.soname.startswith(f"{missing[0]}.so") for a in self.libraries32)
        only = " for programs of 64 bits, only for those of 32" if of_32_bits else ""
        return f"kernel driver is {self.version} but no {name} is on disk{only}"

    @property
    def cure(self) -> str:
        """What helps against the obstacle."""
        if self.unreadable or self.other_versions:
            return "tell the administrators (nvidia-smi on the host fails the same way)"
        return (
            "where the driver lies in an unusual place, name its directory in LD_LIBRARY_PATH;"
            " else tell the administrators"
        )


def glibc_version(name: str) -> tuple[int, ...]:
    """Return (2, 34) for `GLIBC_2.34`; nothing for names without a number."""
    parts = name[len("GLIBC_") :].split(".")
    numeric = name.startswith("GLIBC_") and all(p.isdigit() and len(p) < 8 for p in parts)
    return tuple(map(int, parts)) if numeric else ()


def to_json(driver: Driver | None) -> list[Any]:
    """Return `driver` as lists and strings."""
    if driver is None:
        return []
    return [
        driver.version,
        driver.key,
        *(
            [_library_to_json(library) for library in some]
            for some in (driver.libraries, driver.libraries32, driver.vendor_neutral)
        ),
        *(
            [[f.source, f.destination, f.capability] for f in some]
            for some in (driver.binaries, driver.files, driver.sockets)
        ),
        driver.other_versions,
        [driver.source, driver.layout, driver.flavour],
        driver.doubts,
        driver.unreadable,
    ]


def from_json(value: Any) -> Driver | None:
    """Return the driver that `to_json` wrote; None for anything else."""
    try:
        version, key, held, held32, neutral, binaries, files, sockets, *rest = value
        others, words, doubts, unreadable = rest
        source, layout, flavour = words
        return Driver(
            version=version,
            key=key,
            libraries=tuple(map(_library_from_json, held)),
            libraries32=tuple(map(_library_from_json, held32)),
            vendor_neutral=tuple(map(_library_from_json, neutral)),
            binaries=tuple(DriverFile(*file) for file in binaries),
            files=tuple(DriverFile(*file) for file in files),
            sockets=tuple(DriverFile(*file) for file in sockets),
            other_versions=tuple(others),
            source=source,
            layout=layout,
            flavour=flavour,
            doubts=tuple(doubts),
            unreadable=tuple(unreadable),
        )
    except (TypeError, ValueError):
        return None


def _library_to_json(library: DriverLibrary) -> list[Any]:
    return [
        library.path,
        library.soname,
        library.extra_names,
        library.capabilities,
        library.plugin_directory,
        library.bits,
        library.needed,
        library.version_needs,
        library.version_definitions,
        library.runpath,
    ]


def _library_from_json(value: Any) -> DriverLibrary:
    path, soname, extra, words, plugin, bits, needed, needs, definitions, runpath = value
    return DriverLibrary(
        path,
        soname,
        tuple(extra),
        tuple(words),
        plugin,
        bits,
        tuple(needed),
        tuple((file, tuple(names)) for file, names in needs),
        tuple(definitions),
        tuple(runpath),
    )
