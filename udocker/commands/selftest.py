"""`udocker selftest`."""

from __future__ import annotations

import signal

import click

from udocker import console
from udocker.engines import select
from udocker.selftest import trial
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.selftest.trial import Verdict


@click.command()
@click.argument("engines", nargs=-1, metavar="[ENGINE|MODE]...")
@click.pass_obj
def command(settings: Settings, engines: tuple[str, ...]) -> int:
    """Find out what works on this machine, without network and without a trace.

    An image of the host's own programs is made, pulled from a registry in this process, and run
    with every engine, or with those that are named. The exit code is 0 when one of them at least
    does all that it should.
    """
    ways = [way for word in engines or ("",) for way in select.ways(word)]
    _end_as_by_interrupt(signal.SIGTERM)
    _end_as_by_interrupt(signal.SIGHUP)
    verdicts = trial.run(settings, ways)
    console.table(("ENGINE", "MODE", "RESULT", "START-UP", "GPU"), map(_row, verdicts))
    for line in dict.fromkeys(line for verdict in verdicts for line in _reasons(verdict)):
        console.put(line)
    return 0 if any(verdict.passed for verdict in verdicts) else 1


def _end_as_by_interrupt(number: signal.Signals) -> None:
    """Let a signal, by which batch systems end jobs, leave time to clean up, as Ctrl-C does."""
    if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
        signal.signal(number, signal.default_int_handler)


def _row(verdict: Verdict) -> tuple[str, ...]:
    startup = "-" if verdict.startup_ms is None else f"{verdict.startup_ms:.0f} ms"
    return (verdict.engine, verdict.mode, _result(verdict), startup, str(verdict.gpus or "-"))


def _result(verdict: Verdict) -> str:
    if verdict.obstacle:
        return verdict.obstacle
    count = len(verdict.failures)
    return f"{count} check{'s' if count > 1 else ''} failed" if count else "usable"


def _reasons(verdict: Verdict) -> Iterator[str]:
    """Yield what does not fit into the table."""
    for failure in verdict.failures:
        name = f"{verdict.engine} ({verdict.mode})"
        yield f"{name}: not true: {failure.check} ({failure.detail})"
    if verdict.gpus and verdict.gpus.reason:
        yield verdict.gpus.reason
