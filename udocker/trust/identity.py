"""For which names a signature was made, and which of them a policy accepts.

Source: containers-policy.json(5), "signedIdentity"; containers/image, policy_reference_match.go.
"""

from __future__ import annotations

from udocker.errors import InvalidReference
from udocker.reference import HUB, Reference
from udocker.trust.members import Members
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MATCH_EXACT, MATCH_REPOSITORY = "matchExact", "matchRepository"
MATCH_REPO_DIGEST_OR_EXACT = "matchRepoDigestOrExact"
EXACT_REFERENCE, EXACT_REPOSITORY = "exactReference", "exactRepository"
REMAP_IDENTITY = "remapIdentity"


@dataclass(frozen=True)
class Identity:
    """Which name a signature has to carry."""

    kind: str
    reference: str = ""
    """Of exactReference and exactRepository."""
    prefix: str = ""
    signed_prefix: str = ""
    """Of remapIdentity."""

    def accepts(self, signed: str, wanted: Reference | None) -> bool:
        """Tell whether a signature for the name `signed` is one for the image `wanted`.

        None: the image has no name of a registry, because it comes from a file.
        """
        claimed = named(signed)
        if claimed is None:
            return False
        if self.kind == EXACT_REFERENCE:
            meant = named(self.reference)
            return meant is not None and not _bare(meant) and meant == claimed
        if self.kind == EXACT_REPOSITORY:
            meant = named(self.reference)
            return meant is not None and meant.name == claimed.name
        return wanted is not None and self._matches(claimed, wanted)

    def _matches(self, claimed: Reference, wanted: Reference) -> bool:
        if self.kind == MATCH_REPOSITORY:
            return claimed.name == wanted.name
        if self.kind == MATCH_EXACT:
            return not _bare(claimed) and claimed == _decided(wanted)
        if self.kind == REMAP_IDENTITY:
            moved = self._remapped(wanted)
            return moved is not None and _repo_digest_or_exact(claimed, moved)
        return self.kind == MATCH_REPO_DIGEST_OR_EXACT and _repo_digest_or_exact(claimed, wanted)

    def _remapped(self, wanted: Reference) -> Reference | None:
        """Return the name with its prefix replaced, as it is without that prefix; None: no name."""
        if wanted.name != self.prefix and not wanted.name.startswith(f"{self.prefix}/"):
            return wanted
        return named(self.signed_prefix + str(wanted)[len(self.prefix) :])


def named(text: str) -> Reference | None:
    """Return the reference `text` with no tag added to it; None when it is none."""
    if text.startswith("docker://"):
        return None
    try:
        found = Reference.parse(text, HUB)
    except InvalidReference:
        return None
    tagged = ":" in text.partition("@")[0].rpartition("/")[2]
    tag = found.tag if tagged else None
    return Reference(found.registry, found.repository, tag, found.digest)


def _bare(reference: Reference) -> bool:
    return reference.tag is None and reference.digest is None


def _decided(reference: Reference) -> Reference:
    """Return the reference by its digest alone where it has one, as podman takes such a name."""
    if reference.digest is None:
        return reference
    return Reference(reference.registry, reference.repository, None, reference.digest)


def _repo_digest_or_exact(claimed: Reference, wanted: Reference) -> bool:
    if _bare(claimed):
        return False
    return claimed.name == wanted.name if wanted.digest else claimed == wanted


def read(members: Members) -> Identity:
    """Return the member `signedIdentity`, or what stands for it where it is missing."""
    if not members.has("signedIdentity"):
        return Identity(MATCH_REPO_DIGEST_OR_EXACT)
    return parse(members.take("signedIdentity"), members.place("signedIdentity"))


def parse(value: Any, where: str) -> Identity:
    """Return the identity that a policy's `value` describes. Raises ValueError."""
    members = Members(value, where)
    kind = members.text("type")
    if kind in (MATCH_EXACT, MATCH_REPO_DIGEST_OR_EXACT, MATCH_REPOSITORY):
        found = Identity(kind)
    elif kind == EXACT_REFERENCE:
        found = Identity(kind, reference=_reference(members, "dockerReference", versioned=True))
    elif kind == EXACT_REPOSITORY:
        found = Identity(kind, reference=_reference(members, "dockerRepository", versioned=False))
    elif kind == REMAP_IDENTITY:
        before, after = _prefix(members, "prefix"), _prefix(members, "signedPrefix")
        found = Identity(kind, prefix=before, signed_prefix=after)
    else:
        raise ValueError(f"{where}.type {kind[:100]!r} is unknown")
    members.finish()
    return found


def _reference(members: Members, key: str, *, versioned: bool) -> str:
    text = members.text(key)
    found = named(text)
    if found is None or (versioned and _bare(found)):
        wanted = "the name of an image with a tag or digest" if versioned else "a repository"
        raise ValueError(f"{members.place(key)} {text[:200]!r} is not {wanted}")
    return text


def _prefix(members: Members, key: str) -> str:
    text = members.text(key)
    found = named(f"{text}/x/y")
    if found is None or found.name != f"{text}/x/y":
        raise ValueError(f"{members.place(key)} {text[:200]!r} is not host[:port][/path]")
    return text
