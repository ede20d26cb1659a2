"""`udocker gpu doctor`."""

from __future__ import annotations

import itertools
import json

import click

from udocker import console
from udocker.commands.gpu import subject
from udocker.diagnosis import fabric, gpu, gpuimage
from udocker.diagnosis.finding import FAIL, OK, WARN, Finding
from udocker.errors import UdockerError
from udocker.host.probe import Host
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FORMAT = 1
_CODES = {OK: 0, WARN: 1, FAIL: 2}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.argument("target", metavar="[IMAGE|CONTAINER]", required=False)
@click.pass_obj
def command(settings: Settings, as_json: bool, target: str | None) -> int:
    """Check what GPUs need on this node, and in an image, with the way out where that is wrong.

    Device nodes, InfiniBand's too, are opened, and the driver's own library is asked, in a process
    of its own. What fabrics and MPI need is told as warnings at most. The exit code is 0 when all
    is well, 1 when something may be better, 2 when GPUs cannot be used or there is no such image.
    """
    host = Host()
    findings = [] if target is None else list(_of_image(settings, host, target))
    of_node = gpu.findings(host, settings.environment), fabric.findings(host, settings.environment)
    findings = [*itertools.chain(*of_node), *findings]
    if as_json:
        console.put(_json(findings))
    else:
        console.put_lines(_lines(findings))
    return _code(findings)


def _of_image(settings: Settings, host: Host, target: str) -> Iterator[Finding]:
    try:
        asked = subject.find(settings, host, target)
    except UdockerError as error:  # the node can be judged all the same
        yield Finding("image", FAIL, error.message, error.hint or "")
        return
    cache = f"{settings.directory}/cache"
    about = gpuimage.explain(host, asked.files, asked.request, cache, settings.environment)
    yield from gpuimage.findings(gpuimage.ask_nvml(about, asked.request))
    programs = dict(asked.request.program_env)
    yield from fabric.image_findings(host, settings.environment, asked.files, programs)


def _code(findings: Sequence[Finding]) -> int:
    return max((_CODES[finding.status] for finding in findings), default=0)


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.status:5} {finding.key:15} {finding.text}"
        if finding.fix:
            yield f"{'':21} > {finding.fix}"


def _json(findings: Sequence[Finding]) -> str:
    document = {
        "format": _FORMAT,
        "code": _code(findings),
        "checks": [
            {"key": f.key, "status": f.status, "text": f.text, "fix": f.fix} for f in findings
        ],
    }
    return json.dumps(document, indent=2)
