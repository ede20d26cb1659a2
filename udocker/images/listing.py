"""Whether the names of images are good, one by one, and the index of the layout says the same."""

from __future__ import annotations

import os

from udocker import disk, fastjson
from udocker.errors import InvalidDocument, InvalidReference, StoreError
from udocker.images.names import CHAIN_ID, SOURCE_DIGEST
from udocker.oci import REF_NAME, Descriptor, Digest
from udocker.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from udocker.images.store import ImageStore

_VERSION = "1.0.0"
"""Of the layout. Source: image-spec image-layout.md, "oci-layout file"."""
_INDEX_BYTES = 256 << 20
_ENTRY_BYTES = 64 << 10


def broken_names(store: ImageStore) -> dict[str, str]:
    """Return the files of `names/` that are none, and what is wrong with each."""
    found = {}
    for path in sorted(_paths(store)):
        try:
            data = disk.read(path, _ENTRY_BYTES)
            entry = Descriptor.from_json(fastjson.loads(data or b""))
            Digest.parse(entry.annotation(CHAIN_ID) or "")
            Digest.parse(entry.annotation(SOURCE_DIGEST) or str(entry.digest))
            name = entry.annotation(REF_NAME) or ""
            Reference.parse(name)
            if store.names.path(name) != path:
                raise InvalidDocument(f"it stands for {name}, which has another file")
        except (ValueError, InvalidDocument, InvalidReference, StoreError) as error:
            found[path] = str(error)
    return found


def _paths(store: ImageStore) -> list[str]:
    directory = store.names.directory
    return [f"{directory}/{name}" for name in disk.names_in(directory)]


def layout_faults(store: ImageStore) -> list[str]:
    """Return what is wrong with `oci-layout` and `index.json`, a sentence each."""
    found = []
    try:
        data = disk.read(f"{store.layout}/oci-layout", 1 << 16)
        version = fastjson.loads(data or b"").get("imageLayoutVersion")
    except (ValueError, AttributeError, StoreError):
        version = None
    if version != _VERSION:
        found.append(f"{store.layout}/oci-layout is missing or broken")
    foreign, is_good = store.names.foreign()
    if not is_good:
        return [*found, f"{store.names.index} is broken"]
    wanted = [entry.to_json() for entry in store.names.entries()]
    data = disk.read(store.names.index, _INDEX_BYTES)
    listed = fastjson.loads(data)["manifests"] if data is not None else []
    if _sorted(member for member in listed if member not in foreign) != _sorted(wanted):
        found.append(f"{store.names.index} does not list the names of this store")
    return found


def _sorted(members: Iterable[object]) -> list[str]:
    return sorted(map(fastjson.dumps, members))


def mend(store: ImageStore) -> list[str]:
    """Leave the store with good names only, and an index of them; return what was done.

    A name that is broken goes to `broken/`, where people can read it: its image is to be pulled
    again. Entries of other tools stay where they can be read.
    """
    done = []
    with store.lock("index"):
        for path in broken_names(store):
            done.append(f"{path} is {_set_aside(store, path)} now: pull that image again")
        text, version = (
            fastjson.dumps({"imageLayoutVersion": _VERSION}),
            f"{store.layout}/oci-layout",
        )
        if os.path.isdir(version):
            done.append(f"{version} is {_set_aside(store, version)} now")
        disk.write_whole(version, text.encode(), drafts=store.partial)
        aside = store.names.write_index(store.take_over)
    if aside:
        done.append(f"the index of the image layout was broken and is now {aside}")
    return [*done, f"{store.names.index} was made again"]


def _set_aside(store: ImageStore, path: str) -> str:
    """Move what is at `path` to where people can look at it; return that place."""
    kept = f"{disk.make_directory(f'{store.directory}/broken')}/{os.path.basename(path)}"
    if os.path.isdir(path) or os.path.isdir(kept):  # one never gives way to the other
        kept = f"{kept}.{os.urandom(4).hex()}"
    disk.rename(path, kept)
    return kept
