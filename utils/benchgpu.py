"""What `--gpu` costs a start, and what it copies, beside udocker 1.3's `setup --nvidia`.

The machine is dressed as a GPU node by tests/gpu/fakenode.sh, for this program and its children
alone; the driver's largest libraries have their real sizes. The same container starts without
and with `--gpu` in turns, so that what disturbs one disturbs the other:

    warm        everything is remembered
    new image   the driver is remembered, this image has not been seen
    cold        nothing is remembered: the first start on a node
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from benchengines import Way
from benchpeers import FetchedUdocker
from benchtools import CHECKOUT, Bench, OlderUdocker, Refused, remove

MODES = ("N2", "N1", "P1", "F3", "runc", "B1")
STATES = ("warm", "new image", "cold")
GPUS = 2
MEBIBYTES = {
    "libcuda.so.": 94,
    "libnvidia-gpucomp.so.": 86,
    "libnvidia-nvvm.so.": 75,
    "libnvidia-ptxjitcompiler.so.": 31,
    "libnvidia-nvvm70.so.": 24,
    "libcudadebugger.so.": 11,
}
"""Sizes of the largest libraries of driver 590.48; the fakes are padded to them."""
REMEMBERED_DRIVER = "driver-"
"""What the names of files begin with that hold the driver, whatever the image."""
GPU = ("--gpu",)


def dressing(bench: Bench) -> list[str]:
    """Return the words that run a command on this machine as a GPU node. Needs root."""
    tree = os.path.join(bench.store, f"gpu-node-{os.getpid()}")
    tests = os.path.join(CHECKOUT, "tests", "gpu")
    script = os.path.join(tests, "drivertree.py")
    subprocess.run([sys.executable, script, tree, "deb", str(GPUS)], check=True)
    _pad(tree)
    return [os.path.join(tests, "fakenode.sh"), "--null-nodes", tree]


def undress(words: Sequence[str]) -> None:
    """Remove the tree that `dressing` has made, if it has."""
    for tree in words[-1:]:
        shutil.rmtree(tree, ignore_errors=True)


def _pad(tree: str) -> None:
    noise = os.urandom(1 << 20)
    for directory, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(directory, name)
            size = next((MEBIBYTES[base] for base in MEBIBYTES if name.startswith(base)), 0)
            if size and not os.path.islink(path):
                with open(path, "ab") as file:
                    for _ in range(size):
                        file.write(noise)


class GpuWay(Way):
    """This checkout by one of its engines, with a container whose GPUs are measured."""

    def prepare(self) -> None:
        """Make the container, and learn what is remembered by it without and with GPUs."""
        super().prepare()
        self._cache = os.path.join(self.directory, "cache")
        self._known = self._kept()
        self._before = _sizes(self.directory)
        self.start()
        self.start(*GPU)

    def start(self, *options: str) -> None:
        """Run nothing in the container."""
        self.udocker("run", f"--engine={self.mode}", *options, self.mode, "/bin/true")

    def forget(self, state: str) -> None:
        """Remove what must not be remembered in that state."""
        for name in self._kept() - self._known:
            driver = name.startswith(REMEMBERED_DRIVER)
            if state == "cold" or (state == "new image" and not driver):
                path = os.path.join(self._cache, name)
                if os.path.isdir(path):
                    remove(path)
                else:
                    os.unlink(path)

    def _kept(self) -> set[str]:
        return set(os.listdir(self._cache)) if os.path.isdir(self._cache) else set()

    def end(self) -> None:
        """Remove what is remembered: the next engine starts from nothing too."""
        self.forget("cold")

    def copied(self) -> tuple[int, int]:
        """Return the bytes in files that `--gpu` has added to containers, and to the cache."""
        after = _sizes(self.directory)
        new = {path: size - self._before.get(path, 0) for path, size in after.items()}
        cached = sum(size for path, size in new.items() if path.startswith(f"{self._cache}/"))
        rootfs = sum(size for path, size in new.items() if _is_of_rootfs(path))
        return rootfs, cached


def gpu_tables(
    bench: Bench, older: str | None, modes: Sequence[str] | None, runs: int
) -> Iterator[str]:
    """Measure, and yield the lines of the table and what was copied."""
    heads = " | ".join(f"{state}: + ms min / median | ratio | + CPU ms" for state in STATES)
    yield f"| engine | start ms min / median | {heads} | copied |"
    yield f"|---|---:|{'---:|' * 3 * len(STATES)}---:|"
    for mode in modes or MODES:
        way = GpuWay(bench, mode)
        try:
            way.prepare()
            times = _measured(way, runs)
        except (Refused, OSError) as error:
            yield f"| {mode} | refused: {error} |{' |' * (3 * len(STATES) + 1)}"
            continue
        yield f"| {mode} | {' | '.join([*_cells(times), _copied(way)])} |"
        way.end()
        print(f"{mode} measured", file=sys.stderr)
    if older:
        yield ""
        yield from _peer_lines(bench, older)


class Cost(NamedTuple):
    """What a start took, in seconds: by the clock, and of processors."""

    wall: float
    cpu: float


def _measured(way: GpuWay, runs: int) -> dict[str, list[tuple[Cost, Cost]]]:
    """Return for each state the costs of pairs of starts: without GPUs, and with them."""
    costs: dict[str, list[tuple[Cost, Cost]]] = {state: [] for state in STATES}
    for _ in range(runs):
        for state in STATES:
            without = _cost(way.start)
            way.forget(state)
            costs[state].append((without, _cost(lambda: way.start(*GPU))))
    return costs


def _cells(costs: dict[str, list[tuple[Cost, Cost]]]) -> Iterator[str]:
    plain = [without.wall for pairs in costs.values() for without, _ in pairs]
    yield f"{_ms(min(plain))} / {_ms(statistics.median(plain))}"
    for pairs in costs.values():
        least = min(with_gpu.wall for _, with_gpu in pairs) - min(plain)
        usual = statistics.median(b.wall - a.wall for a, b in pairs)
        yield f"{1000 * least:+.1f} / {1000 * usual:+.1f}"
        yield f"{statistics.median(b.wall / a.wall for a, b in pairs):.2f}"
        yield f"{1000 * statistics.median(b.cpu - a.cpu for a, b in pairs):+.1f}"


def _copied(way: GpuWay) -> str:
    rootfs, cached = way.copied()
    return f"{rootfs} B; cache {cached / 1024:.0f} KiB"


class OlderGpu(OlderUdocker):
    """udocker 1.3, which copies the driver into a container by `setup --nvidia`."""

    def dress(self) -> tuple[float, int]:
        """Copy; return the seconds it took and the bytes that the container has more."""
        before = sum(_sizes(self.directory).values())
        seconds = _cost(lambda: self._udocker("setup", "--nvidia", "--force", "bench")).wall
        return seconds, sum(_sizes(self.directory).values()) - before

    def again(self) -> None:
        """Make the container anew."""
        self._udocker("rm", "bench")
        self._udocker("create", "--name=bench", f"{self.bench.name}:{self.bench.tag}")


class FetchedGpu(OlderGpu, FetchedUdocker):
    """The same, from the package index."""

    def __init__(self, bench: Bench) -> None:
        FetchedUdocker.__init__(self, bench)


def _peer_lines(bench: Bench, older: str) -> Iterator[str]:
    tool = FetchedGpu(bench) if older == "fetch" else OlderGpu(bench, older)
    done: list[tuple[float, int]] = []
    try:
        tool.prepare()
        for _ in range(3):
            done.append(tool.dress())
            tool.again()
    except (Refused, OSError) as error:
        yield f"udocker 1.3 setup --nvidia: refused: {error}"
        return
    seconds, size = min(done)
    yield (
        f"udocker 1.3 setup --nvidia, once for each container and driver: {_ms(seconds)} ms,"
        f" {size} bytes copied ({size / 1e6:.0f} MB)"
    )


def _cost(action: Callable[[], None]) -> Cost:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    action()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def _files(directory: str) -> Iterator[str]:
    for place, _, names in os.walk(directory):
        yield from (os.path.join(place, name) for name in names)


def _sizes(directory: str) -> dict[str, int]:
    """Return the bytes in every regular file below a directory."""
    return {path: os.lstat(path).st_size for path in _files(directory) if not os.path.islink(path)}


def _is_of_rootfs(path: str) -> bool:
    """Tell whether a file is a container's or an image's, not what udocker notes beside it."""
    return any(part in ("rootfs", "upper", "trees") for part in path.split("/"))
