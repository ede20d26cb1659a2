"""The options of `run` and `create`, and the request that they make.

The subjects are read by modules of their own, imported for who gives one of their options.
"""

from __future__ import annotations

from udocker.commands import words
from udocker.commands.options import table
from udocker.commands.options.table import SUBJECTS
from udocker.containers.request import RunRequest
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from udocker.commands.stores import Stores
    from udocker.commands.words import Values
    from udocker.containers.container import Container
    from udocker.settings import Settings

    Reader = Callable[[Values, Mapping[str, str], list[str]], dict[str, Any]]

OPTIONS, GROUPS = table.OPTIONS, table.GROUPS
_UNSETTLED = ("env_file", "label_file", "volume", "mount", "secret", "volumes_from")
_ONE_RUN = frozenset(
    (
        *("name", "replace", "detach", "cidfile", "pidfile", "dry_run", "strict"),
        *("pull", "platform", "arch", "os", "variant", "quiet", "location", "rootfs"),
        *("registry", "index", "httpproxy", "authfile", "tls_verify"),
    )
)
"""Options that a container does not keep."""

_GPU_CHOOSERS = ("gpu", "gpus", "nv")


def parse(given: Sequence[str]) -> tuple[Values, list[str], list[str]]:
    """Read the words as `words.parse` does, and say of an option that cannot be had why not.

    Raises UsageError and HelpWantedError.
    """
    try:
        return words.parse(given, OPTIONS)
    except words.UnknownOption:
        from udocker.commands.options.accepted import OPTIONS as ACCEPTED
    try:
        return words.parse(given, (*OPTIONS, *ACCEPTED))
    except words.UnknownOption as unknown:
        from udocker.commands.options.refused import REFUSED

        if unknown.name not in REFUSED:
            raise
        reason, hint = REFUSED[unknown.name]
        raise UsageError(f"{unknown.name} cannot be had: {reason}", hint=hint) from None


def make_request(values: Values, args: Sequence[str], environment: Mapping[str, str]) -> RunRequest:
    """Return what the words ask for. Raises UsageError where they make no sense."""
    notes: list[str] = []
    wishes: dict[str, Any] = {"args": tuple(args)}
    subjects = {SUBJECTS.get(key, "") for key in values}
    for subject, reader in _READERS.items():
        if subject in subjects:
            wishes.update(reader()(values, environment, notes))
    if "" in subjects:
        from udocker.commands.options import accepted

        notes.extend(accepted.notes(values))
    if notes and values.flag("strict"):
        raise UsageError("; ".join(notes), hint="without --strict that is only told")
    return RunRequest(**wishes, notes=tuple(notes))


def parse_kept(container: Container, options: Sequence[str], gpu: str) -> tuple[Values, Values]:
    """Return what a run with `options` of a container made before says, and `options` alone.

    The container's own options come first; of those that choose GPUs only the run's count where
    it has some. `gpu` is chosen where none of them chooses. Raises UsageError.
    """
    own, _, _ = parse(options)
    values, _, _ = parse([*container.options, *options])
    if _chooses_gpus(own):
        for key in _GPU_CHOOSERS:
            values.set(key, own.all(key))
        named = set(_gpu_devices(values)) - set(own.all("device"))
        values.set("device", [text for text in values.all("device") if text not in named])
    elif gpu and not _chooses_gpus(values):
        values.set("gpu", [gpu])
    return values, own


def _chooses_gpus(values: Values) -> bool:
    return any(key in values for key in _GPU_CHOOSERS) or bool(_gpu_devices(values))


def _gpu_devices(values: Values) -> list[str]:
    given = values.all("device")
    if not given:
        return []
    from udocker.commands.options.gpu import CDI_KIND

    return [text for text in given if text.startswith(CDI_KIND)]


def split_target(values: Values, rest: list[str]) -> tuple[str, list[str]]:
    """Return what is to be run (image, container, or directory) and the words of the program.

    Afterwards the value of `--location` is the directory, also where `--rootfs` named it.
    """
    if values.last("location") is not None:
        return values.all("location")[-1], rest
    if not rest:
        hint = "udocker images and udocker ps list them"
        raise UsageError("no image or container was named", hint=hint)
    if values.flag("rootfs"):
        values.set("location", [rest[0]])
    elif len(rest) > 1 and ("gpu" in values or "rocm" in values):
        from udocker.commands.options import gpu

        gpu.check_image(values, *rest[:2])
    return rest[0], rest[1:]


def settle(values: Values, stores: Stores) -> None:
    """Let the values mean the same anywhere and at any time; see `options.settled`."""
    if any(values.all(key) for key in _UNSETTLED):
        from udocker.commands.options import settled

        settled.settle(values, stores, options_of)


def kept_words(values: Values) -> list[str]:
    """Return the words of settled values that a container made with them keeps."""
    passing = [key for key in values if key in _ONE_RUN or key not in SUBJECTS]
    return values.as_words(without=frozenset(passing))


def options_of(container: Container, environment: Mapping[str, str]) -> RunRequest:
    """Return what a container was made with. Raises UsageError where a newer udocker made it."""
    values, _, _ = parse(container.options)
    return make_request(values, container.command, environment)


def pull_settings(values: Values, settings: Settings) -> Settings:
    """Return the settings with what the options say of the pull."""
    if not any(SUBJECTS.get(key) == "Image" for key in values):
        return settings
    from udocker.commands.options.image import settings_for

    return settings_for(values, settings)


def _container() -> Reader:
    from udocker.commands.options import container

    return container.wishes


def _image() -> Reader:
    from udocker.commands.options import image

    return image.wishes


def _program() -> Reader:
    from udocker.commands.options import program

    return program.wishes


def _user() -> Reader:
    from udocker.commands.options import user

    return user.wishes


def _files() -> Reader:
    from udocker.commands.options import files

    return files.wishes


def _network() -> Reader:
    from udocker.commands.options import network

    return network.wishes


def _gpus() -> Reader:
    from udocker.commands.options import gpu

    return gpu.wishes


def _running() -> Reader:
    from udocker.commands.options import running

    return running.wishes


_READERS = {
    "Container": _container,
    "Image": _image,
    "Program": _program,
    "User": _user,
    "Files": _files,
    "Network": _network,
    "Way of running": _running,
    "GPUs": _gpus,
}
