"""Whether a repository's index was signed with a key that this machine trusts: gpgv says so.

Source: gpgv(1); GnuPG doc/DETAILS, "Format of the --status-fd output"; apt-secure(8).
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
import tempfile

from udocker.engines import programs
from udocker.errors import IntegrityError, UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.probe import Host

_TRUSTED = "/etc/apt/trusted.gpg.d"
_DISTRIBUTIONS = ("debian-archive-keyring.gpg", "ubuntu-archive-keyring.gpg")
_MAX_KEYS_BYTES = 4 << 20
_MAX_TEXT_BYTES = 32 << 20
_TIMEOUT_S = 60
_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{16,64}!?\Z")
_FATAL = ("BADSIG", "NODATA", "UNEXPECTED", "ERROR")
"""What spoils a document even beside a good signature; a missing key of several does not."""


class NoVerifier(UdockerError):
    """There is no gpgv here, so that no signature can be checked."""


def signed_text(
    host: Host, document: bytes, signature: bytes | None, signed_by: tuple[str, ...], subject: str
) -> bytes:
    """Return what is signed of `document` by one of the keys `signed_by` (as in a Source).

    `signature` is None when it is in the document itself. Raises IntegrityError for a signature
    that is not good, NoVerifier where none can be checked.
    """
    gpgv = programs.on_host("gpgv") or programs.on_host("gpgv2")
    if gpgv is None:
        raise NoVerifier(
            f"{subject}: there is no gpgv here to check its signature",
            hint="--insecure trusts the mirror without one; Debian's package is gpgv",
        )
    with tempfile.TemporaryDirectory(prefix="udocker-") as scratch:
        keyrings = list(_keyrings(host, signed_by, scratch))
        if not keyrings:
            raise IntegrityError(
                f"{subject}: no key of this machine could verify it",
                hint="name its keyring with signed-by in the list of sources",
            )
        fingerprints = {key.rstrip("!").upper() for key in signed_by if _FINGERPRINT.match(key)}
        return _ask(gpgv.path, scratch, keyrings, fingerprints, document, signature, subject)


def _ask(
    gpgv: str,
    scratch: str,
    keyrings: list[str],
    fingerprints: set[str],
    document: bytes,
    signature: bytes | None,
    subject: str,
) -> bytes:
    text, names = f"{scratch}/text", [_written(f"{scratch}/document", document)]
    command = [gpgv, "--homedir", scratch, "--status-fd", "1"]
    for keyring in keyrings:
        command += ["--keyring", keyring]
    if signature is None:
        command += ["--output", text]
    else:
        names.insert(0, _written(f"{scratch}/signature", signature))
    try:
        done = subprocess.run(
            [*command, "--", *names],
            capture_output=True,
            timeout=_TIMEOUT_S,
            env={"PATH": os.defpath, "LC_ALL": "C", "HOME": scratch},
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoVerifier(f"{subject}: {gpgv} does not work: {error}") from error
    _judge(done.stdout.decode("utf-8", "replace"), fingerprints, subject)
    if signature is not None:
        return document
    with open(text, "rb") as file:
        return file.read(_MAX_TEXT_BYTES)


def _judge(said: str, fingerprints: set[str], subject: str) -> None:
    """Return when a key that counts signed the whole document. Raises IntegrityError."""
    words = [line.split()[1:] for line in said.splitlines() if line.startswith("[GNUPG:] ")]
    kinds = [line[0] for line in words if line]
    spoiled = any(kind in _FATAL for kind in kinds) or kinds.count("PLAINTEXT") > 1
    good = [line for line in _good(words) if not fingerprints or _is_of(line, fingerprints)]
    if good and not spoiled:
        return
    hint = "try again; if it stays so, tell who runs the mirror"
    if "BADSIG" in kinds:
        reason = "its signature is wrong: it was changed on its way"
    elif "NO_PUBKEY" in kinds:
        reason = "it is signed with a key that is not trusted here"
        hint = "install the keyring of that distribution, or name it with signed-by"
    elif "EXPKEYSIG" in kinds or "REVKEYSIG" in kinds:
        reason = "it is signed with a key that has expired or was withdrawn"
        hint = "update this machine's archive keyring"
    else:
        reason = "it has no good signature"
    raise IntegrityError(f"{subject}: {reason}", hint=hint)


def _good(words: list[list[str]]) -> Iterator[list[str]]:
    """Yield the VALIDSIG of each good signature: an expired key's has one as well."""
    verdict = ""
    for line in words:
        if line[:1] == ["VALIDSIG"] and verdict == "GOODSIG":
            yield line
        elif line and line[0].endswith("SIG"):
            verdict = line[0]


def _is_of(line: list[str], fingerprints: set[str]) -> bool:
    """Tell whether a VALIDSIG names a key by its fingerprint or its primary key's."""
    known = {line[1].upper(), line[-1].upper()} if len(line) > 1 else set()
    return any(key.endswith(wanted) for key in known for wanted in fingerprints)


def _keyrings(host: Host, signed_by: tuple[str, ...], scratch: str) -> Iterator[str]:
    """Yield binary keyrings that gpgv reads; armored ones are unwrapped first."""
    named = [key for key in signed_by if not _FINGERPRINT.match(key)]
    for number, key in enumerate(named or _trusted(host)):
        data = key.encode() if "-----BEGIN" in key else _read(host.path(key))
        if data is None:
            continue
        plain = _unarmored(data)
        if plain:
            yield _written(f"{scratch}/keys.{number}.gpg", plain)


def _trusted(host: Host) -> list[str]:
    """Return the keyrings of apt; without apt those that distributions install."""
    try:
        names = sorted(os.listdir(host.path(_TRUSTED)))
    except OSError:
        names = []
    found = [f"{_TRUSTED}/{name}" for name in names if name.endswith((".gpg", ".asc"))]
    found += [path for path in ("/etc/apt/trusted.gpg",) if host.exists(path)]
    return found or [f"/usr/share/keyrings/{name}" for name in _DISTRIBUTIONS]


def _unarmored(data: bytes) -> bytes:
    """Return the keys in `data` as bytes; empty for armor that is broken. Source: RFC 9580, 6."""
    if b"-----BEGIN PGP" not in data[:4096]:
        return data
    found = b""
    pattern = rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\s*?\n(.*?)-----END PGP"
    for block in re.findall(pattern, data.replace(b"\r", b""), re.DOTALL):
        body = (b"\n" + block).partition(b"\n\n")[2]  # what stands before are headers
        lines = [line for line in body.split(b"\n") if not line.startswith(b"=")]
        try:
            found += base64.b64decode(b"".join(lines), validate=True)
        except binascii.Error:
            continue
    return found


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_KEYS_BYTES)
    except OSError:
        return None


def _written(path: str, data: bytes) -> str:
    with open(path, "wb") as file:
        file.write(data)
    return path
