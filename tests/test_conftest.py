"""What tests may rely on: a real user, real images, and no silent skips where CI runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from unprivileged import ROOT

SKIPPING = """
import pytest

@pytest.mark.{mark}
def test_a_thing():
    {body}
"""


@pytest.mark.parametrize(
    ("ci", "mark", "body", "status"),
    [
        ("true", "slow", "pytest.skip('no tool')", 1),
        ("", "slow", "pytest.skip('no tool')", 0),
        ("true", "realgpu", "pytest.skip('no GPU')", 0),
        ("true", "skipif(True, reason='never')", "pass", 1),
        ("true", "xfail(reason='known')", "assert False", 0),
        ("true", "slow", "pass", 0),
    ],
)
def test_a_skipped_test_fails_in_ci_unless_it_needs_a_gpu(tmp_path, ci, mark, body, status):
    (tmp_path / "test_it.py").write_text(SKIPPING.format(mark=mark, body=body))
    config = ["-c", f"{ROOT}/pyproject.toml", "--rootdir", str(tmp_path), "-p", "conftest"]
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    argv = [sys.executable, "-m", "pytest", *config, *quiet, str(tmp_path)]
    env = {**os.environ, "CI": ci, "PYTHONPATH": f"{ROOT}/tests"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout


def test_a_user_without_privileges_has_a_home_and_nothing_of_the_suites_environment(unprivileged):
    said = unprivileged.run(["sh", "-c", 'id -u; echo "$HOME"; pwd; env']).stdout
    uid, home, cwd, *environment = said.splitlines()
    assert int(uid) == unprivileged.uid != 0
    assert home == cwd == unprivileged.home and os.stat(home).st_uid == unprivileged.uid
    assert "PYTEST_CURRENT_TEST" in os.environ
    assert not any(line.startswith("PYTEST") for line in environment)


def test_udocker_runs_as_that_user(unprivileged):
    assert unprivileged.udocker("--version").stdout
    failed = unprivileged.udocker("no-such-command", check=False)
    assert failed.returncode == 2
    with pytest.raises(AssertionError, match="status 2"):
        unprivileged.udocker("no-such-command")


def test_an_image_of_the_fixture_is_read_by_skopeo(busybox_image, busybox_reference):
    source = f"oci:{busybox_image.path}:{busybox_image.reference}"
    options = {"capture_output": True, "text": True, "check": True}
    plain = ["skopeo", "inspect", "--format", "{{len .Layers}}"]
    assert subprocess.run([*plain, source], **options).stdout.strip() == "2"
    remote = [*plain, "--tls-verify=false", f"docker://{busybox_reference}"]
    assert subprocess.run(remote, **options).stdout.strip() == "2"
