"""Measure udocker beside its peers: python3 utils/bench.py start|pull|engines [--runs N]

    start   a container of Debian that runs /bin/true and is gone
    pull    from nothing to an image that could run, from a registry on loopback
    engines every engine: start-up, and the cost of forks, files and reads against none

Every round runs each tool once, so that what disturbs one disturbs all. A tool that is not
installed is left out; one that refuses this machine is named with its reason. As root, Debian
is fetched as root and everything else is done as user 65532, who has nothing but --store.
Prints a table in Markdown; --store (in memory, for disks tell more of themselves than of the
tools) keeps the Debian image for the next time, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from benchengines import engine_table, ways
from benchtools import (
    TAG,
    UID,
    Bench,
    Bwrap,
    Crun,
    Floor,
    OlderUdocker,
    Podman,
    Refused,
    Runc,
    SkopeoUmoci,
    Tool,
    Udocker,
    make_image,
    remove,
)


class Result:
    """The times of one tool in seconds, or why there are none."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool
        self.times: list[float] = []
        self.refusal = ""

    def median(self) -> float:
        """The median, 0 when the tool refused."""
        return statistics.median(self.times) if self.times else 0.0


def start_once(tool: Tool) -> float:
    """Return how long the start of a container took, in seconds."""
    began = time.perf_counter()
    tool.start()
    return time.perf_counter() - began


def pull_once(tool: Tool) -> float:
    """Return how long a pull into an empty store took, in seconds."""
    tool.fresh()
    began = time.perf_counter()
    tool.pull()
    return time.perf_counter() - began


def measured(tools: Sequence[Tool], once: str, runs: int) -> list[Result]:
    """Return the times of `runs` rounds after one that does not count."""
    results = [Result(tool) for tool in tools if tool.is_there()]
    try:
        for number in range(runs + 1):
            for result in results:
                one_round(result, once, counts=number > 0)
            print(f"round {number} of {runs}", file=sys.stderr)
    finally:
        for tool in tools:
            tool.close()
    return results


def one_round(result: Result, once: str, *, counts: bool) -> None:
    """The tool was measured once more, or has refused. A round that does not count prepares."""
    if result.refusal:
        return
    measure = {"start": start_once, "pull": pull_once}[once]
    try:
        if once == "start" and not counts:
            result.tool.prepare()
        seconds = measure(result.tool)
    except (Refused, OSError, subprocess.TimeoutExpired) as error:
        result.refusal = str(error)
        return
    if counts:
        result.times.append(seconds)


def table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of the table: times, and their ratios to the first tool's and to ours."""
    bases = [result for result in results[:2] if isinstance(result.tool, (Floor, Udocker))]
    ratios = " | ".join(f"/ {base.tool.name}" for base in bases)
    yield f"| tool | min ms | median ms | {ratios} |"
    yield f"|---|---:|---:|{'---:|' * len(bases)}"
    for result in results:
        if result.refusal:
            yield f"| {result.tool.name} | refused: {result.refusal} |{' |' * (len(bases) + 1)}"
            continue
        cells = [f"{1000 * min(result.times):.1f}", f"{1000 * result.median():.1f}"]
        cells += [f"{result.median() / base.median():.2f}" if base.times else "" for base in bases]
        yield f"| {' | '.join([result.tool.name, *cells])} |"


def start_again_as_user(bench: Bench) -> None:
    """Become a user without privileges, and this script in a Python which that user can read."""
    os.chown(bench.store, UID, UID)
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    python = shutil.which("python3", path=bench.env["PATH"])
    if python is None:
        raise SystemExit(f"bench: user {UID} can run no python3 of {bench.env['PATH']}")
    os.chdir("/")
    os.execve(python, [python, os.path.abspath(__file__), *sys.argv[1:]], dict(os.environ))


@contextlib.contextmanager
def registry(bench: Bench) -> Iterator[None]:
    """A registry that holds the image runs on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        bench.registry = f"127.0.0.1:{free.getsockname()[1]}"
    config = os.path.join(bench.scratch, "registry.json")
    storage = {"filesystem": {"rootdirectory": bench.fresh("registry")}}
    with open(config, "w") as file:  # a registry reads YAML, of which JSON is a part
        http = {"addr": bench.registry}
        json.dump({"version": "0.1", "storage": storage, "http": http}, file)
    log = subprocess.DEVNULL
    argv = ["docker-registry", "serve", config]
    with subprocess.Popen(argv, env=bench.env, stdout=log, stderr=log) as server:
        try:
            wait_for(bench.registry)
            copy = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false"]
            bench.run([*copy, f"oci:{bench.layout}:{TAG}", f"docker://{bench.reference}"])
            yield
        finally:
            server.terminate()


def wait_for(address: str) -> None:
    """Return when something listens at `address`. Raises Refused after ten seconds."""
    host, _, port = address.partition(":")
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        time.sleep(0.05)
    raise Refused("docker-registry does not answer")


def tools_for(bench: Bench, what: str, older: str | None) -> list[Tool]:
    """Return the tools that `what` is measured with; the first one is the base of ratios."""
    others = [OlderUdocker(bench, older)] if older else []
    if what == "start":
        own = [Floor(bench), Udocker(bench)]
        return [*own, Bwrap(bench), Crun(bench), Runc(bench), Podman(bench), *others]
    return [Udocker(bench), SkopeoUmoci(bench), Podman(bench), *others]


def main() -> None:
    """Prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("start", "pull", "engines"))
    parser.add_argument("--runs", type=int, help="rounds that count (start 20, pull 3, engines 4)")
    parser.add_argument("--store", default="/dev/shm/udocker-bench", metavar="DIR")
    parser.add_argument("--peer-udocker", metavar="PATH", help="a udocker 1.3 to compare with")
    parser.add_argument("--modes", nargs="+", metavar="MODE", help="engines: these modes only")
    words = parser.parse_args()
    bench = Bench(os.path.abspath(words.store))
    make_image(bench)
    if os.geteuid() == 0:
        start_again_as_user(bench)
    try:
        os.makedirs(bench.env["XDG_RUNTIME_DIR"], mode=0o700)
        with registry(bench):
            runs = words.runs or {"start": 20, "pull": 3, "engines": 4}[words.what]
            if words.what == "engines":
                print(*engine_table(ways(bench, words.peer_udocker, words.modes), runs), sep="\n")
                return
            tools = tools_for(bench, words.what, words.peer_udocker)
            print(*table(measured(tools, words.what, runs)), sep="\n")
    except Refused as refusal:
        raise SystemExit(f"bench: {refusal}") from None
    finally:
        remove(bench.scratch)


if __name__ == "__main__":
    main()
