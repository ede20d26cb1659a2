"""The embedded engine's plan as text, and why it says that it cannot run."""

import errno
import os
import subprocess

import pytest

from udocker.containers import features
from udocker.containers.spec import Port, Process, Rootfs, RuntimeSpec, Tmpfs, User
from udocker.engines import refusals
from udocker.engines.userns import UsernsEngine
from udocker.host.probe import Host
from udocker.values import replace

ROOT = User(0, 0, "root", "/root")
SPEC = RuntimeSpec(Rootfs("/tree", "/upper", "/work"), Process(("true",), (), "/", ROOT))


def words(spec, **changes):
    """Return the words that a spec gives to the sandbox, without the Python before them."""
    return " ".join(UsernsEngine("").plan(replace(spec, **changes)).argv[4:])


def test_the_plan_is_the_sandboxs_words():
    common = "--ids 0 0 --cwd / --fake-root -- true"
    assert words(SPEC) == f"--overlay /tree /upper /work {common}"
    flat = Rootfs("/tree", flat=True)
    assert words(SPEC, rootfs=flat) == f"--flat /tree {common}"
    assert words(SPEC, rootfs=Rootfs("/tree")) == f"--memory-overlay /tree {common}"
    thrown = Rootfs("/tree", "/upper", "/work", volatile=True, lowers=("/b", "/a"))
    layers = "--lower /b --lower /a --volatile-overlay /tree /upper /work"
    assert words(SPEC, rootfs=thrown) == f"{layers} {common}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pid": "private"}, "--private-pids"),
        ({"network": "none"}, "--network none"),
        ({"system_directories": False}, "--no-system-directories"),
        ({"tmpfs": (Tmpfs("/dev/shm", "mode=1777,size=1"),)}, "--tmpfs /dev/shm mode=1777,size=1"),
        (
            {"network": "none", "ports": (Port("", 8080, 80), Port("::1", 0, 53, "udp"))},
            "--network none --publish  8080 80 tcp --publish ::1 0 53 udp",
        ),
    ],
)
def test_wishes_become_words(changes, said):
    assert f" {said} " in words(SPEC, **changes)


def test_ports_of_the_hosts_own_network_are_not_proxied():
    assert "--publish" not in words(SPEC, ports=(Port("", 8080, 80),))


def test_what_the_engine_says_it_can_it_does():
    able = UsernsEngine.features
    assert {features.PROCESS_NAMESPACE, features.PORTS, features.MANY_IDS} <= able
    assert features.KERNEL_RELEASE not in able


PROC = "/proc/sys/kernel"
MOUNTED = {"/proc/self/mountinfo": "22 1 0:1 / / rw - ext4 /dev/sda rw\n"}


def machine(tmp_path, files):
    for path, text in {**MOUNTED, **files}.items():
        place = f"{tmp_path}{path}"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "w") as file:
            file.write(text)
    return Host(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "error", "cure"),
    [
        ({"/proc/sys/user/max_user_namespaces": "0\n"}, errno.ENOSPC, "user.max_user_namespaces="),
        ({"/proc/sys/user/max_user_namespaces": "9\n"}, errno.ENOSPC, "the 9 user namespaces"),
        ({f"{PROC}/unprivileged_userns_clone": "0\n"}, errno.EPERM, "userns_clone=1"),
        (
            {f"{PROC}/apparmor_restrict_unprivileged_userns": "1\n"},
            errno.EACCES,
            "/etc/apparmor.d/udocker",
        ),
        ({"/.dockerenv": ""}, errno.EPERM, "--security-opt seccomp=unconfined"),
        ({"/run/.containerenv": ""}, errno.EPERM, "--security-opt"),
        ({"/run/secrets/kubernetes.io/x": ""}, errno.EPERM, "seccompProfile"),
        ({"/proc/self/status": "Seccomp:\t2\n"}, errno.EPERM, "seccomp filter"),
        ({"/proc/self/status": "TracerPid:\t7\n"}, errno.EINVAL, "PRoot"),
        ({}, errno.EINVAL, "CONFIG_USER_NS"),
        ({}, errno.EPERM, "security policy"),
        ({"/proc/self/mountinfo": "22 1 0:1 / /proc rw - proc p rw\n"}, errno.EPERM, "chroot"),
        ({}, errno.EIO, "failed: Input/output error"),
    ],
)
def test_a_refusal_is_explained_with_what_to_set(tmp_path, files, error, cure):
    said = refusals.explain(machine(tmp_path, files), "namespaces", error)
    assert cure in said
    assert "\n" not in said


@pytest.mark.root
def test_a_chroot_is_recognized(unprivileged):
    """As the kernel sees it: there it refuses, and this is how the refusal is told."""
    program = (
        "from udocker.host.probe import Host; from udocker.engines.userns import UsernsEngine;"
    )
    program += f"print(UsernsEngine({unprivileged.udocker_dir!r}).obstacle(Host()))"
    places = " ".join(
        p
        for p in (
            "/usr",
            "/lib",
            "/lib64",
            "/dev",
            "/proc",
            unprivileged.home,
            unprivileged.checkout,
            os.path.dirname(unprivileged.python),
        )
        if os.path.isdir(p)
    )
    root = f"{unprivileged.home}/root"
    script = f"mkdir {root} && for d in {places}; do mkdir -p {root}$d && mount --rbind $d {root}$d"
    script += f'; done; exec chroot --userspec={unprivileged.uid}:{unprivileged.gid} {root} "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", unprivileged.python, "-c", program],
        env=unprivileged.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "in a chroot" in done.stdout, done.stderr
