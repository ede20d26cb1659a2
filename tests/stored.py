"""Containers made by hand: an image's tree and a writable layer, as an overlay would leave it."""

from __future__ import annotations

import os
import stat

from udocker.containers.container import Container
from udocker.oci import Digest


def make_container(directory, *, upper=True):
    """Return a container in `directory` with an empty tree and, if wanted, an empty layer."""
    nothing = Digest.of(b"")
    container = Container(
        id="0" * 32,
        directory=f"{directory}/container",
        image="docker.io/library/x:1",
        manifest=nothing,
        config=nothing,
        tree=f"{directory}/tree",
        created=0,
    )
    os.makedirs(container.directory)
    os.mkdir(container.tree)
    if upper:
        os.mkdir(container.upper)
    return container


def fill(directory, files):
    """Make files: a path that ends in `/` is a directory, a value `-> x` a link, None a whiteout,
    OPAQUE in place of a name marks the directory."""
    for path, text in files.items():
        full = os.path.join(directory, path)
        os.makedirs(full if path.endswith("/") else os.path.dirname(full), exist_ok=True)
        if path.endswith("/"):
            if text:
                os.setxattr(full, "user.overlay.opaque", text.encode())
        elif text is None:
            os.mknod(full, stat.S_IFCHR | 0o600, 0)
        elif text.startswith("-> "):
            os.symlink(text[3:], full)
        else:
            with open(full, "w") as file:
                file.write(text)
            os.utime(full, ns=(0, len(text)))
