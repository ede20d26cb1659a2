"""`udocker run --device VENDOR/CLASS=NAME`: what a program sees of a device that is described."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile

import pytest
import yaml
from registries import needs
from unprivileged import Unprivileged

from gpu import cdispecs, drivertree
from udocker.host import loader
from udocker.host.root import Root

FAKE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fake")
FOLDER = "/opt/vendor/lib"
HOOK = {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook"}


def add_system(tar, scratch):
    """Add busybox, this machine's C library, and a program that loads libraries."""
    program = os.path.join(scratch, "load")
    subprocess.run(["gcc", "-o", program, f"{FAKE}/load.c", "-ldl"], check=True)
    files = {"bin/busybox": shutil.which("busybox"), "bin/load": program}
    machine = Root("")
    for name, path in loader.closure([program], machine).items():
        files[name.lstrip("/")] = machine.resolve(path)
    for name, path in files.items():
        tar.add(path, name)
    for name in ("sh", "sleep"):
        link = tarfile.TarInfo(f"bin/{name}")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)


@pytest.fixture(scope="module")
def user(account, tmp_path_factory):
    """A user who has the image `glibc`: busybox, this machine's C library, and `load`."""
    needs("gcc", "busybox")
    user = Unprivileged(account)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        add_system(tar, str(tmp_path_factory.mktemp("glibc")))
    path = os.path.join(user.home, "glibc.tar")
    with open(path, "wb") as file:
        file.write(archive.getvalue())
    user.udocker("import", path, "glibc:test")
    yield user
    user.close()


@pytest.fixture
def vendor(user):
    """A directory of the user with a vendor's library and configuration."""
    directory = os.path.join(user.home, "vendor")
    shutil.rmtree(directory, ignore_errors=True)
    drivertree.write(directory, "libvendor.so.1.2.3", drivertree.stub_library("libvendor.so.1"))
    drivertree.write(directory, "vendor.conf", "speed = 7\n")
    user.own(directory)
    return directory


@pytest.fixture
def run(user, vendor):
    """A function that writes a specification for the user and runs a program with devices."""

    def run(value, *words, device="vendor.com/net=x", options=(), **how):
        specs = os.path.join(user.home, "specs")
        shutil.rmtree(specs, ignore_errors=True)
        cdispecs.write(specs, "net.yaml", yaml.safe_dump(value))
        user.own(specs)
        engine = "userns"
        command = ["run", "--rm", f"--engine={engine}", f"--cdi-dir={specs}"]
        command += [f"--device={device}", *options, "glibc:test", *words]
        return user.udocker(*command, **how)

    return run


def network(vendor, **more):
    """Return the specification of a network card with all that a specification can say."""
    library = f"{FOLDER}/libvendor.so.1.2.3"
    link = ["create-symlinks", "--link", f"libvendor.so.1::{FOLDER}/libvendor.so"]
    value = cdispecs.minimal(
        env=["NET=fast", "EMPTY="],
        deviceNodes=[{"path": "/dev/net0", "hostPath": "/dev/zero", "permissions": "rw"}],
    )
    value["containerEdits"] = {
        "env": ["VENDOR=1"],
        "mounts": [
            {"hostPath": f"{vendor}/libvendor.so.1.2.3", "containerPath": library},
            {
                "hostPath": f"{vendor}/vendor.conf",
                "containerPath": "/etc/vendor/vendor.conf",
                "options": ["ro", "nosuid", "nodev", "bind"],
            },
            {
                "hostPath": "tmpfs",
                "containerPath": "/scratch",
                "type": "tmpfs",
                "options": ["size=1m"],
            },
        ],
        "hooks": [
            {**HOOK, "args": ["nvidia-cdi-hook", *link]},
            {**HOOK, "args": ["nvidia-cdi-hook", "update-ldcache", "--folder", FOLDER]},
        ],
        **more,
    }
    return value


def test_a_program_has_all_that_its_device_is_described_with(run, vendor):
    script = """
        echo $VENDOR $NET "[$EMPTY]"
        busybox head -c 3 /dev/net0 | busybox od -An -tx1
        busybox cat /etc/vendor/vendor.conf
        echo changed >/etc/vendor/vendor.conf || echo read-only
        busybox grep -c ' /scratch tmpfs ' /proc/mounts
        load libvendor.so.1 libvendor.so
        busybox readlink /opt/vendor/lib/libvendor.so.1
        busybox readlink /opt/vendor/lib/libvendor.so
    """
    done = run(network(vendor), "sh", "-c", script)
    assert done.stdout.splitlines() == [
        "1 fast []",
        " 00 00 00",
        "speed = 7",
        "read-only",
        "1",
        f"{FOLDER}/libvendor.so.1.2.3",
        f"{FOLDER}/libvendor.so.1.2.3",
        "libvendor.so.1.2.3",
        "libvendor.so.1.2.3",
    ], done.stderr
    again = run(network(vendor), "load", "libvendor.so.1")
    assert (again.stdout, again.stderr) == (f"{FOLDER}/libvendor.so.1.2.3\n", "")


def test_the_users_own_directory_of_specifications_is_searched(user, vendor):
    path = cdispecs.write(f"{user.home}/.config/cdi", "net.json", network(vendor))
    user.own(os.path.dirname(path))
    words = ["--rm", "--device=vendor.com/net=x", "glibc:test", "load", "libvendor.so"]
    assert user.udocker("run", *words).stdout == f"{FOLDER}/libvendor.so\n"
    os.unlink(path)


def test_a_device_that_is_nowhere_is_125_with_what_there_is(run, vendor, user):
    done = run(network(vendor), "true", device="vendor.com/net=y", check=False)
    assert done.returncode == 125
    assert "has the device vendor.com/net=y" in done.stderr
    assert f"{user.home}/specs" in done.stderr and "there is vendor.com/net=x" in done.stderr


def test_a_hook_that_is_not_known_is_125_unless_it_is_left_out(run, vendor):
    hook = {"hookName": "prestart", "path": "/opt/vendor/bin/setup", "args": ["setup", "--all"]}
    done = run(network(vendor, hooks=[hook]), "true", check=False)
    assert done.returncode == 125
    assert "/opt/vendor/bin/setup" in done.stderr and "--cdi-ignore-hooks" in done.stderr
    words = ["sh", "-c", "echo $NET"]
    done = run(network(vendor, hooks=[hook]), *words, options=["--cdi-ignore-hooks"])
    assert done.stdout == "fast\n" and "setup --all is left out" in done.stderr


def test_a_container_keeps_its_devices_for_later_starts_and_for_exec(user, vendor):
    specs = cdispecs.write(f"{user.home}/kept", "net.json", network(vendor))
    words = [f"--cdi-dir={os.path.dirname(specs)}", "--device=vendor.com/net=x"]
    user.udocker("create", "--name=kept", *words, "glibc:test", "sleep", "60")
    assert user.udocker("run", "kept", "sh", "-c", "echo $NET").stdout == "fast\n"
    user.udocker("start", "kept")
    try:
        script = "echo $NET; load libvendor.so.1; test -c /dev/net0 && echo node"
        seen = user.udocker("exec", "kept", "sh", "-c", script).stdout
        assert seen == f"fast\n{FOLDER}/libvendor.so.1.2.3\nnode\n"
    finally:
        user.udocker("rm", "-f", "kept")


def test_images_links_do_not_lead_what_is_mounted_to_the_host(user, vendor):
    """A link of the image is followed inside the container, whatever it is called on the host."""
    marks = tempfile.mkdtemp(prefix="udocker-cdi-", dir="/var/tmp")
    try:
        user.own(marks)
        user.udocker("create", "--name=linked", "glibc:test")
        user.udocker("run", "linked", "sh", "-c", f"busybox ln -s {marks} /etc/vendor")
        specs = cdispecs.write(f"{user.home}/linked", "net.json", network(vendor))
        words = [f"--cdi-dir={os.path.dirname(specs)}", "--device=vendor.com/net=x", "linked"]
        done = user.udocker("run", *words, "busybox", "cat", f"{marks}/vendor.conf")
        assert done.stdout == "speed = 7\n"
        assert os.listdir(marks) == []
    finally:
        user.udocker("rm", "linked", check=False)
        shutil.rmtree(marks)


@pytest.mark.parametrize("engine", ["proot", "runc", "fakechroot"])
def test_other_engines_find_the_libraries_as_well(run, vendor, engine):
    value = network(vendor)
    del value["containerEdits"]["mounts"][2]
    del value["devices"][0]["containerEdits"]["deviceNodes"]  # fakechroot has the host's /dev
    done = run(value, "load", "libvendor.so.1", options=[f"--engine={engine}"])
    assert os.path.basename(done.stdout.strip()).startswith("libvendor.so.1"), done.stdout


@pytest.mark.parametrize("engine", ["proot", "runc"])
def test_other_engines_show_nodes_at_their_paths(run, vendor, engine):
    value = network(vendor)
    del value["containerEdits"]["mounts"][2]
    script = "echo $NET; test -c /dev/net0 && busybox head -c 1 /dev/net0 | busybox od -An -tx1"
    done = run(value, "sh", "-c", script, options=[f"--engine={engine}"])
    assert done.stdout.split() == ["fast", "00"]


def test_a_read_only_root_has_its_devices_as_well(run, vendor):
    script = f"load libvendor.so.1 && busybox readlink {FOLDER}/libvendor.so; echo >/x || echo ro"
    done = run(network(vendor), "sh", "-c", script, options=["--read-only"])
    assert done.stdout.split() == [f"{FOLDER}/libvendor.so.1.2.3", "libvendor.so.1.2.3", "ro"]


def test_a_second_start_imports_nothing_slow_and_nothing_of_gpus(user, vendor):
    specs = f"{user.home}/second"
    cdispecs.write(specs, "net.yaml", yaml.safe_dump(network(vendor)))
    device = [f"--cdi-dir={specs}", "--device=vendor.com/net=x"]

    def loaded(*options):
        words = ["run", "--rm", "--dry-run", *options, "glibc:test", "true"]
        done = user.udocker(*words, env={"PYTHONPROFILEIMPORTTIME": "1"})
        return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    assert "yaml" in loaded(*device)
    more = loaded(*device) - loaded()
    assert "udocker.nvidia.cdi.hooks" in more
    slow = {"yaml", "json", "re", "typing", "dataclasses", "pathlib", "subprocess", "elftools"}
    gpus = {f"udocker.nvidia.{name}" for name in ("driver", "discovery", "edits", "gpus", "wishes")}
    assert more.intersection(slow | gpus) == set()
