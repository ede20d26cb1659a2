"""What the kernel module of a fake NVIDIA driver shows below a root: /proc, /sys and /dev.

Nodes are files that say `c MAJOR:MINOR`, of the mode that the real one has; `fakenode.sh` makes
real ones of them.
"""

from __future__ import annotations

import os

VERSION = "580.159.04"
MACHINE = os.uname().machine
CONTROL_NODES = {"nvidiactl": "195:255", "nvidia-modeset": "195:254"}
UVM_NODES = {"nvidia-uvm": "511:0", "nvidia-uvm-tools": "511:1"}
CAPS = "dev/nvidia-caps/nvidia-cap"
MAJORS = {
    195: ("nvidia", "nvidia-modeset", "nvidiactl"),
    226: ("drm",),
    234: ("nvidia-nvlink",),
    235: ("nvidia-nvswitch",),
    236: ("nvidia-caps-imex-channels",),
    237: ("nvidia-caps",),
    511: ("nvidia-uvm",),
}
PARAMS = (
    "ResmanDebugLevel: 4294967295\nRmLogonRC: 1\nModifyDeviceFiles: 1\nDeviceFileUID: 0\n"
    "DeviceFileGID: 0\nDeviceFileMode: 438\nInitializeSystemMemoryAllocations: 1\n"
)
SEVEN_SMALL = dict.fromkeys(range(7, 14), 1)
"""A GPU in seven parts, 1g each: GPU instance -> how many compute instances it has."""


def uuid(minor):
    """Return the UUID of the fake GPU whose node is `/dev/nvidia<minor>`."""
    return f"GPU-f000000{minor}-1111-2222-3333-444455556666"


def mig_uuid(minor, gi, ci=0):
    """Return the UUID of a part of that GPU, which NVML alone tells."""
    return f"MIG-f000000{minor}-{gi:04x}-{ci:04x}-3333-444455556666"


def pci(minor):
    """Return its PCI address, which falls as minors rise (as in fake/node.h)."""
    return f"0000:{0x22 - minor:02x}:00.0"


def gi_minor(gpu, gi):
    """Return the minor number of a GPU instance's node."""
    return 3 + 135 * gpu + 9 * gi


def ci_minor(gpu, gi, ci=0):
    """Return the minor number of a compute instance's node."""
    return gi_minor(gpu, gi) + 1 + ci


def write(root, path, content="", mode=0o644):
    """Write a file below `root`, with its directories, whether its path begins with / or not."""
    full = os.path.join(root, path.lstrip("/"))
    os.makedirs(os.path.dirname(full), exist_ok=True)
    if os.path.lexists(full) and not os.path.islink(full):
        os.unlink(full)  # it may be one that only root could write to
    with open(full, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    os.chmod(full, mode)


def link(root, path, target):
    """Make a symbolic link below `root`, with its directories."""
    full = os.path.join(root, path.lstrip("/"))
    os.makedirs(os.path.dirname(full), exist_ok=True)
    os.symlink(target, full)


def node(root, path, number, mode=0o666):
    """Write a device node below `root`."""
    write(root, f"dev/{path}", f"c {number}\n", mode)


def build_kernel(root, *, gpus=1, version=VERSION, nodes=True, uvm=True, mig=None, denied=()):
    """Add what the kernel module shows of `gpus` GPUs and, unless not `nodes`, their nodes.

    `mig`: minor -> {GPU instance: how many compute instances}. `denied`: minors that users may
    not open, as those of other jobs. Not `uvm`: nobody has used CUDA since the node started.
    """
    _build_proc(root, version)
    for minor in range(gpus):
        write(
            root,
            f"proc/driver/nvidia/gpus/{pci(minor)}/information",
            "Model: \t\t NVIDIA Fake GPU\nIRQ:   \t\t 179\n"
            f"GPU UUID: \t {uuid(minor)}\nBus Type: \t PCIe\nBus Location: \t {pci(minor)}\n"
            f"Device Minor: \t {minor}\nGPU Firmware: \t {version}\nGPU Excluded:\t No\n",
        )
    for name, number in {**CONTROL_NODES, **(UVM_NODES if uvm else {})}.items() if nodes else ():
        node(root, name, number)
    for minor in range(gpus) if nodes else ():
        node(root, f"nvidia{minor}", f"195:{minor}", 0 if minor in denied else 0o666)
    _build_capabilities(root, gpus, mig or {}, nodes=nodes)


def _build_proc(root, version):
    write(
        root,
        "proc/driver/nvidia/version",
        f"NVRM version: NVIDIA UNIX Open Kernel Module for {MACHINE}  {version}  Release Build\n"
        "GCC version:  gcc version 13.3.0\n",
    )
    write(root, "proc/driver/nvidia/params", PARAMS)
    write(root, "proc/driver/nvidia/registry", 'Binary: ""\n')
    write(root, "sys/module/nvidia/version", f"{version}\n")
    write(root, "proc/sys/kernel/random/boot_id", "0c0ffee0-0000-4000-8000-000000000000\n")
    names = [f"{major} {name}\n" for major, names in MAJORS.items() for name in names]
    write(root, "proc/devices", "Character devices:\n  1 mem\n" + "".join(names))


def _build_capabilities(root, gpus, mig, *, nodes):
    """Write the nodes of MIG, and where the kernel module tells their minors."""
    minors = {"config": 1, "monitor": 2}
    for gpu in range(gpus):
        for gi in range(15):
            minors[f"gpu{gpu}/gi{gi}/access"] = gi_minor(gpu, gi)
            minors.update(
                {f"gpu{gpu}/gi{gi}/ci{ci}/access": ci_minor(gpu, gi, ci) for ci in range(8)}
            )
    text = "".join(f"{name} {minor}\n" for name, minor in minors.items())
    write(root, "proc/driver/nvidia-caps/mig-minors", text)
    _capability(root, "mig/config", 1, nodes=nodes)
    _capability(root, "mig/monitor", 2, nodes=nodes)
    for gpu, instances in mig.items():
        for gi, count in instances.items():
            place = f"gpu{gpu}/mig/gi{gi}"
            _capability(root, f"{place}/access", gi_minor(gpu, gi), nodes=nodes)
            for ci in range(count):
                _capability(root, f"{place}/ci{ci}/access", ci_minor(gpu, gi, ci), nodes=nodes)


def _capability(root, path, minor, *, nodes):
    text = f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
    write(root, f"proc/driver/nvidia/capabilities/{path}", text, 0o444)
    if nodes:
        node(root, f"nvidia-caps/nvidia-cap{minor}", f"237:{minor}", 0o444)


def add_graphics(root, gpus=1):
    """Add the nodes by which GPUs draw, and where /sys tells which GPU has which."""
    for minor in range(gpus):
        for kind, name, number in (
            ("card", f"card{minor + 1}", minor + 1),
            ("render", f"renderD{128 + minor}", 128 + minor),
        ):
            write(root, f"sys/bus/pci/devices/{pci(minor)}/drm/{name}/dev", f"226:{number}\n")
            node(root, f"dri/{name}", f"226:{number}", 0o660 if kind == "card" else 0o666)
            link(root, f"dev/dri/by-path/pci-{pci(minor)}-{kind}", f"../{name}")


def add_fabric(root, *, switches=1, channels=(0,)):
    """Add the nodes of NVSwitch, IMEX, GPUDirect Storage, GDRCopy and InfiniBand."""
    for name, number in (("nvidia-nvswitchctl", "235:255"), ("nvidia-nvlink", "234:0")):
        node(root, name, number)
    for switch in range(switches):
        node(root, f"nvidia-nvswitch{switch}", f"235:{switch}")
    for channel in channels:
        node(root, f"nvidia-caps-imex-channels/channel{channel}", f"236:{channel}", 0o444)
    for name in ("nvidia-fs0", "nvidia-fs1", "gdrdrv", "infiniband/uverbs0", "infiniband/rdma_cm"):
        node(root, name, "1:3")
