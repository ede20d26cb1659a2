"""Which library of the host goes into which image, and why: a verdict for each.

Driver-locked libraries are right only with the loaded kernel module, so the host's win over the
image's. Vendor-neutral dispatchers are the image's own, the host's only where it has none. What
either needs comes along where the image lacks it. The C and C++ run time is always the image's.
"""

from __future__ import annotations

from udocker.host import ldcache
from udocker.host.loader import STORES, Loader
from udocker.host.root import Root
from udocker.nvidia.driver import libraries
from udocker.nvidia.driver.installation import DriverLibrary, glibc_version
from udocker.nvidia.placement import baked, closure, compat
from udocker.nvidia.placement.closure import Fitting
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.nvidia.driver.installation import Driver

LOCKED, NEUTRAL, DEPENDENCY = "driver-locked", "vendor-neutral", "dependency"
FORBIDDEN, COMPAT, BAKED = "forbidden", "compat", "baked"
OK, SKIP, FATAL = "ok", "skip", "fatal"

DLOPENED = {
    "libcuda": (
        *("libnvidia-ptxjitcompiler", "libnvidia-nvvm", "libnvidia-nvvm70", "libnvidia-gpucomp"),
        *("libnvidia-ml", "libnvidia-pkcs11", "libnvidia-pkcs11-openssl3", "libnvidia-tileiras"),
        "libcudadebugger",
    )
}
"""What a library opens by name while it runs, which no ELF header tells. Source: strings of
libcuda 535 to 590, as audited by third parties."""
_EXTERNAL_PLATFORMS = "libnvidia-egl-"
"""Free libraries that distributions build too: tied to their libwayland, not to the driver."""
_DISTRIBUTIONS = (
    ((2, 17), "CentOS 7"),
    ((2, 28), "Debian 10 and Rocky Linux 8"),
    ((2, 31), "Debian 11 and Ubuntu 20.04"),
    ((2, 34), "Ubuntu 22.04 and Rocky Linux 9"),
    ((2, 36), "Debian 12 and Ubuntu 24.04"),
    ((2, 39), "Ubuntu 24.04 and Rocky Linux 10"),
    ((2, 41), "Debian 13"),
)
"""The oldest common systems that have a glibc, or a newer one."""
_PLATFORMS = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
_WHOLE = "use an image with all libraries of glibc, as those of distributions have them"


@dataclass(frozen=True)
class Verdict:
    """What becomes of one library, and why."""

    soname: str
    source: str
    """Host path; for `compat` and `baked` the path in the image."""
    kind: str
    """`driver-locked`, `vendor-neutral`, `dependency`, `forbidden`, `compat` or `baked`."""
    decision: str
    """`ok` (it is used), `skip`, or `fatal` (without it the GPUs cannot be used at all)."""
    reason: str
    """In one sentence."""
    bits: int = 64
    hint: str = ""
    """The way out, of a fatal one."""


@dataclass(frozen=True)
class Obstacle:
    """Why an image can load nothing of the host."""

    reason: str
    hint: str = ""
    """The way out; empty: programs of the image do not miss the GPUs."""


@dataclass(frozen=True)
class Selection:
    """The libraries that go into an image, and the verdicts on them and all others."""

    verdicts: tuple[Verdict, ...] = ()
    first: tuple[DriverLibrary, ...] = ()
    """Searched before the image's own."""
    fallback: tuple[DriverLibrary, ...] = ()
    """Only for names that the image has not."""


def judge(
    driver: Driver,
    capabilities: tuple[str, ...],
    image: Root,
    machine: str,
    *,
    host_root: str = "",
    mode: str = "auto",
    library_path: str = "",
) -> tuple[Verdict, ...]:
    """Return a verdict on every library of the driver that serves `capabilities`, and related ones.

    `host_root` is where the host's own files lie, `mode` that of `compat.decide`, `library_path`
    the program's LD_LIBRARY_PATH. Nothing is written.
    """
    loader = Loader(image, machine)
    decision = compat.decide(image, driver.version, mode)
    found = baked.find(loader, driver, library_path, decision.directories)
    return (
        *_compat_verdicts(decision),
        *select(driver, capabilities, loader, host_root).verdicts,
        *(_baked_verdict(file, driver) for file in found),
    )


def select(
    driver: Driver, capabilities: tuple[str, ...], image: Loader, host_root: str = ""
) -> Selection:
    """Return what of `driver` goes into the image, of both sizes where `compat32` is wanted.

    `image` is the loader of its 64-bit programs.
    """
    host = Loader(Root(host_root), image.machine)
    whole = _select(driver.libraries, driver.vendor_neutral, capabilities, image, host)
    smaller = ldcache.COMPAT32.get(image.machine)
    if libraries.COMPAT32 not in capabilities or smaller is None:
        return whole
    image = Loader(image.root, smaller, image.cache)
    host = Loader(host.root, smaller, host.cache)
    half = _select(driver.libraries32, driver.vendor_neutral, capabilities, image, host)
    return Selection(
        whole.verdicts + half.verdicts, whole.first + half.first, whole.fallback + half.fallback
    )


def newer_image(needs: tuple[str, ...]) -> str:
    """Return a hint that names systems with the glibc that `needs` mean (`GLIBC_2.34`)."""
    number = max(map(glibc_version, needs), default=())
    known = next((names for since, names in _DISTRIBUTIONS if number <= since), "")
    if not number or not known:
        return "use an image with a newer distribution"
    version = ".".join(map(str, number))
    return f"use an image with glibc {version} or newer, such as {known}"


def obstacle_of(image: Loader) -> Obstacle:
    """Return why no library of the host can be loaded in an image without a fitting glibc."""
    machines = {image.machine, ldcache.COMPAT32.get(image.machine)}
    if image.root.exists(f"/lib/ld-musl-{image.machine}.so.1"):
        reason = "musl image (Alpine): NVIDIA's libraries need glibc"
        return Obstacle(reason, "use an image based on Debian, Ubuntu or a Red Hat")
    if image.machine in ldcache.COMPAT32.values():
        return Obstacle("the image has no 32-bit C library")
    for machine in sorted(ldcache.FLAGS.keys() - machines - set(ldcache.COMPAT32.values())):
        if closure.glibc_of(Loader(image.root, machine, image.cache)):
            reason = f"the image is for {machine}, and the driver for {image.machine}"
            return Obstacle(reason, "use the image for this machine: udocker pull --platform")
    return Obstacle(
        "the image has no C library: only static programs run in it, without the driver"
    )


def is_stored(image: Loader) -> bool:
    """Tell whether an image's C library is in a store, as Nix and Guix build images."""
    libc = image.find("libc.so.6")
    return libc is not None and libc.path.startswith(STORES)


def _select(
    offered: tuple[DriverLibrary, ...],
    dispatchers: tuple[DriverLibrary, ...],
    capabilities: tuple[str, ...],
    image: Loader,
    host: Loader,
) -> Selection:
    bits = 32 if image.machine in ldcache.COMPAT32.values() else 64
    locked = tuple(a for a in offered if not is_external_platform(a))
    platforms = tuple(a for a in offered if is_external_platform(a))
    neutral = (*(a for a in dispatchers if a.bits == bits), *platforms)
    return _Court(image, host, locked, neutral).select(capabilities)


def is_external_platform(library: DriverLibrary) -> bool:
    """Tell whether a library is one of EGL's external platforms, which no driver version has."""
    return library.soname.startswith(_EXTERNAL_PLATFORMS)


class _Court:
    """Verdicts on the host's libraries for one image and one size of words."""

    def __init__(
        self,
        image: Loader,
        host: Loader,
        locked: tuple[DriverLibrary, ...],
        neutral: tuple[DriverLibrary, ...],
    ) -> None:
        self._image = image
        self._locked = locked
        self._neutral = neutral
        self._kinds = {_key(library): NEUTRAL for library in neutral}
        self._kinds.update((_key(library), LOCKED) for library in locked)
        self._fitting = Fitting(locked, neutral, image, host)
        self._verdicts: dict[tuple[str, str], Verdict] = {}
        self._chosen: dict[tuple[str, str], DriverLibrary] = {}

    def select(self, capabilities: tuple[str, ...]) -> Selection:
        glibc = self._fitting.glibc
        obstacle = None if glibc else obstacle_of(self._image)
        for library in self._wanted(capabilities):
            if obstacle:
                self._refuse(library, obstacle)
            else:
                self._judge_locked(library)
        if glibc:
            for library in self._neutral:
                if set(library.capabilities).intersection(capabilities):
                    self._judge_neutral(library)
            self._bring_along()
            self._tell_forbidden(glibc)
        first = [a for a in self._chosen.values() if self._kinds.get(_key(a)) == LOCKED]
        fallback = [a for a in self._chosen.values() if self._kinds.get(_key(a)) != LOCKED]
        return Selection(tuple(self._verdicts.values()), tuple(first), tuple(fallback))

    def _wanted(self, capabilities: tuple[str, ...]) -> list[DriverLibrary]:
        serving = [a for a in self._locked if set(a.capabilities).intersection(capabilities)]
        bases = {_base(a) for a in serving}
        opened = {name for base in bases for name in DLOPENED.get(base, ())}
        return serving + [a for a in self._locked if _base(a) in opened - bases]

    def _judge_locked(self, library: DriverLibrary) -> None:
        fault = self._fitting.misfit(library)
        if not fault:
            self._keep(library, LOCKED, OK, "the one that fits the kernel module")
        elif _is_core(library):
            hint = newer_image(library.glibc_needs) if "too old" in fault else _WHOLE
            self._keep(library, LOCKED, FATAL, fault, hint)
        else:
            self._keep(library, LOCKED, SKIP, fault)

    def _refuse(self, library: DriverLibrary, obstacle: Obstacle) -> None:
        fatal = obstacle.hint and _is_core(library)
        hint = obstacle.hint if fatal else ""
        self._keep(library, LOCKED, FATAL if fatal else SKIP, obstacle.reason, hint)

    def _judge_neutral(self, library: DriverLibrary) -> None:
        own = self._image.find(library.soname)
        if own:
            self._keep(library, NEUTRAL, SKIP, f"the image has its own, {own.path}")
            return
        fault = self._fitting.misfit(library)
        if fault:
            self._keep(library, NEUTRAL, SKIP, f"{fault}, and the image has none")
        else:
            self._keep(library, NEUTRAL, OK, "the image has none")

    def _bring_along(self) -> None:
        for library, user in self._fitting.needs(tuple(self._chosen.values())).values():
            kind = self._kinds.get(_key(library), DEPENDENCY)
            more = "" if kind == LOCKED else ", and the image has none"
            self._keep(library, kind, OK, f"{user} needs it{more}")

    def _tell_forbidden(self, glibc: str) -> None:
        names = {name for library in self._chosen.values() for name in library.needed}
        for name in sorted(names):
            own = self._image.find(name) if name.startswith(libraries.FORBIDDEN) else None
            if own:
                which = f" (glibc {glibc})" if name.startswith("libc.so.") else ""
                reason = f"always the image's own, {own.path}{which}"
                bits = own.facts.bits
                self._verdicts[name, ""] = Verdict(name, "", FORBIDDEN, SKIP, reason, bits)

    def _keep(
        self, library: DriverLibrary, kind: str, decision: str, reason: str, hint: str = ""
    ) -> None:
        self._verdicts[_key(library)] = Verdict(
            library.soname, library.path, kind, decision, reason, library.bits, hint
        )
        if decision == OK:
            self._chosen[_key(library)] = library


def _compat_verdicts(decision: compat.Decision) -> tuple[Verdict, ...]:
    taken = OK if decision.use else SKIP
    return tuple(
        Verdict(library.soname, library.path, COMPAT, taken, decision.reason)
        for library in decision.libraries
    )


def _baked_verdict(file: baked.BakedFile, driver: Driver) -> Verdict:
    reason = f"left in the image by a driver {file.version}: the host's {driver.version} hides it"
    return Verdict(file.soname, file.path, BAKED, SKIP, reason)


def _key(library: DriverLibrary) -> tuple[str, str]:
    """Return what tells a library from a plug-in that is a link to the same file."""
    return library.path, library.plugin_directory


def _is_core(library: DriverLibrary) -> bool:
    return _base(library) in libraries.CORE and library.bits == 64


def _base(library: DriverLibrary) -> str:
    return library.soname.partition(".so")[0]
