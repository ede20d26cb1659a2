"""Layers applied to a tree that is a dictionary: entry by entry, each as if it were the last one.

It is what the image specification says, in another style than the unpacker's: one flat dictionary
of all layers so far, which every entry changes at once, and no directory on any disk.
"""

from __future__ import annotations

import itertools
from collections import namedtuple

Entry = namedtuple("Entry", "kind path value mode", defaults=("", 0o755))
"""One entry of a layer: kind `file`, `folder`, `symlink`, `hard link`, `device`,
`whiteout`, `opaque`."""
MAX_LINKS = 40


class Refused(Exception):
    """No tree can be what the layers say."""


class Model:
    """Paths, as tuples of names, to what is there: a kind, a value, a mode and an identity."""

    def __init__(self):
        self.tree = {(): ("folder", "", 0o755, 0)}
        self.serial = itertools.count(1)
        self.named = {}
        self.aliased = False
        """Whether one layer named one place by two paths, one of them through a link."""

    def apply(self, entries):
        """Apply one layer."""
        self.named = {}
        described = {clean(entry.path) for entry in entries if entry.kind == "folder"}
        hidden = [self.hidden(entry, described) for entry in entries]
        for places in hidden:
            for place in places:
                self.remove(place)
        for entry in entries:
            if entry.kind not in ("whiteout", "opaque"):
                self.put(entry)

    def hidden(self, entry, described):
        """Return the places of the layers below that an entry hides."""
        if entry.kind == "whiteout":
            directory = self.resolve(clean(entry.path), stop=described)
            return [place for place in [(*directory, entry.value)] if place in self.tree]
        if entry.kind == "opaque":
            directory = self.resolve(clean(entry.path), stop=described)
            return [place for place in self.tree if place[:-1] == directory and place]
        return []

    def put(self, entry):
        path = clean(entry.path)
        if not path:
            if entry.kind == "folder":
                self.tree[()] = ("folder", "", entry.mode, 0)
            return
        place = (*self.resolve(path[:-1], make=True), path[-1])
        self.note(path, place)
        if entry.kind == "folder":
            if self.kind(place) != "folder":
                self.remove(place)
            self.tree[place] = ("folder", "", entry.mode, next(self.serial))
        elif entry.kind == "hard link":
            self.link(entry, place)
        elif entry.kind == "device":
            self.remove(place)
        else:
            self.remove(place)
            self.tree[place] = (entry.kind, entry.value, entry.mode, next(self.serial))

    def note(self, path, place):
        for other, above in self.named.items():
            short, long = sorted(((other, above), (place, path)), key=lambda pair: len(pair[0]))
            if long[0][: len(short[0])] == short[0] and long[1][: len(short[1])] != short[1]:
                self.aliased = True
        self.named[place] = path

    def link(self, entry, place):
        if self.target(entry) == place and self.kind(place) not in (None, "folder"):
            return
        self.remove(place)
        found = self.tree.get(self.target(entry), (None,))
        if found[0] in (None, "folder"):
            raise Refused(entry)
        self.tree[place] = found

    def target(self, entry):
        target = clean(entry.value)
        return (*self.resolve(target[:-1]), target[-1]) if target else ()

    def resolve(self, path, *, make=False, stop=()):
        """Return where a path leads; links that the paths of `stop` replace are not followed."""
        here, left, links = (), list(path), 0
        walked, from_below = (), False
        while left:
            name = left.pop(0)
            if name in ("", "."):
                continue
            if name == "..":
                here = here[:-1]
                continue
            below = (*here, name)
            walked = (*walked, name)
            if self.kind(below) == "symlink" and walked not in stop:
                links += 1
                # A link of this layer that one of the layers below leads to has two paths, too.
                self.aliased |= self.named.get(below, below) != below
                self.aliased |= from_below and below in self.named
                from_below |= below not in self.named
                if links > MAX_LINKS:
                    raise Refused(path)
                target = self.tree[below][1]
                left = target.split("/") + left
                here = () if target.startswith("/") else here
                continue
            if make and self.kind(below) != "folder":
                self.remove(below)
                self.tree[below] = ("folder", "", 0o755, next(self.serial))
            here = below
        return here

    def kind(self, place):
        return self.tree.get(place, (None,))[0]

    def remove(self, place):
        for path in [path for path in self.tree if path[: len(place)] == place]:
            del self.tree[path]

    def snapshot(self):
        """Return the tree as `tarballs.snapshot` does."""
        found = {}
        for path, (kind, value, mode, _) in self.tree.items():
            facts = {
                "file": ("file", mode, value.encode()),
                "folder": ("directory", mode),
                "symlink": ("link", value.encode()),
            }
            if path:
                found["/".join(path).encode()] = facts[kind]
        return found

    def shared(self):
        """Return the sets of names that one file has, those of one name left out."""
        names = {}
        for path, (kind, _, _, identity) in self.tree.items():
            if kind != "folder":
                names.setdefault(identity, set()).add("/".join(path))
        return sorted(sorted(group) for group in names.values() if len(group) > 1)


def clean(path):
    """Return the names of a path below the root, dots taken as text."""
    names = []
    for name in path.split("/"):
        if name == "..":
            del names[-1:]
        elif name not in ("", "."):
            names.append(name)
    return tuple(names)
