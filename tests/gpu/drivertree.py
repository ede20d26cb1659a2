"""A fake NVIDIA driver below a root directory: every file that the real one installs, small.

Usable as `Host(root=tree)`; `fakenode.sh` lays it over the machine itself. From a shell:
`python tests/gpu/drivertree.py DIRECTORY [deb|rhel|usrlocal] [GPUS]`.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile

try:
    from gpu import kerneltree
except ImportError:  # run as a script, beside the other
    import kerneltree

VERSION, MACHINE = kerneltree.VERSION, kerneltree.MACHINE
uuid, pci, write, link = kerneltree.uuid, kerneltree.pci, kerneltree.write, kerneltree.link
build_kernel = kerneltree.build_kernel
LAYOUTS = {
    "deb": (f"usr/lib/{MACHINE}-linux-gnu", "usr/bin", "usr/share"),
    "rhel": ("usr/lib64", "usr/bin", "usr/share"),
    "usrlocal": ("usr/local/nvidia/lib64", "usr/local/nvidia/bin", "usr/local/nvidia/share"),
    "alternatives": (
        f"usr/lib/{MACHINE}-linux-gnu/nvidia/current",
        "usr/lib/nvidia/current",
        "usr/share",
    ),
    "arch": ("usr/lib", "usr/bin", "usr/share"),
    "numbered": (f"usr/lib/nvidia-{VERSION.partition('.')[0]}", "usr/bin", "usr/share"),
    "notebook": ("usr/lib64-nvidia", "opt/bin", "usr/share"),
    "nix": ("run/opengl-driver/lib", "run/current-system/sw/bin", "run/opengl-driver/share"),
    "kubernetes": (
        "home/kubernetes/bin/nvidia/lib64",
        "home/kubernetes/bin/nvidia/bin",
        "home/kubernetes/bin/nvidia",
    ),
    "opt": ("opt/nvidia/current/lib64", "opt/nvidia/current/bin", "opt/nvidia/current/share"),
    "container": (
        f"run/nvidia/driver/usr/lib/{MACHINE}-linux-gnu",
        "run/nvidia/driver/usr/bin",
        "run/nvidia/driver/usr/share",
    ),
}

# File of the version V -> (suffix of the SONAME or None: the file's own name, has a link `.so`,
# categories in the driver's own list of its files)
VERSIONED = {
    "libcuda": ("1", True, ("cuda", "opencl", "optix")),
    "libcudadebugger": ("1", False, ("cuda",)),
    "libnvcuvid": ("1", True, ("video",)),
    "libnvidia-allocator": ("1", False, ("gbm", "egl_gbm")),
    "libnvidia-cfg": ("1", True, ("nvpd",)),
    "libnvidia-eglcore": (None, False, ("egl", "egl_headless")),
    "libnvidia-encode": ("1", True, ("video",)),
    "libnvidia-fbc": ("1", True, ("xdriver",)),
    "libnvidia-glcore": (None, False, ("glx",)),
    "libnvidia-glsi": (None, False, ("egl", "glx")),
    "libnvidia-glvkspirv": (None, False, ("vulkan",)),
    "libnvidia-gpucomp": (None, False, ("cuda", "vulkan", "egl", "glx", "optix")),
    "libnvidia-gtk3": (None, False, ("nvsettings",)),
    "libnvidia-ml": ("1", True, ("nvml",)),
    "libnvidia-ngx": ("1", False, ("ngx",)),
    "libnvidia-nscq": ("2", True, ("nvml",)),
    "libnvidia-nvvm": ("4", True, ("cuda", "opencl")),
    "libnvidia-opencl": ("1", False, ("opencl",)),
    "libnvidia-opticalflow": ("1", False, ("video",)),
    "libnvidia-pkcs11": (None, False, ("cuda",)),
    "libnvidia-pkcs11-openssl3": (None, False, ("cuda",)),
    "libnvidia-present": (None, False, ("vulkan",)),
    "libnvidia-ptxjitcompiler": ("1", True, ("cuda",)),
    "libnvidia-rtcore": (None, False, ("optix", "vulkan")),
    "libnvidia-sandboxutils": ("1", True, ("nvsandboxutils",)),
    "libnvidia-tileiras": (None, False, ("cuda",)),
    "libnvidia-tls": (None, False, ("egl", "glx")),
    "libnvidia-vksc-core": ("1", False, ("vulkansc",)),
    "libnvidia-vulkan-producer": (None, True, ("vulkan",)),
    "libnvidia-wayland-client": (None, False, ("nvsettings",)),
    "libnvoptix": ("1", False, ("optix",)),
    "libEGL_nvidia": ("0", False, ("egl",)),
    "libGLESv1_CM_nvidia": ("1", False, ("egl",)),
    "libGLESv2_nvidia": ("2", False, ("egl",)),
    "libGLX_nvidia": ("0", False, ("glx", "vulkan")),
    "vdpau/libvdpau_nvidia": ("1", True, ("video",)),
}
UNVERSIONED = {
    "libnvidia-api.so.1": "libnvidia-api.so.1",
    "libnvidia-nvvm70.so.4": "libnvidia-nvvm70.so.4",
    "libnvidia-egl-gbm.so.1.1.3": "libnvidia-egl-gbm.so.1",
    "libnvidia-egl-wayland.so.1.1.20": "libnvidia-egl-wayland.so.1",
    "libnvidia-egl-wayland2.so.1.0.1": "libnvidia-egl-wayland2.so.1",
    "libnvidia-egl-xcb.so.1.0.3": "libnvidia-egl-xcb.so.1",
    "libnvidia-egl-xlib.so.1.0.3": "libnvidia-egl-xlib.so.1",
}
NEUTRAL = {
    "libGL.so.1.7.0": "libGL.so.1",
    "libEGL.so.1.1.0": "libEGL.so.1",
    "libGLX.so.0.0.0": "libGLX.so.0",
    "libGLdispatch.so.0.0.0": "libGLdispatch.so.0",
    "libOpenGL.so.0.0.0": "libOpenGL.so.0",
    "libGLESv1_CM.so.1.2.0": "libGLESv1_CM.so.1",
    "libGLESv2.so.2.1.0": "libGLESv2.so.2",
    "libOpenCL.so.1.0.0": "libOpenCL.so.1",
}
"""Dispatchers: the distribution's, in the package of no driver."""
PROGRAMS = (
    "nvidia-imex",
    "nvidia-imex-ctl",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-settings",
    "nvidia-xconfig",
    "nv-fabricmanager",
)
CONFIGS = (
    "vulkan/icd.d/nvidia_icd.json",
    "vulkan/implicit_layer.d/nvidia_layers.json",
    "glvnd/egl_vendor.d/10_nvidia.json",
    "egl/egl_external_platform.d/15_nvidia_gbm.json",
    "egl/egl_external_platform.d/10_nvidia_wayland.json",
    "egl/egl_external_platform.d/20_nvidia_xcb.json",
    "egl/egl_external_platform.d/20_nvidia_xlib.json",
)
_PLACEHOLDER = b"soname-to-be-overwritten-by-drivertree-with-a-shorter-one"
_SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fake")


@functools.cache
def compiled(version=VERSION):
    """Return the bytes of the compiled fakes, by name; each is compiled once in a process."""
    library = ("-shared", "-fPIC", "-O1")
    tiny = ("-shared", "-fPIC", "-nostdlib")
    commands = {
        "stub": (*tiny, f"-Wl,-soname,{_PLACEHOLDER.decode()}", "stub.c"),
        "nvml": (
            *library,
            f'-DDRIVER_VERSION="{version}"',
            "-Wl,-soname,libnvidia-ml.so.1",
            "nvml.c",
        ),
        "cuda": (*library, "-Wl,-soname,libcuda.so.1", "cuda.c"),
        "smi": ("-O1", "smi.c", "-ldl"),
    }
    with tempfile.TemporaryDirectory() as directory:
        running = [
            subprocess.Popen(["gcc", *words, "-o", os.path.join(directory, name)], cwd=_SOURCES)
            for name, words in commands.items()
        ]
        assert [process.wait() for process in running] == [0] * len(running)
        return {name: _content(directory, name) for name in commands}


@functools.cache
def needy_library(need="GLIBC_2.99", soname="libneedy.so.1"):
    """Return a library that needs the version `need` of libc.so.6."""
    with tempfile.TemporaryDirectory() as directory:
        write(directory, "future.map", f"{need} {{ global: *; }};\n")
        libc = os.path.join(directory, "libc.so.6")
        future = ("-Wl,-soname,libc.so.6", "-Wl,--version-script,future.map")
        for words in (
            (*future, os.path.join(_SOURCES, "future.c"), "-o", libc),
            (f"-Wl,-soname,{soname}", os.path.join(_SOURCES, "needy.c"), libc, "-o", "needy"),
        ):
            command = ["gcc", "-shared", "-fPIC", "-nostdlib", *words]
            subprocess.run(command, cwd=directory, check=True)
        return _content(directory, "needy")


def _content(directory, name):
    with open(os.path.join(directory, name), "rb") as file:
        return file.read()


def stub_library(soname):
    """Return a real ELF library of that SONAME; nobody links 40 of them in a second."""
    name = soname.encode()
    assert len(name) <= len(_PLACEHOLDER)
    return compiled()["stub"].replace(_PLACEHOLDER, name.ljust(len(_PLACEHOLDER), b"\0"))


def build(root, layout="deb", *, version=VERSION, file_list=True, **kernel):
    """Dress the directory `root` as a machine and return it; `kernel` as `build_kernel` has it."""
    libraries, programs, share = LAYOUTS[layout]
    _build_libraries(root, libraries, version)
    write(root, f"{programs}/nvidia-smi", compiled(version)["smi"], 0o755)
    for name in PROGRAMS:
        write(root, f"{programs}/{name}", f"#!/bin/sh\necho fake {name} {version}\n", 0o755)
    for name in CONFIGS:
        write(root, f"{share}/{name}", '{"file_format_version": "1.0.0"}')
    write(root, f"{share}/nvidia/nvoptix.bin", "x")
    write(root, "etc/OpenCL/vendors/nvidia.icd", "libnvidia-opencl.so.1\n")
    write(root, "run/nvidia-persistenced/socket")
    if file_list:
        write(root, f"{share}/nvidia/files.d/sandboxutils-filelist.json", _file_list(version))
    build_kernel(root, version=version, **kernel)
    return root


def _build_libraries(root, directory, version):
    special = {"libnvidia-ml": "nvml", "libcuda": "cuda"}
    for path, (suffix, has_link, _) in VERSIONED.items():
        base = os.path.basename(path)
        file = f"{base}.so.{version}"
        soname = f"{base}.so.{suffix}" if suffix else file
        part = special.get(base)
        content = compiled(version)[part] if part else stub_library(soname)
        where = os.path.join(directory, os.path.dirname(path))
        write(root, os.path.join(where, file), content)
        if suffix:
            link(root, os.path.join(where, soname), file)
        if has_link:
            link(root, os.path.join(where, f"{base}.so"), soname)
    for file, soname in {**UNVERSIONED, **NEUTRAL}.items():
        write(root, f"{directory}/{file}", stub_library(soname))
        if file != soname:
            link(root, f"{directory}/{soname}", file)
    link(root, f"{directory}/gbm/nvidia-drm_gbm.so", "../libnvidia-allocator.so.1")


def _file_list(version):
    entries = [
        {"name": f"{os.path.basename(path)}.so.{version}", "type": "LIB", "category": list(words)}
        for path, (_, _, words) in VERSIONED.items()
    ]
    # the real list has names again and again, once for each category
    entries += [dict(entry, category=[word]) for entry in entries for word in entry["category"]]
    for path, (suffix, has_link, words) in VERSIONED.items():
        base = os.path.basename(path)
        links = [f"{base}.so.{suffix}"] * bool(suffix) + [f"{base}.so"] * has_link
        entries += [{"name": n, "type": "SYMLINK", "category": list(words)} for n in links]
    for kind, names, category in (
        ("BINARY", PROGRAMS, "nvml"),
        ("JSON", [os.path.basename(name) for name in CONFIGS], "vulkan"),
        ("ICD", ["nvidia.icd"], "opencl"),
        ("FIRMWARE", ["gsp_ga10x.bin"], "firmware"),
        ("MODPROBE", ["nvidia-modprobe.conf"], "modprobe"),
    ):
        entries += [{"name": name, "type": kind, "category": [category]} for name in names]
    return json.dumps(entries, indent=1)


if __name__ == "__main__":
    where, *rest = sys.argv[1:]
    build(where, *rest[:1], gpus=int(rest[1]) if rest[1:] else 1)
