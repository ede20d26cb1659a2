"""The corpus of files that others write: whole it is read, changed it is read or refused."""

import subprocess
import sys

import fuzzing
import pytest

CASES = 2000


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in fuzzing.seeds()}))
def test_file_of_the_corpus_is_read(kind, tmp_path):
    reader = fuzzing.readers(str(tmp_path))[kind]
    for found, data in fuzzing.seeds():
        if found == kind:
            reader(data)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_changed_file_is_read_or_refused_with_small_means(seed, tmp_path):
    command = [sys.executable, fuzzing.__file__, str(tmp_path), str(CASES), seed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    taken, refused = map(int, done.stdout.split())
    assert taken + refused == CASES and min(taken, refused) > CASES / 20
