"""Layers to a tree: brought and unpacked side by side, merged, given a name."""

from __future__ import annotations

import os

from udocker import console, disk, trees
from udocker.errors import StoreError
from udocker.images import layers
from udocker.images.layers import LayerTree
from udocker.transfer.parallel import workers
from udocker.transfer.parallel.stages import LITTLE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from udocker.images.store import ImageStore
    from udocker.oci import Descriptor, Digest, ImageConfig
    from udocker.settings import Settings
    from udocker.transfer.fetch import LayerFetcher

    LeftOut = tuple[tuple[str, int], ...]

MAX_JOBS = 6
_FEW = 3
"""So many layers that are little together are not worth processes and connections of their own:
with more of them the waiting for answers counts."""
_RECORD_BYTES = 1 << 30


def jobs(settings: Settings) -> int:
    """Return how many layers come at the same time."""
    return settings.jobs or min(max(2, len(os.sched_getaffinity(0))), MAX_JOBS)


class TreeBuilder:
    """Makes the trees of images; what a killed one leaves, a later one sweeps."""

    def __init__(self, settings: Settings, store: ImageStore, fetcher: LayerFetcher) -> None:
        self._settings = settings
        self._store = store
        self._fetcher = fetcher

    def make(
        self, wanted: Sequence[Descriptor], config: ImageConfig, *, anew: bool = False
    ) -> LeftOut:
        """Bring all layers and make their tree; what is there already is not made again.

        `anew`: a tree that is there is not good, and another one takes its place. Returns what
        of the layers a user cannot make, and how many times.
        """
        if not anew and self._store.has_tree(config.chain_id):
            self._check(wanted, config)
            return ()
        stage = self._store.new_stage()
        try:
            unpack = _Unpacking(self._fetcher, stage, wanted, config.diff_ids)
            side_by_side(self._settings, wanted, unpack.layer)
            parts = unpack.result()
            layers.merge(parts, f"{stage}/rootfs")
            if anew:
                self._store.set_aside_tree(config.chain_id)
            self._store.publish_tree(f"{stage}/rootfs", config.chain_id)
            return _sum(skipped for _, tree in parts for skipped in tree.skipped)
        finally:
            trees.remove_tree(stage)

    def _check(self, wanted: Sequence[Descriptor], config: ImageConfig) -> None:
        """Have the layers of a tree that is there: they have to be what it was made of."""
        proven = self._proven(config.chain_id)
        numbers = [
            number
            for number, layer in enumerate(wanted)
            if (number, layer.digest) not in proven or not self._store.blobs.has(layer)
        ]

        def check(number: int, report: workers.Report) -> None:
            layer, diff_id = wanted[numbers[number]], config.diff_ids[numbers[number]]
            is_here = self._store.blobs.has(layer)
            self._fetcher.check(layer, diff_id, report)
            report.finish("checked" if is_here else "done")

        if numbers:
            side_by_side(self._settings, [wanted[number] for number in numbers], check)

    def _proven(self, chain_id: Digest) -> set[tuple[int, Digest]]:
        """Return the layers, and which they are, of images here that have the same tree."""
        found: set[tuple[int, Digest]] = set()
        for image in self._store.images():
            if image.chain_id != chain_id:
                continue
            try:
                manifest = self._store.read_manifest(image)
            except StoreError:
                continue
            found.update((n, layer.digest) for n, layer in enumerate(manifest.layers))
        return found


def side_by_side(settings: Settings, wanted: Sequence[Descriptor], work: workers.Work) -> None:
    """Do `work` with the number of every layer in a few processes, and show how far it is.

    What is little is done in this one.
    """
    largest_first = sorted(range(len(wanted)), key=lambda number: -wanted[number].size_bytes)
    progress = console.progress(quiet=settings.quiet)
    try:
        if len(wanted) <= _FEW and _size(wanted) <= LITTLE_BYTES:
            workers.run_here(work, largest_first, progress)
        else:
            workers.run(len(wanted), jobs(settings), work, largest_first, progress)
    finally:
        progress.close()


def _size(layers: Sequence[Descriptor]) -> int:
    return sum(layer.size_bytes for layer in layers)


class _Unpacking:
    """Layers on their way into directories of a stage, each in some worker process."""

    def __init__(
        self,
        fetcher: LayerFetcher,
        stage: str,
        wanted: Sequence[Descriptor],
        diff_ids: Sequence[Digest],
    ) -> None:
        self._fetcher = fetcher
        self._stage = stage
        self._wanted = wanted
        self._diff_ids = diff_ids

    def layer(self, number: int, report: workers.Report) -> None:
        directory = f"{self._stage}/{number}"
        wanted, diff_id = self._wanted[number], self._diff_ids[number]
        tree = self._fetcher.unpack(wanted, diff_id, directory, report)
        disk.write_whole(f"{directory}.json", tree.to_json().encode(), sync=False)
        report.finish("done")

    def result(self) -> list[tuple[str, LayerTree]]:
        """Return the directories, lowest first, with what the workers found out about them."""
        return [(directory, self._record(directory)) for directory in self._directories()]

    def _directories(self) -> list[str]:
        return [f"{self._stage}/{number}" for number in range(len(self._wanted))]

    def _record(self, directory: str) -> LayerTree:
        data = disk.read(f"{directory}.json", _RECORD_BYTES) or b""
        return LayerTree.from_json(data.decode())


def _sum(counts: Iterable[tuple[str, int]]) -> LeftOut:
    total: dict[str, int] = {}
    for what, count in counts:
        total[what] = total.get(what, 0) + count
    return tuple(sorted(total.items()))
