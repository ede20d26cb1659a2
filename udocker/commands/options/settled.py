"""What of the words a container keeps, so that later runs of it mean the same.

A later run has another directory, other files, other containers: relative paths become absolute,
files of variables and labels become the variables and labels in them, and the volumes of other
containers become volumes of this one.
"""

from __future__ import annotations

from udocker.commands.options import files, grammar
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from udocker.commands.stores import Stores
    from udocker.commands.words import Values
    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest

    OptionsOf = Callable[[Container, Mapping[str, str]], RunRequest]


def settle(values: Values, stores: Stores, options_of: OptionsOf) -> None:
    """Let the values mean the same anywhere and at any time. Raises UdockerError.

    `options_of` reads what a container was made with.
    """
    environment = stores.settings.environment
    if values.all("env_file"):
        _settle_variables(values, environment)
    if values.all("label_file"):
        _settle_labels(values)
    if values.all("volume") or values.all("mount") or values.all("secret"):
        _settle_paths(values, environment)
    if values.all("volumes_from"):
        _settle_volumes(values, stores, options_of)


def _settle_variables(values: Values, environment: Mapping[str, str]) -> None:
    from udocker.commands.options.program import read_env_file

    variables = [v for path in values.all("env_file") for v in read_env_file(path, environment)]
    values.set("env", [*(f"{name}={value}" for name, value in variables), *values.all("env")])
    values.set("env_file", [])


def _settle_labels(values: Values) -> None:
    lines = [line for p in values.all("label_file") for line in grammar.lines_of(p, "--label-file")]
    values.set("label", [*lines, *values.all("label")])
    values.set("label_file", [])


def _settle_paths(values: Values, environment: Mapping[str, str]) -> None:
    values.set("volume", [_absolute_volume(text, environment) for text in values.all("volume")])
    values.set("mount", [_absolute_fields(text, environment) for text in values.all("mount")])
    values.set("secret", [_absolute_fields(text, environment) for text in values.all("secret")])


def _absolute_volume(text: str, environment: Mapping[str, str]) -> str:
    source, colon, rest = text.partition(":")
    if not source or not files.is_path(source):
        return text
    return files.host_path(source, f"--volume {text!r}", environment) + colon + rest


def _absolute_fields(text: str, environment: Mapping[str, str]) -> str:
    """Return the value of `--mount` or `--secret` with its path made absolute."""
    fields = grammar.csv_fields(text, "--mount")
    named = [field.partition("=")[::2] for field in fields]
    if "=" not in text:
        return files.host_path(text, "--secret", environment)
    kind = dict(named).get("type", "bind")
    if kind not in ("bind", "mount", "file"):  # else the source is a name
        return text
    made = []
    for key, value in named:
        if key in ("src", "source") and files.is_path(value):
            value = files.host_path(value, "--mount", environment)
        field = f"{key}={value}" if value else key
        made.append(f'"{field}"' if "," in field else field)
    return ",".join(made)


def _settle_volumes(values: Values, stores: Stores, options_of: OptionsOf) -> None:
    """Give the volumes of other containers to this one, before its own, which come last."""
    taken: list[str] = []
    for text in values.all("volumes_from"):
        name, _, mode = text.partition(":")
        if not set(mode.split(",")) <= {"", "ro", "rw", "z", "Z"}:
            raise UsageError(f"--volumes-from {text!r} is not CONTAINER[:ro]")
        request = options_of(stores.containers.get(name), stores.settings.environment)
        taken += _as_volumes(request, readonly="ro" in mode.split(","))
    values.set("volume", [*taken, *values.all("volume")])
    values.set("volumes_from", [])


def _as_volumes(request: RunRequest, *, readonly: bool) -> list[str]:
    binds = [(bind.source, bind.destination, bind.readonly) for bind in request.binds]
    named = [(volume.name, volume.destination, volume.readonly) for volume in request.volumes]
    return [
        f"{source}:{destination}" + (":ro" if readonly or own else "")
        for source, destination, own in (*binds, *named)
    ]
