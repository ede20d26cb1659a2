"""The OCI image specification's values, parsed once at the edge and frozen from there on.

Source: image-spec 1.1 (descriptor.md, manifest.md, image-index.md, config.md) and Docker's
schema 2, which differs in media types only. Unknown members are ignored, as both ask.
"""

from __future__ import annotations

from udocker import fastjson
from udocker.errors import InvalidDocument
from udocker.platforms import Platform as Platform
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
INDEX_TYPES = (OCI_INDEX, DOCKER_INDEX)
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG)
UNTYPED_CONFIGS = ("application/octet-stream", "application/json", "text/html", "")
"""What registries of 2016 made of the config's type; docker reads such images to this day.

Source: moby, distribution/registry.go, `ImageTypes`; distribution issue 1621.
"""
FOREIGN_LAYER_PREFIXES = (
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
LAYER_PREFIXES = (
    OCI_LAYER,
    DOCKER_LAYER,
    *FOREIGN_LAYER_PREFIXES,
)
_ENCRYPTED = "+encrypted"
REF_NAME = "org.opencontainers.image.ref.name"
MAX_DOCUMENT_BYTES = 16 << 20
"""Largest manifest, index or config that is read (the distribution API asks for 4 MiB or more)."""

_MAX_WORD = 100
_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX_DIGITS = frozenset("0123456789abcdef")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ENCODED = _WORD | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ=_-")
_MAX_DIGEST = 255
_MAX_SIZE_BYTES = (1 << 63) - 1


_AS_SPACES = {ord(separator): " " for separator in "+._-"}


@dataclass(frozen=True)
class Digest:
    """The name of content: algorithm (sha256, sha384 or sha512) and lower-case hex."""

    algorithm: str
    hex: str

    @staticmethod
    def parse(text: str) -> Digest:
        """Read `algorithm:hex`. Raises InvalidDocument for any other form."""
        algorithm, _, hex_digits = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if length is None:
            known = ", ".join(_HEX_LENGTH)
            raise InvalidDocument(f"digest {text[:200]!r}: not one of the algorithms {known}")
        if len(hex_digits) != length or not _HEX_DIGITS.issuperset(hex_digits):
            raise InvalidDocument(f"digest {text[:200]!r}: not {length} lower-case hex digits")
        return Digest(algorithm, hex_digits)

    @staticmethod
    def parse_any(text: str) -> Digest:
        """Read a digest whose algorithm may be one that is not known here (`blake3`).

        It can name content and cannot be compared with any: `is_known` tells. The form leaves
        no way to lead out of a directory. Raises InvalidDocument.
        """
        algorithm, _, encoded = text.partition(":")
        if algorithm in _HEX_LENGTH:
            return Digest.parse(text)
        words = algorithm.translate(_AS_SPACES).split(" ")
        good = all(words) and all(map(_WORD.issuperset, words)) and _ENCODED.issuperset(encoded)
        if not good or not encoded or len(text) > _MAX_DIGEST:
            raise InvalidDocument(f"digest {text[:200]!r}: not algorithm:encoded")
        return Digest(algorithm, encoded)

    @property
    def is_known(self) -> bool:
        """Tell whether content can be compared with this digest."""
        return self.algorithm in _HEX_LENGTH

    @staticmethod
    def of(data: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of `data`."""
        import hashlib

        return Digest(algorithm, hashlib.new(algorithm, data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True)
class Descriptor:
    """A reference to content: media type, digest and size in bytes; the rest as the image says."""

    media_type: str
    digest: Digest
    size_bytes: int
    platform: Platform | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    urls: tuple[str, ...] = ()
    artifact_type: str = ""
    """What a manifest that is no image is, if it is said."""
    data: bytes | None = None
    """The content itself, where it is so small that it was put here."""

    @staticmethod
    def from_json(value: Any, *, any_algorithm: bool = False) -> Descriptor:
        """Read the descriptor that `value` holds. Raises InvalidDocument.

        With `any_algorithm` its digest may be of a kind that is not known here.
        """
        members = _typed(value, dict, "descriptor")
        size = members.get("size")
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _MAX_SIZE_BYTES:
            raise InvalidDocument(f"descriptor: size {str(size)[:100]!r} is not a number of bytes")
        platform = members.get("platform")
        urls = _typed(members.get("urls") or [], list, "descriptor: urls")
        parse = Digest.parse_any if any_algorithm else Digest.parse
        digest = parse(_string(members, "digest", "descriptor"))
        return Descriptor(
            media_type=_string(members, "mediaType", "descriptor"),
            digest=digest,
            size_bytes=size,
            platform=_platform(platform) if platform else None,
            annotations=_string_pairs(members.get("annotations"), "descriptor: annotations"),
            urls=tuple(_typed(url, str, "descriptor: url") for url in urls),
            artifact_type=_optional_string(members, "artifactType"),
            data=_embedded(members.get("data"), digest, size),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor as the specification writes it."""
        value: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size_bytes,
        }
        if self.platform:
            names = {"os": self.platform.os, "architecture": self.platform.architecture}
            if self.platform.variant:
                names["variant"] = self.platform.variant
            value["platform"] = names
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.urls:
            value["urls"] = list(self.urls)
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        if self.data is not None:
            import binascii

            value["data"] = binascii.b2a_base64(self.data, newline=False).decode()
        return value

    @property
    def is_foreign(self) -> bool:
        """Tell whether registries need not have the content, which is somewhere else."""
        return bool(self.urls) and self.media_type.startswith(FOREIGN_LAYER_PREFIXES)

    def annotation(self, key: str) -> str | None:
        """Return the annotation of that name."""
        return dict(self.annotations).get(key)


@dataclass(frozen=True)
class Index:
    """A list of manifests, one for each platform."""

    manifests: tuple[Descriptor, ...]

    @staticmethod
    def from_bytes(data: bytes) -> Index:
        """Read an OCI index or a Docker manifest list. Raises InvalidDocument."""
        members = _document(data, "index")
        entries = _list(members, "manifests", "index")
        _check_version(members, "index")
        _check_sole(members, ("config", "layers"), "index")
        read = Descriptor.from_json
        return Index(tuple(read(entry, any_algorithm=True) for entry in entries))


@dataclass(frozen=True)
class Manifest:
    """An image for one platform: its config and its layers, lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""

    @staticmethod
    def from_bytes(data: bytes, media_type: str) -> Manifest:
        """Read an image manifest that came with `media_type`.

        Raises InvalidDocument when it is broken, or is an artifact and not a container image.
        """
        manifest = Manifest.of_artifact(data, media_type)
        problem = manifest._artifact()
        if problem:
            text, hint = problem
            raise InvalidDocument(text, hint=hint)
        return manifest

    @staticmethod
    def of_artifact(data: bytes, media_type: str) -> Manifest:
        """Read a manifest of whatever it is that config and layers are, to pass it on."""
        members = _document(data, "manifest")
        _check_version(members, "manifest")
        _check_sole(members, ("manifests",), "manifest")
        stated = members.get("mediaType")
        if stated is not None and stated != media_type:
            said = repr(stated)[:100]
            raise InvalidDocument(f"manifest says it is {said} but came as {media_type!r}")
        entries = _list(members, "layers", "manifest")
        return Manifest(
            media_type,
            Descriptor.from_json(members.get("config")),
            tuple(Descriptor.from_json(entry) for entry in entries),
            _optional_string(members, "artifactType"),
        )

    def _artifact(self) -> tuple[str, str | None] | None:
        """Return what this is if it is no image, and what one can do with it."""
        config = self.config.media_type
        untyped = self.media_type == DOCKER_MANIFEST and config in UNTYPED_CONFIGS
        has_config = config in CONFIG_TYPES or untyped
        strange = [
            layer.media_type
            for layer in self.layers
            if not layer.media_type.startswith(LAYER_PREFIXES)
            or layer.media_type.endswith(_ENCRYPTED)
        ]
        if has_config and not strange:
            return None
        from udocker.artifacts import describe

        kinds = [self.artifact_type, "" if has_config else config, *strange]
        kind = next(filter(None, (k for k in kinds if k != OCI_EMPTY)), OCI_EMPTY)[:100]
        known = describe(kinds)
        if known:
            return f"not a container image but {known[0]} ({kind})", known[1]
        if has_config and kind.endswith(_ENCRYPTED):
            hint = "skopeo copy --decryption-key KEY docker://NAME oci:DIR; udocker load -i DIR"
            return "its layers are encrypted, and no keys are known here", hint
        if has_config:
            return f"layer type {kind!r} is not a file system layer", None
        which = "artifact type" if self.artifact_type else "config type"
        hint = "oras pull NAME brings what is not an image"
        return f"not a container image but an artifact ({which} {kind!r})", hint


@dataclass(frozen=True)
class ImageConfig:
    """What an image says about the program in it, and the digests of its unpacked layers."""

    platform: Platform
    diff_ids: tuple[Digest, ...]
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    created: str = ""
    stop_signal: str = ""
    """The signal that asks the program to end; empty: TERM."""
    exposed_ports: tuple[str, ...] = ()
    """`80/tcp`: where the program listens, as its author says."""

    @staticmethod
    def from_bytes(data: bytes) -> ImageConfig:
        """Read an image config. Raises InvalidDocument."""
        members = _document(data, "image config")
        rootfs = _typed(members.get("rootfs"), dict, "image config: rootfs")
        if rootfs.get("type") != "layers":
            kind = repr(rootfs.get("type"))[:100]
            raise InvalidDocument(f"image config: rootfs type {kind} is unknown")
        diff_ids = _list(rootfs, "diff_ids", "image config")
        process = _typed(members.get("config") or {}, dict, "image config: config")
        return ImageConfig(
            platform=_platform(members),
            diff_ids=tuple(Digest.parse(_typed(d, str, "diff_id")) for d in diff_ids),
            env=_strings(process, "Env"),
            entrypoint=_strings(process, "Entrypoint"),
            cmd=_strings(process, "Cmd"),
            user=_optional_string(process, "User"),
            working_dir=_optional_string(process, "WorkingDir"),
            labels=_string_pairs(process.get("Labels"), "image config: labels"),
            created=_optional_string(members, "created"),
            stop_signal=_optional_string(process, "StopSignal"),
            exposed_ports=tuple(_typed(process.get("ExposedPorts") or {}, dict, "ExposedPorts")),
        )

    @property
    def chain_id(self) -> Digest:
        """The digest of all layers in order. Source: image-spec config.md, "Layer ChainID"."""
        import hashlib

        if not self.diff_ids:
            return Digest.of(b"")
        chain = str(self.diff_ids[0])
        for diff_id in self.diff_ids[1:]:
            chain = "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
        return Digest.parse(chain)


def oci_layer_type(media_type: str) -> str:
    """Return the OCI word for a layer's type in docker's words."""
    if not media_type.startswith("application/vnd.docker."):
        return media_type
    kind = OCI_LAYER
    if ".foreign." in media_type:
        kind = kind.replace(".layer.", ".layer.nondistributable.")
    for suffix, ending in ((".gzip", "+gzip"), (".zstd", "+zstd")):
        if media_type.endswith(suffix):
            return kind + ending
    return kind


def _document(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidDocument(f"{what} has {len(data)} bytes, more than {MAX_DOCUMENT_BYTES}")
    try:
        value = fastjson.from_outside(data)
    except ValueError as error:
        raise InvalidDocument(f"{what} is not JSON: {error}") from error
    members: dict[str, Any] = _typed(value, dict, what)
    return members


def _check_sole(members: Mapping[str, Any], others: Sequence[str], what: str) -> None:
    """Refuse what can be read as an index and as a manifest: one digest would be two images.

    Source: CVE-2021-41190; containerd refuses it, too.
    """
    for key in others:
        if members.get(key):
            raise InvalidDocument(f"{what}: its {key!r} could make it something else")


def _check_version(members: Mapping[str, Any], what: str) -> None:
    version = members.get("schemaVersion", 2)
    if version != 2 or isinstance(version, bool):
        raise InvalidDocument(f"{what}: schemaVersion is {str(version)[:100]!r}, not 2")


def _embedded(text: Any, digest: Digest, size: int) -> bytes | None:
    """Return the content that a descriptor has in itself. Source: descriptor.md, "Embedded"."""
    if text is None:
        return None
    import binascii

    encoded = _typed(text, str, "descriptor: data").encode("utf-8", "surrogatepass")
    try:
        data = binascii.a2b_base64(encoded)
    except binascii.Error as error:
        raise InvalidDocument("descriptor: data is not base64") from error
    if binascii.b2a_base64(data, newline=False) != encoded:  # the reader skips what is none
        raise InvalidDocument("descriptor: data is not base64")
    if len(data) != size:
        raise InvalidDocument(f"descriptor: data has {len(data)} bytes, not {size}")
    if digest.is_known and Digest.of(data, digest.algorithm) != digest:
        raise InvalidDocument(f"descriptor: data is not what {digest} names")
    return data


def _platform(members: Mapping[str, Any]) -> Platform:
    names = _typed(members, dict, "platform")
    words = [_optional_string(names, key).lower() for key in ("os", "architecture", "variant")]
    if any(len(word) > _MAX_WORD or not word.isprintable() for word in words):
        raise InvalidDocument("platform: a name is too long, or cannot be printed")
    return Platform.of_words(words[0] or "linux", words[1], words[2])


_KINDS = {"dict": "an object", "list": "a list", "str": "a string"}


def _typed(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise InvalidDocument(f"{what} is not {_KINDS[kind.__name__]}")
    return value


def _list(members: Mapping[str, Any], key: str, what: str) -> list[Any]:
    """Return a list that has to be there; `null` is how Go writes an empty one."""
    value = members.get(key, "")
    entries: list[Any] = _typed([] if value is None else value, list, f"{what}: {key}")
    return entries


def _string(members: Mapping[str, Any], key: str, what: str) -> str:
    text: str = _typed(members.get(key), str, f"{what}: {key}")
    return text


def _optional_string(members: Mapping[str, Any], key: str) -> str:
    text: str = _typed(members.get(key) or "", str, key)
    return text


def _strings(members: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = _typed(members.get(key) or [], list, key)
    return tuple(_no_nul(_typed(value, str, f"{key}: entry"), key) for value in values)


def _no_nul(text: str, what: str) -> str:
    if "\0" in text:
        raise InvalidDocument(f"{what}: an entry holds a NUL character")
    return text


def _string_pairs(value: Any, what: str) -> tuple[tuple[str, str], ...]:
    members = _typed(value or {}, dict, what)
    return tuple((key, _typed(text, str, f"{what}: {key}")) for key, text in members.items())
