"""Large blobs over several connections, from real registries and from ones that fail."""

import random
import threading
from contextlib import closing

import pytest
from images import add_image
from registries import Layout, Proxy, body, headers, status
from tarballs import archive, file
from test_client import QUICK, named

from udocker.errors import IntegrityError, RegistryError
from udocker.images.blobs import BlobStore
from udocker.oci import Descriptor, Digest
from udocker.registry.client import Client
from udocker.settings import Settings
from udocker.transfer.fetch import LayerFetcher
from udocker.transfer.parallel.ranges import Terms, connections, download
from udocker.transfer.source import RegistrySource

DATA = random.Random(7).randbytes(3_000_001)
SLOW = Terms(
    part_bytes=200_000, least_bytes=500_000, watched_bytes=300_000, fast_bytes_s=float("inf")
)
"""Every connection is too slow, and little is much."""


@pytest.fixture
def proxy(docker_registry, tmp_path):
    layout = Layout(str(tmp_path / "layout"))
    layout.add("large", [DATA])
    docker_registry.push(layout, "large", "org/large:one")
    with Proxy(docker_registry.host) as proxy:
        yield proxy


def large(proxy):
    """Return the source of the image, and its only layer."""
    client = Client(proxy.host, Settings("/nowhere", {}), patience=QUICK)
    blob = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))
    return RegistrySource(client, named(proxy.host, "org/large:one")), blob


def ranges_of(proxy):
    """Return what parts were asked for; empty: the whole."""
    return [asked.headers.get("Range", "") for asked in proxy.asked if "/blobs/" in asked.path]


@pytest.mark.parametrize("offset", [0, 1, 1_234_567, len(DATA) - 1, len(DATA)])
def test_a_blob_comes_whole_over_several_connections_from_any_offset(proxy, offset):
    source, blob = large(proxy)
    assert b"".join(download(source, blob, offset, 3, SLOW)) == DATA[offset:]
    asked = ranges_of(proxy)
    if len(DATA) - offset > SLOW.least_bytes:
        assert len(asked) > 5
        assert all(span.rpartition("-")[2] for span in asked[1:])
    else:
        assert len(asked) <= 1


@pytest.mark.parametrize("count", [1, 3])
def test_a_fast_connection_is_left_alone(proxy, count):
    source, blob = large(proxy)
    easy = Terms(200_000, 500_000, 300_000, fast_bytes_s=1)
    assert b"".join(download(source, blob, 0, count, easy if count > 1 else SLOW)) == DATA
    assert len(ranges_of(proxy)) == 1


FAULTS = {
    "ignores ranges": lambda proxy: lambda asked, reply: proxy.whole(asked, reply),
    "knows no ranges": lambda proxy: status(416),
    "forbids": lambda proxy: status(403),
    "is tired": lambda proxy: status(503),
    "lies": lambda proxy: headers(content_range="bytes 0-5/6"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_sends_no_parts_sends_the_rest_over_one_connection(proxy, fault):
    source, blob = large(proxy)
    change, parts = FAULTS[fault](proxy), 0

    def only_parts(asked, reply):
        nonlocal parts
        last = asked.headers.get("Range", "").rpartition("-")[2]
        parts += bool(last)
        return change(asked, reply) if last else reply

    proxy.add("/blobs/", only_parts, times=1000)
    assert b"".join(download(source, blob, 0, 3, SLOW)) == DATA
    assert 1 <= parts <= 3 * QUICK.attempts


def test_parts_that_are_cut_off_go_on_where_they_were(proxy):
    source, blob = large(proxy)
    cuts = []

    def cut(asked, reply):
        parts = asked.headers.get("Range", "")[-1:].isdigit()
        if not parts or len(cuts) == 6:
            return reply
        cuts.append(asked)
        return proxy.cut(90_000)(asked, reply)

    proxy.add("/blobs/", cut, times=1000)
    assert b"".join(download(source, blob, 0, 3, SLOW)) == DATA
    assert len(cuts) == 6


def test_wrong_bytes_in_one_part_are_found_and_nothing_is_kept(proxy, tmp_path):
    source, blob = large(proxy)
    flip = body(lambda data: data[:-1] + bytes([data[-1] ^ 1]))

    def in_the_middle(asked, reply):
        first, _, last = asked.headers.get("Range", "").partition("=")[2].partition("-")
        return flip(asked, reply) if last and int(first) < len(DATA) // 2 < int(last) else reply

    proxy.add("/blobs/", in_the_middle, times=1000)
    store = BlobStore(str(tmp_path / "store"), str(tmp_path / "partial"))
    fetcher = LayerFetcher(store, lambda blob, offset: download(source, blob, offset, 3, SLOW))
    with pytest.raises(IntegrityError, match=str(blob.digest)):
        fetcher.blob(blob, Silent())
    assert not store.has(blob)
    assert not list((tmp_path / "partial").iterdir())


def test_memory_holds_a_part_for_each_connection_and_no_more(proxy):
    source, blob = large(proxy)
    with closing(download(source, blob, 0, 2, SLOW)) as chunks:
        taken = 0
        while taken <= SLOW.watched_bytes:
            taken += len(next(chunks))
        for _ in range(50):  # the other threads may do what they want
            threading.Event().wait(0.002)
        assert len([span for span in ranges_of(proxy) if span]) <= 2
        taken += sum(map(len, chunks))
    assert taken == len(DATA)


def test_the_end_of_a_part_is_where_it_was_asked_for(proxy):
    source, blob = large(proxy)
    assert b"".join(source.part(blob, 100, 200)) == DATA[100:200]
    proxy.add("/blobs/", body(lambda data: data + b"x"))
    with pytest.raises((RegistryError, IntegrityError)):
        b"".join(source.part(blob, 100, 200))


MB = 10**6


@pytest.mark.parametrize(
    ("sizes", "jobs", "count"),
    [
        ([], 2, 4),
        ([500 * MB], 2, 4),
        ([500 * MB, MB, MB], 6, 4),
        ([500 * MB, 500 * MB], 2, 3),
        ([500 * MB] * 9, 6, 1),
        ([500 * MB] * 9, 40, 1),
        ([500 * MB], 1, 1),
    ],
)
def test_connections_are_shared_by_the_layers_that_come_together(sizes, jobs, count):
    assert connections(sizes, jobs) == count


def test_the_user_says_how_many_layers_come_at_a_time(unprivileged, docker_registry, tmp_path):
    layout, name = Layout(str(tmp_path / "layers")), "org/layers:one"
    layers = [archive(file(f"f{number}", DATA[: 40_000 * number])) for number in range(1, 7)]
    add_image(layout, "layers", layers, compression="")
    docker_registry.push(layout, "layers", name)
    at_work, most, lock = 0, 0, threading.Lock()

    def watched(asked, reply):
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        threading.Event().wait(0.05)
        with lock:
            at_work -= 1
        return reply

    with Proxy(docker_registry.host) as proxy:
        proxy.add("/blobs/", watched, times=1000)
        unprivileged.udocker("pull", "--jobs=1", f"{proxy.host}/{name}")
        assert most == 1
        unprivileged.udocker("rmi", f"{proxy.host}/{name}")
        unprivileged.udocker("pull", "--jobs=6", f"{proxy.host}/{name}")
        assert most > 1
    wrong = unprivileged.udocker("pull", "--jobs=0", f"{proxy.host}/{name}", check=False)
    assert wrong.returncode == 2


class Silent:
    """A report that nobody reads."""

    def start(self, part, total_bytes):
        pass

    def advance(self, size_bytes):
        pass

    def finish(self, note):
        pass
