"""The host channel adapters of a machine, of InfiniBand, RoCE and their kin, as the kernel shows.

Source: Linux, Documentation/ABI/stable/sysfs-class-infiniband; rdma-core 44, `libibverbs` and
the tables of PCI addresses and drivers in `providers/*`.
"""

from __future__ import annotations

import os

from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.probe import Host

ADAPTERS = "/sys/class/infiniband"
VERBS = "/sys/class/infiniband_verbs"
_FACT_BYTES = 4096
_MAX_ADAPTERS = 64

_PROVIDERS = {
    "mlx5_core": "mlx5",
    "mlx4_core": "mlx4",
    "hfi1": "hfi1verbs",
    "ib_qib": "ipathverbs",
    "bnxt_en": "bnxt_re",
    "cxgb4": "cxgb4",
    "efa": "efa",
    "erdma": "erdma",
    "hns3": "hns",
    "ice": "irdma",
    "i40e": "irdma",
    "irdma": "irdma",
    "mana": "mana",
    "ib_mthca": "mthca",
    "be2net": "ocrdma",
    "qede": "qedr",
    "vmw_pvrdma": "vmw_pvrdma",
}
"""Names of kernel modules, and the provider of rdma-core that drives their devices."""
_VENDORS = {
    "15B3": "mlx5",
    "1D0F": "efa",
    "14E4": "bnxt_re",
    "1425": "cxgb4",
    "1DED": "erdma",
    "19E5": "hns",
    "1414": "mana",
    "15AD": "vmw_pvrdma",
}
"""PCI vendors with devices of one provider; Intel has two, QLogic three."""
_NAMES = {"mlx5", "mlx4", "rxe", "siw", "efa", "irdma", "erdma", "mana", "bnxt_re"}
"""Devices that the kernel names after their provider: those without a PCI device have no more."""
_OLDEST_MLX5 = 0x1011


@dataclass(frozen=True)
class Port:
    """A port of an adapter."""

    name: str
    """`mlx5_0/1`."""
    state: str
    """`ACTIVE`, `DOWN`, `INIT`, ...; empty: the kernel does not say."""
    physical: str
    """`LinkUp`, `Polling`, `Disabled`, ..."""
    layer: str
    """`InfiniBand` or `Ethernet` (RoCE, iWARP)."""
    rate: str


@dataclass(frozen=True)
class Hca:
    """An adapter."""

    name: str
    driver: str
    """Its kernel module; empty: not known."""
    provider: str
    """The provider of rdma-core that drives it; empty: not known."""
    ports: tuple[Port, ...]
    node: str
    """`/dev/infiniband/uverbs0`; empty: the kernel offers no verbs for it."""


def find_hcas(host: Host) -> tuple[Hca, ...]:
    """Return the adapters of `host`, by name."""
    nodes = {_fact(host, f"{VERBS}/{name}/ibdev"): name for name in names(host, VERBS)}
    return tuple(_hca(host, name, nodes) for name in names(host, ADAPTERS)[:_MAX_ADAPTERS])


def names(host: Host, directory: str) -> list[str]:
    """Return the names in a directory of `host`, sorted; none where it has none."""
    try:
        return sorted(os.listdir(host.path(directory)))
    except OSError:
        return []


def _hca(host: Host, name: str, nodes: dict[str, str]) -> Hca:
    device = f"{ADAPTERS}/{name}/device"
    try:
        driver = os.path.basename(os.readlink(host.path(f"{device}/driver")))
    except OSError:
        driver = ""
    provider = _PROVIDERS.get(driver) or _by_address(_fact(host, f"{device}/modalias"))
    node = nodes.get(name, "")
    return Hca(
        name,
        driver,
        provider or _by_name(name),
        tuple(_ports(host, name)),
        f"/dev/infiniband/{node}" if node else "",
    )


def _by_address(modalias: str) -> str:
    """Return the provider for `pci:v000015B3d0000101Bsv...`; empty: not known."""
    if not modalias.startswith("pci:v0000") or modalias[13:14] != "d":
        return ""
    provider = _VENDORS.get(modalias[9:13].upper(), "")
    try:
        is_old = int(modalias[14:22], 16) < _OLDEST_MLX5
    except ValueError:
        return provider
    return "mlx4" if provider == "mlx5" and is_old else provider


def _by_name(name: str) -> str:
    stem = name.rstrip("0123456789").rstrip("_")
    return stem if stem in _NAMES else ""


def _ports(host: Host, adapter: str) -> Iterator[Port]:
    for number in names(host, f"{ADAPTERS}/{adapter}/ports"):
        place = f"{ADAPTERS}/{adapter}/ports/{number}"
        yield Port(
            f"{adapter}/{number}",
            _word(_fact(host, f"{place}/state")),
            _word(_fact(host, f"{place}/phys_state")),
            _fact(host, f"{place}/link_layer"),
            _fact(host, f"{place}/rate"),
        )


def _word(text: str) -> str:
    """Return the word of `4: ACTIVE`."""
    return text.partition(":")[2].strip()


def _fact(host: Host, path: str) -> str:
    return host.text(path, _FACT_BYTES).strip()
