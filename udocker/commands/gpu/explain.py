"""`udocker gpu explain`."""

from __future__ import annotations

import json

import click

from udocker import console
from udocker.commands.gpu import subject
from udocker.diagnosis import gpuimage
from udocker.host.probe import Host
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from udocker.diagnosis.gpuimage import Explanation

_FORMAT = 1


@click.command()
@click.option("--gpu", metavar="SEL", default="", help="As of run: all (the default), 0,1, ...")
@click.option("--gpu-caps", "capabilities", metavar="LIST", default="", help="As of run.")
@click.option(
    "--cuda-compat",
    "compat",
    type=click.Choice(["auto", "off", "force"]),
    default=None,
    help="As of run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.argument("target", metavar="IMAGE|CONTAINER")
@click.pass_obj
def command(
    settings: Settings,
    gpu: str,
    capabilities: str,
    compat: str | None,
    as_json: bool,
    target: str,
) -> int:
    """Show what a run of IMAGE or CONTAINER with GPUs gets of this node, and why.

    Nothing is run. The exit code is 1 when the run would be refused.
    """
    host = Host()
    asked = subject.find(settings, host, target, gpu, capabilities, compat or "")
    cache = f"{settings.directory}/cache"
    about = gpuimage.explain(host, asked.files, asked.request, cache, settings.environment)
    if as_json:
        console.put(json.dumps(_document(asked.name, about), indent=2))
    else:
        _show(asked.name, about)
    return 1 if about.is_fatal else 0


def _show(name: str, about: Explanation) -> None:
    console.put_lines(f"{key:12} {text}" for key, text in _lines(name, about))
    if about.verdicts:
        console.put("")
        rows = ((v.decision, v.kind, str(v.bits), v.soname, v.reason) for v in about.verdicts)
        console.table(("VERDICT", "KIND", "BITS", "LIBRARY", "WHY"), rows)


def _lines(name: str, about: Explanation) -> Iterator[tuple[str, str]]:
    yield "image", f"{name}: {_libc(about)}; asks for GPUs: {'yes' if about.asks else 'no'}"
    found = about.driver
    if found:
        yield "driver", f"{found.version}, found by {found.source}, layout {found.layout}"
    if about.capabilities:
        yield "capabilities", " ".join(about.capabilities)
    plan = about.plan
    for gpu in plan.gpus:
        parts = f", {len(gpu.mig)} MIG devices" if gpu.mig else ""
        yield "gpu", f"{gpu.uuid or gpu.pci} ({gpu.model}{parts})"
    if plan.gpus:
        yield "nodes", " ".join(node.destination for node in plan.edits.device_nodes)
    yield from (("env", f"{key}={value}") for key, value in plan.edits.env)
    for one in about.requirements:
        yield "requires", f"{one.variable}: {one.state}" + (f": {one.reason}" if one.reason else "")
    if about.compat.reason:
        yield "cuda-compat", about.compat.reason
    yield from (("note", note) for note in plan.notes)
    for problem in about.problems:
        yield "problem", problem.message
        if problem.hint:
            yield "", f"> {problem.hint}"


def _libc(about: Explanation) -> str:
    if about.glibc:
        return f"glibc {about.glibc}"
    return about.obstacle.reason if about.obstacle else "no C library"


def _document(name: str, about: Explanation) -> dict[str, Any]:
    plan, found = about.plan, about.driver
    return {
        "format": _FORMAT,
        "image": name,
        "fatal": about.is_fatal,
        "asks": about.asks,
        "libc": {
            "glibc": about.glibc,
            "machine": about.machine,
            "obstacle": about.obstacle.reason if about.obstacle else "",
        },
        "driver": found
        and {"version": found.version, "source": found.source, "layout": found.layout},
        "capabilities": about.capabilities,
        "libraries": [
            {
                "soname": v.soname,
                "source": v.source,
                "kind": v.kind,
                "bits": v.bits,
                "decision": v.decision,
                "reason": v.reason,
                "hint": v.hint,
            }
            for v in about.verdicts
        ],
        "cuda_compat": {
            "use": about.compat.use,
            "version": about.compat.version,
            "reason": about.compat.reason,
        },
        "requirements": [
            {"variable": r.variable, "state": r.state, "reason": r.reason}
            for r in about.requirements
        ],
        "gpus": [{"pci": g.pci, "minor": g.minor, "uuid": g.uuid} for g in plan.gpus],
        "nodes": [node.destination for node in plan.edits.device_nodes],
        "env": dict(plan.edits.env),
        "notes": plan.notes,
        "problems": [{"message": p.message, "hint": p.hint or ""} for p in about.problems],
    }
