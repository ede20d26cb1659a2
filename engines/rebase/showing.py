"""Volumes without mounts: symbolic links in the container's root that lead to the host.

A link is seen by every program of the container. So links change only while no other run is
going on, and runs side by side need the same ones. What stood in a link's place is moved aside,
noted before it is done, and comes back when the link goes.
"""

from __future__ import annotations

import os

from udocker import disk, fastjson, trees
from udocker.engines.rebase.journal import Unlocked
from udocker.errors import StartError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.spec import Bind, ContainerEdits, DeviceNode
    from udocker.host.root import Root

MAX_EXCLUDED = 96
"""Paths that libfakechroot leaves alone; it keeps a hundred. Source: its libfakechroot.c."""
ENGINES = "engines that can: userns, runc, bwrap, apptainer, proot"
_BYTES = 1 << 20


@dataclass(frozen=True)
class Layout:
    """How the host shows in a container: links to make, and paths that mean the host's own."""

    links: tuple[tuple[str, str], ...]
    """Host paths below the root, and where they lead."""
    excluded: tuple[str, ...]
    shown: tuple[tuple[str, str], ...]
    """Paths of the container, and the host paths that they mean."""


def lay_out(
    files: Root, edits: ContainerEdits, outside: tuple[str, ...], standing: Standing
) -> Layout:
    """Return how `edits` show in the container, beside the host's directories `outside`.

    Changes nothing. Raises StartError for what cannot be shown without mounts.
    """
    plan = _Plan(files, outside, standing)
    binds: list[Bind | DeviceNode] = [*edits.binds, *edits.device_nodes]
    last = {_normal(bind.destination): bind for bind in binds}
    for place in sorted(last, key=lambda place: place.count("/")):
        plan.add(last[place].source, place)
    for link in edits.symlinks:
        target = link.target
        plan.link(link.path, files.path + target if target.startswith("/") else target)
    excluded = tuple(dict.fromkeys((*outside, files.path, *plan.excluded)))
    if len(excluded) > MAX_EXCLUDED:
        raise StartError(
            f"fakechroot shows at most {MAX_EXCLUDED} host paths as they are", hint=ENGINES
        )
    for path in excluded:
        if ":" in path:
            raise StartError(f"fakechroot cannot show {path!r}, for its colon", hint=ENGINES)
    shown = ((path, path) for path in outside)
    return Layout(tuple(plan.links.items()), excluded, (*shown, *plan.shown.items()))


class _Plan:
    """Links and excluded paths as they come together."""

    def __init__(self, files: Root, outside: tuple[str, ...], standing: Standing) -> None:
        self._files = files
        self._outside = outside
        self._standing = standing
        self.links: dict[str, str] = {}
        self.excluded: list[str] = []
        self.shown: dict[str, str] = {}

    def add(self, source: str, place: str) -> None:
        """Show a host path at a path of the container."""
        source = _normal(source)
        if self._is_shown_already(source, place):
            return
        self.shown[place] = source
        if source == place:
            self.excluded.append(place)
            if not self._is_own(place):
                self.link(place, source)
        else:
            self.link(place, os.path.realpath(source))
        if os.path.isdir(source):
            self._exclude_directory(source, place)

    def link(self, path: str, target: str) -> None:
        """Have a link at a path of the container."""
        if any(_is_in(path, outside) for outside in self._outside):
            raise StartError(f"fakechroot cannot show anything at {path}", hint=ENGINES)
        self.links[placed(self._files, path, self._standing)] = target

    def _is_shown_already(self, source: str, place: str) -> bool:
        around = [(path, path) for path in self._outside] + list(self.shown.items())
        for outer, host in around:
            if _is_in(place, outer):
                if source == host + place[len(outer) :]:
                    return True
                raise StartError(
                    f"fakechroot cannot show {source} at {place}, which is inside of {outer}",
                    hint=ENGINES,
                )
        return False

    def _exclude_directory(self, source: str, place: str) -> None:
        """A program whose directory it is gives relative names, which are the host's then."""
        real = os.path.realpath(source)
        known = (*self._outside, *self.excluded)
        if any(_is_in(real, other) for other in known):
            return
        if real == "/" or self._is_own(real):
            raise StartError(
                f"fakechroot cannot show {source} at {place}: the container has a {real} of its "
                "own, and its programs would mix them up",
                hint=ENGINES,
            )
        self.excluded.append(real)

    def _is_own(self, path: str) -> bool:
        """Tell whether the container has something there that is not of an earlier run's links."""
        relative = path.lstrip("/")
        earlier = relative in self._standing.links or relative in self._standing.directories
        return not earlier and self._files.exists(path)


def placed(files: Root, path: str, standing: Standing | None = None) -> str:
    """Return the host path that `path` of the container has, or would have if it was made.

    The links that are `standing` for earlier runs are places of their own.
    """
    above, _, name = path.rstrip("/").rpartition("/")
    if not name:
        return files.path
    place = f"{placed(files, above or '/', standing)}/{name}"
    if standing and place[len(files.path) + 1 :] in standing.links:
        return place
    return files.resolve(place[len(files.path) :]) or place


@dataclass(frozen=True)
class Standing:
    """Links that runs have made in a root, and the directories that were made for them."""

    links: frozenset[str] = frozenset()
    """Paths relative to the root."""
    directories: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Link:
    path: str
    """Relative to the root."""
    target: str
    hidden: str
    """Name of what was there before, in the directory of hidden things; empty: nothing."""
    made: tuple[str, ...]
    """Directories that were made for it, relative to the root, the deepest last."""


class Links:
    """The links that a container's root has for its runs; who uses this holds the lock."""

    def __init__(self, directory: str, root: str) -> None:
        """`directory` is the container's, `root` the host path of its root."""
        self._root = root
        self._hidden = f"{directory}/fakechroot.hidden"
        self._path = f"{directory}/fakechroot.links"

    def standing(self) -> Standing:
        """Return what the root has for its runs now."""
        links = self._load()
        made = (directory for link in links for directory in link.made)
        return Standing(frozenset(link.path for link in links), frozenset(made))

    def settle(self, wanted: tuple[tuple[str, str], ...], *, alone: bool) -> None:
        """The root has the `wanted` links (host paths and targets), and no others if `alone`.

        Raises StartError when links would have to change under another run.
        """
        links = {path[len(self._root) + 1 :]: target for path, target in wanted}
        present = {link.path: link.target for link in self._load()}
        if present == links:
            return
        if not alone:
            lacking = [path for path, target in links.items() if present.get(path) != target]
            if lacking:
                raise StartError(
                    f"the container is running without /{lacking[0]} as it is wanted now, and "
                    "fakechroot shows a volume to all programs of a container or to none",
                    hint=f"wait for its end, or run another container; {ENGINES}",
                )
            return
        self.remove(but=links)
        for path, target in links.items():
            if present.get(path) != target:
                self._make(path, target)

    def remove(self, but: dict[str, str] | None = None) -> None:
        """Links not in `but` are gone, and what was in their places is there again."""
        links = self._load()
        kept = [link for link in links if (but or {}).get(link.path) == link.target]
        for link in reversed(links):
            if link not in kept:
                self._take_away(link)
        self._save(kept)

    def _make(self, path: str, target: str) -> None:
        place = f"{self._root}/{path}"
        links = self._load()
        hidden = str(len(links)) if os.path.lexists(place) else ""
        while hidden and os.path.lexists(f"{self._hidden}/{hidden}"):
            hidden += "x"
        made = tuple(_missing(self._root, os.path.dirname(path)))
        self._save([*links, _Link(path, target, hidden, made)])
        try:
            for directory in made:
                os.mkdir(f"{self._root}/{directory}", 0o755)
            with Unlocked(os.path.dirname(place)):
                if hidden:
                    disk.make_directory(self._hidden)
                    os.rename(place, f"{self._hidden}/{hidden}")
                os.symlink(target, place)
        except OSError as error:
            raise disk.store_error(error, place) from error

    def _take_away(self, link: _Link) -> None:
        place = f"{self._root}/{link.path}"
        hidden = f"{self._hidden}/{link.hidden}" if link.hidden else ""
        try:
            if os.path.isdir(os.path.dirname(place)):
                with Unlocked(os.path.dirname(place)):
                    if os.path.islink(place) and os.readlink(place) == link.target:
                        os.unlink(place)
                    if hidden and os.path.lexists(hidden) and not os.path.lexists(place):
                        os.rename(hidden, place)
            for directory in reversed(link.made):
                os.rmdir(f"{self._root}/{directory}")
        except OSError:  # a program has put something there, which is its own now
            return

    def _load(self) -> list[_Link]:
        data = disk.read(self._path, _BYTES)
        try:
            rows = fastjson.loads(data) if data else []
            return [_Link(path, target, hidden, tuple(made)) for path, target, hidden, made in rows]
        except (ValueError, TypeError) as error:
            raise StartError(f"{self._path} is broken: {error!r}", hint="remove it") from error

    def _save(self, links: list[_Link]) -> None:
        if links:
            rows = [[link.path, link.target, link.hidden, link.made] for link in links]
            disk.write_whole(self._path, fastjson.dumps(rows).encode(), sync=False)
            return
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        if os.path.isdir(self._hidden) and not os.listdir(self._hidden):
            trees.remove_tree(self._hidden)


def _missing(root: str, directory: str) -> Iterator[str]:
    """Yield the directories that have to be made for `directory` to be there, topmost first."""
    if directory and not os.path.isdir(f"{root}/{directory}"):
        yield from _missing(root, os.path.dirname(directory))
        yield directory


def _normal(path: str) -> str:
    return os.path.normpath(os.path.abspath(path)).replace("//", "/")


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
