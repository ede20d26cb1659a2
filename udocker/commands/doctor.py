"""`udocker doctor`."""

from __future__ import annotations

import json
import os

import click

from udocker import __version__, console
from udocker.commands.stores import Stores
from udocker.diagnosis import abilities, account, engines, kernel, storage
from udocker.engines.userns import UsernsEngine
from udocker.errors import ContainerNotFound, UdockerError
from udocker.host.probe import Host
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.container import Container
    from udocker.diagnosis.engines import Verdict
    from udocker.diagnosis.finding import Finding
    from udocker.engines.userns import Support

_FORMAT = 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--features", is_flag=True, help="Print what each engine can do, here or not.")
@click.argument("container", metavar="[CONTAINER]", required=False)
@click.pass_obj
def command(settings: Settings, as_json: bool, features: bool, container: str | None) -> int:
    """Say what this machine can do, why not more, and what would help.

    Every engine is asked whether it can run here (or run CONTAINER). The exit code is 0 when one
    at least can.
    """
    if features:
        for line in abilities.table():
            console.put(line)
        return 0
    host = Host()
    existed = os.path.isdir(settings.directory)
    subject = _container(settings, container) if container else None
    try:
        verdicts = list(engines.verdicts(host, settings.directory, subject))
        findings = list(_findings(settings, host))
    finally:
        engines.forget(settings.directory, existed=existed)
    usable = any(verdict.usable for verdict in verdicts)
    if as_json:
        console.put(_json(verdicts, findings, usable))
    else:
        for line in _lines(verdicts, findings):
            console.put(line)
    return 0 if usable else 1


def _container(settings: Settings, name: str) -> Container:
    found = Stores(settings).containers.find(name)
    if found is None:
        raise ContainerNotFound(f"no container {name!r}", hint="udocker ps")
    return found


def _findings(settings: Settings, host: Host) -> Iterator[Finding]:
    temporary = settings.environment.get("TMPDIR") or "/tmp"
    yield from kernel.findings(host)
    yield from storage.findings(host, settings.directory, temporary, _support(settings, host))
    yield from account.findings(host, settings.environment)


def _support(settings: Settings, host: Host) -> Support | None:
    try:
        return UsernsEngine(settings.directory).support(host)
    except UdockerError:  # the store cannot be written to, which is a finding of its own
        return None


def _lines(verdicts: list[Verdict], findings: list[Finding]) -> Iterator[str]:
    for verdict in verdicts:
        mark = "ok" if verdict.usable else "no"
        yield f"{mark:5} {verdict.way.name:11} {verdict.way.mode:3} {_told(verdict)}"
        if verdict.fix:
            yield f"{'':21} > {verdict.fix}"
    yield ""
    for finding in findings:
        yield f"{finding.status:5} {finding.key:15} {finding.text}"
        if finding.fix:
            yield f"{'':21} > {finding.fix}"


def _told(verdict: Verdict) -> str:
    program = verdict.program
    if program is None:
        return verdict.obstacle or "part of udocker"
    what = " ".join(filter(None, (program.path, program.version)))
    what += "" if program.origin == "host" else f" [{program.origin}]"
    return f"{what}: {verdict.obstacle}" if verdict.obstacle else what


def _json(verdicts: list[Verdict], findings: list[Finding], usable: bool) -> str:
    document = {
        "format": _FORMAT,
        "version": __version__,
        "usable": usable,
        "engines": [_engine(verdict) for verdict in verdicts],
        "host": [
            {"key": f.key, "status": f.status, "text": f.text, "fix": f.fix} for f in findings
        ],
    }
    return json.dumps(document, indent=2)


def _engine(verdict: Verdict) -> dict[str, object]:
    program = verdict.program
    return {
        "name": verdict.way.name,
        "mode": verdict.way.mode,
        "automatic": verdict.way.automatic,
        "usable": verdict.usable,
        "obstacle": verdict.obstacle,
        "fix": verdict.fix,
        "program": program
        and {"path": program.path, "version": program.version, "origin": program.origin},
    }
