"""What is to be said of this node's GPUs: each check is one finding, with its cause and cure."""

from __future__ import annotations

import os
import stat

from udocker.diagnosis import gpunvml
from udocker.diagnosis.finding import FAIL, OK, WARN, Finding
from udocker.diagnosis.opening import why_closed
from udocker.errors import GpuError
from udocker.nvidia import driver
from udocker.nvidia.amd import amdgpus, rocm
from udocker.nvidia.devices import nvswitch, selection
from udocker.nvidia.devices.gpus import find_gpus
from udocker.nvidia.edits import usable
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from udocker.host.probe import Host
    from udocker.nvidia.devices.gpus import Gpu
    from udocker.nvidia.driver import Driver

_CONTROL = "/dev/nvidiactl"
_UVM = "/dev/nvidia-uvm"
_MODPROBE = "/usr/bin/nvidia-modprobe"
_MAKE_UVM = "an administrator: nvidia-modprobe -u -c0"
_TELL = "tell the administrators of this node"
_REQUEST = "ask the batch system for one: srun --gres=gpu:1"
_MPS = "CUDA_MPS_PIPE_DIRECTORY"


def findings(host: Host, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is to be said of `host` for the job with this `environment`.

    Device nodes are opened, and NVML is asked in a process of its own: that wakes GPUs. Where no
    driver is loaded there is nothing more to say than that.
    """
    found = driver.find(host, environment)
    has_amd = host.exists(amdgpus.COMPUTE_NODE)
    if found is None:
        yield _rocm(host, environment) if has_amd else _driver(host, found, environment)
        return
    yield _driver(host, found, environment)
    gpus = find_gpus(host)
    yield _job(gpus, environment)
    yield _nodes(host, gpus)
    yield _uvm(host)
    yield _mig(host, gpus)
    yield _groups(host, gpus)
    if not found.obstacle:
        yield _nvml(found, gpus)
    yield _fabric(host, gpus)
    yield _mps(host, environment)
    if has_amd:  # they draw, perhaps, and NVIDIA's compute
        told = _rocm(host, environment)
        yield replace(told, status=WARN) if told.status == FAIL else told


def _driver(host: Host, found: Driver | None, environment: Mapping[str, str]) -> Finding:
    try:
        known = usable(host, found, environment)
    except GpuError as error:
        return Finding("driver", FAIL, _plain(error), error.hint or "")
    if known.doubts:
        return Finding("driver", WARN, f"{known.version}: {'; '.join(known.doubts)}")
    return Finding("driver", OK, f"{known.version}, kernel module and libraries")


def _plain(error: GpuError) -> str:
    return error.message.removeprefix("gpu: ").removeprefix("rocm: ")


def _rocm(host: Host, environment: Mapping[str, str]) -> Finding:
    """Tell which of AMD's GPUs are the job's; their libraries are each image's own."""
    try:
        shown, _ = rocm.choose(host, "all", environment)
    except GpuError as error:
        return Finding("rocm", FAIL, _plain(error), error.hint or "")
    targets = ", ".join(dict.fromkeys(gpu.target for gpu in shown))
    known = len(amdgpus.find_gpus(host))
    return Finding("rocm", OK, f"{len(shown)} of {known} GPUs of AMD ({targets}), by --rocm")


def _job(gpus: tuple[Gpu, ...], environment: Mapping[str, str]) -> Finding:
    """Tell which GPUs are the job's."""
    try:
        selection.select(gpus, "all", environment)
    except GpuError as error:
        return Finding("job", FAIL, _plain(error), error.hint or "")
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    text = f"{len(selection.of_job(gpus, environment))} of {len(gpus)} GPUs"
    if visible is not None:
        text += f", CUDA_VISIBLE_DEVICES={visible}"
    return Finding("job", OK, text)


def _nodes(host: Host, gpus: tuple[Gpu, ...]) -> Finding:
    """Open every node that this job may open."""
    wanted = [_CONTROL, *(gpu.node for gpu in gpus if gpu.accessible)]
    problems = [f"{path}: {why}" for path in wanted for why in [why_closed(host, path)] if why]
    if problems:
        fix = _MAKE_UVM if not host.exists(_CONTROL) else _TELL
        return Finding("nodes", FAIL, "; ".join(problems), fix)
    closed = [gpu.node for gpu in gpus if not gpu.accessible]
    text = f"{len(wanted)} can be opened"
    return Finding("nodes", OK, text + (f"; not for this job: {', '.join(closed)}" * bool(closed)))


def _uvm(host: Host) -> Finding:
    """Tell whether CUDA's memory manager is there, which the first program has to make."""
    if host.exists(_UVM):
        why = why_closed(host, _UVM)
        return Finding("uvm", FAIL, f"{_UVM}: {why}", _TELL) if why else Finding("uvm", OK, _UVM)
    if _is_setuid(host.path(_MODPROBE)):
        text = f"{_UVM} missing: the first run with --gpu has {_MODPROBE} make it"
        return Finding("uvm", WARN, text, _MAKE_UVM)
    return Finding("uvm", FAIL, f"{_UVM} missing, and no set-uid {_MODPROBE} to make it", _MAKE_UVM)


def _is_setuid(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & stat.S_ISUID)
    except OSError:
        return False


def _mig(host: Host, gpus: tuple[Gpu, ...]) -> Finding:
    """Tell whether parts of GPUs can be opened; a GPU in parts is of no use as a whole."""
    parts = [part for gpu in gpus for part in gpu.mig]
    if not parts:
        return Finding("mig", OK, "no GPU is in parts")
    missing = [node for part in parts for node in part.nodes if not host.exists(node)]
    if missing:
        text = f"{', '.join(missing[:3])}: capability nodes missing"
        return Finding("mig", FAIL, text, "an administrator: nvidia-smi -L as root makes them")
    usable = sum(part.accessible for gpu in gpus if gpu.accessible for part in gpu.mig)
    text = f"{usable} of {len(parts)} MIG devices can be opened"
    if not usable and all(gpu.mig for gpu in gpus):
        return Finding("mig", FAIL, text, _REQUEST)
    return Finding("mig", OK, text)


def _groups(host: Host, gpus: tuple[Gpu, ...]) -> Finding:
    """Tell of nodes that only a group may open, whether this user is in it."""
    own = {os.getegid(), *os.getgroups()}
    lacking: dict[int, list[str]] = {}
    through: dict[int, list[str]] = {}
    for path in (_CONTROL, _UVM, *(gpu.node for gpu in gpus)):
        try:
            facts = os.stat(host.path(path))
        except OSError:
            continue
        if facts.st_mode & 0o006 != 0o006 and facts.st_mode & 0o060 == 0o060:
            (through if facts.st_gid in own else lacking).setdefault(facts.st_gid, []).append(path)
    if lacking and os.geteuid():
        group, paths = next(iter(lacking.items()))
        text = f"{', '.join(paths)} are for group {_group_name(group)}, which you are not in"
        fix = f"an administrator: usermod -aG {_group_name(group)} USER, then log in anew"
        return Finding("groups", FAIL, text, fix)
    if through:
        names = ", ".join(map(_group_name, through))
        return Finding("groups", OK, f"nodes are opened as group {names}: containers keep it")
    return Finding("groups", OK, "every user may open the nodes")


def _group_name(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _nvml(found: Driver, gpus: tuple[Gpu, ...]) -> Finding:
    """Ask the driver itself, and compare with what this job may open."""
    try:
        seen = gpunvml.ask(found)
    except GpuError as error:
        return Finding("nvml", FAIL, _plain(error), error.hint or "")
    unseen = {gpu.minor for gpu in gpus if gpu.accessible} - {gpu.minor for gpu in seen}
    names = ", ".join(dict.fromkeys(gpu.name for gpu in seen))
    text = f"{len(seen)} GPUs" + f": {names}" * bool(names)
    if unseen:
        lost = ", ".join(f"/dev/nvidia{minor}" for minor in sorted(unseen))
        return Finding("nvml", WARN, f"{text}; it does not see {lost}", _TELL)
    return Finding("nvml", OK, text)


def _fabric(host: Host, gpus: tuple[Gpu, ...]) -> Finding:
    """Source: NVIDIA Fabric Manager user guide: CUDA fails with 802 before it has set them up."""
    switches = nvswitch.count_devices(host, nvswitch.SWITCH)
    for note in nvswitch.notes(host, len(gpus)):
        fix = "an administrator: systemctl start nvidia-fabricmanager"
        return Finding("fabricmanager", FAIL, note[len("gpu: ") :], fix)
    if not switches:
        return Finding("fabricmanager", OK, "no NVSwitch, none is needed")
    running = nvswitch.manager_runs(host)
    if running is None:
        text = f"{switches} NVSwitches; whether nvidia-fabricmanager runs cannot be seen (hidepid)"
        return Finding("fabricmanager", WARN, text)
    return Finding("fabricmanager", OK, f"{switches} NVSwitches, nvidia-fabricmanager runs")


def _mps(host: Host, environment: Mapping[str, str]) -> Finding:
    """Tell whether the daemon that shares GPUs between processes can be reached."""
    named = environment.get(_MPS, "")
    directory = named or "/tmp/nvidia-mps"
    if host.exists(f"{directory}/control"):
        return Finding("mps", OK, f"a daemon listens in {directory}")
    if named:
        text = f"{_MPS} names {directory}, where no daemon listens: programs run without MPS"
        return Finding("mps", WARN, text, "nvidia-cuda-mps-control -d, or unset the variable")
    return Finding("mps", OK, "not used")
