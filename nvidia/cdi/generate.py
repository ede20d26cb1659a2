"""A specification of this node's GPUs, for tools that read CDI and bring no discovery: podman.

It needs no program of NVIDIA's on the node and none in the image. Its runtime has to do no more
than mount: every library shows under the names that programs open, in the directories where the
loaders of Debian and of Red Hat's family look when a cache does not know a name. With `hooks`
it has the form of NVIDIA's own generator, with libraries where the host has them.

Source: nvidia-container-toolkit 1.20 for kinds, names and hooks; ld.so(8) for the directories.
"""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.host import ldcache
from udocker.nvidia.cdi import spec
from udocker.nvidia.cdi.driverfiles import KIND
from udocker.nvidia.driver import libraries
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from udocker.host.probe import Host
    from udocker.nvidia.devices.gpus import Gpu
    from udocker.nvidia.driver.installation import Driver, DriverLibrary

VERSION = "0.5.0"
"""The oldest version that allows names that begin with a digit: podman 4 knows no later one."""
_READ_ONLY = ("ro", "nosuid", "nodev", "rbind", "rprivate")
_SOCKETS = ("nosuid", "nodev", "noexec", "rbind", "rprivate")
_CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
_WITHOUT_HOOKS = """\
No hook is needed to use this: libraries show by name in the directories where loaders look.
What only a hook could do is not done: an image's own ld.so.cache is not changed, so what it says
of another driver counts, and LD_LIBRARY_PATH as well; the driver's library may try to make
device nodes (it fails, which does no harm); unselected GPUs are not hidden from EGL and Vulkan.
"""
_ROOTLESS = """\
Rootless podman: nodes that only a group may open need `--group-add keep-groups`.
"""


@dataclass(frozen=True)
class Wish:
    """What a specification is to look like."""

    kind: str = KIND
    by_index: bool = True
    """GPUs are named by their number on this node."""
    by_uuid: bool = True
    capabilities: tuple[str, ...] = tuple(
        word for word in libraries.CAPABILITIES if word != libraries.COMPAT32
    )
    hooks: str = ""
    """Path of `nvidia-cdi-hook`, to be called as NVIDIA's specifications do; empty: no hooks."""
    library_directories: tuple[str, ...] = ()
    """Of the container, for 64-bit libraries; empty: where the usual loaders look."""


def document(host: Host, driver: Driver, gpus: tuple[Gpu, ...], wish: Wish) -> dict[str, Any]:
    """Return the specification of `gpus` with `driver`, as a JSON value that is valid.

    Raises ValueError for a kind that is none, and when there would be no device in it.
    """
    made = {
        "cdiVersion": "0.6.0" if "." in wish.kind.partition("/")[2] else VERSION,
        "kind": wish.kind,
        "devices": [*_devices(host, gpus, wish)],
        "containerEdits": _common(host, driver, wish),
    }
    spec.parse(made)
    return made


def text(value: dict[str, Any], driver_version: str, *, as_json: bool) -> str:
    """Return a specification as a file has it; in YAML, with what people should know of it."""
    if as_json:
        import json

        return json.dumps(value, indent=2) + "\n"
    from udocker.nvidia.cdi import yamlfile

    hookless = "hooks" not in value["containerEdits"]
    said = f"GPUs of this node with driver {driver_version}, by `udocker gpu cdi`.\n"
    said += "To be made anew when the driver or the GPUs are others.\n"
    said += (_WITHOUT_HOOKS if hookless else "") + _ROOTLESS
    comment = "".join(f"# {line}\n" for line in said.splitlines())
    return comment + "---\n" + yamlfile.dumps(fastjson.loads(fastjson.dumps(value)))


def _devices(host: Host, gpus: tuple[Gpu, ...], wish: Wish) -> Iterator[dict[str, Any]]:
    """Yield the GPUs, and in the place of one in MIG mode its parts: nothing runs on the whole.

    What another job has is left out: nobody who reads this could open it.
    """
    every: dict[str, dict[str, str]] = {}
    for index, gpu in enumerate(gpus):
        named = [(str(index), gpu.uuid, [{"path": gpu.node}, *_rendering(host, gpu, wish)])]
        if gpu.mig:
            named = [
                (f"{index}:{number}", part.uuid, [{"path": a} for a in (gpu.node, *part.nodes)])
                for number, part in enumerate(gpu.mig)
                if part.accessible
            ]
        for number, uuid, nodes in named if gpu.accessible else ():
            every.update((node["path"], node) for node in nodes)
            if wish.by_index:
                yield _device(number, nodes)
            if wish.by_uuid and uuid:
                yield _device(uuid, nodes)
    if every:
        yield _device("all", [*every.values()])


def _device(name: str, nodes: list[dict[str, str]]) -> dict[str, Any]:
    return {"name": name, "containerEdits": {"deviceNodes": nodes}}


def _rendering(host: Host, gpu: Gpu, wish: Wish) -> Iterator[dict[str, str]]:
    """Yield the nodes by which graphics libraries reach a GPU, by number and by PCI address.

    The latter are links on the host; as nodes they need no hook that makes links.
    """
    if not {libraries.GRAPHICS, libraries.DISPLAY}.intersection(wish.capabilities):
        return
    try:
        names = sorted(os.listdir(host.path(f"/sys/bus/pci/devices/{gpu.pci}/drm")))
    except OSError:
        return
    for name in names:
        if name.startswith(("card", "renderD")) and host.exists(f"/dev/dri/{name}"):
            kind = "card" if name.startswith("card") else "render"
            yield {"path": f"/dev/dri/{name}"}
            yield {
                "path": f"/dev/dri/by-path/pci-{gpu.pci}-{kind}",
                "hostPath": f"/dev/dri/{name}",
            }


def _common(host: Host, driver: Driver, wish: Wish) -> dict[str, Any]:
    wanted = set(wish.capabilities)
    chosen = [a for a in driver.libraries if wanted.intersection(a.capabilities)]
    if libraries.COMPAT32 in wanted:
        chosen += [a for a in driver.libraries32 if wanted.intersection(a.capabilities)]
    mounts = _hosts_mounts(host, chosen) if wish.hooks else _named_mounts(host, chosen, wish)
    mounts += [
        _mount(host, file.source, file.destination)
        for file in driver.binaries + driver.files
        if file.capability in wanted
    ]
    mounts += [
        _mount(host, socket.source, socket.destination, _SOCKETS)
        for socket in driver.sockets
        if socket.capability in wanted
    ]
    common = {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],  # so that NVIDIA's runtime does nothing beside it
        "deviceNodes": [{"path": path} for path in _CONTROL if host.exists(path)],
        "mounts": _once(mounts),
    }
    if wish.hooks:
        common["hooks"] = [*_hooks(host, driver, chosen, wish.hooks)]
    return common


def _named_mounts(host: Host, chosen: Iterable[DriverLibrary], wish: Wish) -> list[dict[str, Any]]:
    """Return mounts of libraries under the names that programs open."""
    return [
        _mount(host, library.path, "/".join(filter(None, (place, library.plugin_directory, name))))
        for library in chosen
        for place in _places(host, library, wish)
        for name in (library.soname, *library.extra_names)
    ]


def _places(host: Host, library: DriverLibrary, wish: Wish) -> tuple[str, ...]:
    """Return the directories of a container in which a library is looked for unasked.

    Debian's loader looks in those of its multiarch tuple, that of Red Hat and SUSE in lib64.
    """
    if library.bits == 32:
        return _multiarch(ldcache.COMPAT32.get(host.machine, host.machine)), "/usr/lib"
    return wish.library_directories or (_multiarch(host.machine), "/usr/lib64")


def _multiarch(machine: str) -> str:
    return next(a for a in ldcache.default_directories(machine) if a.startswith("/usr/lib/"))


def _hosts_mounts(host: Host, chosen: Iterable[DriverLibrary]) -> list[dict[str, Any]]:
    """Return mounts of libraries at their own paths, as NVIDIA's generator has them."""
    return [_mount(host, library.path, library.path[len(host.root) :]) for library in chosen]


def _mount(
    host: Host, source: str, destination: str, options: tuple[str, ...] = _READ_ONLY
) -> dict[str, Any]:
    return {
        "hostPath": source[len(host.root) :],
        "containerPath": destination,
        "options": [*options],
    }


def _once(mounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mounts, the first of each path."""
    last: dict[str, dict[str, Any]] = {}
    for mount in mounts:
        last.setdefault(mount["containerPath"], mount)
    return [*last.values()]


def _hooks(
    host: Host, driver: Driver, chosen: list[DriverLibrary], program: str
) -> Iterator[dict[str, Any]]:
    links: list[str] = []
    folders: dict[str, None] = {}
    for library in chosen:
        path = library.path[len(host.root) :]
        directory, name = os.path.split(path)
        if library.plugin_directory == "gbm":
            links += ["--link", f"../{name}::{directory}/gbm/{library.soname}"]
            continue
        folders[directory] = None
        for extra in library.extra_names:
            links += ["--link", f"{library.soname}::{directory}/{extra}"]
    if links:
        yield _hook(program, "create-symlinks", *links)
    yield _hook(program, "enable-cuda-compat", f"--host-driver-version={driver.version}")
    words = [word for folder in folders for word in ("--folder", folder)]
    yield _hook(program, "update-ldcache", *words)
    yield _hook(program, "disable-device-node-modification")
    yield _hook(program, "update-application-profile")


def _hook(program: str, *words: str) -> dict[str, Any]:
    return {
        "hookName": "createContainer",
        "path": program,
        "args": [os.path.basename(program), *words],
    }
