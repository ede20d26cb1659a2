"""How files are found that do not lie where their readers look: by PATH, and by variables.

For engines to which every bind is dear, and for plug-ins that lie beside the driver's libraries.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DIRECTORY = "/run/udocker/gpu"
"""Below it lie, in a container, all files of the driver that need no path of their own."""
_PROGRAMS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin")
_CONFIGS = {
    "/etc/OpenCL/vendors": "etc/OpenCL/vendors",
    "/etc/vulkan": "share/vulkan",
    "/usr/share/vulkan": "share/vulkan",
    "/usr/share/glvnd/egl_vendor.d": "share/glvnd/egl_vendor.d",
    "/usr/share/egl/egl_external_platform.d": "share/egl/egl_external_platform.d",
}
"""Directories of configuration files -> where these lie in the directory of links."""
OPENCL = "/etc/OpenCL/vendors"
_VARIABLES = (
    ("bin", "PATH", "bin", ""),
    ("etc/OpenCL/vendors", "OCL_ICD_VENDORS", "etc/OpenCL/vendors", ""),
    # VK_ADD_DRIVER_FILES is newer than most images, this is as old as Vulkan's loader
    ("share/vulkan", "XDG_DATA_DIRS", "share", "/usr/local/share:/usr/share"),
    (
        *("share/glvnd", "__EGL_VENDOR_LIBRARY_DIRS", "share/glvnd/egl_vendor.d"),
        "/etc/glvnd/egl_vendor.d:/usr/share/glvnd/egl_vendor.d",
    ),
    (
        *("share/egl", "__EGL_EXTERNAL_PLATFORM_CONFIG_DIRS", "share/egl/egl_external_platform.d"),
        "/etc/egl/egl_external_platform.d:/usr/share/egl/egl_external_platform.d",
    ),
    (
        *("lib/gbm", "GBM_BACKENDS_PATH", "lib/gbm"),
        "/usr/lib/{machine}-linux-gnu/gbm:/usr/lib64/gbm",
    ),
    ("lib/vdpau", "VDPAU_DRIVER_PATH", "lib/vdpau", ""),
)
"""What is staged -> the variable by which it is found, the directory that it names first, and
those that it means where it is not set.

Source: ocl-icd's and the Khronos loaders' documentation (OpenCL, Vulkan: LoaderDriverInterface,
"Driver Discovery on Linux"), libglvnd src/EGL/icd_enumeration.md, libnvidia-egl-wayland and
eglexternalplatform, Mesa docs/envvars.rst, libvdpau's README.
"""
_NO_LISTS = ("OCL_ICD_VENDORS", "VDPAU_DRIVER_PATH")
"""Variables that name one directory."""


def place_of(destination: str) -> str | None:
    """Return the path below `DIRECTORY` at which a file of the container is found as well.

    None for a file that only its own path can show.
    """
    if destination.startswith(DIRECTORY + "/"):
        return destination[len(DIRECTORY) + 1 :]
    directory, _, name = destination.rpartition("/")
    if directory in _PROGRAMS:
        return f"bin/{name}"
    for prefix, place in _CONFIGS.items():
        if directory == prefix or directory.startswith(prefix + "/"):
            return place + destination[len(prefix) :]
    return None


def variables(places: Iterable[str], given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables by which files at `places` are found, before what is `given`."""
    machine = os.uname().machine
    held = tuple(places)
    found = []
    for needed, name, directory, usual in _VARIABLES:
        if any(place.startswith(needed + "/") for place in held):
            rest = given.get(name) or usual.format(machine=machine)
            own = f"{DIRECTORY}/{directory}"
            more = rest and name not in _NO_LISTS and rest != own
            found.append((name, f"{own}:{rest}" if more else own))
    return tuple(found)
