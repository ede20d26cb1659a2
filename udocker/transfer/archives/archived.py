"""Which images an archive or a layout holds, and under what names."""

from __future__ import annotations

from udocker import console, fastjson
from udocker.errors import InvalidDocument
from udocker.images.archives.dockerarchive import saved_images
from udocker.oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT_BYTES,
    Descriptor,
    Digest,
    Manifest,
    Platform,
)
from udocker.transfer.archives.archivenames import Given, given, name_of
from udocker.transfer.archives.dockersource import DockerSource
from udocker.transfer.archives.layoutsource import LayoutSource, PlainSource, layout_entries
from udocker.transfer.resolve import choose, resolve
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from udocker.images.archives.archivefiles import Files
    from udocker.images.archives.dockerarchive import Saved
    from udocker.transfer.archives.dockersource import Known


@dataclass(frozen=True)
class Archived:
    """An image of an archive, and the names that the archive has for it."""

    source: LayoutSource | DockerSource
    given: Given


def archived_images(files: Files, platform: Platform, known: Known) -> list[Archived]:
    """Return the images of an archive, of one that is there for several platforms the one for
    `platform`.

    Where an archive is both, an OCI layout and one of docker (25 and later write such), it is
    read as the layout, whose digests are the image's own. Raises InvalidDocument.
    """
    plain = PlainSource.of(files)
    if plain:
        return [Archived(plain, Given())]
    entries = layout_entries(files)
    saved = saved_images(files)
    images = _of_layout(files, entries, saved, platform) if entries else []
    if not images:
        images = [Archived(DockerSource(files, s, known), given(s.names)) for s in saved]
    if not images:
        raise InvalidDocument(
            f"{files.name}: no images in it, as docker save or an OCI layout has them",
            hint="the files of a system are taken by udocker import",
        )
    return images


def _of_layout(
    files: Files, entries: Iterable[Descriptor], saved: list[Saved], platform: Platform
) -> list[Archived]:
    names_of: dict[Digest, list[str]] = {}
    chosen: dict[Digest, Descriptor] = {}
    for name, alike in _by_name(files, entries).items():
        entry = alike[0] if len(alike) == 1 else choose(alike, platform, name or files.name)
        chosen.setdefault(entry.digest, entry)
        names_of.setdefault(entry.digest, []).extend([name] if name else [])
    sources = [LayoutSource(files, entry) for entry in chosen.values()]
    return [_named(s, names_of[s.entry.digest], saved, platform) for s in sources]


def _by_name(files: Files, entries: Iterable[Descriptor]) -> dict[str, list[Descriptor]]:
    """Return the entries that are images, those together that are one for several platforms.

    Entries without a name are different images unless each is for a platform.
    """
    groups: dict[str, list[Descriptor]] = {}
    nameless = 0
    for entry in entries:
        if entry.media_type not in (*INDEX_TYPES, *MANIFEST_TYPES) or _is_artifact(files, entry):
            console.warn(f"{files.name}: {entry.digest} is not an image and passed over")
            continue
        name = name_of(entry)
        groups.setdefault(name, []).append(entry)
        nameless += not name and entry.platform is None
    if not nameless:
        return groups
    without = groups.pop("")
    return {**groups, **{" " * number: [entry] for number, entry in enumerate(without, 1)}}


def _is_artifact(files: Files, entry: Descriptor) -> bool:
    """Tell whether a manifest is no image but about one: a signature, an attestation."""
    part = LayoutSource(files, entry).stored(entry)
    if part is None or part.size_bytes > MAX_DOCUMENT_BYTES:
        return False
    try:
        data = b"".join(part.chunks())
        members = fastjson.loads(data)
    except ValueError:
        return False
    if not isinstance(members, dict) or not ("subject" in members or "artifactType" in members):
        return False
    try:
        Manifest.from_bytes(data, entry.media_type)
    except InvalidDocument:
        return True
    return False  # images may have a type, and be about others, as well


def _named(
    source: LayoutSource, names: list[str], saved: list[Saved], platform: Platform
) -> Archived:
    """Return the image with its names; docker's own list knows them where the layout does not."""
    found = given(name for name in names if name.strip())
    if found.references or not saved:
        return Archived(source, found)
    config = resolve(source, platform).manifest.config.digest.hex
    listed = [name for image in saved if config in image.config for name in image.names]
    return Archived(source, given(listed) if listed else found)
