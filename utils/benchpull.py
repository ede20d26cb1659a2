"""Pulls side by side: time, processor, memory and disk of every tool, for every image.

Each pull happens in a process of its own, so that what the kernel says of its children is of
this pull alone. Processor time is that of all processes that the tool started and waited for;
the registry's is not in it. The first round does not count for times: in it the memory of all
processes of a tool is added up every 50 ms (each page that several share divided among them).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import benchimages
from benchpeers import CheckedFloor, Floor, tools_of
from benchtools import TAG, Bench, Refused, Tool, Udocker, remove

IMAGES = ("small", "deb", "ml", "ml-zstd")
SAMPLE_S = 0.05
HEAD = ("s", "least", "/ udocker", "CPU s", "/ floor")
MEMORY_HEAD = ("MiB in one", "in all", "MB kept", "MB written")
MIB = 1 << 20


def prepare_images(bench: Bench, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Make the images that are not in the store yet; return layout, tag and name of all."""
    for name in names:
        if not os.path.isdir(layout_of(bench, name)):
            print(f"making the image {name}", file=sys.stderr)
            _make(layout_of(bench, name), name)
    return [(layout_of(bench, name), _tag_in_layout(name), f"bench/{name}:1") for name in names]


def _tag_in_layout(name: str) -> str:
    return TAG if name == "deb" else benchimages.TAG


def _make(layout: str, name: str) -> None:
    remove(f"{layout}.new")
    made = benchimages.Layout(f"{layout}.new", "zstd" if name.endswith("zstd") else "gzip")
    if name == "small":
        benchimages.make_small(made)
    else:
        benchimages.make_ml(made, benchimages.Pool())
    made.finish()
    os.rename(f"{layout}.new", layout)


def layout_of(bench: Bench, name: str) -> str:
    """Return where the layout of an image lies."""
    if name == "deb":
        return os.path.join(bench.image, "layout")
    return os.path.join(bench.store, f"{name}-{benchimages.EDITION}")


class Measures:
    """What the pulls of one tool took; of a tool that refuses, why."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.largest = 0
        """Bytes of the largest process."""
        self.together = 0
        """Bytes of all processes at one time."""
        self.stored = 0
        """Bytes that the file system has more afterwards."""
        self.written = 0
        """Bytes written to the device; 0 where the files lie in memory."""
        self.refusal = ""

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.wall) if self.wall else 0.0

    @property
    def cpu_seconds(self) -> float:
        """The median."""
        return statistics.median(self.cpu) if self.cpu else 0.0


def measured(tools: Sequence[Tool], runs: int) -> list[Measures]:
    """Return what `runs` rounds took after one that is for memory and warmth."""
    results = [Measures(tool) for tool in tools if tool.is_there()]
    try:
        for number in range(runs + 1):
            for result in results:
                if not result.refusal:
                    _one_round(result, counts=number > 0)
            print(f"round {number} of {runs}", file=sys.stderr)
    finally:
        for tool in tools:
            tool.close()
    return results


def _one_round(result: Measures, *, counts: bool) -> None:
    tool = result.tool
    try:
        if isinstance(tool, Floor) and not counts:
            tool.prepare()
        tool.fresh()
        took = _in_a_process(tool, memory=not counts)
    except (Refused, OSError, subprocess.TimeoutExpired) as error:
        result.refusal = str(error)
    else:
        if counts:
            result.wall.append(took["wall"])
            result.cpu.append(took["cpu"])
        result.largest = max(result.largest, int(took["largest"]))
        result.together = max(result.together, int(took["together"]))
        result.stored, result.written = int(took["stored"]), int(took["written"])
    tool.clear()


def _in_a_process(tool: Tool, *, memory: bool) -> dict[str, float]:
    """Pull in a forked process; return what it and the file system tell. Raises Refused."""
    place = tool.bench.place
    _settle(place)
    used, written = _used_bytes(place), _written_bytes(place)
    listen, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(listen)
        with contextlib.suppress(BaseException), open(pipe, "w") as file:
            json.dump(_pull(tool, memory=memory), file)
        os._exit(0)
    os.close(pipe)
    with open(listen) as file:
        text = file.read()
    os.waitpid(child, 0)
    took: dict[str, float] = json.loads(text or '{"refusal": "the bench itself failed"}')
    if "refusal" in took:
        raise Refused(str(took["refusal"]))
    _settle(place)
    took["stored"] = _used_bytes(place) - used
    took["written"] = _written_bytes(place) - written
    return took


def _pull(tool: Tool, *, memory: bool) -> dict[str, object]:
    sampler = Sampler(os.getpid()) if memory else None
    began = time.perf_counter()
    try:
        tool.pull()
    except (Refused, OSError, subprocess.TimeoutExpired) as error:
        return {"refusal": str(error)}
    wall = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "largest": usage.ru_maxrss << 10,
        "together": sampler.stop() if sampler else 0,
    }


class Sampler:
    """Watches how much memory the processes below one have together."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._most = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        """Return the most that was seen, in bytes."""
        self._end.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._end.wait(SAMPLE_S):
            self._most = max(self._most, sum(map(_memory_bytes, _below(self._top))))


def _below(pid: int) -> Iterator[int]:
    found: list[str] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += file.read().split()
    for child in found:
        yield int(child)
        yield from _below(int(child))


def _memory_bytes(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def _settle(place: str) -> None:
    """What was written before is on the disk, so that no tool pays for another one."""
    subprocess.run(["sync", "-f", place], check=False)


def _used_bytes(place: str) -> int:
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _written_bytes(place: str) -> int:
    """Return what a loop device got so far; other devices have other users, too."""
    device = os.stat(place).st_dev
    path = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not os.path.basename(path).startswith("loop"):
        return 0
    with open(f"{path}/stat") as file:
        return int(file.read().split()[6]) * 512


def table(results: Sequence[Measures], title: str) -> Iterator[str]:
    """Yield the lines of the table of one image; ratios are to udocker and to the floor."""
    own = next((r for r in results if type(r.tool) is Udocker and r.wall), None)
    floor = next((r for r in results if type(r.tool) is CheckedFloor and r.wall), None)
    head = [title, *HEAD, *MEMORY_HEAD]
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'---:|' * len(head[1:])}"
    for result in results:
        if result.refusal:
            yield f"| {result.tool.name} | refused: {result.refusal} |{' |' * (len(head) - 2)}"
            continue
        cells = [
            f"{result.seconds:.2f}",
            f"{min(result.wall, default=0.0):.2f}",
            f"{result.seconds / own.seconds:.2f}" if own else "",
            f"{result.cpu_seconds:.2f}",
            f"{result.cpu_seconds / floor.cpu_seconds:.2f}" if floor else "",
            f"{result.largest / MIB:.0f}",
            f"{result.together / MIB:.0f}",
            f"{result.stored / 1e6:.0f}",
            f"{result.written / 1e6:.0f}" if result.written else "",
        ]
        yield f"| {' | '.join([result.tool.name, *cells])} |"


def describe(bench: Bench) -> str:
    """Return on what the tools worked, in words."""
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", bench.place], capture_output=True, text=True, check=False
    )
    return f"{os.cpu_count()} processors, {kind.stdout.strip()}, {os.uname().release}"


def pull_tables(
    bench: Bench, images: Sequence[str], older: str | None, wanted: Sequence[str] | None, runs: int
) -> Iterator[str]:
    """Measure image after image; yield the lines of their tables."""
    yield f"Pulls ({describe(bench)}, medians of {runs}):"
    for name in images:
        bench.layout, bench.layout_tag = layout_of(bench, name), _tag_in_layout(name)
        bench.name, bench.tag = f"bench/{name}", "1"
        results = measured(tools_of(bench, older, wanted), runs)
        yield ""
        yield from table(results, name)


def openssl_certificate(directory: str) -> tuple[str, str] | None:
    """Return the files of a certificate for loopback and of its key; None without openssl."""
    if shutil.which("openssl") is None:
        return None
    key, certificate = f"{directory}/key.pem", f"{directory}/certificate.pem"
    words = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=bench"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    done = subprocess.run(["openssl", "req", "-x509", *words, *names], capture_output=True)
    return None if done.returncode else (certificate, key)
