"""The images of a user: an OCI image layout and the trees unpacked from it.

    names/    a file for each name of an image; what they say counts
    images/   oci-layout, index.json, blobs/   a valid OCI image layout
    trees/    one directory for each ChainID: all layers of an image, unpacked and merged
    records/  what each tree holds
    owners/   whose its files are, where the file system cannot say it of them
    partial/  blobs and trees on their way

One merged tree for an image, not one for each layer: see `ImageStore.tree_path`.
"""

from __future__ import annotations

import os

from udocker import console, disk, trees
from udocker.errors import ImageNotFound, IntegrityError, InvalidDocument, StoreError
from udocker.images.blobs import BlobStore, age_s, is_abandoned
from udocker.images.leases import Lease, use
from udocker.images.names import CHAIN_ID, CREATED, OWN_NAME, SIZE, SOURCE_DIGEST, NameStore
from udocker.images.treestore import TreeStore
from udocker.oci import MAX_DOCUMENT_BYTES, REF_NAME, Descriptor, Digest, ImageConfig, Manifest
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from udocker.images.names import Listed
    from udocker.reference import Reference

PUBLIC = "public"
"""A file of that name says that the store is for others to read, too."""
_OLD_S = 3600
_INDEX_S = 5
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_REPLACED = "replaced"


@dataclass(frozen=True)
class Image:
    """An image of the store, under one of its names."""

    name: str
    """Canonical name, as `docker.io/library/ubuntu:22.04`."""
    manifest: Descriptor
    chain_id: Digest
    tree: str
    """Host path of the unpacked tree."""
    site: str = ""
    """The store of others that it is in, which is only read; empty: it is in the user's own."""

    @property
    def short_id(self) -> str:
        """Twelve digits that tell images apart at a glance."""
        return self.manifest.digest.hex[:12]

    @property
    def source_digest(self) -> str:
        """The digest that the name had where the image came from; empty: unknown."""
        return self.manifest.annotation(SOURCE_DIGEST) or ""


class ImageStore:
    """Images below a directory. Adding, replacing and removing are atomic and idempotent."""

    def __init__(
        self, directory: str, site_stores: tuple[str, ...] = (), *, site: bool = False
    ) -> None:
        """`site_stores` are searched after this one. With `site` it is such a store of others, in
        which nothing is ever written."""
        self.directory = directory
        self.site = directory if site else ""
        others = (path for path in site_stores if path != directory)
        self.sites = tuple(ImageStore(path, site=True) for path in others)
        self.layout = f"{directory}/images"
        self.partial = f"{directory}/partial"
        self.locks = f"{directory}/locks"
        behind = tuple(store.layout for store in self.sites)
        self.blobs = BlobStore(self.layout, self.partial, behind)
        self.names = NameStore(f"{directory}/names", self.layout, self.partial)
        self.tree_store = TreeStore(directory, self.partial)
        self.trees = self.tree_store.directory

    # reading

    def images(self) -> tuple[Image, ...]:
        """Return all images of the store itself in the order of their names."""
        return tuple(sorted(map(self._image, self.names.entries()), key=lambda image: image.name))

    def all_images(self) -> tuple[Image, ...]:
        """Return the images of the store, then those of the site's stores."""
        return sum((store.images() for store in self.sites), self.images())

    def listed(self) -> list[Listed]:
        """Return what lists show of the images of the store, then of those of the site's."""
        found = self.names.listed(self.site)
        for store in self.sites:
            try:
                found += store.listed()
            except StoreError as error:
                console.warn(f"site store: {error.message}")
        return found

    def find(self, reference: Reference) -> Image | None:
        """Return the image that a reference names; by digest where it has one."""
        return self._find(reference) or self._first(lambda site: site.find(reference))

    def _first(self, ask: Callable[[ImageStore], Image | None]) -> Image | None:
        """Return what the first of the site's stores has an answer to; what cannot be read, none
        of the user's business, has none."""
        for site in self.sites:
            try:
                found = ask(site)
            except StoreError as error:
                console.warn(f"site store: {error.message}")
                continue
            if found:
                return found
        return None

    def _find(self, reference: Reference) -> Image | None:
        entry = self.names.get(_name_of(reference))
        if entry is None and reference.digest is not None:
            digest, name = str(reference.digest), reference.name
            for other in self.names.entries():
                known = (str(other.digest), other.annotation(SOURCE_DIGEST))
                named = (other.annotation(REF_NAME) or "").startswith((f"{name}:", f"{name}@"))
                if named and digest in known:
                    entry = other
        return self._image(entry) if entry else None

    def find_id(self, prefix: str) -> Image | None:
        """Return the first image, by name, whose id begins with `prefix`."""
        own = next(iter(self.images_of(prefix)), None)
        return own or self._first(lambda site: site.find_id(prefix))

    def images_of(self, prefix: str) -> tuple[Image, ...]:
        """Return the image whose id begins with `prefix` (6 hex digits or more), under each of
        its names. Raises ImageNotFound when it begins the ids of several."""
        prefix = prefix[7:] if prefix.startswith("sha256:") else prefix
        if len(prefix) < 6 or not set(prefix) <= set("0123456789abcdef"):
            return ()
        found = [entry for entry in self.names.entries() if entry.digest.hex.startswith(prefix)]
        if len({entry.digest for entry in found}) > 1:
            raise ImageNotFound(f"{prefix} begins the ids of several images")
        return tuple(sorted(map(self._image, found), key=lambda image: image.name))

    def source_digest(self, image: Image) -> str | None:
        """Return the digest that the image's name had where it came from."""
        return image.source_digest or None

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
        if image.site != self.site:
            return any(site.is_whole(image) for site in self.sites if site.site == image.site)
        try:
            manifest = self.read_manifest(image)
            documents = (image.manifest.digest, manifest.config.digest)
            intact = all(map(self._is_intact, documents))
        except StoreError:
            return False
        layers_here = all(map(self.blobs.has, manifest.layers))
        return intact and layers_here and self.is_ready(image)

    def is_ready(self, image: Image) -> bool:
        """Tell whether containers can be made of the image: its tree is here, whole."""
        if image.site:  # who looks after it has seen to that
            return os.path.isdir(image.tree)
        return self.has_tree(image.chain_id)

    def has_tree(self, chain_id: Digest) -> bool:
        """Tell whether the tree of those layers is here, whole."""
        return self.tree_store.is_whole(chain_id)

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
        return self.tree_store.path(chain_id)

    # writing

    def prepare(self) -> None:
        """Make the store where there is none, and throw away what dead processes left.

        What they did not come to tell other tools, the index tells now.
        """
        if self.is_public:  # whatever is made from now on, others may read it
            os.umask(0o022)
        mode = 0o755 if self.is_public else 0o700
        parts = (f"{self.layout}/blobs/sha256", self.trees, self.tree_store.records)
        for path in (*parts, self.names.directory):
            disk.make_directory(path, mode)
        disk.make_directory(self.partial)
        if not os.path.exists(f"{self.layout}/oci-layout"):
            disk.write_whole(f"{self.layout}/oci-layout", _LAYOUT, drafts=self.partial)
        self.blobs.sweep()
        for left in self._abandoned():
            self.throw_away(left)
        self._sweep_locks()
        if self.names.index_is_old():
            self.write_index()

    def _sweep_locks(self) -> None:
        """Remove locks of blobs and trees that killed processes left; younger ones may be wanted
        just now."""
        for name in disk.names_in(self.locks):
            path = f"{self.locks}/{name}"
            if name.startswith(("blob-", "tree-")) and age_s(path) > _OLD_S:
                lock = disk.Lock(path)
                if lock.acquire(wait=False):
                    lock.discard()
                else:
                    lock.release()

    def leftovers(self) -> list[str]:
        """Return the paths of all that dead processes left on its way, to be continued or not."""
        trials = f"{self.directory}/cache"
        old = [f"{trials}/{name}" for name in disk.names_in(trials) if name.startswith("probe.")]
        tried = [path for path in old if age_s(path) > _OLD_S]
        return [*self._abandoned(), *tried, *self.blobs.leftovers(resumable=True)]

    def _abandoned(self) -> Iterator[str]:
        for name in disk.names_in(self.partial):
            kind, _, rest = name.partition(".")
            left = f"{self.partial}/{name}"
            if kind in ("tree", "draft") and is_abandoned(left, rest.rpartition(".")[0]):
                yield left

    @property
    def is_public(self) -> bool:
        """Tell whether other users shall be able to read what is in the store."""
        return os.path.exists(f"{self.directory}/{PUBLIC}")

    def new_stage(self) -> str:
        """Make a directory in which a tree can be prepared; `publish_tree` gives it its name."""
        return disk.make_directory(self._new_stage_path())

    def _new_stage_path(self) -> str:
        return f"{self.partial}/tree.{disk.owner()}.{os.urandom(4).hex()}"

    def throw_away(self, left: str) -> None:
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
        self.tree_store.publish(prepared, chain_id, public=self.is_public)

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
        for name in disk.names_in(self.partial):
            kind, _, rest = name.partition(".")
            chain = rest.partition(".")[0]
            if kind == _REPLACED and not in_use(f"{self.trees}/{chain}"):
                self.throw_away(f"{self.partial}/{name}")

    def add(
        self, reference: Reference, manifest: Descriptor, source: Digest, chain_id: Digest
    ) -> Image:
        """Let `reference` name the image, whose content is there; an older one gives way.

        Raises IntegrityError for a name by a digest that is not the image's.
        """
        if reference.digest not in (None, manifest.digest, source):
            raise IntegrityError(
                f"{reference}: what is to be called so is {source}",
                hint="content chooses its digest: give it a tag, or none of both",
            )
        image = self._put(_name_of(reference), manifest, str(source), chain_id)
        self.write_index()
        return image

    def _put(self, name: str, manifest: Descriptor, source: str, chain_id: Digest) -> Image:
        annotations = {
            REF_NAME: name,
            OWN_NAME: name,
            SOURCE_DIGEST: source,
            CHAIN_ID: str(chain_id),
            **self._facts(manifest, chain_id),
        }
        # what else the descriptor says, as `data` and `urls`, may be larger than an entry can be
        kind, digest, size_bytes = manifest.media_type, manifest.digest, manifest.size_bytes
        entry = Descriptor(kind, digest, size_bytes, manifest.platform, tuple(annotations.items()))
        self.names.put(name, entry)
        return self._image(entry)

    def take_over_old(self) -> None:
        """Take the images over that a version without `names/` left, if there are any."""
        if os.path.isdir(self.names.directory) or not os.path.exists(self.names.index):
            return
        try:
            self.prepare()
            self.write_index()
        except StoreError as error:  # not to be written to, or full
            console.warn(f"images of an older udocker are not taken over: {error.message}")

    def take_over(self, entry: Descriptor) -> None:
        """Give an entry of a version that had nothing but the index its name and, where its tree
        is here, the record of that; what makes no sense is passed over."""
        name = entry.annotation(REF_NAME) or ""
        try:
            chain_id = Digest.parse(entry.annotation(CHAIN_ID) or "")
        except InvalidDocument:
            return
        if not name or self.names.get(name) is not None:
            return
        self.tree_store.take_over(chain_id)
        source = entry.annotation(SOURCE_DIGEST) or str(entry.digest)
        self._put(name, entry, source, chain_id)

    def _facts(self, manifest: Descriptor, chain_id: Digest) -> dict[str, str]:
        """Return what lists show of an image: it is read here, once."""
        image = Image("", manifest, chain_id, "")
        try:
            parsed = self.read_manifest(image)
            created = self.config(parsed.config.digest).created
        except StoreError:  # what is added need not be whole yet
            return {}
        blobs = (manifest, parsed.config, *parsed.layers)
        size = sum({blob.digest: blob.size_bytes for blob in blobs}.values())
        extent = self.tree_store.extent(chain_id.hex)
        return {CREATED: created, SIZE: str(size + (extent.disk_bytes if extent else 0))}

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
        disk.remove_file(path)

    def _protection(self, image: Image) -> str:
        """Return the file that protects an image; its name is the digest of the image's."""
        return f"{os.path.dirname(self.layout)}/protected/{Digest.of(image.name.encode()).hex}"

    def remove(self, image: Image) -> None:
        """Take the name away; `write_index` tells other tools, and content that nobody needs now
        stays until it is collected. Raises StoreError when it is protected, or the site's.
        """
        if image.site:
            raise StoreError(
                f"image {image.name} is not yours: it is in the store {image.site}",
                hint="only who looks after that store can remove it",
            )
        if self.is_protected(image):
            hint = f"udocker unprotect {image.name}"
            raise StoreError(f"image {image.name} is protected", hint=hint)
        self.names.remove(image.name)

    def write_index(self) -> None:
        """Let other tools see the images as they are now."""
        if not os.path.isdir(self.layout):
            return
        lock = self.lock("index")
        try:
            lock.acquire_within(_INDEX_S)  # it spares work, and is not needed to be right
            aside = self.names.write_index(self.take_over)
        finally:
            lock.release()
        if aside:
            console.warn(f"the index of the image layout was broken and is now {aside}")

    def lock(self, name: str) -> disk.Lock:
        """Return the lock of that name, by which processes spare each other work."""
        disk.make_directory(self.locks)
        return disk.Lock(f"{self.locks}/{name}")

    def using(self) -> Lease:
        """Return a lease under which no content is thrown away, on any host."""
        return use(self.locks)

    def _image(self, entry: Descriptor) -> Image:
        marks = dict(entry.annotations)
        chain_id = Digest.parse(marks.get(CHAIN_ID, ""))
        return Image(marks.get(REF_NAME, ""), entry, chain_id, self.tree_path(chain_id), self.site)


def _name_of(reference: Reference) -> str:
    """Return the name that an image has in the store."""
    return f"{reference.name}@{reference.digest}" if reference.digest else str(reference)


def _damaged(what: str, error: InvalidDocument) -> StoreError:
    return StoreError(f"{what} is damaged here: {error.message}", hint="pull the image again")
