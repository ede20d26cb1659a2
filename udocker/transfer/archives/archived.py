"""Which images an archive or a layout holds, under what names, and what lies beside them."""

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
    Index,
    Manifest,
    Platform,
)
from udocker.transfer.archives.archivenames import Given, given, name_of
from udocker.transfer.archives.dockersource import DockerSource
from udocker.transfer.archives.layoutsource import LayoutSource, PlainSource, layout_entries
from udocker.transfer.resolve import choose, holds_images, resolve
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
    beside: tuple[LayoutSource, ...] = ()
    """What the layout lists that is no image: signatures, maybe."""


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
    images, beside = _sorted(files, entries, is_all=not saved)
    for name, alike in _by_name(images).items():
        entry = alike[0] if len(alike) == 1 else choose(alike, platform, str(name) or files.name)
        chosen.setdefault(entry.digest, entry)
        names_of.setdefault(entry.digest, []).extend([name] if isinstance(name, str) else [])
    found = []
    for entry in chosen.values():
        source = LayoutSource(files, entry)
        given_names = _given(source, names_of[entry.digest], saved, platform)
        found.append(Archived(source, given_names, beside))
    return found


def _sorted(
    files: Files, entries: Iterable[Descriptor], *, is_all: bool
) -> tuple[list[Descriptor], tuple[LayoutSource, ...]]:
    """Return the entries that are images, and what the others are: the user is told of these.

    Raises InvalidDocument, which says what is there, where no image is and `is_all` there is.
    """
    images, beside, problem = [], [], None
    for entry in entries:
        source = LayoutSource(files, entry)
        error = _no_image(source)
        if error is None:
            images.append(entry)
            continue
        problem = problem or error
        beside.append(source)
        console.warn(f"{files.name}: {entry.digest} is passed over: {error.message}")
    if problem and is_all and not images:
        problem.message = f"{files.name}: {problem.message}"
        raise problem
    return images, tuple(beside)


def _no_image(source: LayoutSource) -> InvalidDocument | None:
    """Return what an entry is if it is no image but sound: a signature, a chart; None: it may be.

    Images may have a type, and be about others, as well.
    """
    kind = source.entry.media_type
    if kind not in (*INDEX_TYPES, *MANIFEST_TYPES):
        return InvalidDocument(f"{kind[:100]!r} is neither an image nor an index")
    part = source.stored(source.entry)
    if part is None or part.size_bytes > MAX_DOCUMENT_BYTES:
        return None  # whose reader says what is wrong
    data = b"".join(part.chunks())
    try:
        if kind in MANIFEST_TYPES:
            Manifest.from_bytes(data, kind)
        elif (entries := Index.from_bytes(data).manifests) and not holds_images(entries):
            return InvalidDocument("an index without container images")
    except InvalidDocument as error:
        return error if _is_artifact(data, kind) else None
    return None


def _is_artifact(data: bytes, media_type: str) -> bool:
    """Tell whether a manifest that is not an image's has its own kind of content, or a subject."""
    try:
        Manifest.of_artifact(data, media_type)
    except InvalidDocument:
        pass
    else:
        return True
    try:
        members = fastjson.from_outside(data)
    except ValueError:
        return False
    return isinstance(members, dict) and ("subject" in members or "artifactType" in members)


def _by_name(images: Iterable[Descriptor]) -> dict[str | int, list[Descriptor]]:
    """Return entries by their names, those together that are one image for several platforms.

    Entries without a name are different images, and have numbers, unless each is for a platform.
    """
    groups: dict[str | int, list[Descriptor]] = {}
    nameless = 0
    for entry in images:
        name = name_of(entry)
        groups.setdefault(name, []).append(entry)
        nameless += not name and entry.platform is None
    if not nameless:
        return groups
    without = groups.pop("")
    return {**groups, **{number: [entry] for number, entry in enumerate(without)}}


def _given(source: LayoutSource, names: list[str], saved: list[Saved], platform: Platform) -> Given:
    """Return an image's names; docker's own list knows them where the layout does not."""
    found = given(name for name in names if name.strip())
    if found.references or not saved:
        return found
    config = resolve(source, platform).manifest.config.digest.hex
    listed = [name for image in saved if config in image.config for name in image.names]
    return given(listed) if listed else found
