"""The zeros at the end of a tar stream, some of which may be lost where a layer is compressed anew.

GNU tar and Python fill the last record of 20 blocks with zeros. containers/storage keeps few of
them in layers of zstd:chunked (skopeo 1.9, podman 4.3), whose images go on to name the whole
stream by its diff_id.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import hashlib
    from collections.abc import Iterator

_BLOCK = bytes(512)
_MOST_BLOCKS = 20 + 2
"""A record, and the two blocks that end an archive."""


def completed(chunks: Iterator[bytes], hasher: hashlib._Hash, wanted: str) -> Iterator[bytes]:
    """Yield `chunks`, and the zeros behind them that make all what the hex digest `wanted` names.

    `hasher` knows then what was yielded. Nothing is added where no zeros would do.
    """
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk
    zeros = _missing(hasher, wanted)
    if zeros:
        hasher.update(zeros)
        yield zeros


def _missing(hasher: hashlib._Hash, wanted: str) -> bytes:
    tried = hasher.copy()
    for count in range(_MOST_BLOCKS + 1):
        if tried.hexdigest() == wanted:
            return _BLOCK * count
        tried.update(_BLOCK)
    return b""
