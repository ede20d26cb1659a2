"""Which files of an NVIDIA driver serve which capability.

Source: the lists of libnvidia-container 1.18 (nvc_info.c), nvidia-container-toolkit 1.20
(driver-nvml.go, graphics.go) and apptainer 1.5 (nvliblist.conf), joined; the names of what a
driver installs in `sandboxutils-filelist.json` of driver 580.
"""

from __future__ import annotations

from udocker.errors import GpuError

COMPUTE, UTILITY, VIDEO = "compute", "utility", "video"
GRAPHICS, DISPLAY, NGX, COMPAT32 = "graphics", "display", "ngx", "compat32"
CAPABILITIES = (COMPUTE, UTILITY, VIDEO, GRAPHICS, DISPLAY, NGX, COMPAT32)
"""What `NVIDIA_DRIVER_CAPABILITIES` may name."""
DEFAULT_CAPABILITIES = (UTILITY, COMPUTE)
_IMPLIED = {VIDEO: (COMPUTE,), DISPLAY: (GRAPHICS,)}

LIBRARIES: dict[str, tuple[str, ...]] = {
    "libcuda": (COMPUTE,),
    "libcudadebugger": (COMPUTE,),
    "libnvidia-ptxjitcompiler": (COMPUTE,),
    "libnvidia-nvvm": (COMPUTE,),
    "libnvidia-nvvm70": (COMPUTE,),
    "libnvidia-gpucomp": (COMPUTE, GRAPHICS),
    "libnvidia-tileiras": (COMPUTE,),
    "libnvidia-opencl": (COMPUTE,),
    "libnvidia-compiler": (COMPUTE,),
    "libnvidia-fatbinaryloader": (COMPUTE,),
    "libnvidia-allocator": (COMPUTE, GRAPHICS),
    "libnvidia-pkcs11": (COMPUTE,),
    "libnvidia-pkcs11-openssl3": (COMPUTE,),
    "libnvidia-ml": (UTILITY,),
    "libnvidia-cfg": (UTILITY,),
    "libnvidia-nscq": (UTILITY,),
    "libnvidia-api": (UTILITY,),
    "libnvidia-sandboxutils": (UTILITY,),
    "libnvcuvid": (VIDEO,),
    "libnvidia-encode": (VIDEO,),
    "libnvidia-opticalflow": (VIDEO,),
    "libvdpau_nvidia": (VIDEO,),
    "libnvidia-eglcore": (GRAPHICS,),
    "libnvidia-glcore": (GRAPHICS,),
    "libnvidia-glsi": (GRAPHICS,),
    "libnvidia-tls": (GRAPHICS,),
    "libnvidia-rtcore": (GRAPHICS,),
    "libnvidia-glvkspirv": (GRAPHICS,),
    "libnvidia-fbc": (GRAPHICS,),
    "libnvidia-ifr": (GRAPHICS,),
    "libnvidia-cbl": (GRAPHICS,),
    "libnvidia-vksc-core": (GRAPHICS,),
    "libnvidia-present": (GRAPHICS,),
    "libnvidia-vulkan-producer": (GRAPHICS,),
    "libnvidia-egl-gbm": (GRAPHICS, DISPLAY),
    "libnvidia-egl-wayland": (GRAPHICS, DISPLAY),
    "libnvidia-egl-wayland2": (GRAPHICS, DISPLAY),
    "libnvidia-egl-xcb": (GRAPHICS, DISPLAY),
    "libnvidia-egl-xlib": (GRAPHICS, DISPLAY),
    "libnvoptix": (GRAPHICS,),
    "libEGL_nvidia": (GRAPHICS,),
    "libGLX_nvidia": (GRAPHICS,),
    "libGLESv1_CM_nvidia": (GRAPHICS,),
    "libGLESv2_nvidia": (GRAPHICS,),
    "nvidia-drm_gbm": (GRAPHICS,),
    "libnvidia-ngx": (NGX,),
}
"""Name up to `.so` -> the capabilities that need the library."""

UNVERSIONED = (
    "libnvidia-api",
    "libnvidia-nvvm70",
    "libnvidia-egl-gbm",
    "libnvidia-egl-wayland",
    "libnvidia-egl-wayland2",
    "libnvidia-egl-xcb",
    "libnvidia-egl-xlib",
    "nvidia-drm_gbm",
)
"""Libraries of the driver whose files do not carry its version."""

UNKNOWN_LIBRARY = (COMPUTE, GRAPHICS)
"""A versioned library newer than this table: one too many costs nothing, one missing much."""

PLUGINS = {"libvdpau_nvidia": "vdpau", "nvidia-drm_gbm": "gbm"}
"""Libraries that programs look for in a directory of this name beside the others."""
PLUGIN_DIRECTORIES = ("vdpau", "gbm")

CORE = ("libcuda", "libnvidia-ml")
"""Libraries without which a capability is not there at all."""

DEVELOPMENT_LINKS = ("libcuda", "libnvidia-opticalflow")
"""Libraries that programs open as `NAME.so` even where a host has no such link."""

FURTHER_NAMES = {"libGLX_nvidia": ("libGLX_indirect.so.0",)}
"""Names under which libGLX looks for a vendor's library when it knows no better."""

VENDOR_NEUTRAL: dict[str, tuple[str, ...]] = {
    "libGL": (GRAPHICS,),
    "libEGL": (GRAPHICS,),
    "libGLX": (GRAPHICS,),
    "libGLdispatch": (GRAPHICS,),
    "libOpenGL": (GRAPHICS,),
    "libGLESv1_CM": (GRAPHICS,),
    "libGLESv2": (GRAPHICS,),
    "libOpenCL": (COMPUTE,),
}
"""Dispatchers that fit every vendor's driver: the image's own are the right ones."""

NEVER = (
    "libnvidia-gtk2",
    "libnvidia-gtk3",
    "libnvidia-wayland-client",
    "libglxserver_nvidia",
    "nvidia_drv",
    "libglx",
)
"""Parts of the host's desktop and X server."""

C_LIBRARY = (
    *("libc.so.", "libm.so.", "libpthread.so.", "libdl.so.", "librt.so.", "libresolv.so."),
    *("libutil.so.", "libanl.so.", "libnss_", "libnsl.so.1", "libthread_db.so.", "ld-linux"),
)
"""How the names of glibc's parts begin: only a loader of the same build can load them."""

FORBIDDEN = (*C_LIBRARY, "libgcc_s.so.", "libstdc++.so.")
"""Never injected: the host's among the image's would break every program."""

IMAGES_OWN = ("libcrypto.so.", "libssl.so.")
"""Not brought along either: certificates, policies and modules of an image belong to its own."""

CATEGORIES: dict[str, tuple[str, ...]] = {
    "cuda": (COMPUTE,),
    "opencl": (COMPUTE,),
    "nvml": (UTILITY,),
    "nvpd": (UTILITY,),
    "nvapi": (UTILITY,),
    "nvsandboxutils": (UTILITY,),
    "video": (VIDEO,),
    "optix": (GRAPHICS,),
    "vulkan": (GRAPHICS,),
    "vulkansc": (GRAPHICS,),
    "egl": (GRAPHICS,),
    "egl_headless": (GRAPHICS,),
    "egl_wayland": (GRAPHICS,),
    "egl_gbm": (GRAPHICS,),
    "egl_x11": (GRAPHICS,),
    "glx": (GRAPHICS,),
    "gbm": (GRAPHICS,),
    "ngx": (NGX,),
}
"""Words of the driver's own list of files -> capabilities."""

BINARIES: dict[str, str] = {
    "nvidia-smi": UTILITY,
    "nvidia-debugdump": UTILITY,
    "nvidia-persistenced": UTILITY,
    "nvidia-imex": UTILITY,
    "nvidia-imex-ctl": UTILITY,
    "nvidia-cuda-mps-control": COMPUTE,
    "nvidia-cuda-mps-server": COMPUTE,
    "nvidia-xconfig": GRAPHICS,
}

CONFIG_FILES: dict[str, tuple[str, str]] = {
    "OpenCL/vendors/nvidia.icd": ("/etc", COMPUTE),
    "vulkan/icd.d/nvidia_icd.json": ("/etc", GRAPHICS),
    "vulkan/icd.d/nvidia_icd.x86_64.json": ("/etc", GRAPHICS),
    "vulkan/icd.d/nvidia_icd.aarch64.json": ("/etc", GRAPHICS),
    "vulkan/implicit_layer.d/nvidia_layers.json": ("/etc", GRAPHICS),
    "glvnd/egl_vendor.d/10_nvidia.json": ("/usr/share", GRAPHICS),
    "egl/egl_external_platform.d/15_nvidia_gbm.json": ("/usr/share", GRAPHICS),
    "egl/egl_external_platform.d/10_nvidia_wayland.json": ("/usr/share", GRAPHICS),
    "egl/egl_external_platform.d/09_nvidia_wayland2.json": ("/usr/share", GRAPHICS),
    "egl/egl_external_platform.d/20_nvidia_xcb.json": ("/usr/share", GRAPHICS),
    "egl/egl_external_platform.d/20_nvidia_xlib.json": ("/usr/share", GRAPHICS),
    "nvidia/nvoptix.bin": ("/usr/share", GRAPHICS),
}
"""Path below `/etc` or a share directory of the host -> where it goes, and for what."""

CONFIG_DIRECTORIES: dict[str, tuple[str, str]] = {
    "OpenCL/vendors": ("/etc", COMPUTE),
    "vulkan/icd.d": ("/etc", GRAPHICS),
    "vulkansc/icd.d": ("/etc", GRAPHICS),
    "vulkan/implicit_layer.d": ("/etc", GRAPHICS),
    "glvnd/egl_vendor.d": ("/usr/share", GRAPHICS),
    "egl/egl_external_platform.d": ("/usr/share", GRAPHICS),
}
"""Where a file may lie that only the driver's own list names, and where it goes."""

FILE_LIST = "nvidia/files.d/sandboxutils-filelist.json"
"""The driver's own list of its files, below a share directory."""

SOCKET_DIRECTORIES: dict[str, str] = {
    "/run/nvidia-persistenced": UTILITY,
    "/run/nvidia-fabricmanager": UTILITY,
}
"""Directories of sockets: bound whole, so that a restarted service is found again."""


def parse_capabilities(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the capabilities that `words` mean, with those that they imply, in fixed order.

    `all` means every one that this host's 64-bit libraries serve; no words mean the default.
    Raises GpuError for an unknown word.
    """
    if "all" in words:
        return tuple(c for c in CAPABILITIES if c != COMPAT32)
    wanted = set(words or DEFAULT_CAPABILITIES)
    unknown = sorted(wanted.difference(CAPABILITIES))
    if unknown:
        raise GpuError(
            f"{unknown[0]!r} is not a driver capability",
            hint=f"the capabilities are {', '.join(CAPABILITIES)} and all",
        )
    for word in tuple(wanted):
        wanted.update(_IMPLIED.get(word, ()))
    return tuple(c for c in CAPABILITIES if c in wanted)


def library_capabilities(base: str, categories: tuple[str, ...]) -> tuple[str, ...]:
    """Return what needs the library `base`: by the table, else by the driver's own categories."""
    if base in LIBRARIES:
        return LIBRARIES[base]
    known = {capability for word in categories for capability in CATEGORIES.get(word, ())}
    return tuple(c for c in CAPABILITIES if c in known) or UNKNOWN_LIBRARY


def is_injectable(base: str) -> bool:
    """Tell whether the library `base` may be put into a container at all."""
    forbidden = f"{base}.so.".startswith(FORBIDDEN)
    return base not in NEVER and base not in VENDOR_NEUTRAL and not forbidden


def is_vendors(base: str) -> bool:
    """Tell whether the name of the library `base` is one that only NVIDIA would give it.

    A list that names a library of the distribution, or of another vendor, is not followed.
    """
    return "nvidia" in base or base.startswith(("libcuda", "libnv"))
