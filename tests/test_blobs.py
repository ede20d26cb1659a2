import os
import subprocess
import sys
import time

import pytest

from udocker.errors import IntegrityError, StoreError
from udocker.images.blobs import BlobStore
from udocker.oci import OCI_LAYER, Descriptor, Digest

DATA = bytes(range(256)) * 4096
BLOB = Descriptor(OCI_LAYER, Digest.of(DATA), len(DATA))


@pytest.fixture
def store(tmp_path):
    return BlobStore(str(tmp_path / "layout"), str(tmp_path / "partial"))


def collect(store, data, descriptor=BLOB):
    partial = store.begin(descriptor)
    had = b"".join(partial.replay())
    partial.append(data[len(had) :])
    return partial, had


def test_a_blob_has_a_name_only_when_it_is_whole(store):
    partial, _ = collect(store, DATA)
    assert not store.has(BLOB)
    partial.commit()
    assert store.has(BLOB)
    assert store.read(BLOB.digest, len(DATA)) == DATA
    assert os.listdir(store.partial) == []


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b"x" + DATA[1:]])
def test_wrong_bytes_get_no_name_and_are_not_kept(store, data):
    partial, _ = collect(store, data)
    with pytest.raises(IntegrityError, match=BLOB.digest.hex):
        partial.commit()
    assert not store.has(BLOB)
    assert os.listdir(store.partial) == []


def test_what_a_dead_process_left_is_continued(store):
    program = "import os, sys; sys.path.insert(0, os.getcwd())\n"
    program += "from tests.test_blobs import *\nstore = BlobStore(*sys.argv[1:])\n"
    program += "collect(store, DATA[:5000])[0].leave()\n"
    subprocess.run([sys.executable, "-c", program, store.layout, store.partial], check=True)
    partial, had = collect(store, DATA)
    assert had == DATA[:5000]
    partial.commit()
    assert store.has(BLOB)


def test_what_was_left_between_its_last_byte_and_its_name_is_continued(store):
    os.makedirs(store.partial)
    left = f"{store.partial}/sha256-{BLOB.digest.hex}.{os.uname().nodename}-999999999"
    with open(left, "wb") as file:
        file.write(DATA)
    os.chmod(left, 0o444)
    partial, had = collect(store, DATA)
    assert os.stat(partial.path).st_mode & 0o200  # only root may open it for writing otherwise
    assert had == DATA
    partial.commit()
    assert os.stat(store.path(BLOB.digest)).st_mode & 0o777 == 0o444


def test_what_a_living_process_collects_is_not_touched(store):
    program = "import os, sys; sys.path.insert(0, os.getcwd())\n"
    program += "from tests.test_blobs import *\nstore = BlobStore(*sys.argv[1:])\n"
    program += "p = collect(store, DATA[:5000])[0]; print(flush=True); input()\n"
    program += "p.append(DATA[5000:]); p.commit()\n"
    other = subprocess.Popen(
        [sys.executable, "-c", program, store.layout, store.partial],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    other.stdout.readline()
    partial, had = collect(store, DATA)
    assert had == b""
    partial.commit()
    other.communicate(b"\n")
    assert other.returncode == 0
    assert store.read(BLOB.digest, len(DATA)) == DATA


def test_what_another_host_left_is_continued_only_when_it_is_old(store, tmp_path):
    os.makedirs(store.partial)
    left = f"{store.partial}/sha256-{BLOB.digest.hex}.elsewhere-1"
    with open(left, "wb") as file:
        file.write(DATA[:10])
    partial, had = collect(store, DATA)
    assert had == b""
    partial.commit()
    os.unlink(store.path(BLOB.digest))
    os.utime(left, (0, 0))
    assert collect(store, DATA)[1] == DATA[:10]


def test_a_missing_blob_is_said_with_the_way_out(store):
    with pytest.raises(StoreError, match="missing") as caught:
        store.read(BLOB.digest, 10)
    assert "pull" in caught.value.hint


def test_a_blob_of_another_size_is_not_there(store):
    path = store.path(BLOB.digest)
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(DATA[:-1])
    assert not store.has(BLOB)


def leave(store, owner, size, *, blob=BLOB, age_s=0):
    os.makedirs(store.partial, exist_ok=True)
    path = f"{store.partial}/sha256-{blob.digest.hex}.{owner}"
    with open(path, "wb") as file:
        file.write(DATA[:size])
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_what_was_left_of_a_blob_is_removed_when_the_blob_is_here_or_it_is_old(store):
    dead, alive = (f"{os.uname().nodename}-{pid}" for pid in (999999999, os.getppid()))
    other = Descriptor(OCI_LAYER, Digest.of(b"other"), 5)
    store.put(DATA)
    gone = [leave(store, dead, 10), leave(store, dead, 1, blob=other, age_s=8 * 86400)]
    kept = [leave(store, alive, 10), leave(store, f"{dead}1", 1, blob=other)]
    store.sweep()
    assert [os.path.exists(path) for path in gone + kept] == [False, False, True, True]


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_content_is_kept_under_the_algorithm_asked_for(store, algorithm):
    digest = store.put(DATA, algorithm)
    assert (digest.algorithm, store.read(digest, len(DATA))) == (algorithm, DATA)
    assert os.listdir(store.partial) == []
