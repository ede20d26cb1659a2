"""Options on the way in which the program is run: engine, namespaces, limits."""

from __future__ import annotations

from udocker.commands.options import grammar
from udocker.containers.spec import Limit
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from udocker.commands.words import Values

LIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
    *("rss", "rtprio", "rttime", "sigpending", "stack", "as"),
)
"""Source: docker's `go-units/ulimit.go`; `as` is setrlimit(2)'s."""
MOST_PROCESSORS = 1 << 16
_ONLY = {
    "ipc": ("host", "MPI and CUDA meet in the host's shared memory; --shm-size gives a /dev/shm"),
    "cgroupns": ("host", "there are no control groups of a container's own"),
}


def wishes(values: Values, _: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """Return the fields of the request that options on the way of running fill."""
    for key, (word, reason) in _ONLY.items():
        given = values.last(key)
        if given not in (None, "", word):
            raise UsageError(f"--{key} {given!r} cannot be had: {reason}", hint=f"--{key}={word}")
    uts = grammar.one_of(values.last("uts") or "host", ("host", "private"), "--uts")
    if uts == "host" and values.last("uts") and values.last("hostname"):
        raise UsageError("--uts host keeps the host's name, --hostname wants another")
    made: dict[str, Any] = {
        "force": values.flag("force"),
        "kernel": _kernel(values.last("kernel")),
        "limits": _limits(values.all("ulimit")),
        "cpus": processors(values.last("cpuset_cpus") or ""),
        **_process_namespace(values),
    }
    runtime = (values.last("runtime") or "").rpartition("/")[2]
    if runtime == "nvidia" and not any(values.last(key) for key in ("gpu", "gpus", "nv")):
        made["gpu"] = "auto"
    named = "" if runtime == "nvidia" else _runtime(runtime)
    made["engine"] = values.last("engine") or named
    return made


def _runtime(name: str) -> str:
    return "runc" if name.startswith("io.containerd.runc") else name


def _process_namespace(values: Values) -> dict[str, Any]:
    """An init needs a namespace; where the host's is asked for, the host's init does its work."""
    pid = values.last("pid")
    grammar.one_of(pid or "host", ("host", "private"), "--pid")
    init = values.flag("init") and pid != "host"
    return {"init": init, "pid": "private" if init else pid or "host"}


def _kernel(text: str | None) -> str | None:
    if text is not None and not (0 < len(text) <= 64 and text.isascii() and text.isprintable()):
        raise UsageError(f"--kernel {text!r} is no kernel release", hint="as 5.10.0")
    return text


def _limits(given: tuple[str, ...]) -> tuple[Limit, ...]:
    """Return one limit for each name, the last one given; `host` leaves all as they are."""
    read = [_limit(text) for text in given if text != "host"]
    return tuple({limit.name: limit for limit in read}.values())


def _limit(text: str) -> Limit:
    name, equals, bounds = text.partition("=")
    if name not in LIMITS or not equals:
        known = ", ".join(LIMITS)
        raise UsageError(f"--ulimit {text!r} is not NAME=SOFT[:HARD]", hint=f"names: {known}")
    soft, colon, hard = bounds.partition(":")
    low = _bound(soft, text)
    high = _bound(hard, text) if colon else low
    if high >= 0 and (low > high or low < 0):
        raise UsageError(f"--ulimit {text!r}: the soft limit is above the hard one")
    return Limit(name, low, high)


def _bound(text: str, whole: str) -> int:
    if text == "unlimited":
        return -1
    return grammar.whole(text, f"--ulimit {whole!r}:", least=-1)


def processors(text: str) -> tuple[int, ...]:
    """Read `0-3,5`: the numbers in order, each once. Raises UsageError."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.strip().partition("-")
        low = _processor(first, text)
        high = _processor(last, text) if dash else low
        if high < low:
            raise UsageError(f"--cpuset-cpus {text!r}: {part} ends before it begins")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def _processor(text: str, whole: str) -> int:
    return grammar.whole(text, f"--cpuset-cpus {whole!r}:", most=MOST_PROCESSORS)
