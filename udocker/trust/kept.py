"""Signatures that were found good, kept so that they can be checked again without a network.

One small file for each digest that is signed. It is a copy of what anybody may read, and is
believed no more than what a registry sends: keys decide.
"""

from __future__ import annotations

import base64
import os

from udocker import disk, fastjson
from udocker.errors import StoreError
from udocker.trust import statements

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from udocker.oci import Digest
    from udocker.trust.statements import Signature

_MAX_BYTES = 4 << 20
_MOST = 16
"""Signatures kept for one digest; the newest stay."""
_LARGEST = 128 << 10
"""Bytes of one that is kept: as many as may be have room in a file."""


class KeptSignatures:
    """The directory `signatures/` of a store."""

    def __init__(self, directory: str) -> None:
        self._directory = f"{directory}/signatures"

    def of(self, digest: Digest) -> tuple[Signature, ...]:
        """Return what is kept for a digest; nothing where there is none or it is damaged."""
        try:
            data = disk.read(self._path(digest), _MAX_BYTES)
            return tuple(map(_from_json, fastjson.loads(data))) if data is not None else ()
        except (StoreError, ValueError, KeyError, TypeError):
            return ()

    def keep(self, digest: Digest, signature: Signature) -> None:
        """Keep a signature of that digest, unless it is there already or is very large.

        Raises StoreError.
        """
        kept = self.of(digest)
        if signature in kept or len(signature.bundle or signature.message) > _LARGEST:
            return
        disk.make_directory(self._directory)
        entries = [_to_json(entry) for entry in (*kept, signature)[-_MOST:]]
        disk.write_whole(self._path(digest), fastjson.dumps(entries).encode(), mode=0o600)

    def forget_all_but(self, digests: Iterable[Digest]) -> None:
        """Forget what is kept for images that are gone."""
        wanted = {os.path.basename(self._path(digest)) for digest in digests}
        try:
            names = os.listdir(self._directory)
        except OSError:
            return
        for name in set(names) - wanted:
            try:
                os.unlink(f"{self._directory}/{name}")
            except OSError:  # another process was quicker, or the store is read only
                continue

    def _path(self, digest: Digest) -> str:
        return f"{self._directory}/{digest.algorithm}-{digest.hex}.json"


def _to_json(signature: Signature) -> dict[str, str]:
    if signature.bundle:
        return {"bundle": _text(signature.bundle)}
    return {"payload": _text(signature.message), "signature": _text(signature.signature)}


def _from_json(members: dict[str, str]) -> Signature:
    """Return what was kept; what it claims is read from what was signed, as at first."""
    if "bundle" in members:
        return statements.bundle(base64.b64decode(members["bundle"]))
    payload = base64.b64decode(members["payload"])
    return statements.simple(payload, members["signature"], keyless=False)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
