"""`udocker gpu info`."""

from __future__ import annotations

import json
import os

import click

from udocker import console
from udocker.diagnosis import gpufacts
from udocker.host.probe import Host
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from udocker.diagnosis.gpufacts import AmdFact, Facts, GpuFact
    from udocker.diagnosis.hcas import Hca
    from udocker.nvidia.driver import Driver

_FORMAT = 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_obj
def command(settings: Settings, as_json: bool) -> None:
    """Show this node's driver and GPUs, which of them this job may use, and its fabric.

    Nothing of the driver is run, but for the names of MIG devices. The exit code is 0 with and
    without GPUs: `udocker gpu doctor` judges.
    """
    facts = gpufacts.gather(Host(), settings.environment, f"{settings.directory}/cache")
    if as_json:
        console.put(json.dumps(_document(facts), indent=2))
    else:
        _show(facts)


def _show(facts: Facts) -> None:
    console.put_lines(f"{name:14} {text}" for name, text in _lines(facts))
    if facts.gpus:
        console.put("")
        header = ("INDEX", "MINOR", "PCI", "MODEL", "UUID", "THIS JOB")
        console.table(header, (row for fact in facts.gpus for row in _rows(fact)))
    if facts.amd:
        console.put("")
        header = ("AMD", "NODE", "PCI", "TARGET", "UUID", "THIS JOB")
        console.table(header, (_amd_row(fact) for fact in facts.amd))
    if facts.shares:
        console.put("")
        rows = (
            (s.capability, str(s.count), console.human_size(s.size_bytes)) for s in facts.shares
        )
        console.table(("CAPABILITY", "LIBRARIES", "SIZE"), rows)


def _lines(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "node", facts.node
    yield "driver", _driver(facts)
    found = facts.driver
    if found:
        yield "found by", f"{found.source or 'nothing'}, layout {found.layout or 'unknown'}"
        yield from (("doubt", doubt) for doubt in found.doubts)
        yield "programs", _listed([os.path.basename(file.source) for file in found.binaries])
        yield "files", _listed([file.destination for file in found.files])
    yield "gpus", f"{len(facts.gpus)}, {sum(not f.obstacle for f in facts.gpus)} for this job"
    yield "job", _listed([f"{name}={value}" for name, value in facts.job])
    yield from facts.services if found else ()
    ports = [port for hca in facts.hcas for port in hca.ports]
    for port in ports:
        state = port.state or "of unknown state"
        yield "infiniband", " ".join(filter(None, (port.name, port.layer, state, port.rate)))
    yield from (("mpi", f"{mpi} in {os.path.dirname(mpi.path)}") for mpi in facts.mpi)
    for one in facts.specifications:
        fault = f": {one.fault}" if one.fault else ""
        yield "cdi", f"{one.path} has {one.devices} x {one.kind}{fault}"
    yield from (("cdi", fault) for fault in facts.faults)


def _listed(words: list[str]) -> str:
    return " ".join(words) or "none"


def _driver(facts: Facts) -> str:
    found = facts.driver
    if found is None:
        return f"none: {facts.absence}"
    text = found.version + (f" ({found.flavour})" if found.flavour else "")
    text += f", CUDA {facts.cuda}" if facts.cuda else ""
    return f"{text}: {found.obstacle}" if found.obstacle else text


def _rows(fact: GpuFact) -> Iterator[tuple[str, ...]]:
    """Yield the row of a GPU, and one for each of its MIG devices."""
    gpu = fact.gpu
    words = (str(fact.index), str(gpu.minor), gpu.pci, gpu.model, gpu.uuid)
    yield (*words, _answer(fact.obstacle))
    for number, one in enumerate(fact.parts):
        name = f"MIG gi {one.part.gi} ci {one.part.ci}"
        yield (f"{fact.index}:{number}", "", "", name, one.part.uuid, _answer(one.obstacle))


def _answer(obstacle: str) -> str:
    return f"no: {obstacle}" if obstacle else "yes"


def _amd_row(fact: AmdFact) -> tuple[str, ...]:
    gpu = fact.gpu
    words = (str(fact.index), os.path.basename(gpu.node), gpu.pci, gpu.target, gpu.uuid)
    return (*words, "no: " + fact.obstacle if fact.obstacle else "yes")


def _document(facts: Facts) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "node": facts.node,
        "absence": facts.absence,
        "driver": facts.driver and _driver_document(facts.driver, facts),
        "gpus": [_gpu(fact) for fact in facts.gpus],
        "amd": [_amd_gpu(fact) for fact in facts.amd],
        "job": dict(facts.job),
        "services": dict(facts.services),
        "cdi": [
            {"path": s.path, "kind": s.kind, "devices": s.devices, "fault": s.fault}
            for s in facts.specifications
        ],
        "cdi_faults": facts.faults,
        "infiniband": [_hca(hca) for hca in facts.hcas],
        "mpi": [
            {"path": m.path, "soname": m.soname, "abi": m.family, "product": m.product}
            for m in facts.mpi
        ],
    }


def _hca(hca: Hca) -> dict[str, Any]:
    ports = [
        {"name": port.name, "layer": port.layer, "state": port.state, "rate": port.rate}
        for port in hca.ports
    ]
    return {"name": hca.name, "provider": hca.provider, "node": hca.node, "ports": ports}


def _driver_document(found: Driver, facts: Facts) -> dict[str, Any]:
    return {
        "version": found.version,
        "flavour": found.flavour,
        "cuda": facts.cuda,
        "source": found.source,
        "layout": found.layout,
        "obstacle": found.obstacle or "",
        "doubts": found.doubts,
        "libraries": [
            {"capability": s.capability, "count": s.count, "size_bytes": s.size_bytes}
            for s in facts.shares
        ],
        "programs": [file.source for file in found.binaries],
        "files": [file.source for file in found.files],
        "sockets": [file.source for file in found.sockets],
    }


def _gpu(fact: GpuFact) -> dict[str, Any]:
    gpu = fact.gpu
    return {
        "index": fact.index,
        "minor": gpu.minor,
        "pci": gpu.pci,
        "uuid": gpu.uuid,
        "model": gpu.model,
        "usable": not fact.obstacle,
        "obstacle": fact.obstacle,
        "mig": [
            {
                "gi": one.part.gi,
                "ci": one.part.ci,
                "uuid": one.part.uuid,
                "usable": not one.obstacle,
                "obstacle": one.obstacle,
            }
            for one in fact.parts
        ],
    }


def _amd_gpu(fact: AmdFact) -> dict[str, Any]:
    gpu = fact.gpu
    return {
        "index": fact.index,
        "node": gpu.node,
        "pci": gpu.pci,
        "uuid": gpu.uuid,
        "target": gpu.target,
        "usable": not fact.obstacle,
        "obstacle": fact.obstacle,
    }
