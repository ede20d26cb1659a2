"""The OCI image specification's values, parsed once at the edge and frozen from there on.

Source: image-spec 1.1 (descriptor.md, manifest.md, image-index.md, config.md) and Docker's
schema 2, which differs in media types only. Unknown members are ignored, as both ask.
"""

from __future__ import annotations

from udocker import fastjson
from udocker.errors import InvalidDocument
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
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
LAYER_PREFIXES = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
REF_NAME = "org.opencontainers.image.ref.name"
MAX_DOCUMENT_BYTES = 16 << 20
"""Largest manifest, index or config that is read (the distribution API asks for 4 MiB or more)."""

_MAX_WORD = 100
_HEX_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX_DIGITS = frozenset("0123456789abcdef")


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
    def of(data: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of `data`."""
        import hashlib

        return Digest(algorithm, hashlib.new(algorithm, data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True)
class Platform:
    """What a program needs below it, in Go's words (`linux`, `amd64`, `arm64`, variant `v8`)."""

    os: str
    architecture: str
    variant: str = ""

    @staticmethod
    def parse(text: str) -> Platform:
        """Read `os/architecture[/variant]` or a bare architecture, as docker's `--platform`."""
        parts = text.lower().split("/")
        if len(parts) == 1:
            parts = ["linux", *parts]
        if len(parts) > 3 or not all(parts):
            raise InvalidDocument(f"platform {text!r}: not os/architecture[/variant]")
        architecture, variant = _normal_architecture(parts[1], parts[2] if len(parts) > 2 else "")
        return Platform(parts[0], architecture, variant)

    @staticmethod
    def of_machine(machine: str) -> Platform:
        """Return the platform of a Linux host whose `uname -m` is `machine`."""
        return Platform("linux", *_normal_architecture(machine.lower(), ""))

    def runs(self, other: Platform) -> bool:
        """Tell whether an image for `other` runs on this platform."""
        same = (self.os, self.architecture) == (other.os, other.architecture)
        return same and other.variant in _accepted_variants(self)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "arm64": ("arm64", "v8"),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armel": ("arm", "v6"),
    "arm": ("arm", "v7"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}


def _normal_architecture(architecture: str, variant: str) -> tuple[str, str]:
    name, default = _ARCHITECTURES.get(architecture, (architecture, ""))
    return name, variant or default


def _accepted_variants(platform: Platform) -> tuple[str, ...]:
    if platform.architecture == "arm64":
        return ("v8", "")
    if platform.architecture == "arm":
        newest = platform.variant[1:]
        older = range(int(newest), 4, -1) if newest.isdigit() else range(0)
        return (*(f"v{number}" for number in older), "")
    if platform.architecture == "amd64":
        newest = platform.variant[1:] or "1"
        older = range(int(newest), 0, -1) if newest.isdigit() else range(0)
        return (*(f"v{number}" for number in older), "")
    return (platform.variant, "")


@dataclass(frozen=True)
class Descriptor:
    """A reference to content: media type, digest and size in bytes; the rest as the image says."""

    media_type: str
    digest: Digest
    size_bytes: int
    platform: Platform | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    urls: tuple[str, ...] = ()

    @staticmethod
    def from_json(value: Any) -> Descriptor:
        """Read the descriptor that `value` holds. Raises InvalidDocument."""
        members = _typed(value, dict, "descriptor")
        size = members.get("size")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InvalidDocument(f"descriptor: size {size!r} is not a number of bytes")
        platform = members.get("platform")
        urls = _typed(members.get("urls") or [], list, "descriptor: urls")
        return Descriptor(
            media_type=_string(members, "mediaType", "descriptor"),
            digest=Digest.parse(_string(members, "digest", "descriptor")),
            size_bytes=size,
            platform=_platform(platform) if platform else None,
            annotations=_string_pairs(members.get("annotations"), "descriptor: annotations"),
            urls=tuple(url for url in urls if isinstance(url, str)),
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
        return value

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
        entries = _typed(members.get("manifests"), list, "index: manifests")
        return Index(tuple(Descriptor.from_json(entry) for entry in entries))


@dataclass(frozen=True)
class Manifest:
    """An image for one platform: its config and its layers, lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @staticmethod
    def from_bytes(data: bytes, media_type: str) -> Manifest:
        """Read an image manifest that came with `media_type`.

        Raises InvalidDocument when it is broken, or is an artifact and not a container image.
        """
        members = _document(data, "manifest")
        stated = members.get("mediaType")
        if stated is not None and stated != media_type:
            said = repr(stated)[:100]
            raise InvalidDocument(f"manifest says it is {said} but came as {media_type!r}")
        config = Descriptor.from_json(members.get("config"))
        untyped = media_type == DOCKER_MANIFEST and config.media_type in UNTYPED_CONFIGS
        if config.media_type not in CONFIG_TYPES and not untyped:
            raise InvalidDocument(
                f"not a container image but an artifact (config type {config.media_type[:100]!r})"
            )
        entries = _list(members, "layers", "manifest")
        layers = tuple(Descriptor.from_json(entry) for entry in entries)
        for layer in layers:
            if not layer.media_type.startswith(LAYER_PREFIXES):
                kind = layer.media_type[:100]
                raise InvalidDocument(f"layer type {kind!r} is not a file system layer")
        return Manifest(media_type, config, layers)


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


def _document(data: bytes, what: str) -> dict[str, Any]:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidDocument(f"{what} has {len(data)} bytes, more than {MAX_DOCUMENT_BYTES}")
    try:
        value = fastjson.loads(data)
    except ValueError as error:
        raise InvalidDocument(f"{what} is not JSON: {error}") from error
    members: dict[str, Any] = _typed(value, dict, what)
    return members


def _platform(members: Mapping[str, Any]) -> Platform:
    names = _typed(members, dict, "platform")
    words = [_optional_string(names, key).lower() for key in ("os", "architecture", "variant")]
    if any(len(word) > _MAX_WORD or not word.isprintable() for word in words):
        raise InvalidDocument("platform: a name is too long, or cannot be printed")
    return Platform(words[0] or "linux", *_normal_architecture(words[1], words[2]))


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
