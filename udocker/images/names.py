"""The names of images: a file for each, and the `index.json` that other tools read, made of them.

One list for all would lose a name whenever two hosts add theirs at once and the locks of the
file system they share do nothing. Files of different names do not meet, one name is replaced by
rename, and `index.json` can be made again at any time. To find a name is to open one file;
10,000 of them are read in 0.1 s.
"""

from __future__ import annotations

import os

from udocker import disk, fastjson
from udocker.errors import InvalidDocument, StoreError
from udocker.oci import REF_NAME, Descriptor, Digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

OWN_NAME = "org.udocker.name"
"""Annotation: the name again; an entry whose other name differs was copied by another tool."""
CHAIN_ID = "org.udocker.chain-id"
"""Annotation: which tree the image has."""
SOURCE_DIGEST = "org.udocker.source.digest"
"""Annotation: the digest that the registry gives for the name (of an index, mostly)."""
CREATED = "org.opencontainers.image.created"
"""Annotation: when the image was made, as its config says."""
SIZE = "org.udocker.size"
"""Annotation: what blobs and tree took on the disk when the image was added, in bytes."""
_ENTRY_BYTES = 64 << 10
_INDEX_BYTES = 256 << 20
_NAME_BYTES = 255
"""Source: Linux, NAME_MAX."""
_ROUNDS = 20


class Listed:
    """What lists show of an image, with no more work than that takes: there may be 10,000."""

    __slots__ = ("created", "digest", "name", "platform", "site", "size_bytes", "source_digest")

    def __init__(self, member: Any, site: str) -> None:
        """Raises ValueError, KeyError, TypeError, AttributeError for what is no entry."""
        marks = member["annotations"]
        self.name: str = marks[OWN_NAME] + ""
        self.digest: str = member["digest"] + ""
        """Of the manifest."""
        self.created: str = marks.get(CREATED, "") + ""
        """When the image was made, as its config says; empty: it does not."""
        self.size_bytes = int(marks.get(SIZE, 0))
        """What blobs and tree took on the disk when the image was added; 0: unknown."""
        self.source_digest: str = marks.get(SOURCE_DIGEST, "") + ""
        """The digest that the name had where the image came from; empty: unknown."""
        self.platform: dict[str, str] = member.get("platform") or {}
        self.site = site


class NameStore:
    """The names in a directory `names` and the index of the OCI layout `layout`."""

    def __init__(self, directory: str, layout: str, drafts: str) -> None:
        self.directory = directory
        self.index = f"{layout}/index.json"
        self._drafts = drafts

    def get(self, name: str) -> Descriptor | None:
        """Return the entry of that name; None when there is none, or a broken one."""
        path = self.path(name)
        try:
            found = _parsed([_content(path)])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise disk.store_error(error, path) from error
        return found[0] if found else None

    def entries(self) -> list[Descriptor]:
        """Return all entries, in no order; broken ones are left out."""
        return _parsed(self._files().values())

    def listed(self, site: str) -> list[Listed]:
        """Return what lists show of all images, in the order of their names."""
        found = []
        for member in _members(self._files().values()):
            try:
                found.append(Listed(member, site))
            except (ValueError, KeyError, TypeError, AttributeError):  # broken
                continue
        return sorted(found, key=lambda one: one.name)

    def broken(self) -> list[str]:
        """Return the paths of entries that cannot be read as what they are."""
        files = self._files().items()
        return [f"{self.directory}/{name}" for name, data in files if not _parsed([data])]

    def put(self, name: str, entry: Descriptor) -> None:
        """Let `name` stand for the entry from now on."""
        data = fastjson.dumps(entry.to_json()).encode()
        disk.write_whole(self.path(name), data, drafts=self._drafts)

    def remove(self, name: str) -> None:
        """Take a name away. Idempotent."""
        disk.remove_file(self.path(name))

    def write_index(self, take_over: Callable[[Descriptor], None]) -> str | None:
        """Let `index.json` have the entries of all names, and those that other tools put there.

        Entries of versions that had no other list are given to `take_over`, which names them.

        Who changes a name calls this then. Of two who do so at once, the one that writes last
        sees the other's name when it looks again: the list is whole in the end. Returns what an
        index that could not be read is called now; None when it was good.
        """
        aside = None
        for _ in range(_ROUNDS):
            foreign, is_good = self.foreign()
            if not is_good:
                aside = f"{self.index}.broken"
                disk.rename(self.index, aside)
            for member in filter(_is_old, foreign):
                take_over(Descriptor.from_json(member))
            foreign = [member for member in foreign if not _is_old(member)]
            files = self._files()
            own = sorted(filter(_is_entry, _members(files.values())), key=_ref_name)
            index = {"schemaVersion": 2, "manifests": [*foreign, *own]}
            disk.write_whole(self.index, _dumped(index), drafts=self._drafts)
            if self._files() == files:
                break
        return aside

    def index_is_old(self) -> bool:
        """Tell whether who changed a name last was killed before the index told of it."""
        try:
            changed = os.stat(self.directory).st_mtime_ns
        except OSError:
            return False
        try:
            return os.stat(self.index).st_mtime_ns < changed
        except FileNotFoundError:
            return bool(disk.names_in(self.directory))
        except OSError:
            return False

    def foreign(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the entries that other tools put into the index; and whether all of it is good.

        Raises StoreError when it cannot be read.
        """
        try:
            data = disk.read(self.index, _INDEX_BYTES)
        except StoreError as error:
            if disk.is_of_no_file(error.__cause__):
                return [], False
            raise
        if data is None:
            return [], True
        try:
            members = fastjson.loads(data)["manifests"]
            good = [member for member in members if _is_entry(member)]
        except (ValueError, KeyError, TypeError):
            return [], False
        return [member for member in good if _is_foreign(member)], len(good) == len(members)

    def _files(self) -> dict[str, bytes]:
        """Return the content of every entry by the name of its file; of what is none, nothing."""
        found = {}
        try:
            for name in os.listdir(self.directory):
                try:
                    found[name] = _content(f"{self.directory}/{name}")
                except FileNotFoundError:  # removed just now
                    continue
        except FileNotFoundError:
            return found
        except OSError as error:
            raise disk.store_error(error, error.filename or self.directory) from error
        return found

    def path(self, name: str) -> str:
        """Return the file in which the entry of that name stands or would stand."""
        file = name.replace("%", "%25").replace("/", "%2F")
        if len(file) > _NAME_BYTES:
            import hashlib

            file = hashlib.sha256(name.encode()).hexdigest()
        return f"{self.directory}/{file}"


def _content(path: str) -> bytes:
    try:
        file = disk.open_at_once(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, _ENTRY_BYTES)
        finally:
            os.close(file)
    except OSError as error:
        if not disk.is_of_no_file(error):
            raise
        return b""


def _is_entry(member: Any) -> bool:
    try:
        Descriptor.from_json(member)
    except InvalidDocument:
        return False
    return True


def _ref_name(member: Any) -> str:
    marks = member.get("annotations") if isinstance(member, dict) else None
    return str(marks.get(REF_NAME)) if isinstance(marks, dict) else ""


def _is_foreign(member: dict[str, Any]) -> bool:
    marks = member.get("annotations") or {}
    return OWN_NAME not in marks or marks[OWN_NAME] != marks.get(REF_NAME)


def _is_old(member: dict[str, Any]) -> bool:
    """Tell whether a version wrote it for which the index was the only list."""
    marks = member.get("annotations") or {}
    return OWN_NAME not in marks and REF_NAME in marks and CHAIN_ID in marks


def _members(files: Iterable[bytes]) -> list[Any]:
    """Return what the files hold as JSON, broken ones left out."""
    files = list(files)
    try:
        whole: list[Any] = fastjson.loads(
            b"[" + b",".join(files) + b"]"
        )  # one is quicker than many
        if len(whole) == len(files):
            return whole
    except ValueError:
        pass
    found = []
    for data in files:
        try:
            found.append(fastjson.loads(data))
        except ValueError:
            continue
    return found


def _parsed(files: Iterable[bytes]) -> list[Descriptor]:
    found = []
    for member in _members(files):
        try:
            entry = Descriptor.from_json(member)
            Digest.parse(entry.annotation(CHAIN_ID) or "")
        except InvalidDocument:
            continue
        if entry.annotation(OWN_NAME):
            found.append(entry)
    return found


def _dumped(index: dict[str, Any]) -> bytes:
    if len(index["manifests"]) < 100:
        return fastjson.dumps(index).encode()
    import json  # pays for its import where there is much to write

    return json.dumps(index, separators=(",", ":")).encode()
