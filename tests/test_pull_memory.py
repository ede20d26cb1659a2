"""What a pull or a load takes of memory does not grow with what an image holds."""

import os
import random

import pytest
from images import add_image
from registries import KIND, Layout
from tarballs import archive, file

MOST_MIB = 64
"""Of one process: an interpreter with requests is half of it."""

MOST_OF_DOCUMENTS_MIB = 150

MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check="pull" in sys.argv)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""

NOISE = random.Random(3).randbytes(1 << 20)
IMAGES = {
    "a large file of zeros": ("+gzip", [("zeros", bytes(200 << 20))]),
    "the same with zstd": ("+zstd", [("zeros", bytes(200 << 20))]),
    "large data that is not compressed": ("", [("noise", NOISE * 64)]),
    "many small files": ("+gzip", [(f"d{n % 50}/f{n}", b"x") for n in range(8000)]),
}


@pytest.mark.parametrize("image", IMAGES)
def test_a_process_of_a_pull_stays_small(unprivileged, docker_registry, tmp_path, image):
    compression, files = IMAGES[image]
    layout, name = Layout(str(tmp_path / "layout")), "memory/image:1"
    layer = archive(*(file(path, data) for path, data in files))
    add_image(layout, "image", [layer], compression=compression)
    docker_registry.push(layout, "image", name)
    command = [unprivileged.python, "-c", MEASURED, unprivileged.python, "-m", "udocker", "pull"]
    done = unprivileged.run([*command, "-q", f"{docker_registry.host}/{name}"])
    assert int(done.stdout.split()[-1]) < MOST_MIB
    tree = unprivileged.udocker("inspect", "-p", f"{docker_registry.host}/{name}").stdout.strip()
    assert os.path.getsize(f"{tree}/{files[-1][0]}") == len(files[-1][1])


EMPTY = {"mediaType": f"{KIND}.manifest.v1+json", "size": 1}
DOCUMENTS = {
    "images without a name": lambda: [
        {**EMPTY, "digest": f"sha256:{n:064x}"} for n in range(30_000)
    ],
    "too many values": lambda: [[]] * 5_000_000,
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_process_of_a_load_stays_small_whatever_the_index_says(unprivileged, what):
    layout = Layout(f"{unprivileged.home}/layout")
    layout.manifests = DOCUMENTS[what]()
    layout._write_index()
    command = [unprivileged.python, "-c", MEASURED, unprivileged.python, "-m", "udocker", "load"]
    done = unprivileged.run([*command, "-q", "-i", layout.directory])
    assert int(done.stdout.split()[-1]) < MOST_OF_DOCUMENTS_MIB
    assert "layout: " in done.stderr
