"""What the hooks of specifications would do to a container, done without running them.

Vendors' specifications hold calls of NVIDIA's `nvidia-cdi-hook`, `nvidia-ctk hook` in older ones,
which change the container's files as root before its program starts. Here every call adds to the
edits instead. Source: nvidia-container-toolkit 1.20, cmd/nvidia-cdi-hook.
"""

from __future__ import annotations

import os

from udocker.containers.spec import Bind, ContainerEdits, DeviceNode, Symlink
from udocker.errors import StartError
from udocker.host import ldcache
from udocker.nvidia import ldconfig
from udocker.nvidia.cdi import driverfiles, loading
from udocker.nvidia.cdi.surroundings import Result, Surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from udocker.nvidia.cdi.spec import Hook

_PROGRAMS = ("nvidia-cdi-hook", "nvidia-ctk")
_MAX_LINKS = 40
_GPU_NODE = "/dev/nvidia"
_MADE_WITH = "755"
"""Mode of directories that are made in a container."""


class Call:
    """A call of a hook that is known: its name, and its options with their values."""

    def __init__(self, hook: Hook) -> None:
        words = [word for word in hook.args[1:] if word not in ("--quiet", "--debug")]
        if words[:1] == ["hook"]:
            words = words[1:]
        self.name = words[0] if words else ""
        self._options = [*_options(words[1:])]

    def values(self, name: str) -> tuple[str, ...]:
        """Return the values of an option that may be given several times."""
        return tuple(value for option, value in self._options if option == name)


def _options(words: list[str]) -> list[tuple[str, str]]:
    """Return options and values of `--name value` and `--name=value`, with one dash or two."""
    found = []
    waiting = [*words]
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals and waiting and not waiting[0].startswith("-"):
            value = waiting.pop(0)
        found.append((name, value))
    return found


def emulate(
    hooks: tuple[tuple[str, Hook], ...], around: Surroundings, *, ignore_unknown: bool = False
) -> Result:
    """Return what `hooks`, each with the path of its file, add to the container `around` them.

    Raises StartError for a hook that is not known, unless they are to be ignored.
    """
    made = _Made(around)
    for path, hook in hooks:
        call = Call(hook)
        programs = (os.path.basename(hook.path), os.path.basename((*hook.args, "")[0]))
        act = _ACTIONS.get(call.name) if set(programs).intersection(_PROGRAMS) else None
        if act is not None:
            act(made, call)
            continue
        named = " ".join(filter(None, (hook.path, call.name)))[:120]
        if not ignore_unknown:
            raise StartError(
                f"cdi: {path}: the {hook.stage} hook {named} is a program that only root may run"
                " on a container, and what it does is not known here",
                hint="--cdi-ignore-hooks starts the container without it",
            )
        made.notes.append(f"cdi: {path}: the hook {named} is left out")
    return made.result()


class _Made:
    """What the hooks have made so far."""

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self._shown: dict[str, Bind | DeviceNode] = {a.destination: a for a in around.nodes}
        self._shown.update((bind.destination, bind) for bind in around.binds)
        self.links: dict[str, str] = {}
        """Targets by the paths of links."""
        self.folders: dict[str, None] = {}
        """Directories of the container whose libraries the loader is to find."""
        self.soname_folders: dict[str, None] = {}
        """Directories whose libraries are to have links with their SONAMEs."""
        self.compat_for = ""
        """The driver's version, where the image's newer CUDA library may be taken."""
        self.binds: tuple[Bind, ...] = ()
        """Of generated files."""
        self.notes: list[str] = []

    def result(self) -> Result:
        """Return the edits that have come together."""
        binds = tuple(dict.fromkeys(self.binds))
        found = loading.libraries(self.around, self.soname_folders)
        for library in found:  # programs and other links lead to them
            if library.link not in self._shown:
                self.links.setdefault(library.link, os.path.basename(library.path))
        links = tuple(filter(None, map(self._symlink, self.links)))
        folders = tuple(self.folders)
        newer = self._newer_libraries()
        if folders or newer:
            binds += (loading.cache_bind(self.around, folders, found, links, newer),)
            binds += ldconfig.binds(self.around.image, self.around.cache_directory)
        edits = ContainerEdits(
            device_nodes=tuple(filter(None, map(self._node, self.links))),
            binds=binds,
            symlinks=links,
            library_dirs=folders,
        )
        edits |= self._search(folders, found)
        return Result(edits, tuple(self.notes))

    def _search(
        self, folders: tuple[str, ...], found: tuple[loading.Library, ...]
    ) -> ContainerEdits:
        """Return variables that would lead the program past the driver, as they must be.

        What has to come before a directory of the image is a directory of links to the driver
        alone: in `folders` may lie the image's own libraries, too.
        """
        program = dict(self.around.program_env)
        if not folders or not program.keys() & {"LD_LIBRARY_PATH", "LD_PRELOAD"}:
            return ContainerEdits()
        from udocker.nvidia.placement import baked, compat, placed, searchpath

        image, place = self.around.image, placed.DIRECTORY
        locked = [library for library in found if baked.is_locked(library.soname)]
        sonames = {a.soname.partition(".so")[0]: a.soname for a in locked}
        kept = tuple(image.locate(folder) or folder for folder in folders)
        version = self.compat_for or driverfiles.loaded_version(self.around.host)
        decision = compat.decide(image, version)
        kept += decision.directories if decision.use else ()
        search = searchpath.cleaned(program, image, (place,), sonames, kept)
        self.notes += search.notes
        is_used = any(place in value.split(":") for _, value in search.variables)
        links = [Symlink(f"{place}/{a.soname}", a.path) for a in locked if is_used]
        return ContainerEdits(env=search.variables, symlinks=tuple(links))

    def _newer_libraries(self) -> tuple[loading.Library, ...]:
        """Return the image's own newer CUDA libraries, where NVIDIA's rule takes them."""
        if not self.compat_for:
            return ()
        from udocker.nvidia.placement import compat

        decision = compat.decide(self.around.image, self.compat_for)
        if not decision.use:
            return ()
        self.notes.append(f"gpu: {decision.reason}")
        flags = ldcache.FLAGS.get(self.around.host.machine, 0)
        return tuple(loading.Library(a.path, a.soname, flags) for a in decision.libraries)

    def _symlink(self, path: str) -> Symlink | None:
        """Return a link to what the chain of links from `path` ends at.

        Nothing for a link that would be made in a directory of the host, and for one to nothing.
        """
        if path in self._shown:  # a mount is there already
            return None
        above = self._in_mount(path)
        if above is not None:
            if not os.path.lexists(above):
                self.notes.append(
                    f"cdi: {path} is not made: {os.path.dirname(above)} is the host's"
                )
            return None
        target = self._end(path)
        if self._node(path) or not self._is_there(target):
            return None
        directory = os.path.dirname(path)
        near = os.path.dirname(target) == directory
        return Symlink(path, os.path.basename(target) if near else target)

    def _node(self, path: str) -> DeviceNode | None:
        """Return the node that a link leads to, as it shows at the link's own path."""
        target = self._shown.get(self._end(path))
        if isinstance(target, DeviceNode) and path not in self._shown:
            return DeviceNode(target.source, path)
        return None

    def _end(self, path: str) -> str:
        for _ in range(_MAX_LINKS):
            target = self.links.get(path)
            if target is None:
                return path
            path = os.path.normpath(os.path.join(os.path.dirname(path), target))
        return path

    def _is_there(self, path: str) -> bool:
        if path in self._shown:
            return True
        mounted = self._in_mount(path)
        return os.path.exists(mounted) if mounted else self.around.image.exists(path)

    def _in_mount(self, path: str) -> str | None:
        """Return the host path of what a mounted directory above shows at `path`."""
        above = path
        while above:
            above = above.rpartition("/")[0]
            bind = self._shown.get(above)
            if isinstance(bind, Bind):
                return bind.source + path[len(above) :]
        return None


def _create_symlinks(made: _Made, call: Call) -> None:
    for text in call.values("link"):
        target, separator, path = text.partition("::")
        clean = "/" + os.path.normpath(path).lstrip("/")
        if separator and target and path.startswith("/") and clean != "/":
            made.links[clean] = target
        else:
            made.notes.append(f"cdi: {text[:120]!r} is no link that could be made")


def _update_ldcache(made: _Made, call: Call) -> None:
    for folder in call.values("folder"):
        if folder.startswith("/"):
            made.folders[os.path.normpath(folder)] = None
            made.soname_folders[os.path.normpath(folder)] = None  # as ldconfig(8) does


def _create_soname_symlinks(made: _Made, call: Call) -> None:
    for folder in call.values("folder"):
        if folder.startswith("/"):
            made.soname_folders[os.path.normpath(folder)] = None


def _enable_cuda_compat(made: _Made, call: Call) -> None:
    for version in call.values("host-driver-version")[:1]:
        made.compat_for = version


def _disable_device_node_modification(made: _Made, _: Call) -> None:
    from udocker.nvidia.devices import procfiles

    made.binds += procfiles.parameters(made.around.host, made.around.cache_directory)


def _update_application_profile(made: _Made, _: Call) -> None:
    """Graphics libraries look only at the GPUs whose nodes are there."""
    from udocker.nvidia.devices import procfiles

    paths = [a.destination for a in made.around.nodes if a.destination.startswith(_GPU_NODE)]
    numbers = [path[len(_GPU_NODE) :] for path in paths]
    minors = [int(text) for text in numbers if text.isdecimal() and len(text) < 6]
    made.binds += procfiles.profile_of(minors, made.around.cache_directory)


def _check_requirements(_: _Made, __: Call) -> None:
    """What an image requires of a GPU is judged whatever its specification says."""


def _apply_cuda_memory_limits(made: _Made, _: Call) -> None:
    if "NVIDIA_GPU_MEMORY_LIMIT" in dict(made.around.program_env):
        made.notes.append("cdi: limits of GPU memory are not set: that needs root")


def _chmod(made: _Made, call: Call) -> None:
    """A user may not change the mode of the host's nodes; what counts is whether they open.

    Directories that are made for nodes have the mode that NVIDIA's specifications ask for.
    """
    modes = {mode.lstrip("0") for mode in call.values("mode")}
    if call.values("path") and modes != {_MADE_WITH}:
        made.notes.append("cdi: modes of directories stay as they are: chmod needs root")


_ACTIONS: dict[str, Callable[[_Made, Call], None]] = {
    "create-symlinks": _create_symlinks,
    "update-ldcache": _update_ldcache,
    "create-soname-symlinks": _create_soname_symlinks,
    "enable-cuda-compat": _enable_cuda_compat,
    "cudacompat": _enable_cuda_compat,
    "disable-device-node-modification": _disable_device_node_modification,
    "update-application-profile": _update_application_profile,
    "check-requirements": _check_requirements,
    "apply-cuda-memory-limits": _apply_cuda_memory_limits,
    "chmod": _chmod,
}
