"""A Debian repository: a chain of checksums from its signed index down to each package.

InRelease, which is signed, names the checksums of the lists of packages; a list names those of
the packages. Source: Debian wiki, "DebianRepository/Format".
"""

from __future__ import annotations

import email.utils
import hashlib
import re
import time

from udocker import console
from udocker.errors import ImageNotFound, IntegrityError, RegistryError, UdockerError, UnpackError
from udocker.images.compression import decompress
from udocker.provision import signature
from udocker.provision.sources import parse_stanza
from udocker.registry import transport
from udocker.registry.route import shown
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.probe import Host
    from udocker.provision.sources import Source

MAX_RELEASE_BYTES = 16 << 20
MAX_LIST_BYTES = 64 << 20
"""A list as it travels; Debian's main has 9 MB."""
MAX_LIST_TEXT_BYTES = 512 << 20
MAX_PACKAGE_BYTES = 64 << 20
_SUFFIXES = (".xz", ".gz", "")
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+:~-]{0,99}\Z")
_FILE_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._+:~%/-]{0,500}\Z")


@dataclass(frozen=True)
class Stanza:
    """One version of a package, as a verified list describes it."""

    name: str
    version: str
    depends: tuple[str, ...]
    """Names of the packages that it depends on, alternatives among them."""
    file_name: str
    """Path of the .deb below the repository's URI."""
    size_bytes: int
    sha256: str
    repository: Repository

    def fetch(self) -> bytes:
        """Return the .deb. Raises IntegrityError when it is not the one of the list."""
        data = self.repository.get(self.file_name, MAX_PACKAGE_BYTES)
        _verify(data, self.sha256, self.size_bytes, f"{self.name} {self.version}")
        return data


class Access:
    """How files are had: the caller's proxies and certificates, and what need not be proved."""

    def __init__(self, host: Host, environment: Mapping[str, str], *, insecure: bool) -> None:
        self.host = host
        self.insecure = insecure
        self._environment = environment

    def get(self, url: str, limit_bytes: int) -> bytes:
        """Return a file of the web, or of this machine (`file:`). Raises RegistryError.

        FileNotFoundError when it is not there.
        """
        if url.startswith(("file:", "copy:")):
            return self._read(f"/{url.partition(':')[2].lstrip('/')}", limit_bytes)
        try:
            return transport.get(url, self._environment, limit_bytes, insecure=self.insecure)
        except ImageNotFound as error:
            raise FileNotFoundError(error.message) from error

    def _read(self, path: str, limit_bytes: int) -> bytes:
        try:
            with open(self.host.path(path), "rb") as file:
                data = file.read(limit_bytes + 1)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path} is not there") from error
        except OSError as error:
            raise RegistryError(f"{path}: {error.strerror}") from error
        if len(data) > limit_bytes:
            raise RegistryError(f"{path}: more than {limit_bytes} bytes")
        return data


class Repository:
    """One suite of a repository, read when something of it is wanted."""

    def __init__(self, source: Source, architecture: str, access: Access) -> None:
        self.source = source
        self._architecture = architecture
        self._access = access
        self._lists: list[bytes] | None = None
        self.title = source.suite
        """Who made it and which release it is, `Debian bookworm`; known after `versions`."""

    def versions(self, package: str) -> list[Stanza]:
        """Return every version of `package` that the repository has.

        Raises RegistryError where it cannot be reached, IntegrityError where it is not what was
        signed, NoVerifier where that cannot be known.
        """
        if self._lists is None:
            self._lists = list(self._load())
        return [stanza for text in self._lists for stanza in self._find(text, package)]

    def get(self, path: str, limit_bytes: int) -> bytes:
        """Return a file of the repository. Raises RegistryError."""
        try:
            return self._access.get(f"{self.source.uri}/{path}", limit_bytes)
        except FileNotFoundError as error:
            raise RegistryError(str(error)) from error

    def _load(self) -> Iterator[bytes]:
        release = _Release(self._signed_release(), self.source)
        self.title = release.title
        for component in self.source.components:
            directory = f"{component}/binary-{self._architecture}"
            for suffix in _SUFFIXES:
                entry = release.files.get(f"{directory}/Packages{suffix}")
                if entry:
                    yield self._list(directory, f"Packages{suffix}", entry, release.by_hash)
                    break

    def _list(self, directory: str, name: str, entry: tuple[str, int], by_hash: bool) -> bytes:
        sha256, size_bytes = entry
        base = f"dists/{self.source.suite}/{directory}"
        data = self.get(
            f"{base}/by-hash/SHA256/{sha256}" if by_hash else f"{base}/{name}", MAX_LIST_BYTES
        )
        _verify(data, sha256, size_bytes, f"{self.source.suite}/{directory}/{name}")
        text = bytearray(b"\n")
        try:
            for chunk in decompress.chunks([data]):
                text += chunk
                if len(text) > MAX_LIST_TEXT_BYTES:
                    raise IntegrityError(f"{base}/{name}: more than {MAX_LIST_TEXT_BYTES} bytes")
        except UnpackError as error:
            raise IntegrityError(f"{base}/{name}: {error.message}", hint=error.hint) from error
        return bytes(text)

    def _signed_release(self) -> bytes:
        """Return the index, of which somebody trusted has signed every byte."""
        base = f"{self.source.uri}/dists/{self.source.suite}"
        document, detached = self._release_files(base)
        if self.source.trusted:
            return document
        subject = f"{self.source.suite} of {shown(base)}"
        keys = self.source.signed_by
        try:
            return signature.signed_text(self._access.host, document, detached, keys, subject)
        except UdockerError as error:
            if not self._access.insecure:
                raise
            console.warn(f"{error.message}; it is believed because of --insecure")
            return document

    def _release_files(self, base: str) -> tuple[bytes, bytes | None]:
        try:
            return self._access.get(f"{base}/InRelease", MAX_RELEASE_BYTES), None
        except FileNotFoundError:
            pass
        try:
            document = self._access.get(f"{base}/Release", MAX_RELEASE_BYTES)
        except FileNotFoundError as error:
            raise RegistryError(f"no Debian repository there: {error}") from error
        try:
            return document, self._access.get(f"{base}/Release.gpg", MAX_RELEASE_BYTES)
        except FileNotFoundError:
            return document, b""

    def _find(self, text: bytes, package: str) -> Iterator[Stanza]:
        mark = f"\nPackage: {package}\n".encode()
        start = text.find(mark)
        while start >= 0:
            end = text.find(b"\n\n", start)
            yield self._stanza(text[start + 1 : end if end >= 0 else None], package)
            start = text.find(mark, start + 1)

    def _stanza(self, text: bytes, package: str) -> Stanza:
        try:
            fields = parse_stanza(text.decode("utf-8", "replace").strip("\n"))
            size = int(fields["size"])
            version, file_name, sha256 = fields["version"], fields["filename"], fields["sha256"]
        except (KeyError, ValueError) as error:
            raise IntegrityError(f"{self.title}: {package}: its entry lacks {error}") from None
        good = _VERSION.match(version) and _FILE_NAME.match(file_name) and _HEX.match(sha256)
        if not good or not 0 < size <= MAX_PACKAGE_BYTES:
            raise IntegrityError(f"{self.title}: {package}: its entry makes no sense")
        depends = f"{fields.get('pre-depends', '')},{fields.get('depends', '')}"
        return Stanza(package, version, _names(depends), file_name, size, sha256, self)


class _Release:
    """What the index of a suite says."""

    def __init__(self, text: bytes, source: Source) -> None:
        """Raises IntegrityError for one that has expired or is none."""
        # what is not signed with a signature of its own still has that of InRelease around it
        _, _, inner = text.rpartition(b"-----BEGIN PGP SIGNED MESSAGE-----")
        body = inner.partition(b"-----BEGIN PGP SIGNATURE-----")[0].decode("utf-8", "replace")
        if inner != text:
            body = body.partition("\n\n")[2]
        try:
            self._fields = parse_stanza(body.strip("\n"))
        except ValueError:
            raise IntegrityError(f"{source.suite}: its Release file is none") from None
        self.files = dict(self._files())
        self.by_hash = self._fields.get("acquire-by-hash") == "yes"
        names = (self._fields.get("origin", ""), self._fields.get("codename", source.suite))
        self.title = " ".join(filter(None, (name.replace("\n", " ") for name in names)))
        if not self.files:
            raise IntegrityError(f"{source.suite}: its Release file has no SHA256 checksums")
        if source.may_expire:
            self._check_age(source)

    def _files(self) -> Iterator[tuple[str, tuple[str, int]]]:
        for line in self._fields.get("sha256", "").splitlines():
            words = line.split()
            if len(words) == 3 and _HEX.match(words[0]) and words[1].isdigit():
                yield words[2], (words[0], int(words[1][:15]))

    def _check_age(self, source: Source) -> None:
        text = self._fields.get("valid-until", "")
        until = email.utils.parsedate_tz(text) if text else None
        if until and email.utils.mktime_tz(until) < time.time():
            raise IntegrityError(
                f"{source.suite}: its Release file is valid until {text} only",
                hint="the mirror is stale or this machine's clock wrong; check-valid-until=no in "
                "the list of sources accepts it",
            )


def _names(depends: str) -> tuple[str, ...]:
    """Return the package names in a `Depends` field."""
    words = re.split(r"[,|]", depends.replace("\n", " "))
    names = (word.strip().partition(" ")[0].partition(":")[0] for word in words)
    return tuple(dict.fromkeys(name for name in names if name))


def _verify(data: bytes, sha256: str, size_bytes: int, subject: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if len(data) != size_bytes or found != sha256:
        raise IntegrityError(
            f"{subject}: its checksum is {found[:16]}..., not {sha256[:16]}...",
            hint="it was changed or cut off on its way, or the mirror is being updated: try again",
        )


def open_all(
    sources: tuple[Source, ...], architecture: str, access: Access
) -> tuple[Repository, ...]:
    """Return the repositories of `sources`; nothing is asked of them yet."""
    return tuple(Repository(source, architecture, access) for source in sources)
