"""The trial of all engines: image made, served, pulled, and run by each that this host allows."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager, suppress

from udocker import console, disk, trees
from udocker.engines import select
from udocker.errors import StoreError
from udocker.host.probe import Host
from udocker.images.blobs import is_abandoned
from udocker.images.store import ImageStore
from udocker.reference import Reference
from udocker.registry.loopback import LoopbackRegistry
from udocker.selftest import checks, gpu, leaks, sample
from udocker.selftest.bench import Bench, CheckFailed, launcher
from udocker.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from udocker.engines.select import Way
    from udocker.selftest.gpu import HostGpus
    from udocker.settings import Settings

_PREFIX = "selftest."
_STARTS = 5


@dataclass(frozen=True)
class Failure:
    """A check that failed."""

    check: str
    """The sentence that does not hold."""
    detail: str


@dataclass(frozen=True)
class Verdict:
    """What was found out about an engine."""

    engine: str
    mode: str
    obstacle: str | None = None
    """Why it cannot be used on this host; None: it was tried."""
    failures: tuple[Failure, ...] = ()
    startup_ms: float | None = None
    """The shortest time of `udocker run --rm IMAGE true`, from start to end."""
    gpus: HostGpus | None = None

    @property
    def passed(self) -> bool:
        """Whether the engine was tried and does all that it should."""
        return self.obstacle is None and not self.failures


def run(settings: Settings, ways: Sequence[Way]) -> tuple[Verdict, ...]:
    """Try engines in the given ways and leave nothing behind, whatever happens.

    Raises UdockerError when the image cannot be made or pulled.
    """
    tell = (lambda text: None) if settings.quiet else console.say
    with _workplace(settings.directory) as directory:
        tell("making an image of this host's programs")
        layout = f"{directory}/layout"
        made = sample.build(layout, settings.environment.get("PATH", os.defpath))
        with LoopbackRegistry(layout) as host:
            image_name = f"{host}/{sample.NAME}"
            bench = Bench(directory, image_name, settings.environment, launcher())
            bench.pull(quiet=settings.quiet)
        gpus = gpu.find(Host(), _tree(bench), made, f"{bench.store}/cache", settings.environment)
        return tuple(_try(way, bench, gpus, tell) for way in ways)


def _tree(bench: Bench) -> str:
    """Return where the image lies unpacked."""
    image = ImageStore(bench.store).find(Reference.parse(bench.image))
    if image is None:
        raise StoreError(f"{bench.image} was pulled and is not in the store {bench.store}")
    return image.tree


def _try(way: Way, bench: Bench, gpus: HostGpus, tell: Callable[[str], None]) -> Verdict:
    engine = select.make(way, bench.store)
    obstacle = engine.obstacle(Host())
    if obstacle:
        return Verdict(way.name, way.mode, obstacle)
    asked = way.name if select.ways(way.name)[0] == way else way.mode
    bench = replace(bench, engine=asked, features=engine.features)
    tell(f"checking the engine {way.name} ({way.mode})")
    times_s: list[float] = []

    def the_gpus_of_this_job_show(bench: Bench) -> None:
        gpu.check(bench, gpus)

    def a_program_starts_every_time(bench: Bench) -> None:
        times_s.extend(_start_s(bench) for _ in range(_STARTS))

    own = (the_gpus_of_this_job_show, a_program_starts_every_time)
    failures = failures_of(bench, (*checks.CHECKS, *leaks.CHECKS, *own))
    startup_ms = min(times_s) * 1000 if times_s else None
    return Verdict(way.name, way.mode, None, failures, startup_ms, gpus)


def failures_of(bench: Bench, wanted: Iterable[Callable[[Bench], None]]) -> tuple[Failure, ...]:
    """Return which of the checks `wanted` fail."""
    failures = []
    for check in wanted:
        try:
            check(bench)
        except (CheckFailed, OSError) as error:
            sentence = check.__name__.strip("_").replace("_", " ")
            failures.append(Failure(sentence, str(error)))
    return tuple(failures)


def _start_s(bench: Bench) -> float:
    start = time.perf_counter()
    bench.run("true").expect()
    return time.perf_counter() - start


@contextmanager
def _workplace(store: str) -> Iterator[str]:
    """Give a new directory in the user's store, whose file system is what is to be tried."""
    is_new = not os.path.exists(store)
    directory = _make_workplace(store)
    try:
        yield directory
    finally:
        trees.remove_tree(directory)
        if is_new and directory.startswith(f"{store}/"):
            _remove_if_empty(store)


def _make_workplace(store: str) -> str:
    name = f"{_PREFIX}{os.uname().nodename}-{os.getpid()}.{os.urandom(4).hex()}"
    try:
        directory = disk.make_directory(f"{store}/{name}")
    except StoreError as error:
        console.warn(f"images cannot be kept here, another directory is tried: {error.message}")
        return tempfile.mkdtemp(prefix=f"udocker-{_PREFIX}")
    _remove_leftovers(store)
    return directory


def _remove_leftovers(store: str) -> None:
    """Remove what trials left that were killed before they could."""
    mine = f"{os.uname().nodename}-{os.getpid()}"
    for name in os.listdir(store):
        owner = name[len(_PREFIX) :].rpartition(".")[0]
        if name.startswith(_PREFIX) and owner != mine and is_abandoned(f"{store}/{name}", owner):
            trees.remove_tree(f"{store}/{name}")


def _remove_if_empty(directory: str) -> None:
    with suppress(OSError):  # somebody has begun to use it meanwhile
        os.rmdir(directory)
