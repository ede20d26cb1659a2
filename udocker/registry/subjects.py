"""What a manifest is about, told to registries that do not find it out themselves.

Source: distribution-spec 1.1, "Pushing Manifests with Subject" and "Referrers Tag Schema".
"""

from __future__ import annotations

from udocker import fastjson
from udocker.errors import InvalidDocument, RegistryError
from udocker.oci import OCI_INDEX, Descriptor, Digest
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_LISTED = 1 << 14


def subject_of(data: bytes) -> Descriptor | None:
    """Return what a manifest or index says that it is about: a signature about an image, say.

    Raises InvalidDocument.
    """
    try:
        members = fastjson.from_outside(data)
    except ValueError as error:
        raise InvalidDocument(f"the manifest is not JSON: {error}") from error
    value = members.get("subject") if isinstance(members, dict) else None
    return None if value is None else Descriptor.from_json(value, any_algorithm=True)


def tag_for(subject: Digest) -> str:
    """Return the tag under which a registry without the API has the list about `subject`."""
    return f"{subject.algorithm}-{subject.hex[:64]}"


def with_entry(listed: bytes | None, manifest: Descriptor, data: bytes) -> bytes | None:
    """Return the list under that tag with one more manifest; None where it has it already.

    Raises RegistryError for what is no list, or one that is full.
    """
    try:
        index: dict[str, Any] = fastjson.from_outside(listed) if listed else _empty()
        digests = [entry["digest"] for entry in index["manifests"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RegistryError("the list of what refers to an image is broken there") from error
    if str(manifest.digest) in digests:
        return None
    if len(digests) >= MAX_LISTED:
        raise RegistryError("the list of what refers to an image is full there")
    index["manifests"].append(_entry(manifest, fastjson.loads(data)))
    return fastjson.dumps(index).encode("utf-8", "surrogateescape")


def _empty() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def _entry(manifest: Descriptor, members: dict[str, Any]) -> dict[str, Any]:
    plain = replace(manifest, annotations=(), platform=None, data=None, artifact_type="")
    entry = plain.to_json()
    config = members.get("config")
    kind = members.get("artifactType") or (config or {}).get("mediaType")
    if kind:
        entry["artifactType"] = kind
    if members.get("annotations"):
        entry["annotations"] = members["annotations"]
    return entry
