"""What signatures say: a payload that a key signed, and the image and the name that it claims.

Two forms. Simple signing: the payload is a layer of the signature's manifest, the signature an
annotation of that layer. Bundles: a DSSE envelope around an in-toto statement.
Source: cosign, specs/SIGNATURE_SPEC.md and BUNDLE_SPEC.md; containers-signature(5); sigstore
protobuf-specs, sigstore_bundle.proto; DSSE, protocol.md.
"""

from __future__ import annotations

import base64
import binascii

from udocker import fastjson
from udocker.oci import Digest
from udocker.trust.keys import MAX_SIGNATURE_BYTES
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE_PREFIX = "application/vnd.dev.sigstore.bundle"
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
"""What a statement says of itself that is a signature of an image and no other attestation."""
_SIMPLE_TYPE = "cosign container image signature"
_IN_TOTO = "application/vnd.in-toto+json"
_IMAGE_DIGESTS = ("sha256:", "sha384:", "sha512:")
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")


@dataclass(frozen=True)
class Signature:
    """A signature as it was found, believed by nobody yet."""

    message: bytes
    """What was signed, byte for byte."""
    signature: bytes
    digests: tuple[str, ...]
    """The images that it says it is of."""
    reference: str = ""
    """The name that it says the image has; empty: it names none."""
    keyless: bool = False
    """A certificate came with it: its key was used once and thrown away."""
    bundle: bytes = b""
    """The bundle that it was read from, if it was."""


class Unreadable(ValueError):
    """What was found is no signature of an image; the text says why."""


def simple(payload: bytes, encoded: str | None, *, keyless: bool) -> Signature:
    """Return the signature made of a simple signing payload and the annotation beside it.

    Raises Unreadable.
    """
    if encoded is None:
        raise Unreadable("the annotation with the signature is missing")
    critical = _member(_object(payload, "the payload"), "critical", dict)
    if critical.get("type") != _SIMPLE_TYPE:
        raise Unreadable(f"the payload is of type {str(critical.get('type'))[:100]!r}")
    image = _member(critical, "image", dict)
    name = _member(critical, "identity", dict)
    return Signature(
        message=payload,
        signature=_decoded(encoded),
        digests=(_digest(_member(image, "docker-manifest-digest", str)),),
        reference=_member(name, "docker-reference", str),
        keyless=keyless,
    )


def bundle(data: bytes) -> Signature:
    """Return the signature in a sigstore bundle that holds an image's. Raises Unreadable."""
    members = _object(data, "the bundle")
    if not str(members.get("mediaType")).startswith(BUNDLE_PREFIX):
        raise Unreadable(f"{str(members.get('mediaType'))[:100]!r} is no bundle")
    if "messageSignature" in members or "dsseEnvelope" not in members:
        raise Unreadable("the bundle signs a file, not an image")
    material = _member(members, "verificationMaterial", dict)
    envelope = _member(members, "dsseEnvelope", dict)
    kind = _member(envelope, "payloadType", str)
    if kind != _IN_TOTO:
        raise Unreadable(f"the envelope holds {kind[:100]!r}")
    payload = _decoded(_member(envelope, "payload", str), bounded=False)
    signatures = _member(envelope, "signatures", list)
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise Unreadable(f"the envelope has {len(signatures)} signatures, not one")
    return Signature(
        message=_pre_authentication(kind, payload),
        signature=_decoded(_member(signatures[0], "sig", str)),
        digests=_subjects(payload),
        keyless="publicKey" not in material,
        bundle=data,
    )


def _subjects(payload: bytes) -> tuple[str, ...]:
    statement = _object(payload, "the statement")
    if statement.get("_type") not in _STATEMENTS:
        raise Unreadable(f"the statement is of type {str(statement.get('_type'))[:100]!r}")
    predicate = str(statement.get("predicateType"))
    if predicate != SIGN_PREDICATE:
        raise Unreadable(f"an attestation ({predicate[:100]}), not a signature of the image")
    found = []
    for subject in _member(statement, "subject", list):
        if isinstance(subject, dict) and isinstance(subject.get("digest"), dict):
            named = (f"{kind}:{text}" for kind, text in subject["digest"].items())
            found += [text for text in named if text.startswith(_IMAGE_DIGESTS)]
    return tuple(found)


def _pre_authentication(kind: str, payload: bytes) -> bytes:
    """Return what a DSSE signature is of. Source: DSSE, protocol.md, "PAE"."""
    name = kind.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = fastjson.loads(data)
    except ValueError as error:
        raise Unreadable(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Unreadable(f"{what} is not an object")
    return value


def _member(members: dict[str, Any], key: str, kind: type) -> Any:
    value = members.get(key)
    if not isinstance(value, kind):
        raise Unreadable(f"{key} is missing, or is of another kind")
    return value


def _digest(text: str) -> str:
    from udocker.errors import InvalidDocument

    try:
        return str(Digest.parse(text))
    except InvalidDocument as error:
        raise Unreadable(error.message) from error


def _decoded(text: str, *, bounded: bool = True) -> bytes:
    if bounded and len(text) > MAX_SIGNATURE_BYTES:
        raise Unreadable(f"the signature has more than {MAX_SIGNATURE_BYTES} characters")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unreadable("the signature is not base64") from error
    if not data:
        raise Unreadable("the signature is empty")
    return data
