"""containers-policy.json: which images may come in, by where they come from.

Read as podman and skopeo read it: a member that is unknown, missing, given twice or of another
kind spoils the whole file, for a slip of the pen must not admit anything.
Source: containers-policy.json(5); containers/image, signature/policy_config.go.
"""

from __future__ import annotations

import base64
import binascii
import os

from udocker import fastjson
from udocker.errors import TrustError
from udocker.trust import identity
from udocker.trust.members import Members
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Union

    from udocker.trust.identity import Identity

    Requirement = Union["AcceptAnything", "Reject", "SigstoreSigned", "Uncheckable"]
    Scopes = tuple[tuple[str, tuple[Requirement, ...]], ...]

USER_FILE = ".config/containers/policy.json"
SYSTEM_FILE = "/etc/containers/policy.json"
MAX_POLICY_BYTES = 4 << 20


@dataclass(frozen=True)
class AcceptAnything:
    """No condition."""


@dataclass(frozen=True)
class Reject:
    """No image may come in."""


@dataclass(frozen=True)
class SigstoreSigned:
    """A cosign signature by one of the keys, made for a name that `identity` accepts."""

    key_paths: tuple[str, ...]
    key_datas: tuple[bytes, ...]
    """Public keys, PEM."""
    identity: Identity


@dataclass(frozen=True)
class Uncheckable:
    """A condition that is good policy, and that udocker has no means to check."""

    reason: str


@dataclass(frozen=True)
class Policy:
    """Conditions by transport and scope; all of the most specific scope have to be met."""

    path: str
    """Where it was read."""
    default: tuple[Requirement, ...]
    transports: tuple[tuple[str, Scopes], ...] = ()

    def requirements(self, transport: str, scopes: tuple[str, ...]) -> tuple[Requirement, ...]:
        """Return the conditions for an image whose scopes are these, most specific first."""
        known = dict(dict(self.transports).get(transport, ()))
        for scope in (*scopes, ""):
            if scope in known:
                return known[scope]
        return self.default


def load(named: str, home: str, system_file: str = SYSTEM_FILE) -> Policy | None:
    """Return the policy in force: the file `named`, or the user's, or the machine's; None: none.

    Raises TrustError for a file that cannot be read or is not exactly a policy.
    """
    if named:
        return parse(_read(named), named)
    for path in (f"{home}/{USER_FILE}" if home else "", system_file):
        if path and os.path.lexists(path):
            return parse(_read(path), path)
    return None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_POLICY_BYTES + 1)
    except OSError as error:
        raise TrustError(f"cannot read the policy {path}: {error.strerror}") from error
    if len(data) > MAX_POLICY_BYTES:
        raise TrustError(f"the policy {path} is larger than {MAX_POLICY_BYTES} bytes")
    return data


def parse(data: bytes, path: str) -> Policy:
    """Return the policy that `data`, read from `path`, holds. Raises TrustError."""
    try:
        members = Members(fastjson.loads(data), "")
        default = _requirements(members.take("default"), "default")
        transports = members.take("transports", {})
        members.finish()
        found = Members(transports, "transports").each(_scopes)
    except ValueError as error:
        hint = "man containers-policy.json; no image comes in until it is mended"
        raise TrustError(f"the policy {path} is broken: {error}", hint=hint) from error
    return Policy(path, default, found)


def _scopes(value: Any, where: str, transport: str) -> Scopes:
    def read(entries: Any, place: str, scope: str) -> tuple[Requirement, ...]:
        _check_scope(transport, scope, where)
        return _requirements(entries, place)

    found: Scopes = Members(value, where).each(read)
    return found


def _check_scope(transport: str, scope: str, where: str) -> None:
    """Raise ValueError for a scope that no image of the transport can have."""
    if transport in ("dir", "oci", "oci-archive") and scope:
        path = scope.partition(":")[0] if transport != "dir" else scope
        if not path.startswith("/") or path == "/" or os.path.normpath(path) != path:
            raise ValueError(f"{where}: {scope[:200]!r} is not an absolute path without '..'")
    elif transport == "docker-archive" and scope:
        raise ValueError(f"{where}: it has no scope but the empty one")


def _requirements(value: Any, where: str) -> tuple[Requirement, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} is not a list of requirements, or is empty")
    return tuple(_requirement(entry, f"{where}[{i}]") for i, entry in enumerate(value))


def _requirement(value: Any, where: str) -> Requirement:
    members = Members(value, where)
    kind = members.text("type")
    read = _KINDS.get(kind)
    if read is None:
        raise ValueError(f"{where}.type {kind[:100]!r} is unknown")
    found = read(members)
    members.finish()
    return found


def _signed_by(members: Members) -> Requirement:
    kinds = ("GPGKeys", "signedByGPGKeys", "X509Certificates", "signedByX509CAs")
    if members.text("keyType") not in kinds:
        raise ValueError(f"{members.place('keyType')} is unknown")
    _one_of(members, ("keyPath", "keyPaths", "keyData"))
    identity.read(members)
    return Uncheckable("it wants a GPG signature (signedBy), which udocker does not check")


def _signed_base_layer(members: Members) -> Requirement:
    identity.parse(members.take("baseLayerIdentity"), members.place("baseLayerIdentity"))
    return Uncheckable("it wants a signed base layer, which nothing implements")


_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki")
_REKOR = ("Path", "Paths", "Data", "Datas")


def _sigstore_signed(members: Members) -> Requirement:
    source, value = _one_of(members, _KEYS)
    logs = tuple(key for key in (f"rekorPublicKey{end}" for end in _REKOR) if members.has(key))
    if logs:
        _one_of(members, logs)
    elif source == "fulcio":
        raise ValueError(f"{members.place('rekorPublicKeyPath')} is missing beside fulcio")
    wanted = identity.read(members)
    if source in ("fulcio", "pki"):
        return Uncheckable(f"it wants a certificate ({source}), and udocker knows keys only")
    if logs:
        return Uncheckable(f"it wants an entry of a log ({logs[0]}), which udocker does not check")
    if source in ("keyPath", "keyPaths"):
        return SigstoreSigned(_absolute(value, members.place(source)), (), wanted)
    return SigstoreSigned((), value, wanted)


def _absolute(paths: tuple[str, ...], where: str) -> tuple[str, ...]:
    for path in paths:
        if not path.startswith("/"):
            raise ValueError(f"{where}: {path[:200]!r} is not an absolute path")
    return paths


def _one_of(members: Members, keys: tuple[str, ...]) -> tuple[str, Any]:
    """Return the only one of `keys` that is there and its value: paths, bytes or an object."""
    given = [key for key in keys if members.has(key)]
    if len(given) != 1:
        raise ValueError(f"{members.place('')[:-1]} has {len(given)} of {', '.join(keys)}, not one")
    key, where = given[0], members.place(given[0])
    if key in ("fulcio", "pki"):
        _check_certificates(members.take(key), where, fulcio=key == "fulcio")
        return key, ()
    texts = members.texts(key) if key.endswith("s") else (members.text(key),)
    if "Data" in key:
        return key, tuple(_decoded(text, where) for text in texts)
    return key, texts


def _check_certificates(value: Any, where: str, *, fulcio: bool) -> None:
    members = Members(value, where)
    if fulcio:
        _one_of(members, ("caPath", "caData"))
        subjects: tuple[str, ...] = ("oidcIssuer", "subjectEmail")
    else:
        _one_of(members, ("caRootsPath", "caRootsData"))
        between = ("caIntermediatesPath", "caIntermediatesData")
        if any(map(members.has, between)):
            _one_of(members, between)
        subjects = tuple(filter(members.has, ("subjectEmail", "subjectHostname")))
        if not subjects:
            raise ValueError(f"{members.place('subjectEmail')} is missing")
    for key in subjects:
        members.text(key)
    members.finish()


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where} is not base64") from error


_KINDS: dict[str, Callable[[Members], Requirement]] = {
    "insecureAcceptAnything": lambda _: AcceptAnything(),
    "reject": lambda _: Reject(),
    "signedBy": _signed_by,
    "signedBaseLayer": _signed_base_layer,
    "sigstoreSigned": _sigstore_signed,
}
