"""Options that are accepted and change nothing, and what the user is told about it, once."""

from __future__ import annotations

from udocker.commands.words import FLAG, VALUE, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.commands.words import Values


def _flags(*names: str) -> tuple[Option, ...]:
    return tuple(Option((name,), FLAG) for name in names)


def _values(*names: str) -> tuple[Option, ...]:
    return tuple(Option((name,), VALUE) for name in names)


RIGHTS = (
    *_flags("--privileged"),
    *_values("--security-opt", "--cap-add", "--cap-drop", "--device-cgroup-rule"),
    *_values("--seccomp-policy", "--oom-score-adj"),
)
CONTROL_GROUPS = (
    Option(("-m", "--memory"), VALUE),
    Option(("-c", "--cpu-shares"), VALUE),
    *_values("--memory-swap", "--memory-reservation", "--memory-swappiness", "--kernel-memory"),
    *_values("--cpus", "--cpu-period", "--cpu-quota", "--cpu-rt-period", "--cpu-rt-runtime"),
    *_values("--cpuset-mems", "--pids-limit", "--blkio-weight", "--blkio-weight-device"),
    *_values("--device-read-bps", "--device-read-iops", "--device-write-bps"),
    *_values("--device-write-iops", "--cgroup-parent", "--cgroup-conf", "--cgroups"),
    *_flags("--oom-kill-disable"),
)
HEALTH = (
    *_values("--health-cmd", "--health-interval", "--health-retries", "--health-timeout"),
    *_values("--health-start-period", "--health-start-interval", "--health-on-failure"),
)
LOGS = _values("--log-opt")
SILENT = (
    *_flags("--nobanner", "--no-healthcheck", "--disable-content-trust"),
    *_values("--detach-keys", "--preserve-fds"),
)
"""Nothing that they ask for is missing: there is no banner, nothing detaches by keys, ..."""
NOTES = (
    (RIGHTS, "no effect: on the host a program has the caller's rights, no more and no fewer"),
    (
        CONTROL_GROUPS,
        "no effect: no control group is delegated to this user; the limits of the batch job hold "
        "(--cpuset-cpus and --ulimit are honoured)",
    ),
    (HEALTH, "no effect: nothing looks after the health of containers"),
    (LOGS, "no effect: logs have no options"),
)
OPTIONS = (*RIGHTS, *CONTROL_GROUPS, *HEALTH, *LOGS, *SILENT)
KEYS = frozenset(option.key for option in OPTIONS)
_SIZES = ("memory", "memory_swap", "memory_reservation", "kernel_memory")


def notes(values: Values) -> Iterator[str]:
    """Yield a note for each kind of options given that have no effect.

    Raises UsageError for sizes that are none.
    """
    from udocker.commands.options import grammar

    for key in _SIZES:
        for text in values.all(key):
            if text != "-1":
                grammar.size(text, "--" + key.replace("_", "-"))
    for options, sentence in NOTES:
        given = [option for option in options if values.all(option.key)]
        if given:
            names = ", ".join(f"--{option.key.replace('_', '-')}" for option in given)
            yield f"{names}: {sentence}"
