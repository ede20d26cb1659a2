"""What the kernel shows of AMD GPUs, as files below a root directory; see `drivertree`."""

from __future__ import annotations

from gpu.drivertree import write

TOPOLOGY = "sys/class/kfd/kfd/topology/nodes"
FIRST_RENDER_MINOR = 128


def uuid(number):
    """Return the UUID of the GPU that ROCm counts as `number`."""
    return f"GPU-{0xA0B0C0D0E0F00 + number:016x}"


def pci(number):
    """Return its PCI address, which falls as numbers rise."""
    return f"0000:{0xC3 - number:02x}:00.0"


def build(root, *, gpus=2, version="6.10.5", unique=True, nodes=True):
    """Add to the machine below `root` the driver, `gpus` GPUs and their nodes; return `root`."""
    write(root, "sys/module/amdgpu/refcnt", "0\n")
    if version:
        write(root, "sys/module/amdgpu/version", f"{version}\n")
    write(root, f"{TOPOLOGY}/0/properties", "cpu_cores_count 64\nsimd_count 0\nvendor_id 0\n")
    if nodes:
        write(root, "dev/kfd", "c 234:0\n", 0o666)
    for number in range(gpus):
        minor = FIRST_RENDER_MINOR + gpus - 1 - number
        facts = {
            "simd_count": 440,
            "gfx_target_version": 90010,
            "vendor_id": 4098,
            "device_id": 29704,
            "location_id": int(pci(number)[5:7], 16) << 8,
            "domain": 0,
            "drm_render_minor": minor,
            "unique_id": int(uuid(number)[4:], 16) if unique else 0,
        }
        lines = "".join(f"{name} {value}\n" for name, value in facts.items())
        write(root, f"{TOPOLOGY}/{number + 1}/properties", lines)
        if nodes:
            write(root, f"dev/dri/renderD{minor}", f"c 226:{minor}\n", 0o666)
            write(root, f"dev/dri/card{minor - 127}", f"c 226:{minor - 127}\n", 0o666)
    return root
