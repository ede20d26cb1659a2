"""What the images of an archive are called once they are loaded."""

from __future__ import annotations

from udocker import console
from udocker.errors import InvalidReference, UsageError
from udocker.oci import REF_NAME
from udocker.reference import HUB, Reference, is_tag
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from udocker.oci import Descriptor, Digest

CONTAINERD_NAME = "io.containerd.image.name"
"""Annotation: the whole name, which docker and containerd write beside the tag."""


@dataclass(frozen=True)
class Wanted:
    """The name that the user gives to what is loaded."""

    reference: Reference
    has_tag: bool
    """Whether a tag was given too; if not, images keep theirs."""

    @staticmethod
    def of(text: str, reference: Reference) -> Wanted:
        """Return what `text` asks for, which was read as `reference`. Raises UsageError."""
        if reference.digest:
            raise UsageError(f"{text}: a digest cannot be given to what is loaded")
        return Wanted(reference, ":" in text.rpartition("/")[2])


@dataclass(frozen=True)
class Given:
    """The names that an archive has for an image."""

    references: tuple[Reference, ...] = ()
    tags: tuple[str, ...] = ()
    """Mere tags, where there is no name."""

    def chosen(self, wanted: Wanted | None, config: Digest) -> tuple[Reference, ...]:
        """Return what to call the image: never nothing, each name once."""
        if wanted is None and self.references:
            return self.references
        if wanted and wanted.has_tag:
            return (wanted.reference,)
        name = wanted.reference if wanted else Reference("localhost", config.hex[:12], None, None)
        tags = [reference.tag or "latest" for reference in self.references] or self.tags
        named = (
            Reference(name.registry, name.repository, tag, None) for tag in tags or ("latest",)
        )
        return tuple(dict.fromkeys(named))


def given(names: Iterable[str]) -> Given:
    """Return the names, those of which docker makes no sense passed over with a note.

    Names without a host are docker's, whatever registry the user has set.
    """
    references: list[Reference] = []
    tags: list[str] = []
    for name in names:
        if is_tag(name):
            tags.append(name)
            continue
        try:
            reference = Reference.parse(name, HUB)
        except InvalidReference as error:
            console.warn(f"{error.message}: passed over")
            continue
        if reference.digest:  # of content that may be another: it was not asked for by digest
            continue
        references.append(reference)
    return Given(tuple(dict.fromkeys(references)), tuple(dict.fromkeys(tags)))


def name_of(entry: Descriptor) -> str:
    """Return the name that a layout's index has for an image, or its mere tag, or nothing."""
    return entry.annotation(CONTAINERD_NAME) or entry.annotation(REF_NAME) or ""
