"""An OCI image layout in a directory as the place that images are copied to."""

from __future__ import annotations

import os

from udocker import disk, fastjson
from udocker.errors import StoreError
from udocker.images.blobs import is_abandoned
from udocker.oci import OCI_INDEX, REF_NAME, Descriptor, Digest
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.transfer.target import Begin, Read

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_INDEX_BYTES = 64 << 20


class LayoutTarget:
    """A layout, made where there is none. An image of the same name in it gives way."""

    wants_foreign = False

    def __init__(self, directory: str, name: str) -> None:
        """`name` is what its index will call the image; empty: it gets none.

        Raises StoreError where the directory holds something else.
        """
        self._directory = directory
        self._name = name
        self._prepare()

    @property
    def name(self) -> str:
        """The directory."""
        return self._directory

    def has(self, blob: Descriptor) -> bool:
        """Tell whether the blob is there, whole."""
        try:
            return os.stat(self._path(blob.digest)).st_size == blob.size_bytes
        except OSError:
            return False

    def blob(self, blob: Descriptor, read: Read, begin: Begin) -> str:
        """Have a blob; the reader makes sure that its bytes are right."""
        if self.has(blob):
            return "there already"
        path = self._path(blob.digest)
        draft = f"{os.path.dirname(path)}/.{blob.digest.hex}.{disk.owner()}"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            try:
                with open(draft, "wb", buffering=0) as file:
                    for chunk in read(0):
                        view = memoryview(chunk)
                        while view:
                            view = view[file.write(view) :]
                    os.fsync(file.fileno())
                os.rename(draft, path)
            except BaseException:
                if os.path.lexists(draft):
                    os.unlink(draft)
                raise
        except OSError as error:
            raise disk.output_error(error, path) from error
        return "copied"

    def document(self, descriptor: Descriptor, data: bytes) -> None:
        """Have a manifest or index as a blob."""
        path = self._path(descriptor.digest)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        except OSError as error:
            raise disk.output_error(error, path) from error
        disk.write_whole(path, data)

    def finish(self, descriptor: Descriptor, data: bytes) -> None:
        """List the image in the layout's index, which a reader sees as it was or as it is."""
        self.document(descriptor, data)
        with disk.Lock(f"{self._directory}/oci-layout"):  # a file that is there anyway
            index = self._index()
            others = [e for e in index["manifests"] if not self._gives_way(e, descriptor)]
            index["manifests"] = [*others, self._entry(descriptor)]
            disk.write_whole(f"{self._directory}/index.json", fastjson.dumps(index).encode())

    def _entry(self, descriptor: Descriptor) -> dict[str, Any]:
        annotations = ((REF_NAME, self._name),) if self._name else ()
        return replace(descriptor, annotations=annotations, data=None).to_json()

    def _gives_way(self, entry: Any, new: Descriptor) -> bool:
        if not isinstance(entry, dict):
            return False
        annotations = entry.get("annotations")
        name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
        if self._name:
            return bool(name == self._name)
        return name is None and entry.get("digest") == str(new.digest)

    def _index(self) -> dict[str, Any]:
        """Return the index as it is, with whatever others have put there."""
        path = f"{self._directory}/index.json"
        data = disk.read(path, _INDEX_BYTES)
        if data is None:
            return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        try:
            members = fastjson.loads(data)
        except ValueError as error:
            raise StoreError(f"{path} is not JSON: {error}") from error
        index: dict[str, Any] = members if isinstance(members, dict) else {}
        if "manifests" in index and index["manifests"] is None:  # how Go writes an empty list
            index["manifests"] = []
        if not isinstance(index.get("manifests"), list):
            raise StoreError(f"{path} is not the index of an OCI image layout")
        return index

    def _prepare(self) -> None:
        path = self._directory
        try:
            if os.path.lexists(path) and not os.path.isdir(path):
                raise StoreError(f"{path} is not a directory", hint="oci-archive: is for files")
            os.makedirs(path, exist_ok=True)
            held = os.listdir(path)
        except OSError as error:
            raise disk.output_error(error, path) from error
        if held and "oci-layout" not in held:
            hint = "name a new directory, or one that holds an OCI image layout"
            raise StoreError(f"{path} holds something that is no OCI image layout", hint=hint)
        if not held:
            disk.write_whole(f"{path}/oci-layout", LAYOUT)
        self._index()  # raises for one that is broken, before anything is brought
        self._sweep()

    def _sweep(self) -> None:
        """Remove what dead processes left of blobs."""
        blobs = f"{self._directory}/blobs"
        try:
            for algorithm in os.listdir(blobs) if os.path.isdir(blobs) else ():
                for name in os.listdir(f"{blobs}/{algorithm}"):
                    left = f"{blobs}/{algorithm}/{name}"
                    if name[0] == "." and is_abandoned(left, name[1:].partition(".")[2]):
                        os.unlink(left)
        except FileNotFoundError:  # another process was quicker
            pass
        except OSError as error:
            raise disk.output_error(error, blobs) from error

    def _path(self, digest: Digest) -> str:
        return f"{self._directory}/blobs/{digest.algorithm}/{digest.hex}"
