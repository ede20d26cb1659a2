"""Whether the list of images is one, entry by entry, and what of a broken one can be saved."""

from __future__ import annotations

from udocker import disk, fastjson
from udocker.errors import InvalidDocument, InvalidReference
from udocker.images.store import CHAIN_ID, SOURCE_DIGEST
from udocker.oci import REF_NAME, Descriptor, Digest
from udocker.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.images.store import ImageStore

_INDEX_BYTES = 256 << 20
_VERSION = "1.0.0"
"""Of the layout. Source: image-spec image-layout.md, "oci-layout file"."""


def faults(store: ImageStore) -> list[str]:
    """Return what is wrong with the names, `oci-layout` and `index.json`, a sentence each.

    A store without any image has none of them.
    """
    found = [f"names: {path} is broken" for path in store.names.broken()]
    return found + _index_faults(store)


def _index_faults(store: ImageStore) -> list[str]:
    data = disk.read(f"{store.layout}/index.json", _INDEX_BYTES)
    if data is None:
        return []
    found = _layout_faults(store)
    entries = _entries(data)
    if isinstance(entries, str):
        return [*found, entries]
    names: dict[str, int] = {}
    for number, entry in enumerate(entries):
        fault = _entry_fault(entry)
        if fault:
            found.append(f"index.json: entry {number + 1} {fault}")
            continue
        name = _name(entry)
        if name and name in names:
            found.append(f"index.json: entry {number + 1} names {name} once more")
        names[name] = number
    return found


def mend(store: ImageStore) -> str | None:
    """Leave out the entries that are none; return where the list as it was is kept.

    None: nothing had to be left out. The images of the names are in the list in any case; a name
    that is broken is gone.
    """
    path = f"{store.layout}/index.json"
    if _layout_faults(store):
        text = fastjson.dumps({"imageLayoutVersion": _VERSION})
        disk.write_whole(f"{store.layout}/oci-layout", text.encode(), drafts=store.partial)
    with store.lock("index"):
        data = disk.read(path, _INDEX_BYTES)
        entries = _entries(data) if data is not None else []
        good = [] if isinstance(entries, str) else _good(entries)
        kept = None
        if entries != good:
            kept = f"{path}.broken"
            disk.write_whole(kept, data or b"", drafts=store.partial)
            text = fastjson.dumps({"schemaVersion": 2, "manifests": good})
            disk.write_whole(path, text.encode(), drafts=store.partial)
        for broken in store.names.broken():
            store.throw_away(broken)
        store.names.write_index()
        return kept


def _good(entries: list[Any]) -> list[Any]:
    """Return the entries that are good; of several for one name the last, which was added last."""
    last = {_name(entry): entry for entry in entries if not _entry_fault(entry)}
    return [
        entry
        for entry in entries
        if not _entry_fault(entry) and (not _name(entry) or last[_name(entry)] is entry)
    ]


def _layout_faults(store: ImageStore) -> list[str]:
    try:
        data = disk.read(f"{store.layout}/oci-layout", 1 << 16)
        version = fastjson.loads(data or b"").get("imageLayoutVersion")
    except (ValueError, AttributeError):
        version = None
    return [] if version == _VERSION else [f"{store.layout}/oci-layout is missing or broken"]


def _entries(data: bytes) -> list[Any] | str:
    """Return the entries as they stand there, or what is wrong."""
    try:
        members = fastjson.loads(data)
    except ValueError as error:
        return f"index.json is not JSON: {error}"
    entries = members.get("manifests") if isinstance(members, dict) else None
    return entries if isinstance(entries, list) else "index.json holds no list of manifests"


def _entry_fault(value: Any) -> str | None:
    """Return what is wrong with an entry; those that another tool made need no name or tree."""
    try:
        entry = Descriptor.from_json(value)
        chain_id = entry.annotation(CHAIN_ID)
        if chain_id is None:
            return None
        Digest.parse(chain_id)
        Digest.parse(entry.annotation(SOURCE_DIGEST) or str(entry.digest))
        Reference.parse(entry.annotation(REF_NAME) or "")
    except (InvalidDocument, InvalidReference) as error:
        return f"is broken: {error.message}"
    return None


def _name(value: Any) -> str:
    """Return the name of an entry that is good; empty: it is another tool's."""
    entry = Descriptor.from_json(value)
    return (entry.annotation(REF_NAME) or "") if entry.annotation(CHAIN_ID) else ""
