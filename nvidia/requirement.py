"""What an image requires of driver and GPUs, in the language of `NVIDIA_REQUIRE_*`.

    requirement = alternative { " " alternative }       one of them must hold
    alternative = condition { "," condition }           all of them must hold
    condition   = ( "cuda" | "driver" | "arch" ) comparison version
                | "brand" ( "=" | "!=" ) word
    comparison  = "=" | "!=" | "<" | "<=" | ">" | ">="

Versions are compared number by number, absent ones being 0; `arch` is a compute capability.
Source: libnvidia-container 1.18, src/cli/dsl.c; nvidia-container-toolkit 1.20,
internal/requirements and internal/config/image/cuda_image.go.

A truth may be unknown: architecture and brand are known to NVML only, which no start asks.
Then the image has its way; what cannot be judged is no reason to refuse or to warn.
"""

from __future__ import annotations

from udocker.errors import GpuError
from udocker.nvidia import cuda
from udocker.nvidia.wishes import is_true
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX = "NVIDIA_REQUIRE_"
_OTHER_MACHINES = "NVIDIA_REQUIRE_JETPACK"
_VERSIONS = ("cuda", "driver", "arch")
_COMPARISONS = ("!=", "<=", ">=", "=", "<", ">")
_LONGEST = 16 << 10
"""Bytes; the longest of NVIDIA's own images has 2 KiB."""

MET, MINOR, UNKNOWN, UNMET, MALFORMED = "met", "minor", "unknown", "unmet", "malformed"


@dataclass(frozen=True)
class GpuFacts:
    """What a requirement may ask of one GPU; empty is unknown."""

    arch: str = ""
    """Compute capability, `9.0`."""
    brand: str = ""


@dataclass(frozen=True)
class Facts:
    """What a requirement may ask of a node."""

    driver: str
    cuda: tuple[int, int] | None
    """Of the libcuda that the program will load: the driver's, or the image's own newer one."""
    gpus: tuple[GpuFacts, ...] = ()
    cuda_is_least: bool = False
    """The version may be a higher one: the driver is newer than what is known of drivers."""


@dataclass(frozen=True)
class Condition:
    """One comparison of a property of the node."""

    name: str
    comparison: str
    value: str
    version: tuple[int, ...] = ()
    """The value as numbers; none of a brand."""

    def __str__(self) -> str:
        return f"{self.name}{self.comparison}{self.value}"


@dataclass(frozen=True)
class Requirement:
    """Alternatives, each of conditions that hold together."""

    alternatives: tuple[tuple[Condition, ...], ...]

    def __str__(self) -> str:
        return " ".join(",".join(map(str, conditions)) for conditions in self.alternatives)


@dataclass(frozen=True)
class Verdict:
    """How a node stands to one variable."""

    variable: str
    state: str
    """`met`, `minor` (by CUDA's minor-version compatibility), `unknown`, `unmet`, `malformed`."""
    reason: str = ""
    """What is not met, or where the text is wrong."""


def parse(text: str) -> Requirement:
    """Return the requirement that `text` is. Raises ValueError naming the condition at fault."""
    if len(text) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} bytes")
    alternatives = tuple(
        tuple(_condition(word) for word in alternative.split(",")) for alternative in text.split()
    )
    if not alternatives:
        raise ValueError("it is empty")
    return Requirement(alternatives)


def _condition(word: str) -> Condition:
    for comparison in _COMPARISONS:
        name, found, value = word.partition(comparison)
        if found:
            break
    name = name.lower()
    if name == "brand":
        sound = comparison in ("=", "!=") and value and not set(value).intersection("=!<>")
        version: tuple[int, ...] | None = ()
    else:
        sound = name in _VERSIONS
        version = cuda.numbers(value)
    if not sound or version is None:
        raise ValueError(f"{word[:80]!r} is no condition")
    return Condition(name, comparison, value, version)


def judge(program_env: tuple[tuple[str, str], ...], facts: Facts) -> tuple[Verdict, ...]:
    """Return how the node stands to every requirement in the environment of a program.

    None of them counts where `NVIDIA_DISABLE_REQUIRE` says so.
    """
    program = dict(program_env)
    if is_true(program.get("NVIDIA_DISABLE_REQUIRE", "")):
        return ()
    return tuple(_verdict(name, text, facts) for name, text in _requirements(program))


def facts_of(driver: str, count: int, compat: tuple[int, int] | None = None) -> Facts:
    """Return what is known without NVML of a node with `count` GPUs for the program.

    `compat`: the CUDA version of the image's own driver library, where that is used.
    """
    least = compat is None and cuda.is_newer_than_known(driver)
    return Facts(driver, compat or cuda.version_of(driver), (GpuFacts(),) * count, least)


def unmet(
    program_env: tuple[tuple[str, str], ...], facts: Facts, *, strict: bool = False
) -> tuple[str, ...]:
    """Return a note on each requirement that the node does not meet or that says nothing.

    Raises GpuError instead when the user wants them met (`strict`).
    """
    verdicts = [v for v in judge(program_env, facts) if v.state in (UNMET, MALFORMED)]
    notes = tuple(_note(verdict, facts) for verdict in verdicts)
    if notes and strict:
        raise GpuError(
            notes[0],
            hint="use an image of an older CUDA, or try it with -e NVIDIA_DISABLE_REQUIRE=1",
        )
    return notes


def _note(verdict: Verdict, facts: Facts) -> str:
    if verdict.state == MALFORMED:
        return f"gpu: the image's {verdict.variable} cannot be read: {verdict.reason}"
    has = f"driver {facts.driver}"
    if facts.cuda:
        has += f" with CUDA {facts.cuda[0]}.{facts.cuda[1]}"
    return f"gpu: the image requires {verdict.reason} ({verdict.variable}), this node has {has}"


def _requirements(program: Mapping[str, str]) -> list[tuple[str, str]]:
    found = [
        (name, text)
        for name, text in program.items()
        if name.startswith(PREFIX) and not name.startswith(_OTHER_MACHINES) and text.strip()
    ]
    version = ".".join(program.get("CUDA_VERSION", "").split(".")[:2])
    if "NVIDIA_REQUIRE_CUDA" not in program and cuda.numbers(version):
        found.append(("CUDA_VERSION", f"cuda>={version}"))  # images of before that variable
    return found


def _verdict(name: str, text: str, facts: Facts) -> Verdict:
    try:
        requirement = parse(text)
    except ValueError as error:
        return Verdict(name, MALFORMED, str(error))
    different = dict.fromkeys(facts.gpus) or (GpuFacts(),)
    answers = [_holds(requirement, facts, gpu) for gpu in different]
    state = max(answers, key=_WORST_LAST.index)
    return Verdict(name, state, _gist(requirement) if state in (UNMET, MINOR) else "")


_WORST_LAST = (MET, MINOR, UNKNOWN, UNMET)
"""Of conditions that hold together the worst counts, of alternatives the best."""


def _holds(requirement: Requirement, facts: Facts, gpu: GpuFacts) -> str:
    has = {
        "cuda": facts.cuda,
        "driver": cuda.numbers(facts.driver),
        "arch": cuda.numbers(gpu.arch),
    }
    best = UNMET
    for conditions in requirement.alternatives:
        best = min(best, _together(conditions, has, facts, gpu), key=_WORST_LAST.index)
        if best == MET:
            break
    return best


def _together(
    conditions: tuple[Condition, ...],
    has: Mapping[str, tuple[int, ...] | None],
    facts: Facts,
    gpu: GpuFacts,
) -> str:
    worst = MET
    for condition in conditions:
        if condition.name == "brand":
            truth = _brand_truth(condition, gpu.brand)
        else:
            truth = _truth(condition, has[condition.name], facts)
        worst = max(worst, truth, key=_WORST_LAST.index)
        if worst == UNMET:
            break
    return worst


def _brand_truth(condition: Condition, brand: str) -> str:
    if not brand:
        return UNKNOWN
    same = brand.lower() == condition.value.lower()
    return MET if same == (condition.comparison == "=") else UNMET


def _truth(condition: Condition, has: tuple[int, ...] | None, facts: Facts) -> str:
    if has is None:
        return UNKNOWN
    met = _compares(condition.comparison, has, condition.version)
    if condition.name != "cuda" or facts.cuda is None:
        return MET if met else UNMET
    grows = condition.comparison in (">", ">=")
    if facts.cuda_is_least and not (met and grows):
        return UNKNOWN
    if met:
        return MET
    return MINOR if grows and cuda.runs_minor(condition.version, facts.cuda) else UNMET


def _compares(comparison: str, left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    length = max(len(left), len(right))
    a = left + (0,) * (length - len(left))
    b = right + (0,) * (length - len(right))
    return _TESTS[comparison](a, b)


_TESTS: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def _gist(requirement: Requirement) -> str:
    """Return the alternative that people understand: the first, before all driver branches."""
    return ",".join(map(str, requirement.alternatives[0]))
