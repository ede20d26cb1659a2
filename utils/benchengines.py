"""The engines side by side: start-up, and what they cost the work of a program.

Every engine runs the same shell scripts in a Debian of its own; the time of a start that does
nothing is taken off, and the rest is divided by what the same script takes natively (in a
`chroot` made with unshare, which costs a program nothing).
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

from benchtools import Bench, OlderUdocker, Podman, Refused, Tool, Udocker

WORK = {
    "fork": "i=0; while [ $i -lt 500 ]; do /bin/true; i=$((i+1)); done",
    "stat": "perl -e 'for (1..40000) { lstat q(/usr/share/doc) }'",
    "imports": "i=0; while [ $i -lt 10 ]; do perl -MPOSIX -MIO::Socket -e1; i=$((i+1)); done",
    "find": "for i in 1 2 3; do find /usr /etc /var -newer / ; done >/dev/null",
    "tar": "for i in 1 2; do tar -C / -cf - usr etc var | cat >/dev/null; done",
    "cat": "find /usr -type f -exec cat {} + >/dev/null",
    "CPU": "perl -e 'my $x = 0; $x += $_ % 7 for 1..2000000'",
    "read 1M": "dd if=/root/big of=/dev/null bs=1M 2>/dev/null",
    "read 4k": "dd if=/root/big of=/dev/null bs=4k count=40000 2>/dev/null",
}
BIG = "[ -s /root/big ] || dd if=/dev/zero of=/root/big bs=1M count=300 2>/dev/null"
NOTHING = ":"
MODES = ("N1", "N2", "P1", "P2", "F1", "F2", "F3", "F4", "runc", "R2", "R3", "crun", "B1")


def own_tree(bench: Bench, name: str) -> str:
    """Return a copy of the tree that can be written to; device nodes are none of a user's."""
    tree = bench.fresh(name)
    copy = 'tar -C "$1" --exclude="./dev/*" -cf - . | tar -C "$2" -xf -'
    bench.run(["sh", "-c", copy, "sh", bench.tree, tree])
    return tree


class Native(Tool):
    """The same tree without any engine: a user namespace for the right to chroot."""

    name = "native"
    program = "unshare"

    def prepare(self) -> None:
        """Copy the tree, so that it can be written to."""
        self._tree = own_tree(self.bench, "native")

    def execute(self, script: str) -> None:
        """Run a shell script in the tree."""
        enter = 'mount --rbind /dev "$0/dev" && exec chroot "$0" env -i /bin/sh -c "$1"'
        self.bench.run(["unshare", "-rm", "sh", "-c", enter, self._tree, script])


class Way(Udocker):
    """This checkout by one of its engines, in a container made before."""

    def __init__(self, bench: Bench, mode: str) -> None:
        super().__init__(bench)
        self.mode = mode
        self.name = f"udocker {mode}"

    def prepare(self) -> None:
        """Make the container; the first way pulls for all."""
        self.install()
        self.directory = os.path.join(self.bench.scratch, "ways")
        if not os.path.isdir(self.directory):
            self.bench.fresh("ways")
            self.udocker("pull", self.bench.reference)
        self.udocker("create", f"--name={self.mode}", self.bench.reference)
        self.execute(NOTHING)

    def execute(self, script: str) -> None:
        """Run a shell script in the container."""
        self.udocker("run", f"--engine={self.mode}", self.mode, "/bin/sh", "-c", script)


class ChRun(Tool):
    """Charliecloud on a tree of its own that can be written to."""

    name = "ch-run"
    program = "ch-run"

    def prepare(self) -> None:
        """Copy the tree."""
        self._tree = own_tree(self.bench, "charliecloud")

    def execute(self, script: str) -> None:
        """Run a shell script in the tree."""
        self.bench.run(["ch-run", "-w", self._tree, "--", "/bin/sh", "-c", script])


class BwrapTree(Tool):
    """Bubblewrap on a tree of its own that can be written to."""

    name = "bwrap"
    program = "bwrap"

    def prepare(self) -> None:
        """Copy the tree."""
        self._tree = own_tree(self.bench, "bubblewrap")

    def execute(self, script: str) -> None:
        """Run a shell script in the tree."""
        words = ["bwrap", "--bind", self._tree, "/", "--dev", "/dev", "--proc", "/proc"]
        self.bench.run([*words, "/bin/sh", "-c", script])


class PodmanContainer(Podman):
    """Podman, in a container that is there."""

    def execute(self, script: str) -> None:
        """Run a shell script in a new container, for podman's do not run twice."""
        host = ("--network=host", "--pull=never", *self._cgroups)
        limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
        script = f"{BIG}; {script}" if "/root/big" in script else script
        run = ("run", "--rm", *host, *limits, self.bench.reference)
        self._podman(*run, "/bin/sh", "-c", script)


class OlderContainer(OlderUdocker):
    """udocker 1.3 in one of its modes, in a container made before."""

    def __init__(self, bench: Bench, program: str, mode: str) -> None:
        super().__init__(bench, program)
        self.mode = mode
        self.name = f"udocker 1.3 {mode}"

    def prepare(self) -> None:
        """Pull, make the container, set its mode."""
        super().prepare()
        self._udocker("setup", f"--execmode={self.mode}", "bench")

    def execute(self, script: str) -> None:
        """Run a shell script in the container."""
        self._udocker("run", "--nobanner", "bench", "/bin/sh", "-c", script)


def ways(bench: Bench, older: str | None, modes: Sequence[str]) -> list[Tool]:
    """Return engines and their peers, the native tree first."""
    others = [OlderContainer(bench, older, mode) for mode in ("P1", "F3")] if older else []
    peers = [BwrapTree(bench), ChRun(bench), PodmanContainer(bench)]
    return [Native(bench), *(Way(bench, mode) for mode in modes or MODES), *peers, *others]


def engine_table(tools: Sequence[Tool], runs: int) -> Iterator[str]:
    """Measure, and yield the lines of the table."""
    here = [tool for tool in tools if tool.is_there()]
    refused = {tool.name: reason for tool in here if (reason := prepared(tool))}
    if "native" in refused:
        raise Refused(f"native: {refused['native']}")
    able = [tool for tool in here if tool.name not in refused]
    times = {tool.name: {name: [] for name in ("start", *WORK)} for tool in able}
    for number in range(runs):
        for name, script in {"start": NOTHING, **WORK}.items():
            for tool in able:
                times[tool.name][name].append(seconds(tool, script))
        print(f"round {number + 1} of {runs}", file=sys.stderr)
    for tool in tools:
        tool.close()
    yield f"| engine | start ms | {' | '.join(WORK)} |"
    yield f"|---|---:|{'---:|' * len(WORK)}"
    native = net(times["native"])
    for tool in here:
        if tool.name in refused:
            yield f"| {tool.name} | refused: {refused[tool.name]} |{' |' * len(WORK)}"
            continue
        start = statistics.median(times[tool.name]["start"])
        ratios = [f"{value / native[name]:.2f}" for name, value in net(times[tool.name]).items()]
        yield f"| {tool.name} | {1000 * start:.1f} | {' | '.join(ratios)} |"


def prepared(tool: Tool) -> str:
    """Prepare a tool and make the file that is read; return why it refuses, empty: it does not."""
    try:
        tool.prepare()
        tool.execute(BIG)
    except (Refused, OSError) as error:
        return str(error)
    return ""


def seconds(tool: Tool, script: str) -> float:
    """Return how long a script took, with the start."""
    began = time.perf_counter()
    tool.execute(script)
    return time.perf_counter() - began


def net(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the shortest time of each work without that of a start."""
    start = min(times["start"])
    return {name: max(min(times[name]) - start, 0.0005) for name in WORK}
