"""The options of `run` and `create`, and the request that they make."""

from __future__ import annotations

import os
import posixpath
import stat

from udocker.commands.words import FLAG, OPTIONAL, VALUE, Option, Values
from udocker.containers.process import parse_variable, read_env_file
from udocker.containers.request import RunRequest
from udocker.containers.spec import Bind, DeviceNode, Tmpfs
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPTIONS = (
    Option(("--rm",), FLAG, "Remove the container when its program ends."),
    Option(("--name",), VALUE, "Name the container.", "NAME"),
    Option(
        ("-e", "--env"),
        VALUE,
        "Set a variable; NAME alone takes the caller's value.",
        "NAME[=VALUE]",
    ),
    Option(("--env-file",), VALUE, "Set the variables that a file lists.", "FILE"),
    Option(("-v", "--volume"), VALUE, "Show a host path in the container.", "SRC[:DST[:ro]]"),
    Option(("-w", "--workdir"), VALUE, "Directory that the program starts in.", "DIR"),
    Option(("-u", "--user"), VALUE, "Who the program believes to be.", "NAME|UID[:GROUP|GID]"),
    Option(("--userns",), VALUE, "keep-id: the program sees the caller's own uid.", "keep-id|host"),
    Option(("--entrypoint",), VALUE, "Program that replaces the image's; empty: none.", "PROGRAM"),
    Option(("-i", "--interactive"), FLAG, "Accepted; standard input is always connected."),
    Option(("-t", "--tty"), FLAG, "Accepted; the terminal is always the caller's."),
    Option(("-a", "--attach"), VALUE, "Accepted; all streams are always the caller's.", "STREAM"),
    Option(("--hostname", "-h"), VALUE, "Host name in the container.", "NAME"),
    Option(("--read-only",), FLAG, "Let the program change nothing but mounts."),
    Option(("--tmpfs",), VALUE, "Put an empty directory in memory there.", "DIR[:OPTIONS]"),
    Option(
        ("--network", "--net"),
        VALUE,
        "host (the default), or none: only the loopback.",
        "host|none",
    ),
    Option(("--device",), VALUE, "Show a device node of the host.", "SRC[:DST]"),
    Option(("--pull",), VALUE, "When to ask the registry.", "missing|always|newer|never"),
    Option(("--platform",), VALUE, "Platform of the image to pull.", "OS/ARCH[/VARIANT]"),
    Option(
        ("--gpu",),
        OPTIONAL,
        "Use the node's GPUs: all (alone), auto (if the image asks), try (if there are any), none, "
        "or a list of numbers, UUIDs, PCI addresses.",
        "SEL",
        default="all",
    ),
    Option(("--gpus",), VALUE, "The same in docker's syntax: all, N, device=0,1.", "SEL"),
    Option(("--nv", "--nvidia"), FLAG, "The same as --gpu."),
    Option(
        ("--gpu-caps",), VALUE, "Driver capabilities: compute,utility,video,graphics,...", "LIST"
    ),
    Option(("--hostenv",), FLAG, "Pass the whole environment."),
    Option(("--hostauth",), FLAG, "The same as --userns keep-id."),
    Option(("--bindhome",), FLAG, "Show the home directory at its own path."),
    Option(("--novol",), VALUE, "Leave out a volume that other options name.", "DST"),
    Option(("--dry-run",), FLAG, "Show the command that would run, and run nothing."),
    Option(("--engine", "--execmode"), VALUE, "Engine or execution mode to run with.", "NAME|MODE"),
    Option(
        ("-p", "--publish"),
        VALUE,
        "Accepted; on the host's network every port is the host's.",
        "PORTS",
    ),
    Option(("-P", "--publish-all"), FLAG, "Accepted, as --publish."),
    Option(("--nobanner",), FLAG, "Accepted; there is no banner."),
    Option(("--containerauth",), FLAG, "Accepted; the image's accounts are always used."),
    Option(("--privileged",), FLAG, "Accepted; nobody gets rights that they do not have."),
    Option(("--ipc",), VALUE, "Accepted: host.", "host"),
    Option(("--shm-size",), VALUE, "Accepted; /dev/shm is the host's.", "SIZE"),
    Option(("--ulimit",), VALUE, "Accepted; the caller's limits hold.", "LIMIT"),
    Option(("--init",), FLAG, "Accepted; there is no process namespace to look after."),
)
PULL = ("missing", "always", "newer", "never", "reuse")
NETWORKS = ("host", "none")
_VOLUME_WORDS = {
    "ro",
    "rw",
    "z",
    "Z",
    "rbind",
    "bind",
    "rprivate",
    "rslave",
    "rshared",
    "consistent",
}
_VOLUME_WORDS |= {"cached", "delegated", "nosuid", "nodev", "exec", "suid"}
_TMPFS_ALWAYS = {"rw", "exec", "nosuid", "nodev", "relatime"}
_TMPFS_OPTIONS = {"ro", "noexec", "size", "mode", "nr_inodes", "nr_blocks"}


def make_request(values: Values, args: Sequence[str], environment: Mapping[str, str]) -> RunRequest:
    """Return what the words ask for. Raises UsageError where they make no sense."""
    files = [read_env_file(path) for path in values.all("env_file")]
    given = tuple(parse_variable(text) for text in values.all("env"))
    return RunRequest(
        args=tuple(args),
        entrypoint=values.last("entrypoint"),
        env=(*(variable for file in files for variable in file), *given),
        working_dir=values.last("workdir") or None,
        user=values.last("user") or None,
        keep_id=_keep_id(values),
        all_host_env=values.flag("hostenv"),
        terminal=values.flag("tty"),
        hostname=_hostname(values.last("hostname")),
        readonly=values.flag("read_only"),
        tmpfs=tuple(_tmpfs(text) for text in values.all("tmpfs")),
        network=_one_of(values.last("network") or "host", NETWORKS, "--network"),
        binds=_binds(values, environment),
        devices=tuple(_device(text) for text in values.all("device")),
        gpu=_gpu(values),
        gpu_capabilities=values.last("gpu_caps") or "",
        pull=_one_of(values.last("pull") or "missing", PULL, "--pull"),
        platform=values.last("platform"),
        name=values.last("name"),
        remove=values.flag("rm"),
        dry_run=values.flag("dry_run"),
        engine=values.last("engine") or "",
        notes=tuple(_notes(values)),
    )


def parse_volume(text: str) -> Bind:
    """Read `SRC[:DST[:WORDS]]`; SRC alone shows at its own path, as udocker has it."""
    source, _, rest = text.partition(":")
    destination, _, words = rest.partition(":")
    unknown = {word for word in words.split(",") if word} - _VOLUME_WORDS
    if unknown:
        raise UsageError(f"--volume {text!r}: {', '.join(sorted(unknown))} is not known")
    if not source:
        raise UsageError(f"--volume {text!r}: no host path")
    if not source.startswith(("/", ".", "~")) and not os.path.exists(source):
        raise UsageError(
            f"--volume {text!r}: {source!r} is no path of this host",
            hint="there are no named volumes; write ./NAME for a directory here",
        )
    try:
        path = os.path.abspath(os.path.expanduser(source))
    except FileNotFoundError:
        raise UsageError(f"--volume {text!r}: the current directory is gone") from None
    inside = _inside(destination or path, f"--volume {text!r}")
    return Bind(path, inside, readonly="ro" in words.split(","))


def _inside(path: str, option: str) -> str:
    """Return an absolute path of the container without dots. Raises UsageError for others."""
    clean = posixpath.normpath(path) if path.startswith("/") else ""
    clean = "/" + clean.lstrip("/")
    if not path.startswith("/") or clean == "/" or "\0" in path:
        raise UsageError(f"{option}: {path!r} is not an absolute path in the container")
    return clean


def _binds(values: Values, environment: Mapping[str, str]) -> tuple[Bind, ...]:
    texts = list(values.all("volume"))
    if values.flag("bindhome") and environment.get("HOME"):
        texts.append(environment["HOME"])
    left_out = {path.rstrip("/") for path in values.all("novol")}
    return tuple(bind for bind in map(parse_volume, texts) if bind.destination not in left_out)


def _tmpfs(text: str) -> Tmpfs:
    path, _, words = text.partition(":")
    options = [word for word in words.split(",") if word and word not in _TMPFS_ALWAYS]
    unknown = [word for word in options if word.partition("=")[0] not in _TMPFS_OPTIONS]
    if unknown:
        raise UsageError(f"--tmpfs {text!r}: {', '.join(unknown)} is not known")
    return Tmpfs(_inside(path, "--tmpfs"), ",".join(options))


def _device(text: str) -> DeviceNode:
    source, _, rest = text.partition(":")
    destination = rest.partition(":")[0] or source
    source = os.path.normpath(source)
    if not source.startswith("/dev/") or not _is_device(source):
        raise UsageError(f"--device {text!r}: {source!r} is no device node of this host")
    return DeviceNode(source, _inside(destination, f"--device {text!r}"))


def _is_device(path: str) -> bool:
    """Tell whether a path leads to a device node, or to a directory, which may hold some."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)


def _gpu(values: Values) -> str | None:
    docker = values.last("gpus")
    if docker is not None:
        return _docker_gpus(docker)
    if values.last("gpu") is not None:
        return values.last("gpu") or "all"
    return "all" if values.flag("nv") or values.flag("nvidia") else None


def _docker_gpus(text: str) -> str:
    """Translate docker's `--gpus`: `all`, a count, or `device=0,1` (also quoted)."""
    text = text.strip("\"'")
    if text.startswith("device="):
        return text[len("device=") :].strip("\"'")
    if text.isdigit():  # a count: the first N of this job's
        return ",".join(map(str, range(int(text)))) or "none"
    return text


def _keep_id(values: Values) -> bool | None:
    userns = values.last("userns")
    if values.flag("hostauth") or userns == "keep-id":
        return True
    if userns not in (None, "", "host", "auto"):
        raise UsageError(f"--userns {userns!r} is not known", hint="keep-id or host")
    return False if userns == "host" else None


def _hostname(name: str | None) -> str | None:
    if name is None or (0 < len(name) <= 64 and "\0" not in name and not set(name) & set(" /\n\t")):
        return name
    raise UsageError(f"--hostname {name!r} is not a host name of 1 to 64 characters")


def _one_of(word: str, known: tuple[str, ...], option: str) -> str:
    if word not in known:
        raise UsageError(f"{option} {word!r} is not known", hint="one of: " + ", ".join(known))
    return word


def _notes(values: Values) -> list[str]:
    notes = []
    for text in values.all("publish"):
        ports = text.rpartition("/")[0] or text
        host, _, inside = ports.rpartition(":")
        if host and host.rpartition(":")[2] != inside:
            notes.append(f"-p {text}: on the host's network the program listens on port {inside}")
    return notes
