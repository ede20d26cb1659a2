"""Measure udocker beside its peers: python3 utils/bench.py start|pull|engines|gpu [--runs N]

    start   a container of Debian that runs /bin/true and is gone
    pull    from nothing to an image that could run, from a registry on loopback: time,
            processor, memory and disk, for images small, deb, ml and ml-zstd (--images), on
            tmpfs, on a new ext4 in a file, or in a directory (--on)
    engines every engine: start-up, and the cost of forks, files and reads against none
    gpu     every engine: what --gpu adds to a start, and copies, on a machine dressed as a GPU
            node (as root)

Every round runs each tool once, so that what disturbs one disturbs all. A tool that is not
installed is left out; one that refuses this machine is named with its reason. As root, Debian
is fetched as root and everything else is done as user 65532, who has nothing but --store.
Prints a table in Markdown; --store (in memory, for disks tell more of themselves than of the
tools) keeps the images for the next time, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import benchgpu
import benchpull
from benchengines import engine_table, ways
from benchtools import (
    NAME,
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
    Tool,
    Udocker,
    free_address,
    make_image,
    remove,
    wait_for,
)

RUNS = {"start": 20, "pull": 3, "engines": 4, "gpu": 10}
"""What can be measured, and in how many rounds."""
FILE_SYSTEMS = ("tmpfs", "ext4")
EXT4_BYTES = 24 << 30
"""Of a file with holes: what is not written takes no place."""
INSIDE = """
mount --bind "$2" /etc/passwd
case $4 in
    tmpfs) mount -t tmpfs -o size=90% bench "$3" ;;
    ext4) mount -o loop "$5" "$3" ;;
esac
chown "$1:$1" "$3"
shift 5
exec "$@"
"""


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


def measured(tools: Sequence[Tool], runs: int) -> list[Result]:
    """Return the times of `runs` rounds after one that does not count."""
    results = [Result(tool) for tool in tools if tool.is_there()]
    try:
        for number in range(runs + 1):
            for result in results:
                one_round(result, counts=number > 0)
            print(f"round {number} of {runs}", file=sys.stderr)
    finally:
        for tool in tools:
            tool.close()
    return results


def one_round(result: Result, *, counts: bool) -> None:
    """The tool was measured once more, or has refused. A round that does not count prepares."""
    if result.refusal:
        return
    try:
        if not counts:
            result.tool.prepare()
        seconds = start_once(result.tool)
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


def run_as_user(bench: Bench, on: str | None, dressed: Sequence[str] = ()) -> int:
    """Everything else is done by a user without privileges; return the status.

    The words of `dressed` run a command on another machine than this one seems to be.
    What is mounted for it is seen by its processes alone and gone with the last of them.
    """
    python = shutil.which("python3", path=bench.env["PATH"])
    if python is None:
        raise SystemExit(f"bench: user {UID} can run no python3 of {bench.env['PATH']}")
    place, image = os.path.join(bench.store, str(os.getpid())), os.path.join(bench.store, "ext4")
    user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    command = [*user, python, os.path.abspath(__file__), *sys.argv[1:]]
    os.chown(bench.store, UID, UID)
    os.makedirs(place)
    try:
        passwd = os.path.join(bench.store, "passwd")
        with open("/etc/passwd") as known, open(passwd, "w") as file:
            # buildah does not work for a user without a name
            file.write(f"{known.read()}bench:x:{UID}:{UID}::/:/bin/sh\n")
        if on in FILE_SYSTEMS:
            command += ["--on", place]
        if on == "ext4":
            with open(image, "wb") as file_system:
                file_system.truncate(EXT4_BYTES)
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
        words = [str(UID), passwd, place, on if on in FILE_SYSTEMS else "", image, *command]
        inside = [*dressed, "unshare", "--mount", "sh", "-euc", INSIDE, "sh", *words]
        return subprocess.call(inside, cwd="/")
    finally:
        for path in (image, passwd):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        os.rmdir(place)


@contextlib.contextmanager
def registry(
    bench: Bench, images: Sequence[tuple[str, str, str]], slow: Sequence[str] = ()
) -> Iterator[None]:
    """A registry that holds the images (layout, tag in it, name) runs on loopback.

    `slow` holds MB/s and milliseconds that each connection has and waits.
    """
    storage = os.path.join(bench.store, f"registry-{os.getpid()}")
    os.makedirs(storage)
    bench.registry = free_address()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(served(bench, storage, bench.registry, None))
            certificate = benchpull.openssl_certificate(storage)
            if certificate:
                bench.tls_registry = free_address()
                stack.enter_context(served(bench, storage, bench.tls_registry, certificate))
            copy = ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false"]
            for layout, tag, name in images:
                target = f"docker://{bench.registry}/{name}"
                bench.run([*copy, f"oci:{layout}:{tag}", target])
            if slow:
                bench.registry = stack.enter_context(slowed(bench, bench.registry, slow))
                if bench.tls_registry:
                    bench.tls_registry = stack.enter_context(
                        slowed(bench, bench.tls_registry, slow)
                    )
            yield
    finally:
        remove(storage)


@contextlib.contextmanager
def slowed(bench: Bench, address: str, slow: Sequence[str]) -> Iterator[str]:
    """The address of a slow way to `address` that is open while this lasts."""
    own = free_address()
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "benchslow.py")
    words = ["python3", script, own.partition(":")[2], address, *slow]
    with subprocess.Popen(
        words, env=bench.env, stdin=subprocess.PIPE
    ):  # it ends when its input does
        wait_for(own)
        yield own


@contextlib.contextmanager
def served(
    bench: Bench, storage: str, address: str, certificate: tuple[str, str] | None
) -> Iterator[None]:
    """One registry process serves what is in `storage`, by https if it has a certificate."""
    config = os.path.join(storage, f"{address}.json")
    http: dict[str, object] = {"addr": address}
    if certificate:
        http["tls"] = {"certificate": certificate[0], "key": certificate[1]}
    with open(config, "w") as file:  # a registry reads YAML, of which JSON is a part
        stored = {"filesystem": {"rootdirectory": storage}}
        json.dump({"version": "0.1", "storage": stored, "http": http}, file)
    argv, log = ["docker-registry", "serve", config], subprocess.DEVNULL
    with subprocess.Popen(argv, env=bench.env, stdout=log, stderr=log) as server:
        try:
            wait_for(address)
            yield
        finally:
            server.terminate()


def tools_for(bench: Bench, older: str | None) -> list[Tool]:
    """Return the tools that start containers; the first one is the base of ratios."""
    others = [OlderUdocker(bench, older)] if older else []
    own = [Floor(bench), Udocker(bench)]
    return [*own, Bwrap(bench), Crun(bench), Runc(bench), Podman(bench), *others]


def parsed() -> argparse.Namespace:
    """Return the words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=tuple(RUNS))
    parser.add_argument("--runs", type=int, help=f"rounds that count {RUNS}")
    parser.add_argument("--store", default="/dev/shm/udocker-bench", metavar="DIR")
    parser.add_argument(
        "--peer-udocker",
        metavar="PATH",
        help="a udocker 1.3 to compare with; or `fetch`",
    )
    parser.add_argument("--modes", nargs="+", metavar="MODE", help="engines, gpu: these modes only")
    images = benchpull.IMAGES
    parser.add_argument("--images", nargs="+", choices=images, default=images, help="pull: these")
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", help="pull: only tools whose names begin so"
    )
    parser.add_argument(
        "--on", metavar="DIR", help="pull: where; as root also `tmpfs` or `ext4`, made for it"
    )
    parser.add_argument(
        "--slow",
        nargs=2,
        metavar=("MB/S", "MS"),
        default=(),
        help="pull: what each connection to the registry has, and how late answers are",
    )
    return parser.parse_args()


def lines(bench: Bench, words: argparse.Namespace) -> Iterator[str]:
    """Measure what was asked for; yield the lines of the tables."""
    runs = words.runs or RUNS[words.what]
    if words.what == "pull":
        yield from benchpull.pull_tables(bench, words.images, words.peer_udocker, words.peers, runs)
    elif words.what == "engines":
        yield from engine_table(ways(bench, words.peer_udocker, words.modes), runs)
    elif words.what == "gpu":
        yield from benchgpu.gpu_tables(bench, words.peer_udocker, words.modes, runs)
    else:
        yield from table(measured(tools_for(bench, words.peer_udocker), runs))


def main() -> None:
    """Prepare, measure, print."""
    words = parsed()
    store = os.path.abspath(words.store)
    place = words.on and words.on not in FILE_SYSTEMS and os.path.abspath(words.on)
    bench = Bench(store, place or None)
    if words.what != "pull" or "deb" in words.images:
        make_image(bench)
    if os.geteuid() == 0:
        os.makedirs(store, exist_ok=True)
        dressed = benchgpu.dressing(bench) if words.what == "gpu" else []
        try:
            raise SystemExit(run_as_user(bench, words.on, dressed))
        finally:
            benchgpu.undress(dressed)
    if words.on in FILE_SYSTEMS:
        raise SystemExit(f"bench: only root can make a new {words.on}; name a directory")
    images = [(bench.layout, TAG, f"{NAME}:{TAG}")]
    try:
        for name in ("run", "tmp"):
            os.makedirs(os.path.join(bench.env["HOME"], name), mode=0o700)
        if words.what == "pull":
            images = benchpull.prepare_images(bench, words.images)
        with registry(bench, images, words.slow):
            for line in lines(bench, words):
                print(line, flush=True)
    except Refused as refusal:
        raise SystemExit(f"bench: {refusal}") from None
    finally:
        remove(bench.scratch)


if __name__ == "__main__":
    main()
