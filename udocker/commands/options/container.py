"""Options on the container itself: its name, labels, files of ids, and how its run ends."""

from __future__ import annotations

from udocker.commands.options import grammar
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping
    from typing import Any

    from udocker.commands.words import Values
else:
    import _signal as signal  # `signal` itself costs 5 ms for the enums that it makes

LOG_DRIVERS = ("json-file", "none")


def wishes(values: Values, _: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """Return the fields of the request that options on the container fill."""
    return {
        "name": values.last("name"),
        "remove": values.flag("rm"),
        "replace": values.flag("replace"),
        "detach": values.flag("detach"),
        "cidfile": values.last("cidfile") or None,
        "pidfile": values.last("pidfile") or None,
        "labels": _labels(values),
        "annotations": _merged(grammar.pair(t, "--annotation") for t in values.all("annotation")),
        "stop_signal": _signal(values.last("stop_signal")),
        "stop_timeout_s": _seconds(values.last("stop_timeout"), "--stop-timeout", least=-1),
        "timeout_s": _seconds(values.last("timeout"), "--timeout") or None,
        "signal_proxy": values.flag("sig_proxy", default=True),
        "log_driver": grammar.one_of(
            values.last("log_driver") or LOG_DRIVERS[0], LOG_DRIVERS, "--log-driver"
        ),
        "dry_run": values.flag("dry_run"),
    }


def _labels(values: Values) -> tuple[tuple[str, str], ...]:
    lines = [
        line for file in values.all("label_file") for line in grammar.lines_of(file, "--label-file")
    ]
    return _merged(grammar.pair(text, "--label") for text in (*lines, *values.all("label")))


def _merged(pairs: Any) -> tuple[tuple[str, str], ...]:
    return tuple(dict(pairs).items())


def _seconds(text: str | None, option: str, *, least: int = 0) -> int | None:
    return None if text is None else grammar.whole(text, option, least=least, most=1 << 31)


def _signal(text: str | None) -> str | None:
    """Return the name of a signal, `SIGTERM` or a number. Raises UsageError for no signal."""
    if text is None:
        return None
    name = "SIG" + text.upper().removeprefix("SIG")
    if text.isascii() and text.isdigit() and 0 < int(text) < signal.NSIG:
        return text
    base, plus, offset = name.partition("+")
    if plus and base == "SIGRTMIN" and offset.isdigit():
        number = int(signal.SIGRTMIN) + int(offset)
        if number <= int(signal.SIGRTMAX):
            return str(number)
    elif isinstance(getattr(signal, name, None), int):
        return name
    raise UsageError(f"--stop-signal {text!r} is no signal", hint="as SIGTERM, INT, RTMIN+3, 15")
