"""What is odd about real machines: changes to a tree of `drivertree.build`."""

from __future__ import annotations

import os

from gpu import drivertree, elffile

SMALLER = {"x86_64": "i386", "aarch64": "arm"}[drivertree.MACHINE]
TWIN_DIRECTORIES = {
    "deb": "usr/lib/" + {"i386": "i386-linux-gnu", "arm": "arm-linux-gnueabihf"}[SMALLER],
    "rhel": "usr/lib",
    "usrlocal": "usr/local/nvidia/lib32",
    "nix": "run/opengl-driver-32/lib",
}
TWINS = (
    "libcuda",
    "libnvidia-ml",
    "libnvidia-ptxjitcompiler",
    "libnvidia-nvvm",
    "libnvidia-opencl",
    "libnvidia-gpucomp",
    "libnvidia-glcore",
    "libnvidia-tls",
    "libGLX_nvidia",
    "vdpau/libvdpau_nvidia",
)
"""Of `drivertree.VERSIONED`: some of what a driver has for programs of 32 bits."""
OLD = "535.183.01"


def library_directory(layout):
    """Return where a layout has its libraries, without a leading slash."""
    return drivertree.LAYOUTS[layout][0]


def add_twins(root, layout, version=drivertree.VERSION):
    """Add the driver's libraries for programs of 32 bits, and a dispatcher."""
    directory = TWIN_DIRECTORIES[layout]
    for path in TWINS:
        suffix = drivertree.VERSIONED[path][0]
        name = os.path.basename(path)
        file = f"{name}.so.{version}"
        soname = f"{name}.so.{suffix}" if suffix else file
        content = elffile.library(soname, bits=32, machine=SMALLER, needed=["libc.so.6"])
        drivertree.write(root, f"{directory}/{path}.so.{version}", content)
        if suffix:
            drivertree.link(root, f"{directory}/{os.path.dirname(path)}/{soname}", file)
    for name in ("libGL.so.1", "libOpenCL.so.1"):
        content = elffile.library(name, bits=32, machine=SMALLER)
        drivertree.write(root, f"{directory}/{name}.0.0", content)
        drivertree.link(root, f"{directory}/{name}", f"{name}.0.0")


def add_leftovers(root, layout, version=OLD):
    """Leave the libraries of an older driver beside those that are there."""
    for path, (suffix, _, _) in drivertree.VERSIONED.items():
        base = os.path.basename(path)
        soname = f"{base}.so.{suffix}" if suffix else f"{base}.so.{version}"
        file = f"{library_directory(layout)}/{path}.so.{version}"
        drivertree.write(root, file, drivertree.stub_library(soname))


def mislead_libcuda(root, layout, version=OLD):
    """Let `libcuda.so.1` lead to the libcuda of another version, which is there."""
    add_leftovers(root, layout, version)
    path = os.path.join(root, library_directory(layout), "libcuda.so.1")
    os.unlink(path)
    os.symlink(f"libcuda.so.{version}", path)


def make_links_absolute(root, layout, prefix=""):
    """Let every link among the libraries name its target by a whole path, `prefix` taken away."""
    top = os.path.join(root, library_directory(layout))
    for directory, _, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                target = os.path.normpath(os.path.join(directory, os.readlink(path)))
                os.unlink(path)
                os.symlink("/" + os.path.relpath(target, os.path.join(root, prefix)), path)


def use_alternatives(root):
    """Do what Debian's packages of the driver do: a directory with all, links to some of it.

    Source: the postinst script of nvidia-alternative 535.
    """
    directory = library_directory("deb")
    current = f"{directory}/nvidia/current"
    for plugin in ("vdpau/libvdpau_nvidia.so.1", "gbm/nvidia-drm_gbm.so"):
        where = os.path.join(root, current, os.path.dirname(plugin))
        for name in os.listdir(where):
            os.rename(os.path.join(where, name), os.path.join(root, current, name))
        os.rmdir(where)
    gbm = os.path.join(root, current, "nvidia-drm_gbm.so")
    os.unlink(gbm)
    os.symlink("libnvidia-allocator.so.1", gbm)
    for name in (
        "libcuda.so.1",
        "libnvidia-ml.so.1",
        "vdpau/libvdpau_nvidia.so.1",
        "gbm/nvidia-drm_gbm.so",
    ):
        alternative = f"etc/alternatives/nvidia--{os.path.basename(name)}"
        drivertree.link(root, alternative, f"/{current}/{os.path.basename(name)}")
        drivertree.link(root, f"{directory}/{name}", f"/{alternative}")


def build_wsl(root):
    """Dress `root` as Linux under Windows: no kernel module, libraries and one node of its own."""
    for name in ("libcuda.so.1", "libdxcore.so", "libnvidia-ml.so.1"):
        drivertree.write(root, f"usr/lib/wsl/lib/{name}", drivertree.stub_library(name))
    drivertree.write(root, "dev/dxg", "c 10:127\n")
    return root


def build_tegra(root):
    """Dress `root` as a Jetson: libraries without the version, a module for displays alone."""
    directory = f"usr/lib/{drivertree.MACHINE}-linux-gnu/tegra"
    for name in ("libcuda.so.1.1", "libnvidia-ml.so.1"):
        drivertree.write(root, f"{directory}/{name}", drivertree.stub_library(name))
    drivertree.write(root, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3\n")
    drivertree.write(
        root,
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
    )
    return root
