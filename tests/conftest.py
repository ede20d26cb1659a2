"""Fixtures that many tests share, and the rule that nothing is skipped where CI runs."""

from __future__ import annotations

import gzip
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections import namedtuple

import pytest
from behaviours.systems import shared_layout
from registries import KIND, DockerRegistry, Layout, digest, needs
from unprivileged import Account, Unprivileged, remove_tree

pytest.register_assert_rewrite("behaviours.table")
EXCUSED = "realgpu"
"""Tests with this mark may be skipped even in CI: its machines have no GPU."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skipped test is a failed one: what it misses must be installed there."""
    report = yield
    in_ci = os.environ.get("CI") in ("1", "true")
    excused = hasattr(report, "wasxfail") or item.get_closest_marker(EXCUSED)
    if in_ci and report.skipped and not excused:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report


def pytest_runtest_setup(item):
    """Skip what this user or this machine cannot run, and say what is missing."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs to be root")
    if item.get_closest_marker("realgpu") and not os.path.exists("/dev/nvidiactl"):
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(scope="session")
def account(tmp_path_factory, worker_id):
    """The user that the tests of one worker act as; see `unprivileged`."""
    base = tmp_path_factory.getbasetemp()
    account = Account(str(base if worker_id == "master" else base.parent))
    yield account
    account.close()


@pytest.fixture(scope="session")
def worker_id(request):
    """The name of this pytest-xdist worker, `master` without it."""
    return getattr(request.config, "workerinput", {}).get("workerid", "master")


@pytest.fixture
def unprivileged(account):
    """A user without privileges and with an empty home; see `unprivileged.Unprivileged`."""
    user = Unprivileged(account)
    yield user
    user.close()


@pytest.fixture(scope="session")
def public_directory():
    """A directory that every user can read, for what a session makes once."""
    path = tempfile.mkdtemp(prefix="udocker-tests-")
    os.chmod(path, 0o755)
    yield path
    remove_tree(path)


Image = namedtuple("Image", "path reference")
"""An image in an OCI layout: its directory, and the `org.opencontainers.image.ref.name` in it."""


@pytest.fixture(scope="session")
def busybox_image(public_directory):
    """A small `Image` of two gzip layers: busybox with all its links, and /etc/greeting."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox (package busybox-static)")
    image = Image(os.path.join(public_directory, "busybox"), "busybox:test")
    layers = [_busybox_layer(busybox), _tar([_file("etc/greeting", b"hello\n")])]
    layout = Layout(image.path)
    layout.add_document(image.reference, _manifest(layout, layers))
    return image


@pytest.fixture(scope="session")
def layouts(tmp_path_factory, worker_id):
    """Where whole systems lie as OCI layouts; those in $UDOCKER_TEST_SYSTEMS are kept."""
    kept = os.environ.get("UDOCKER_TEST_SYSTEMS")
    if kept:
        yield kept
        return
    base = tmp_path_factory.getbasetemp()
    with shared_layout(str(base if worker_id == "master" else base.parent)) as directory:
        yield directory


@pytest.fixture(scope="session")
def docker_registry(public_directory):
    """A docker-registry on loopback, `host` and empty at first, for all tests of a worker."""
    with DockerRegistry(os.path.join(public_directory, "registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def busybox_reference(docker_registry, busybox_image):
    """The name of `busybox_image` in `docker_registry`."""
    needs("skopeo")
    reference = f"{docker_registry.host}/test/busybox:1"
    source = f"oci:{busybox_image.path}:{busybox_image.reference}"
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
    subprocess.run([*copy, source, f"docker://{reference}"], check=True)
    return reference


def _manifest(layout, layers):
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "GREETING=hello"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    return {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.manifest.v1+json",
        "config": layout.blob(json.dumps(config).encode(), f"{KIND}.config.v1+json"),
        "layers": [
            layout.blob(gzip.compress(layer, mtime=0), f"{KIND}.layer.v1.tar+gzip")
            for layer in layers
        ],
    }


def _busybox_layer(busybox):
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    with open(busybox, "rb") as file:
        members = [_file("bin/busybox", file.read(), 0o755)]
    for applet in listed.stdout.split():
        if applet != "busybox":
            members.append(_link(f"bin/{applet}", "busybox"))
    members.append(_file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"))
    members.append(_file("etc/group", b"root:x:0:\n"))
    folders = [_folder(name) for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp")]
    return _tar(folders + members)


def _tar(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _file(name, data, mode=0o644):
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    return member, data


def _folder(name):
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    return member, b""


def _link(name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member, b""
