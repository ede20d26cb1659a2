"""A fake node's InfiniBand adapters, as the kernel shows them, and images with RDMA libraries."""

from __future__ import annotations

import subprocess

from gpu import elffile
from gpu.kerneltree import MACHINE, link, write

PLACE = f"usr/lib/{MACHINE}-linux-gnu"
MELLANOX = "pci:v000015B3d0000101Bsv000015B3sd00000007bc02sc07i00"
"""A ConnectX-6."""


def add_hca(
    root,
    name="mlx5_0",
    *,
    number=0,
    driver="mlx5_core",
    modalias=MELLANOX,
    state="4: ACTIVE",
    physical="5: LinkUp",
    layer="InfiniBand",
    node=True,
    abi="6",
):
    """Add an adapter with one port and, unless not `node`, what verbs use of it."""
    device = f"sys/devices/pci0000:00/0000:00:0{number}.0"
    if driver:
        write(root, f"sys/bus/pci/drivers/{driver}/uevent")
        link(root, f"{device}/driver", f"../../../bus/pci/drivers/{driver}")
    write(root, f"{device}/modalias", modalias + "\n")
    place = f"{device}/infiniband/{name}"
    port = {"state": state, "phys_state": physical, "link_layer": layer, "rate": "200 Gb/sec"}
    for fact, text in port.items():
        write(root, f"{place}/ports/1/{fact}", text + "\n")
    link(root, f"{place}/device", "../..")
    link(root, f"sys/class/infiniband/{name}", f"../../../{place}")
    if node:
        verbs = f"sys/class/infiniband_verbs/uverbs{number}"
        write(root, "sys/class/infiniband_verbs/abi_version", abi + "\n")
        write(root, f"{verbs}/ibdev", name + "\n")
        write(root, f"{verbs}/abi_version", "1\n")
        write(root, f"dev/infiniband/uverbs{number}", f"c 231:{192 + number}\n", 0o666)
        write(root, "dev/infiniband/rdma_cm", "c 10:58\n", 0o666)


def rdma_core(abi="34", *, made_for="34", names=("mlx4", "mlx5"), needed=(), private=None):
    """Return an image's files, by path: libibverbs, and providers made for the ABI `made_for`.

    `private`: which private symbols the providers ask for, if not those of `made_for`.
    """
    versions = ("IBVERBS_1.0", "IBVERBS_1.1", f"IBVERBS_PRIVATE_{abi}")
    core = elffile.library("libibverbs.so.1", definitions=versions, needed=needed, machine=MACHINE)
    asks = (("libibverbs.so.1", ("IBVERBS_1.1", f"IBVERBS_PRIVATE_{private or made_for}")),)
    files = {f"{PLACE}/libibverbs.so.1": core}
    for name in names:
        provider = elffile.library(
            f"lib{name}.so.1", needed=("libibverbs.so.1",), needs=asks, machine=MACHINE
        )
        files[f"{PLACE}/libibverbs/lib{name}-rdmav{made_for}.so"] = provider
        files[f"etc/libibverbs.d/{name}.driver"] = f"driver {name}\n"
    return files


def link_library(path, text, soname, *words):
    """Link a library of that C text and SONAME, with further `words` for the compiler."""
    command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-x", "c", "-", f"-Wl,-soname,{soname}"]
    subprocess.run([*command, *words, "-o", path], input=text.encode(), check=True)
