"""What a container changed of its image's files: what `diff` lists and `commit` keeps.

Source: docker-diff(1): A for what was added, C for what is another, D for what was removed; the
directories that hold any of these are C.
"""

from __future__ import annotations

import os

from udocker.containers.files import Files, open_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.container import Container
    from udocker.containers.files import Found

ADDED, CHANGED, REMOVED = "A", "C", "D"
_PIECE_BYTES = 1 << 20


class Change:
    """One path that is not as in the image."""

    __slots__ = ("found", "kind", "path")

    def __init__(self, kind: str, path: bytes, found: Found | None) -> None:
        self.kind = kind
        self.path = path
        self.found = found
        """What is there now; None where it was removed."""


def changes(
    container: Container, files: Files, ignored: frozenset[bytes] = frozenset()
) -> Iterator[Change]:
    """Yield what `files`, which are the container's, have other than its image but for `ignored`.

    Each directory comes before what is in it. A file is another when its type, mode, size, time
    or target is; of one that the overlay copied, and that these say nothing of, the content
    and the attributes count. (Of a whole copy reading everything would take minutes.)
    """
    with Files(open_image(container.tree)) as before:
        yield from _Comparison(before, files, container.tree, ignored).run()


class _Comparison:
    def __init__(self, before: Files, now: Files, tree: str, ignored: frozenset[bytes]) -> None:
        self._before = before
        self._now = now
        self._tree = tree
        self._ignored = ignored

    def run(self) -> Iterator[Change]:
        yield from self._directory(self._before.root(), self._now.root())

    def _directory(self, before: Found, now: Found) -> Iterator[Change]:
        """Yield the changes within a directory that both have; the stack is the walk's own."""
        work = [iter(self._pairs(before, now))]
        held: list[Change | None] = [None]
        while work:
            pair = next(work[-1], None)
            if pair is None:
                work.pop()
                held.pop()
                continue
            change, below = self._compare(*pair)
            if change and not self._waits(change, below):
                yield from self._said(held)
                yield change
                change = None
            if below:
                work.append(iter(self._pairs(*below)))
                held.append(change)

    def _waits(self, change: Change, below: tuple[Found | None, Found] | None) -> bool:
        """Tell whether a directory is a change only when something in it is."""
        return below is not None and change.kind == CHANGED and not self._differs(below)

    def _differs(self, pair: tuple[Found | None, Found]) -> bool:
        before, now = pair
        return before is None or before.mode != now.mode or before.attributes() != now.attributes()

    def _said(self, held: list[Change | None]) -> Iterator[Change]:
        """Yield the directories above a change that were waiting for one."""
        for position, change in enumerate(held):
            if change is not None:
                held[position] = None
                yield change

    def _pairs(self, before: Found | None, now: Found) -> list[tuple[Found | None, Found | None]]:
        """Return what a directory had and has, by name."""
        has = {found.path: found for found in self._now.children(now)}
        had: dict[bytes, Found] = {}
        if before is not None and before.is_directory:
            had = {found.path: found for found in self._before.children(before)}
        return [(had.get(path), has.get(path)) for path in sorted({*had, *has} - self._ignored)]

    def _compare(
        self, before: Found | None, now: Found | None
    ) -> tuple[Change | None, tuple[Found | None, Found] | None]:
        """Return the change of one path, and the pair of directories to be looked into."""
        if now is None:
            assert before is not None
            return Change(REMOVED, before.path, None), None
        if before is None:
            return Change(ADDED, now.path, now), (None, now) if now.is_directory else None
        if now.is_directory and before.is_directory:
            if self._is_the_images(now):
                return None, None
            return Change(CHANGED, now.path, now), (before, now)
        if self._is_the_images(now) or self._is_same(before, now):
            return None, None
        return Change(CHANGED, now.path, now), (None, now) if now.is_directory else None

    def _is_the_images(self, now: Found) -> bool:
        """Tell whether nothing was written there: the image's own tree shows."""
        return now.layer.directory == self._tree

    def _copied_mode(self, before: Found) -> int:
        """Return the mode that a file of the image has in a copy of all of them."""
        return before.mode | (0o200 if before.is_file and len(self._now.layers) == 1 else 0)

    def _is_same(self, before: Found, now: Found) -> bool:
        a, b = before.status, now.status
        modes = {before.mode, self._copied_mode(before)}
        if now.mode not in modes or a.st_mtime_ns != b.st_mtime_ns:
            return False
        if now.is_link:
            return before.target() == now.target()
        if not now.is_file:
            return True
        if a.st_size != b.st_size:
            return False
        return len(self._now.layers) == 1 or _is_equal(before, now)


def _is_equal(before: Found, now: Found) -> bool:
    first, second = before.layer.open_file(before.path), now.layer.open_file(now.path)
    try:
        if before.attributes(first) != now.attributes(second):
            return False
        while data := os.read(first, _PIECE_BYTES):
            if _read_whole(second, len(data)) != data:
                return False
        return not os.read(second, 1)
    finally:
        os.close(first)
        os.close(second)


def _read_whole(descriptor: int, size: int) -> bytes:
    parts = []
    while size and (data := os.read(descriptor, size)):
        parts.append(data)
        size -= len(data)
    return b"".join(parts)
