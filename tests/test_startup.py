"""What `udocker run` imports before its program starts: little, for imports are the latency."""

import subprocess
import sys

import pytest

HEAVY = (
    *("argparse", "asyncio", "configparser", "dataclasses", "email", "hashlib", "http", "inspect"),
    *("json", "logging", "multiprocessing", "pathlib", "pickle", "re", "selectors", "shutil"),
    *("signal", "socket", "ssl", "subprocess", "tarfile", "tempfile", "threading", "typing"),
    *("urllib", "click", "elftools", "psutil", "pynvml", "requests", "tqdm", "zstandard", "isal"),
)
SHOW = """
import sys
from udocker.commands import runoptions, run, create, start, exec as another
from udocker.engines import detached
from udocker.engines import proot, select, supervise, userns
from udocker.engines.sandbox import run as sandbox
from udocker import cli
assert cli.split_global_options(["-q", "run", "x"])
print(*sys.modules)
"""


@pytest.mark.parametrize("heavy", HEAVY)
def test_a_run_imports_no_heavy_module(heavy, loaded):
    assert heavy not in loaded, "see `python -X importtime` for who imports it"


@pytest.fixture(scope="module")
def loaded():
    path = [entry for entry in sys.path if "site-packages" in entry]
    code = f"import sys; sys.path += {[*path, '.']!r}\n{SHOW}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.decode().split()}
