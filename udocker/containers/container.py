"""A container: an image's tree with a writable layer of its own, and how it was made."""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.errors import InvalidDocument, StoreError
from udocker.oci import Digest
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KINDS = {
    **dict.fromkeys(("id", "image", "manifest", "config", "tree"), str),
    **{"created": int, "options": list, "command": list, "ephemeral": bool},
}
"""What the members of container.json are."""


@dataclass(frozen=True)
class Container:
    """A container on disk. `directory` holds container.json and the writable layer."""

    id: str
    """32 hex digits."""
    directory: str
    image: str
    """Canonical name of the image it was made from."""
    manifest: Digest
    config: Digest
    tree: str
    """Host path of the image's tree."""
    created: int
    """Seconds since 1970."""
    options: tuple[str, ...] = ()
    """Words of the options that it was made with; a later run has them too."""
    command: tuple[str, ...] = ()
    ephemeral: bool = False
    """Removed when its run ends."""
    location: str = ""
    """Host path of a directory of the user that is its root file system; empty: it is made of an
    image. Then `image` is that path, and the digests are those of nothing."""

    @property
    def upper(self) -> str:
        """Host path of the writable layer."""
        return f"{self.directory}/upper"

    @property
    def work(self) -> str:
        """Host path of the directory that the overlay works in."""
        return f"{self.directory}/work"

    @property
    def rootfs(self) -> str:
        """Host path of the directory that the container writes to, where there is no overlay:
        its own copy of the tree, or the directory of the user that it was made of."""
        return self.location or f"{self.directory}/rootfs"

    def scratch(self, pid: int) -> str:
        """Return the host path where the run of process `pid` keeps small files."""
        return f"{self.directory}/runs/{pid}"

    def to_json(self) -> str:
        """Return the content of container.json."""
        return fastjson.dumps(
            {
                "id": self.id,
                "image": self.image,
                "manifest": str(self.manifest),
                "config": str(self.config),
                "tree": self._short_tree(),
                "created": self.created,
                "options": self.options,
                "command": self.command,
                "ephemeral": self.ephemeral,
                **({"location": self.location} if self.location else {}),
            }
        )

    def _short_tree(self) -> str:
        """Return the tree's name in its store; of a tree in the site's store the whole path."""
        store = self.directory.rpartition("/")[0].rpartition("/")[0]
        directory, _, name = self.tree.rpartition("/")
        return name if self.location or directory == f"{store}/trees" else self.tree

    @staticmethod
    def from_json(data: bytes, directory: str, trees: str) -> Container:
        """Read container.json of `directory`. Raises StoreError when it is broken."""
        try:
            members = _checked(fastjson.loads(data))
            location = members.get("location", "")
            return Container(
                id=members["id"],
                directory=directory,
                image=members["image"],
                manifest=Digest.parse(members["manifest"]),
                config=Digest.parse(members["config"]),
                tree=location or os.path.join(trees, members["tree"]),
                created=members["created"],
                options=tuple(members["options"]),
                command=tuple(members["command"]),
                ephemeral=members["ephemeral"],
                location=location,
            )
        except (ValueError, InvalidDocument) as error:
            raise StoreError(
                f"{directory}/container.json is broken: {error}",
                hint=f"save what the container wrote in {directory}/upper, then remove {directory}",
            ) from error


def _checked(members: Any) -> dict[str, Any]:
    """Return the members of container.json. Raises ValueError when they are not what they are."""
    if not isinstance(members, dict):
        raise ValueError("it holds no object")
    for key, kind in _KINDS.items():
        if not isinstance(members.get(key), kind):
            raise ValueError(f"its {key} is missing or wrong")
    words = (*members["options"], *members["command"], members.get("location", ""))
    if not all(isinstance(word, str) for word in words):
        raise ValueError("a word in it is no text")
    return members
