"""What an image gets of the host's GPUs and why, found out without running anything."""

from __future__ import annotations

from udocker.diagnosis import gpunvml, symbols
from udocker.diagnosis.finding import FAIL, OK, WARN, Finding
from udocker.errors import GpuError
from udocker.host.loader import Loader
from udocker.nvidia import driver, requirement, wishes
from udocker.nvidia.edits import GpuPlan, gpu_edits, usable
from udocker.nvidia.placement import closure, compat, policy
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.nvidia.driver import Driver
    from udocker.nvidia.placement.policy import Verdict
    from udocker.nvidia.wishes import GpuRequest

_WITH_GLIBC = "use an image with glibc"
_CONTROL = ("/dev/nvidiactl", "/dev/nvidia-uvm")


@dataclass(frozen=True)
class Explanation:
    """An image, and what a run of it with GPUs would get on this node."""

    asks: bool
    """The image, or the user by a variable, asks for GPUs."""
    glibc: str
    """Its version, `2.36`; empty: the image has none."""
    obstacle: policy.Obstacle | None
    """Why no library of the host can be loaded; None: there is a glibc for it."""
    machine: str
    files: Root
    """The image's."""
    capabilities: tuple[str, ...] = ()
    driver: Driver | None = None
    verdicts: tuple[Verdict, ...] = ()
    compat: compat.Decision = compat.Decision(False)
    requirements: tuple[requirement.Verdict, ...] = ()
    plan: GpuPlan = GpuPlan()
    problems: tuple[GpuError, ...] = ()
    """Why it would not run with GPUs, or perhaps not as planned here."""

    @property
    def is_fatal(self) -> bool:
        """Tell whether a run that wants GPUs would be refused."""
        return bool(self.problems) or any(v.decision == policy.FATAL for v in self.verdicts)


def explain(
    host: Host,
    image: Root,
    request: GpuRequest,
    cache_directory: str,
    environment: Mapping[str, str],
) -> Explanation:
    """Return what `request` gives a container from `image` in the job with this `environment`.

    Nothing is run, also not to make device nodes that are missing. Of libraries a verdict is
    given wherever a driver is installed, whether the job has a GPU or not.
    """
    found = driver.load(host, cache_directory, environment)
    loader = Loader(image, host.machine)
    glibc = closure.glibc_of(loader)
    about = Explanation(
        asks=wishes.asks(request),
        glibc=glibc,
        obstacle=None if glibc else policy.obstacle_of(loader),
        machine=host.machine,
        files=image,
        driver=found,
    )
    try:
        known = usable(host, found, environment)
        about = _with_verdicts(about, host, known, image, request)
        return _with_plan(about, host, image, request, cache_directory, environment)
    except GpuError as error:
        return replace(about, problems=(error,))


def _with_verdicts(
    about: Explanation, host: Host, known: Driver, image: Root, request: GpuRequest
) -> Explanation:
    wish = wishes.read(request)
    decision = compat.decide(image, known.version, request.compat)
    facts = requirement.facts_of(known.version, 0, decision.cuda)
    return replace(
        about,
        capabilities=wish.capabilities,
        compat=decision,
        requirements=requirement.judge(request.program_env, facts),
        verdicts=policy.judge(
            known,
            wish.capabilities,
            image,
            host.machine,
            host_root=host.root,
            mode=request.compat,
            library_path=dict(request.program_env).get("LD_LIBRARY_PATH", ""),
        ),
    )


def ask_nvml(about: Explanation, request: GpuRequest) -> Explanation:
    """Judge what the image requires anew, by what NVML says of architecture and brand of GPUs.

    Where NVML cannot be asked all stays as it is: that is told by a check of its own.
    """
    known = about.driver
    unknown = any(v.state == requirement.UNKNOWN for v in about.requirements)
    if known is None or not unknown:
        return about
    try:
        gpus = tuple(requirement.GpuFacts(g.arch, g.brand) for g in gpunvml.ask(known))
    except GpuError:
        return about
    facts = replace(requirement.facts_of(known.version, 0, about.compat.cuda), gpus=gpus)
    return replace(about, requirements=requirement.judge(request.program_env, facts))


def _with_plan(
    about: Explanation,
    host: Host,
    image: Root,
    request: GpuRequest,
    cache_directory: str,
    environment: Mapping[str, str],
) -> Explanation:
    """Add what the run itself would plan; a fatal verdict is told once, by that."""
    missing = [path for path in _CONTROL if not host.exists(path)]
    if missing:
        names = ", ".join(missing)
        hint = "the first run with --gpu has nvidia-modprobe make them, or says why it cannot"
        return replace(about, problems=(GpuError(f"gpu: {names} missing", hint=hint),))
    try:
        plan = gpu_edits(host, request, image, cache_directory, environment)
    except GpuError as error:
        return replace(about, problems=(error,))
    return replace(about, plan=plan)


def findings(about: Explanation) -> Iterator[Finding]:
    """Yield what is to be said of an image that is to use GPUs."""
    yield _libc(about)
    if about.driver is None or about.driver.obstacle or not about.verdicts:
        return
    yield _libraries(about)
    yield _symbols(about)
    yield _baked(about)
    yield _requirements(about)
    yield Finding("cuda_compat", OK, about.compat.reason or "the image has no cuda-compat")


def _libc(about: Explanation) -> Finding:
    if about.glibc:
        return Finding("image_libc", OK, f"glibc {about.glibc}, {about.machine}")
    why = about.obstacle or policy.Obstacle("the image has no C library")
    return Finding("image_libc", FAIL if why.hint else WARN, why.reason, why.hint or _WITH_GLIBC)


def _libraries(about: Explanation) -> Finding:
    locked = [v for v in about.verdicts if v.kind == policy.LOCKED]
    fatal = [v for v in locked if v.decision == policy.FATAL]
    left = [v for v in locked if v.decision == policy.SKIP]
    brought = sum(v.decision == policy.OK for v in about.verdicts if v.kind != policy.COMPAT)
    if fatal:
        return Finding("image_libraries", FAIL, fatal[0].reason, fatal[0].hint)
    if left:
        reasons = "; ".join(dict.fromkeys(v.reason for v in left))
        text = f"{brought} are brought, {len(left)} left out: {reasons}"
        return Finding("image_libraries", WARN, text, policy.newer_image(_needs(left)))
    return Finding("image_libraries", OK, f"{brought} are brought, all that the driver has for it")


def _symbols(about: Explanation) -> Finding:
    lacking = tuple(symbols.unresolved(about.verdicts, Loader(about.files, about.machine)))
    if not lacking:
        return Finding("image_symbols", OK, "all that these libraries use are defined")
    told = [
        f"{verdict.soname} uses {names[0]}" + f" and {len(names) - 1} more" * (len(names) > 1)
        for verdict, names in lacking[:3]
    ]
    more = [f"and {len(lacking) - 3} more libraries"] if len(lacking) > 3 else []
    text = f"{'; '.join([*told, *more])}, which nothing in the image defines"
    return Finding("image_symbols", WARN, text, policy.newer_image(()))


def _needs(left: list[Verdict]) -> tuple[str, ...]:
    words = (word.strip("()") for verdict in left for word in verdict.reason.split())
    return tuple(word for word in words if word.startswith("GLIBC_"))


def _baked(about: Explanation) -> Finding:
    own = [v for v in about.verdicts if v.kind == policy.BAKED]
    notes = [note for note in about.plan.notes if note.startswith("gpu: LD_")]
    if not own and not notes:
        return Finding("image_driver", OK, "the image has no driver of its own")
    told = [f"{verdict.source}: {verdict.reason}" for verdict in own[:3]]
    more = [f"and {len(own) - 3} more"] if len(own) > 3 else []
    text = "; ".join([*told, *more, *(note[len("gpu: ") :] for note in notes)])
    return Finding("image_driver", WARN, text, "build the image without the driver's files")


def _requirements(about: Explanation) -> Finding:
    bad = [v for v in about.requirements if v.state in (requirement.UNMET, requirement.MALFORMED)]
    if bad:
        text = "; ".join(f"{v.variable}: {v.state}: {v.reason}" for v in bad)
        fix = "an image of an older CUDA, or a newer driver on the node"
        return Finding("requirements", WARN, text, fix)
    if not about.requirements:
        return Finding("requirements", OK, "none")
    text = "; ".join(f"{v.variable}: {v.state}" for v in about.requirements)
    return Finding("requirements", OK, text)
