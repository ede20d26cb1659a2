"""What a container wants of the host's GPUs, in the words of NVIDIA's images.

Source: nvidia-container-toolkit 1.20, internal/config/image (cuda_image.go, capabilities.go) and
internal/modifier/cdi.go; libnvidia-container 1.18, src/cli/common.c.
"""

from __future__ import annotations

from udocker.errors import GpuError
from udocker.nvidia.driver import libraries
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

VISIBLE = "NVIDIA_VISIBLE_DEVICES"
CAPABILITIES = "NVIDIA_DRIVER_CAPABILITIES"
GATES = {
    "NVIDIA_GDS": "gds",
    "NVIDIA_MOFED": "mofed",
    "NVIDIA_GDRCOPY": "gdrcopy",
    "NVIDIA_NVSWITCH": "nvswitch",
}
"""Variables that open further nodes when they are `enabled`, and what of."""
MIG_CONFIG, MIG_MONITOR = "mig-config", "mig-monitor"
_MIG_GATES = {
    "NVIDIA_MIG_CONFIG_DEVICES": MIG_CONFIG,
    "NVIDIA_MIG_MONITOR_DEVICES": MIG_MONITOR,
}
_IMEX = "NVIDIA_IMEX_CHANNELS"
_MOST_CHANNELS = 1 << 20
"""Each is a minor number, which has 20 bits. Source: linux/kdev_t.h."""
_CDI_KINDS = ("nvidia.com/gpu=", "runtime.nvidia.com/gpu=")
_LABELS = ("com.nvidia.cuda.version", "com.nvidia.cudnn.version")
_VOLUMES_LABEL = "com.nvidia.volumes.needed"
_REQUIRING = ("NVIDIA_REQUIRE_", "CUDA_VERSION")
"""What variables are called by which images require something."""
_TRUE = ("1", "t", "true", "y", "yes", "on")
_MOST_WORDS = 1024


@dataclass(frozen=True)
class GpuRequest:
    """Which GPUs and which parts of the driver a container is to have.

    `selection`: `auto` (if the image asks for GPUs and there are some), `try` (if there are
    some), `none`, `all`, or names as `selection.select` takes them.
    """

    selection: str = "auto"
    capabilities: tuple[str, ...] = ()
    """Driver capabilities; empty: what the image says, else the default ones."""
    program_env: tuple[tuple[str, str], ...] = ()
    """The environment of the program, as image and user have set it."""
    labels: tuple[tuple[str, str], ...] = ()
    """The image's, some of which ask for GPUs."""
    compat: str = "auto"
    """The image's newer CUDA driver library (`cuda-compat`): `auto`, `off` or `force`."""
    is_plain: bool = False
    """The user, not the image, has named GPUs by `NVIDIA_VISIBLE_DEVICES`: none is an error."""
    strict: bool = False
    """An unmet `NVIDIA_REQUIRE_*` of the image is an error instead of a note."""


@dataclass(frozen=True)
class Wish:
    """A request and the image's own words, read."""

    selection: str
    """`auto`, `try`, `all`, `none`, or names with commas between."""
    capabilities: tuple[str, ...]
    whole_names: bool = False
    """UUIDs are to be given whole, as NVIDIA's tools want them in the image's variable."""
    opened: tuple[str, ...] = ()
    """What of `GATES`, `MIG_CONFIG` and `MIG_MONITOR` is wanted besides GPUs."""
    channels: tuple[int, ...] = ()
    """IMEX channels."""
    notes: tuple[str, ...] = ()


def asks(request: GpuRequest) -> bool:
    """Tell whether image or user ask for GPUs (or, by `none`, for the driver alone)."""
    program = dict(request.program_env)
    visible = program.get(VISIBLE)
    if visible is not None:
        words = _words(visible)
        return bool(words) and "void" not in words
    return bool(program.get("CUDA_VERSION")) or _is_labelled(request.labels)


def names_gpus(visible: str) -> bool:
    """Tell whether a value of `NVIDIA_VISIBLE_DEVICES` names some, not all or none."""
    words = _words(visible)
    return bool(words) and not {"all", "none", "void"}.intersection(words)


def is_legacy(request: GpuRequest) -> bool:
    """Tell whether the image is of the time before it could say what it wants.

    It has a CUDA version but no requirement on it, or the label of the first nvidia-docker.
    """
    program = dict(request.program_env)
    if program.get("CUDA_VERSION") and "NVIDIA_REQUIRE_CUDA" not in program:
        return True
    return (_VOLUMES_LABEL, "nvidia_driver") in request.labels


def read(request: GpuRequest) -> Wish:
    """Return what `request` and the image's variables want together.

    The request's own words beat the image's. Raises GpuError for words that mean nothing.
    """
    program = dict(request.program_env)
    from_image = request.selection == "auto"
    channels, notes = _channels(program.get(_IMEX, ""))
    opened = [gate for name, gate in GATES.items() if program.get(name, "").strip() == "enabled"]
    opened += [gate for name, gate in _MIG_GATES.items() if program.get(name, "").strip() == "all"]
    return Wish(
        selection=_visible(program.get(VISIBLE, "all")) if from_image else request.selection,
        capabilities=_capabilities(request, program),
        whole_names=from_image,
        opened=tuple(opened),
        channels=channels,
        notes=notes,
    )


def requires(program_env: tuple[tuple[str, str], ...]) -> bool:
    """Tell whether the image may require anything of driver and GPUs; most do not."""
    return any(name.startswith(_REQUIRING) for name, _ in program_env)


def is_true(text: str) -> bool:
    """Tell whether a variable's value says yes, in any of the words that tools accept."""
    return text.strip().lower() in _TRUE


def _visible(text: str) -> str:
    """Return the selection that `NVIDIA_VISIBLE_DEVICES` means; all of the job's is `auto`."""
    words = [_without_kind(word) for word in _words(text)]
    if "all" in words:
        return "auto"
    if "none" in words:
        return "none"
    return ",".join(words)


def _without_kind(word: str) -> str:
    for kind in _CDI_KINDS:
        if word.startswith(kind):
            return word[len(kind) :]
    if "=" in word:
        raise GpuError(
            f"gpu: {VISIBLE} names {word!r}, which is no GPU of NVIDIA's",
            hint=f"other devices are given by --device {word}",
        )
    return word


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",", _MOST_WORDS)[:_MOST_WORDS]]
    return [word for word in words if word]


def _is_labelled(labels: tuple[tuple[str, str], ...]) -> bool:
    return any(name in (*_LABELS, _VOLUMES_LABEL) and value for name, value in labels)


def _capabilities(request: GpuRequest, program: Mapping[str, str]) -> tuple[str, ...]:
    if request.capabilities:
        return libraries.parse_capabilities(request.capabilities)
    words = tuple(_words(program.get(CAPABILITIES, "")))
    if not words and is_legacy(request):
        words = ("all",)
    try:
        return libraries.parse_capabilities(words)
    except GpuError as error:
        raise GpuError(
            f"gpu: {CAPABILITIES}: {error.message}",
            hint=f"{error.hint}; --gpu-caps is used instead of the image's variable",
        ) from error


def _channels(text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the IMEX channels, and a note on what is none. `all` in the variable means nothing."""
    words = [word for word in _words(text) if word != "all"]
    good = [
        w for w in words if w.isascii() and w.isdigit() and len(w) < 8 and int(w) < _MOST_CHANNELS
    ]
    bad = [word for word in words if word not in good]
    notes = (f"gpu: {_IMEX}: {bad[0]!r} is no channel",) if bad else ()
    return tuple(dict.fromkeys(map(int, good))), notes
