"""Options on GPUs, in the words of several tools."""

from __future__ import annotations

from udocker.commands.options import grammar
from udocker.errors import GpuError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from udocker.commands.words import Values

CDI_KIND = "nvidia.com/gpu="
"""What a `--device` begins with that is a GPU in CDI's words."""
COMPAT = ("auto", "off", "force")
MOST = 1024
_SELECTIONS = ("all", "auto", "try", "none")


def wishes(values: Values, _: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """Return the fields of the request that options on GPUs fill. Raises UsageError."""
    capabilities = list(filter(None, (values.last("gpu_caps") or "").split(",")))
    docker = values.last("gpus")
    selection, more = (None, []) if docker is None else parse_docker(docker)
    capabilities += [word for word in more if word not in capabilities]
    if capabilities:  # else nothing need know the driver's, 1 ms
        _check_capabilities(capabilities)
    made = {
        "gpu_capabilities": ",".join(capabilities),
        "gpu_strict": values.flag("gpu_strict"),
        "rocm": values.last("rocm"),
        "cuda_compat": grammar.one_of(
            values.last("cuda_compat") or "auto", COMPAT, "--cuda-compat"
        ),
    }
    chosen = _selection(values, selection, notes)
    return made if chosen is None else {**made, "gpu": chosen}


def _selection(values: Values, of_docker: str | None, notes: list[str]) -> str | None:
    """Return what the options select together; `--nv` leaves it to the others."""
    own = values.last("gpu")
    said = {f"--gpus {values.last('gpus')}": of_docker}
    said[f"--gpu={own}"] = own if own is None else own or "all"
    told = [text for text in values.all("device") if text.startswith(CDI_KIND)]
    said["--device " + " --device ".join(told)] = ",".join(t[len(CDI_KIND) :] for t in told) or None
    meant = {option: selection for option, selection in said.items() if selection is not None}
    if len(set(meant.values())) > 1:
        raise UsageError(f"{' and '.join(meant)} contradict each other", hint="give one of them")
    chosen = next(iter(meant.values()), None)
    if chosen == "none" and values.flag("nv"):
        notes.append("--nv has no effect beside the option that wants no GPU")
    return "all" if chosen is None and values.flag("nv") else chosen


def _check_capabilities(words: list[str]) -> None:
    from udocker.nvidia.driver.libraries import parse_capabilities

    try:
        parse_capabilities(tuple(words))
    except GpuError as error:
        raise UsageError(error.message, hint=error.hint) from error


def check_image(values: Values, image: str, following: str) -> None:
    """Raise UsageError where `image` is what a user of other tools has written behind `--gpu`."""
    words = image.replace(":", ",").split(",")
    numbers = all(word.isascii() and word.isdigit() and len(word) < 4 for word in words)
    if not numbers and image not in _SELECTIONS and not image.startswith(("GPU-", "MIG-")):
        return
    option = "--gpu" if "gpu" in values else "--rocm"
    raise UsageError(
        f"{image} is no image; which GPUs {option} means follows a =",
        hint=f"{option}={image} {following}",
    )


def parse_docker(text: str) -> tuple[str, list[str]]:
    """Read docker's `--gpus`: the selection and the driver capabilities.

    `all`, a count, `device=0,GPU-x` with or without its quotes, `count=2`, `capabilities=...`.
    A comma that docker wants quoted is understood without: what follows belongs to the list.
    Capabilities alone are of one GPU. Source: docker/cli, opts/gpus.go. Raises UsageError.
    """
    devices: list[str] = []
    capabilities: list[str] = []
    count = key = ""
    for field in _fields(text):
        name, equals, value = field.partition("=")
        if equals:
            key = name.strip().lower()
        elif key not in ("device", "capabilities") and (key or count):
            raise _unknown(text)
        else:
            key, value = key or "count", field
        if not value:
            raise _unknown(text)
        if key == "device":
            devices += filter(None, value.split(","))
        elif key == "count":
            count, key = _count(value, text), ""
        elif key == "capabilities":
            words = value.strip("[]").split(",")
            capabilities += [word for word in words if word not in ("", "gpu")]
        elif key != "driver" or value != "nvidia":
            raise _unknown(text)
    if count and devices:
        raise _unknown(text)
    return ",".join(devices) or count or "0", capabilities


def _unknown(text: str) -> UsageError:
    hint = "all, a number, device=0,1, count=2, with capabilities=compute,utility"
    return UsageError(f"--gpus {text!r} is not known", hint=hint)


def _fields(text: str) -> list[str]:
    """Return the fields of the value; quotes that a shell has left are not looked at."""
    if text[:1] == text[-1:] and text[:1] in ("'", '"') and text.count(text[0]) == 2:
        return [text[1:-1]] if "=" in text and text.count("=") == 1 else text[1:-1].split(",")
    return grammar.csv_fields(text, "--gpus")


def _count(text: str, whole: str) -> str:
    """Return the selection that a number of GPUs means: the first of this job's."""
    word = text.strip().strip("'\"")
    if word in ("all", "-1"):
        return "all"
    if not (word.isascii() and word.isdigit() and int(word[:9]) <= MOST):
        if word in _SELECTIONS or word.startswith(("GPU-", "MIG-")):
            return word
        raise _unknown(whole)
    return ",".join(map(str, range(int(word)))) or "none"
