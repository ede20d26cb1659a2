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

    from udocker.diagnosis.gpufacts import Facts, GpuFact

_FORMAT = 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.pass_obj
def command(settings: Settings, as_json: bool) -> None:
    """Show this node's driver and GPUs, and which of them this job may use.

    Nothing of the driver is run. The exit code is 0 with and without GPUs: `udocker gpu doctor`
    judges.
    """
    facts = gpufacts.gather(Host(), settings.environment)
    if as_json:
        console.put(json.dumps(_document(facts), indent=2))
    else:
        _show(facts)


def _show(facts: Facts) -> None:
    console.put_lines(f"{name:12} {text}" for name, text in _lines(facts))
    if facts.gpus:
        console.put("")
        header = ("INDEX", "MINOR", "PCI", "MODEL", "UUID", "THIS JOB")
        console.table(header, (_row(fact) for fact in facts.gpus))
    if facts.shares:
        console.put("")
        rows = (
            (s.capability, str(s.count), console.human_size(s.size_bytes)) for s in facts.shares
        )
        console.table(("CAPABILITY", "LIBRARIES", "SIZE"), rows)


def _lines(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "node", facts.node
    yield "driver", _driver(facts)
    if facts.driver:
        yield "programs", " ".join(os.path.basename(f.source) for f in facts.driver.binaries) or "–"
        yield "files", " ".join(f.destination for f in facts.driver.files) or "–"
    yield "gpus", f"{len(facts.gpus)}, {sum(not f.obstacle for f in facts.gpus)} for this job"
    yield "job", " ".join(f"{name}={value}" for name, value in facts.job) or "–"


def _driver(facts: Facts) -> str:
    if facts.driver is None:
        return "none: the kernel module is not loaded"
    text = facts.driver.version + (f" ({facts.flavour})" if facts.flavour else "")
    return f"{text}: {facts.driver.obstacle}" if facts.driver.obstacle else text


def _row(fact: GpuFact) -> tuple[str, ...]:
    gpu = fact.gpu
    words = (str(fact.index), str(gpu.minor), gpu.pci, gpu.model, gpu.uuid)
    return (*words, "no: " + fact.obstacle if fact.obstacle else "yes")


def _document(facts: Facts) -> dict[str, Any]:
    found = facts.driver
    return {
        "format": _FORMAT,
        "node": facts.node,
        "driver": found
        and {
            "version": found.version,
            "flavour": facts.flavour,
            "obstacle": found.obstacle or "",
            "libraries": [
                {"capability": s.capability, "count": s.count, "size_bytes": s.size_bytes}
                for s in facts.shares
            ],
            "programs": [f.source for f in found.binaries],
            "files": [f.source for f in found.files],
            "sockets": [f.source for f in found.sockets],
        },
        "gpus": [_gpu(fact) for fact in facts.gpus],
        "job": dict(facts.job),
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
    }
