"""Names of images, read as docker reads them, without the cost of importing `re`.

Source: distribution/reference 0.6, `regexp.go`, `normalize.go` and `reference.go`.
"""

from __future__ import annotations

from udocker.errors import InvalidDocument, InvalidReference
from udocker.oci import Digest
from udocker.values import dataclass

HUB = "docker.io"

_HUB_ALIAS = "index.docker.io"
_HUB_API_HOST = "registry-1.docker.io"
_HUB_HOSTS = (_HUB_ALIAS, _HUB_API_HOST, "hub.docker.com", "registry.hub.docker.com")
"""Hosts by which users of udocker 1.3 know Docker Hub."""
_OFFICIAL = "library/"
_MAX_REGISTRY, _MAX_REPOSITORY, _MAX_TAG = 255, 255, 128
_FILE_KINDS = ("oci", "oci-archive", "docker-archive", "dir", "docker-daemon", "containers-storage")
"""What skopeo and podman write before images that are in no registry."""
_DIGITS = frozenset("0123456789")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz")
_HEX = _DIGITS | frozenset("abcdef")
_IPV6 = _HEX | frozenset("ABCDEF:")
_LETTERS = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LABEL = _LETTERS | _DIGITS | {"-"}
_SEPARATORS = frozenset("._-")
_COMPONENT = _LOWER | _DIGITS | _SEPARATORS
_TAG_FIRST = _LETTERS | _DIGITS | {"_"}
_TAG = _TAG_FIRST | {".", "-"}


@dataclass(frozen=True)
class Reference:
    """The full name of an image. Where a digest is given it decides, and the tag is a label."""

    registry: str
    """Host, with its port if one is given; `docker.io` stands for Docker Hub."""
    repository: str
    """Path below the registry, such as `library/ubuntu`."""
    tag: str | None
    digest: Digest | None

    @staticmethod
    def parse(text: str, default_registry: str = HUB) -> Reference:
        """Read `[registry/]repository[:tag][@digest]`; `docker://` may stand before it.

        Raises InvalidReference that says what is wrong and where.
        """
        try:
            return _parse(text, default_registry)
        except InvalidReference as error:
            hint = error.hint or "write [registry/]repository[:tag][@digest], such as ubuntu:24.04"
            shown = _without_user(text)
            shown = shown if len(shown) <= 200 else shown[:200] + "..."
            raise InvalidReference(f"image name {shown!r}: {error.message}", hint=hint) from None

    @property
    def name(self) -> str:
        """Registry and repository: the image without its version."""
        return f"{self.registry}/{self.repository}"

    @property
    def api_host(self) -> str:
        """The host, with its port if one is given, that speaks the distribution API."""
        return api_host(self.registry)

    @property
    def familiar(self) -> str:
        """The shortest form that docker reads as this reference (and prints for it)."""
        if self.registry != HUB:
            return str(self)
        name = self.repository
        if name.startswith(_OFFICIAL) and name.count("/") == 1:
            name = name[len(_OFFICIAL) :]
        first, slash, _ = name.partition("/")
        return str(self) if slash and is_registry(first) else name + self._version

    @property
    def _version(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag

    def __str__(self) -> str:
        return self.name + self._version


def api_host(registry: str) -> str:
    """Return the host that speaks the distribution API for a registry of that name."""
    return _HUB_API_HOST if registry == HUB else registry


def registry_at(host: str) -> str:
    """Return the registry whose API a host speaks, as users name it."""
    return HUB if host == _HUB_API_HOST else host


def registry_of(text: str) -> str:
    """Return the registry that a user's word means: a host, or the URL that udocker 1.3 wanted.

    Raises InvalidReference for what is neither.
    """
    host = text.partition("://")[2] or text
    if "@" in host:
        raise InvalidReference(
            "a registry is named without a user", hint="udocker login -u USER REGISTRY"
        )
    host, _, path = host.partition("/")
    host = HUB if host in _HUB_HOSTS else host
    host = text if path.strip("/") not in ("", "v1", "v2") else host
    if not is_registry(host) or "/" in host:
        raise InvalidReference(
            f"registry {text!r} is not a host with a dot or a port, or localhost",
            hint="write one such as quay.io or localhost:5000",
        )
    _check_registry(host)
    return host


def is_tag(text: str) -> bool:
    """Tell whether `text` can be the tag of an image."""
    return 0 < len(text) <= _MAX_TAG and text[0] in _TAG_FIRST and _TAG.issuperset(text)


def _parse(text: str, default_registry: str) -> Reference:
    whole = text[len("docker://") :] if text.startswith("docker://") else text
    _check_whole(whole)
    rest, at, digest_text = whole.partition("@")
    name, colon, tag = _split_tag(rest)
    registry, repository = _split_registry(name, default_registry)
    _check_registry(registry)
    if repository != repository.lower():
        meant = f"{name.lower()}{rest[len(name) :]}{at}{digest_text}"
        raise InvalidReference("the repository must be lower case", hint=f"did you mean {meant}?")
    _check_repository(repository)
    if colon:
        _check_tag(tag)
    digest = _digest(digest_text) if at else None
    if not colon and digest is None:
        tag = "latest"
    return Reference(registry, repository, tag or None, digest)


def _check_whole(text: str) -> None:
    if not text:
        raise InvalidReference("it is empty")
    if "://" in text:
        raise InvalidReference("a URL is not the name of an image", hint=_name_in(text))
    plain = _without_user(text)
    if plain != text:
        plain = plain.replace("#", "/", 1)
        hint = f"udocker login {plain.partition('/')[0]}, and then write {plain}"
        raise InvalidReference("no user can stand before it", hint=hint)
    if "#" in text.partition("/")[0]:
        hint = f"did you mean {text.replace('#', '/', 1)}?"
        raise InvalidReference("'#' stands behind the registry in enroot's names only", hint=hint)
    kind, colon, path = text.partition(":")
    if colon and kind in _FILE_KINDS and (path.startswith(("/", ".")) or ".tar" in path):
        raise InvalidReference(
            f"{kind}: stands before a file or directory, not before a name in a registry",
            hint="udocker load -i FILE reads archives and layouts",
        )
    if len(text) == 64 and _HEX.issuperset(text):
        raise InvalidReference("64 hex digits are an image id, not a name")


def _without_user(text: str) -> str:
    """Return a name without what stands before `@`, where no digest is behind it: a password is
    not to be shown."""
    _, at, rest = text.rpartition("@")
    return rest if at and ("/" in rest or "#" in rest) else text


def _name_in(url: str) -> str:
    """Return the advice to write the image's name that a URL shows."""
    name = _without_user(url.partition("://")[2].partition("?")[0].strip("/"))
    for page in ("hub.docker.com/_/", "hub.docker.com/r/"):
        if name.startswith(page):
            name = "/".join(name[len(page) :].split("/")[:2])
    return f"did you mean {name}?"


def _split_tag(text: str) -> tuple[str, str, str]:
    """Split at the colon behind the last slash: one before it belongs to the registry's port."""
    path, slash, last = text.rpartition("/")
    last, colon, tag = last.partition(":")
    return path + slash + last, colon, tag


def _split_registry(name: str, default_registry: str) -> tuple[str, str]:
    registry, slash, repository = name.partition("/")
    if not slash or not is_registry(registry):
        registry, repository = default_registry, name
        if not is_registry(registry):
            raise InvalidReference(
                f"registry {registry!r} is not a host with a dot or a port, or localhost",
                hint="set the default registry to one such as quay.io or localhost:5000",
            )
    if registry == _HUB_ALIAS:
        registry = HUB
    if registry == HUB and "/" not in repository:
        repository = _OFFICIAL + repository
    return registry, repository


def is_registry(component: str) -> bool:
    """Tell whether a name's first component is a host, by docker's rule of thumb."""
    if component == "localhost" or component != component.lower():
        return True
    return "." in component or ":" in component


def _check_registry(registry: str) -> None:
    if len(registry) > _MAX_REGISTRY:
        raise InvalidReference(f"the registry is longer than {_MAX_REGISTRY} characters")
    if registry.startswith("["):
        address, bracket, port = registry[1:].partition("]")
        good = bool(bracket and address) and _IPV6.issuperset(address)
        colon, port = port[:1], port[1:]
        good = good and colon in ("", ":")
    else:
        host, colon, port = registry.partition(":")
        good = all(map(_is_label, host.split(".")))
    if not good:
        raise InvalidReference(f"{registry!r} is not a host name or address")
    if colon and not _is_port(port):
        raise InvalidReference(f"{port!r} is not a port")


def _is_label(label: str) -> bool:
    return label.strip("-") == label != "" and _LABEL.issuperset(label)


def _is_port(text: str) -> bool:
    return 0 < len(text) <= 5 and _DIGITS.issuperset(text) and 0 < int(text) < 1 << 16


def _check_repository(repository: str) -> None:
    for component in repository.split("/"):
        _check_component(component)
    if len(repository) > _MAX_REPOSITORY:
        raise InvalidReference(f"the repository is longer than {_MAX_REPOSITORY} characters")


def _check_component(component: str) -> None:
    if not component:
        raise InvalidReference("a part of the repository is empty")
    for character in component:
        if character not in _COMPONENT:
            raise InvalidReference(f"{character!r} cannot stand in the repository ({component!r})")
    if component[0] in _SEPARATORS or component[-1] in _SEPARATORS:
        raise InvalidReference(f"{component!r} begins or ends with a separator")
    runs = "".join(c if c in _SEPARATORS else " " for c in component).split()
    for run in runs:
        if run not in (".", "_", "__") and run.strip("-"):
            raise InvalidReference(f"{run!r} in {component!r} is not one separator")


def _check_tag(tag: str) -> None:
    if is_tag(tag):
        return
    if not tag:
        raise InvalidReference("the tag behind ':' is empty")
    if len(tag) > _MAX_TAG:
        raise InvalidReference(f"the tag is longer than {_MAX_TAG} characters")
    wrong = next((c for c in tag if c not in _TAG), tag[0])
    raise InvalidReference(f"{wrong!r} cannot {'begin' if wrong in _TAG else 'stand in'} a tag")


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDocument as error:
        raise InvalidReference(error.message) from None
