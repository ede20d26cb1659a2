"""Whether the kernel has an emulator for programs of another processor."""

import os

import pytest
from images import HERE, add_image
from registries import Layout
from tarballs import archive, file

from udocker.host import emulation
from udocker.host.probe import Host

ARM64 = "7f454c460201010000000000000000000200b700"
MASK = "ffffffffffffff00fffffffffffffffffeffffff"
S390X = "7f454c4602020100000000000000000000020016"
BIG_MASK = "ffffffffffffff00fffffffffffffffffffeffff"


@pytest.fixture
def host(tmp_path):
    directory = f"{tmp_path}{emulation.DIRECTORY}"
    os.makedirs(directory)
    register(tmp_path, "status", "enabled\n")
    register(tmp_path, "register", "")
    return tmp_path


def register(root, name, text):
    with open(f"{root}{emulation.DIRECTORY}/{name}", "w") as file:
        file.write(text)


def handler(magic=ARM64, mask=MASK, flags="F", state="enabled"):
    return (
        f"{state}\ninterpreter /usr/libexec/qemu\nflags: {flags}\noffset 0\n"
        f"magic {magic}\nmask {mask}\n"
    )


def test_an_emulator_that_the_kernel_opens_itself_is_no_obstacle(host):
    register(host, "qemu-aarch64", handler(flags="OCF"))
    register(host, "qemu-s390x", handler(S390X, BIG_MASK))
    assert emulation.obstacle(Host(str(host)), "arm64") is None
    assert emulation.obstacle(Host(str(host)), "s390x") is None
    assert "no emulator for riscv64" in emulation.obstacle(Host(str(host)), "riscv64")
    assert "no emulator for arm is" in emulation.obstacle(Host(str(host)), "arm")


def test_without_the_flag_f_the_image_has_to_have_the_emulator(host):
    register(host, "any-name", handler(flags="OC"))
    assert "without the flag F" in emulation.obstacle(Host(str(host)), "arm64")


@pytest.mark.parametrize(
    "text",
    [
        handler(state="disabled"),
        handler(magic="7f454c46", mask="ffffffff"),
        handler(magic="zz"),
        handler(mask="ff"),
        "enabled\nextension .py\n",
        "",
    ],
)
def test_other_handlers_are_not_for_a_processor(host, text):
    register(host, "other", text)
    assert "no emulator for arm64" in emulation.obstacle(Host(str(host)), "arm64")


def test_where_nothing_is_registered_nothing_is_emulated(host, tmp_path):
    register(host, "status", "disabled\n")
    register(host, "qemu-aarch64", handler())
    assert "no emulator" in emulation.obstacle(Host(str(host)), "arm64")
    assert "no emulator" in emulation.obstacle(Host(f"{tmp_path}/nothing"), "arm64")


def test_who_makes_a_container_for_another_processor_is_told_what_is_missing(unprivileged):
    layout = Layout(f"{unprivileged.home}/layout")
    add_image(layout, "x:1", [archive(file("name", b""))], architecture="s390x")
    unprivileged.udocker("copy", "--platform=s390x", f"oci:{layout.directory}:x:1", "udocker:x:1")
    told = unprivileged.udocker("create", "x:1").stderr
    expected = emulation.obstacle(Host(), "s390x")
    assert (expected in told) if expected else (told == "")
    assert unprivileged.udocker("-q", "create", "x:1").stderr == ""


def test_a_newer_processor_is_not_emulated_by_an_older_one(unprivileged):
    layout = Layout(f"{unprivileged.home}/layout")
    add_image(layout, "x:1", [archive(file("name", b""))])
    variant = {"amd64": "v4", "arm64": "v9.9"}[HERE]
    layout.manifests[-1]["platform"] = {"os": "linux", "architecture": HERE, "variant": variant}
    layout._write_index()
    unprivileged.udocker("load", "-i", layout.directory)
    told = unprivileged.udocker("create", "x:1").stderr
    assert f"an image for linux/{HERE}/{variant}" in told
    assert "instructions that this processor has not" in told
