"""Both ends of a copy, opened: what is to be read, and what will hold it."""

from __future__ import annotations

import os
from contextlib import contextmanager

from udocker import trees
from udocker.errors import (
    ImageNotFound,
    InvalidDocument,
    InvalidReference,
    RegistryError,
    UsageError,
)
from udocker.images.archives.dockerarchive import saved_images
from udocker.oci import REF_NAME, Descriptor, Platform
from udocker.reference import HUB, Reference, registry_of
from udocker.registry.client import Client
from udocker.registry.shortnames import meanings
from udocker.transfer.admission import Admission
from udocker.transfer.archives import archiveinput
from udocker.transfer.archives.archivenames import name_of
from udocker.transfer.archives.archivetarget import ArchiveTarget
from udocker.transfer.archives.dockersource import DockerSource
from udocker.transfer.archives.layoutsource import LayoutSource, layout_entries
from udocker.transfer.archives.layouttarget import LayoutTarget
from udocker.transfer.content import reading
from udocker.transfer.copying.places import DOCKER, DOCKER_ARCHIVE, HINT, OCI, STORE, Location
from udocker.transfer.copying.push import Origins
from udocker.transfer.ingest import Ingest
from udocker.transfer.resolve import choose
from udocker.transfer.source import RegistrySource, StoreSource
from udocker.transfer.target import RegistryTarget
from udocker.trust.place import in_file, in_registry
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TypeVar

    from udocker.images.archives.archivefiles import Files
    from udocker.images.archives.dockerarchive import Saved
    from udocker.images.store import ImageStore
    from udocker.oci import Digest
    from udocker.settings import Settings
    from udocker.transfer.source import Source
    from udocker.transfer.target import Target

    _T = TypeVar("_T")


@dataclass(frozen=True)
class Opened:
    """What is copied, and whether the policy lets it be; None: it was let in before."""

    source: Source
    admission: Admission | None


def reference(location: Location, settings: Settings) -> Reference:
    """Return the name of a registry or of the store. Raises InvalidReference, with the way out."""
    try:
        chosen = settings.registry
        return Reference.parse(location.name, registry_of(chosen) if chosen else HUB)
    except InvalidReference as error:
        if location.transport == DOCKER and ("/" in location.name or os.path.exists(location.name)):
            raise InvalidReference(error.message, hint=f"places are {HINT}") from None
        raise


def registry_source(settings: Settings, name: str) -> RegistrySource:
    """Return the image that a name means in a registry.

    Of several registries that the user lets be searched, the first one that has it counts.
    """
    *others, last = meanings(name, settings)
    for reference in others:
        client = Client(reference.registry, settings)
        try:
            client.head(reference)
        except (ImageNotFound, RegistryError):
            continue
        return RegistrySource(client, reference)
    return RegistrySource(Client(last.registry, settings), last)


@contextmanager
def opened(
    settings: Settings, store: ImageStore, location: Location, platform: Platform
) -> Iterator[Opened]:
    """Open what is to be read. Raises ImageNotFound, InvalidDocument, TrustError."""
    if location.transport == DOCKER:
        reference(location, settings)  # raises for what is a path, say
        source = registry_source(settings, location.name)
        place = in_registry(source.reference)
        yield Opened(source, Admission(settings, place, source.client))
    elif location.transport == STORE:
        image = store.find(reference(location, settings))
        image = image or store.find_id(location.name)
        if image is None:
            hint = f"udocker pull {location.name}, or copy docker://{location.name}"
            raise ImageNotFound(f"no image {location.name!r} here", hint=hint)
        with reading(store):
            yield Opened(StoreSource(store, image), None)
    else:
        with _files(settings, store, location) as files:
            held = _in_files(files, location, platform)
            own = held.entry.annotation(REF_NAME) if isinstance(held, LayoutSource) else None
            place = in_file(location.transport, location.path, own or "")
            yield Opened(held, Admission(settings, place))


@contextmanager
def _files(settings: Settings, store: ImageStore, location: Location) -> Iterator[Files]:
    wants_directory = location.transport == OCI
    if os.path.exists(location.path) and os.path.isdir(location.path) != wants_directory:
        hint = f"oci: is for directories, oci-archive: and docker-archive: for files; {HINT}"
        raise UsageError(f"{location}: that is not what lies there", hint=hint)
    stages: list[str] = []
    store.prepare()  # where streams are kept
    try:
        yield archiveinput.opened(settings, location.path, store, stages)
    finally:
        for stage in stages:
            trees.remove_tree(stage)


def _in_files(files: Files, location: Location, platform: Platform) -> LayoutSource | DockerSource:
    if location.transport == DOCKER_ARCHIVE:
        saved = saved_images(files)
        named = [image for image in saved if _is_called(location.name, image.names)]
        chosen = _only(named or (saved if not location.name else []), location, _all_names(saved))
        return DockerSource(files, chosen, lambda *_: None)
    entries = layout_entries(files)
    if entries is None:
        raise InvalidDocument(f"{files.name} is not an OCI image layout", hint=HINT)
    alike = [e for e in entries if not location.name or _is_called(location.name, _names(e))]
    one_name = len({name_of(entry) for entry in alike}) == 1
    if len(alike) > 1 and one_name and all(entry.platform for entry in alike):
        return LayoutSource(files, choose(alike, platform, files.name))
    listed = sorted(name_of(entry) or str(entry.digest) for entry in entries)
    return LayoutSource(files, _only(alike, location, listed))


def _only(found: Sequence[_T], location: Location, names: Sequence[str]) -> _T:
    if len(found) == 1:
        return found[0]
    listed = ", ".join(names[:20]) or "nothing"
    if found:
        hint = f"say which: {location.transport}:{location.path}:NAME"
        raise UsageError(f"{location} has several images: {listed}", hint=hint)
    raise ImageNotFound(f"{location}: no such image; there is {listed}")


def _names(entry: Descriptor) -> tuple[str, ...]:
    return name_of(entry), entry.annotation(REF_NAME) or "", str(entry.digest)


def _is_called(wanted: str, names: Sequence[str]) -> bool:
    """Tell whether an image of these names is meant: by one as it stands, or what it means."""
    if wanted in names:
        return True
    try:
        meant = Reference.parse(wanted)
        return meant in [Reference.parse(name) for name in names if name and "@" not in name]
    except InvalidReference:
        return False


def _all_names(saved: Sequence[Saved]) -> list[str]:
    return sorted(name for image in saved for name in image.names or (image.config,))


def into_store(
    settings: Settings,
    store: ImageStore,
    found: Opened,
    location: Location,
    platform: Platform,
    *,
    strict: bool,
) -> Digest:
    """Have what was opened in the store, unpacked, under a name; return its digest."""
    if found.admission is None:
        raise UsageError(
            "from the store to the store nothing is copied", hint="udocker tag IMAGE NAME"
        )
    named = reference(location, settings)
    store.prepare()
    content = store.using()
    try:
        how = (settings, store, found.source, platform, found.admission)
        return Ingest(*how, strict=strict).run(named).manifest.digest
    finally:
        content.release()


def place_for(settings: Settings, text: str) -> Location:
    """Return where a push goes. Raises UsageError for the own store, InvalidReference."""
    location = Location.parse(text)
    if location.transport == STORE:
        raise UsageError("from the store to the store nothing is pushed", hint="udocker tag")
    if not location.path:
        reference(location, settings)
    return location


@contextmanager
def target_at(
    settings: Settings, store: ImageStore, location: Location, source: Source | None = None
) -> Iterator[Target]:
    """Open what images are copied to. Raises UsageError, StoreError."""
    if location.transport == OCI:
        yield LayoutTarget(location.path, location.name)
        return
    if location.path:
        docker = location.transport == DOCKER_ARCHIVE
        with ArchiveTarget(location.path, location.name, docker=docker) as archive:
            yield archive
        return
    named = reference(location, settings)
    origins: _Origins | Origins = Origins(store, named)
    if isinstance(source, RegistrySource) and source.reference.registry == named.registry:
        origins = _Origins(source.reference.repository, named.repository)
    yield RegistryTarget(Client(named.registry, settings), named, origins)


class _Origins:
    """The repository that an image is copied from, of the same registry."""

    def __init__(self, repository: str, own: str) -> None:
        self._repositories = (repository,) if repository != own else ()

    def __call__(self, _: Digest) -> Sequence[str]:
        return self._repositories
