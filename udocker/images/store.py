"""The images of a user: an OCI image layout and the trees unpacked from it.

    images/   oci-layout, index.json, blobs/   a valid OCI image layout
    trees/    one directory for each ChainID: all layers of an image, unpacked and merged
    partial/  blobs and trees on their way

One merged tree for an image, not one for each layer: see `ImageStore.tree_path`.
"""

from __future__ import annotations

import os

from udocker import disk, fastjson, trees
from udocker.errors import ImageNotFound, InvalidDocument, StoreError
from udocker.images.blobs import BlobStore, is_abandoned
from udocker.oci import MAX_DOCUMENT_BYTES, REF_NAME, Descriptor, Digest, ImageConfig, Manifest
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from udocker.reference import Reference

SOURCE_DIGEST = "org.udocker.source.digest"
"""Annotation: the digest that the registry gives for the name (of an index, mostly)."""
CHAIN_ID = "org.udocker.chain-id"
"""Annotation: which tree the image has."""
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_REPLACED = "replaced"
_INDEX_BYTES = 256 << 20


@dataclass(frozen=True)
class Image:
    """An image of the store, under one of its names."""

    name: str
    """Canonical name, as `docker.io/library/ubuntu:22.04`."""
    manifest: Descriptor
    chain_id: Digest
    tree: str
    """Host path of the unpacked tree."""

    @property
    def short_id(self) -> str:
        """Twelve digits that tell images apart at a glance."""
        return self.manifest.digest.hex[:12]


class ImageStore:
    """Images below a directory. Adding, replacing and removing are atomic and idempotent."""

    def __init__(self, directory: str) -> None:
        self.layout = f"{directory}/images"
        self.trees = f"{directory}/trees"
        self.partial = f"{directory}/partial"
        self.locks = f"{directory}/locks"
        self.blobs = BlobStore(self.layout, self.partial)

    # reading

    def images(self) -> tuple[Image, ...]:
        """Return all images in the order of their names."""
        return tuple(sorted(map(self._image, self._own_entries()), key=lambda image: image.name))

    def find(self, reference: Reference) -> Image | None:
        """Return the image that a reference names; by digest where it has one."""
        if reference.digest is None:
            name = str(reference)
            found = [e for e in self._own_entries() if e.annotation(REF_NAME) == name]
        else:
            digest, name = str(reference.digest), reference.name
            found = [
                entry
                for entry in self._own_entries()
                if digest in (str(entry.digest), entry.annotation(SOURCE_DIGEST))
                and (entry.annotation(REF_NAME) or "").startswith((f"{name}:", f"{name}@"))
            ]
        return self._image(found[0]) if found else None

    def find_id(self, prefix: str) -> Image | None:
        """Return the image whose id begins with `prefix` (6 hex digits or more)."""
        if len(prefix) < 6 or not set(prefix) <= set("0123456789abcdef"):
            return None
        found = [entry for entry in self._own_entries() if entry.digest.hex.startswith(prefix)]
        if len({entry.digest for entry in found}) > 1:
            raise ImageNotFound(f"{prefix} begins the ids of several images")
        return self._image(found[0]) if found else None

    def source_digest(self, image: Image) -> str | None:
        """Return the digest that the image's name had at its registry when it was pulled."""
        return image.manifest.annotation(SOURCE_DIGEST)

    def digests(self, image: Image) -> tuple[Digest, ...]:
        """Return the image's digests: its name's at its registry, then its manifest's."""
        source = self.source_digest(image)
        manifest = image.manifest.digest
        return (Digest.parse(source), manifest) if source else (manifest,)

    def read_manifest(self, image: Image) -> Manifest:
        """Return the image's manifest. Raises StoreError when it is missing or damaged."""
        data = self.blobs.read(image.manifest.digest, MAX_DOCUMENT_BYTES)
        try:
            return Manifest.from_bytes(data, image.manifest.media_type)
        except InvalidDocument as error:
            raise _damaged(image.name, error) from error

    def read_config(self, image: Image) -> ImageConfig:
        """Return the image's config. Raises StoreError when it is missing or damaged."""
        return self.config(self.read_manifest(image).config.digest)

    def config(self, digest: Digest) -> ImageConfig:
        """Return the config of that digest. Raises StoreError when it is missing or damaged."""
        data = self.blobs.read(digest, MAX_DOCUMENT_BYTES)
        try:
            return ImageConfig.from_bytes(data)
        except InvalidDocument as error:
            raise _damaged(f"blob {digest}", error) from error

    def is_whole(self, image: Image) -> bool:
        """Tell whether all of an image is here: its tree, its documents as they were, its layers.

        Of layers only the sizes are compared: reading them could take minutes.
        """
        try:
            manifest = self.read_manifest(image)
            documents = (image.manifest.digest, manifest.config.digest)
            intact = all(map(self._is_intact, documents))
        except StoreError:
            return False
        return intact and os.path.isdir(image.tree) and all(map(self.blobs.has, manifest.layers))

    def _is_intact(self, digest: Digest) -> bool:
        data = self.blobs.read(digest, MAX_DOCUMENT_BYTES)
        return Digest.of(data, digest.algorithm) == digest

    def tree_path(self, chain_id: Digest) -> str:
        """Return where the tree of those layers lies or would lie.

        One merged tree: looking files up in an overlay costs more with every directory in it,
        engines without overlay need one tree anyway, and links of one layer into another are
        resolved once, by us. Layers are unpacked side by side and joined by rename, which
        takes as long as it takes to walk the directories that two layers share.
        """
        return f"{self.trees}/{chain_id.hex}"

    # writing

    def prepare(self) -> None:
        """Make the store where there is none, and throw away what dead processes left."""
        for path in (f"{self.layout}/blobs/sha256", self.trees, self.partial):
            disk.make_directory(path)
        if not os.path.exists(f"{self.layout}/oci-layout"):
            disk.write_whole(f"{self.layout}/oci-layout", _LAYOUT, drafts=self.partial)
        self.blobs.sweep()
        for name in os.listdir(self.partial):
            kind, _, rest = name.partition(".")
            left = f"{self.partial}/{name}"
            if kind in ("tree", "draft") and is_abandoned(left, rest.rpartition(".")[0]):
                self._throw_away(left)

    def set_aside_broken_index(self) -> str | None:
        """Give an index that cannot be read another name, so that images can be added again.

        Returns that name, None when the index is good.
        """
        path = f"{self.layout}/index.json"
        with self.lock("index"):
            try:
                self._entries()
            except _BrokenIndex:
                os.rename(path, f"{path}.broken")
                return f"{path}.broken"
        return None

    def new_stage(self) -> str:
        """Make a directory in which a tree can be prepared; `publish_tree` gives it its name."""
        return disk.make_directory(self._new_stage_path())

    def _new_stage_path(self) -> str:
        return f"{self.partial}/tree.{disk.owner()}.{os.urandom(4).hex()}"

    def _throw_away(self, left: str) -> None:
        """Remove a tree that has lost its name first, unless another process is doing so."""
        own = self._new_stage_path()
        try:
            os.rename(left, own)
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk.store_error(error, left) from error
        trees.remove_tree(own)

    def publish_tree(self, prepared: str, chain_id: Digest) -> None:
        """Give a finished tree its name; where another process was first, its tree stays."""
        try:
            os.rename(prepared, self.tree_path(chain_id))
        except OSError as error:
            if not os.path.isdir(self.tree_path(chain_id)):
                raise disk.store_error(error, self.trees) from error
            trees.remove_tree(prepared)

    def set_aside_tree(self, chain_id: Digest) -> None:
        """Take a tree's name away: another one shall have it.

        Containers that run on the old tree go on, for their mounts hold it and not its name. It
        stays in `partial/` until `remove_set_aside`: removing it would empty their root.
        """
        tree = self.tree_path(chain_id)
        try:
            os.rename(tree, f"{self.partial}/{_REPLACED}.{chain_id.hex}.{os.urandom(4).hex()}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk.store_error(error, tree) from error

    def remove_set_aside(self, in_use: Callable[[str], bool]) -> None:
        """Remove trees that were set aside, but those that `in_use(tree path)` says are needed."""
        for name in os.listdir(self.partial):
            kind, _, rest = name.partition(".")
            chain = rest.partition(".")[0]
            if kind == _REPLACED and not in_use(f"{self.trees}/{chain}"):
                self._throw_away(f"{self.partial}/{name}")

    def add(
        self, reference: Reference, manifest: Descriptor, source: Digest, chain_id: Digest
    ) -> Image:
        """Let `reference` name the image, whose content is there; an older one gives way."""
        name = f"{reference.name}@{reference.digest}" if reference.digest else str(reference)
        annotations = (
            (REF_NAME, name),
            (SOURCE_DIGEST, str(source)),
            (CHAIN_ID, str(chain_id)),
        )
        entry = replace(manifest, annotations=annotations)
        with self.lock("index"):
            others = [e for e in self._entries() if e.annotation(REF_NAME) != name]
            self._write_entries([*others, entry])
        return self._image(entry)

    def is_protected(self, image: Image) -> bool:
        """Tell whether the image must not be removed under its name."""
        return os.path.lexists(self._protection(image))

    def protect(self, image: Image, *, wanted: bool) -> None:
        """Let nobody remove the image under its name, or let them again. Idempotent."""
        path = self._protection(image)
        if wanted:
            disk.make_directory(os.path.dirname(path))
            disk.write_whole(path, b"")
            return
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk.store_error(error, path) from error

    def _protection(self, image: Image) -> str:
        """Return the file that protects an image; its name is the digest of the image's."""
        return f"{os.path.dirname(self.layout)}/protected/{Digest.of(image.name.encode()).hex}"

    def remove(self, image: Image, keep: frozenset[str] = frozenset()) -> None:
        """Take the name away, and all content that neither images nor containers (`keep`) need.

        Raises StoreError when it is protected.
        """
        if self.is_protected(image):
            hint = f"udocker unprotect {image.name}"
            raise StoreError(f"image {image.name} is protected", hint=hint)
        with self.lock("index"):
            entries = [e for e in self._entries() if e.annotation(REF_NAME) != image.name]
            self._write_entries(entries)
        self.collect_garbage(keep)

    def lock(self, name: str) -> disk.Lock:
        """Return the lock of that name, by which processes spare each other work."""
        disk.make_directory(self.locks)
        return disk.Lock(f"{self.locks}/{name}")

    def using(self) -> disk.Lock:
        """Return a lock, shared, under which no content is thrown away."""
        lock = self.lock("content")
        lock.acquire(shared=True)
        return lock

    def collect_garbage(self, keep: frozenset[str]) -> None:
        """Throw away blobs and trees that no image needs; nothing while a pull is going on.

        `keep` are the digests, as hex, of what containers need of images that are gone.
        """
        lock = self.lock("content")
        try:
            if lock.acquire(wait=False):
                self._collect(keep)
        finally:
            lock.release()

    def _collect(self, keep: frozenset[str]) -> None:
        images = self.images()
        if len(images) == len(self._entries()):  # what other tools put here may need any blob
            self._collect_blobs(images, keep)
        kept = {image.chain_id.hex for image in images} | keep
        for name in set(os.listdir(self.trees)) - kept:
            self._throw_away(f"{self.trees}/{name}")

    def _collect_blobs(self, images: tuple[Image, ...], keep: frozenset[str]) -> None:
        wanted = {image.manifest.digest.hex for image in images}
        for image in images:
            manifest = self.read_manifest(image)
            wanted.update(blob.digest.hex for blob in (manifest.config, *manifest.layers))
        for algorithm in os.listdir(f"{self.layout}/blobs"):
            directory = f"{self.layout}/blobs/{algorithm}"
            for name in set(os.listdir(directory)) - wanted - keep:
                os.unlink(f"{directory}/{name}")

    # index.json

    def _own_entries(self) -> list[Descriptor]:
        """Return the entries that a pull made; other tools may have added some without a tree."""
        return [entry for entry in self._entries() if entry.annotation(CHAIN_ID)]

    def _entries(self) -> list[Descriptor]:
        data = disk.read(f"{self.layout}/index.json", _INDEX_BYTES)
        if data is None:
            return []
        try:
            return [Descriptor.from_json(entry) for entry in fastjson.loads(data)["manifests"]]
        except (ValueError, KeyError, TypeError, InvalidDocument) as error:
            raise _BrokenIndex(
                f"{self.layout}/index.json is broken: {error!r}",
                hint="pull an image, which begins a new one; no layer is brought again",
            ) from error

    def _write_entries(self, entries: list[Descriptor]) -> None:
        index = {"schemaVersion": 2, "manifests": [entry.to_json() for entry in entries]}
        data = fastjson.dumps(index).encode()
        disk.write_whole(f"{self.layout}/index.json", data, drafts=self.partial)

    def _image(self, entry: Descriptor) -> Image:
        chain_id = Digest.parse(entry.annotation(CHAIN_ID) or "")
        name = entry.annotation(REF_NAME) or ""
        return Image(name, entry, chain_id, self.tree_path(chain_id))


class _BrokenIndex(StoreError):
    """The index was read and is none."""


def _damaged(what: str, error: InvalidDocument) -> StoreError:
    return StoreError(f"{what} is damaged here: {error.message}", hint="pull the image again")
