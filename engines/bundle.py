"""An OCI bundle: the run of a container as config.json says it to runc and crun.

Source: runtime-spec 1.0.2, config.md and config-linux.md; its implementation in runc 1.1 and
crun 1.8 where they differ.
"""

from __future__ import annotations

import os

from udocker import fastjson
from udocker.engines.layout import NODES, Mount, Points, text_files, view, with_submounts
from udocker.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from udocker.containers.spec import RuntimeSpec
    from udocker.engines.layout import View
    from udocker.engines.sandbox.seccomp import Rule

    Variables = Sequence[tuple[str, str]]

VERSION = "1.0.2"
CAPABILITIES = tuple(
    "CAP_" + name
    for name in (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"),
        *("NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
)
"""What root of a container may do in its own namespaces, as docker has it. Not among them: to
mount, for that could make a read-only volume writable."""
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
"""Calls of other kinds end the program, so 32-bit ones are named too. Source: seccomp_init(3)."""


_ODD = "\\ud"
"""What JSON says for half a character: of a pair, or of bytes that are no UTF-8."""


def files(spec: RuntimeSpec, text: str) -> tuple[tuple[str, str], ...]:
    """Return the files of the bundle, which is the scratch directory of the run."""
    return ((f"{spec.scratch}/config.json", text), *text_files(spec))


def config(
    spec: RuntimeSpec,
    args: Sequence[str],
    env: Variables,
    *,
    faked: bool,
    terminal: bool,
    seen: View | None = None,
) -> str:
    """Return config.json for running `args` with `env` in place of the program of `spec`.

    `seen` is the `view` of `spec`, where somebody has it. `faked`: calls that one user alone
    cannot make seem to succeed. With `terminal` the program has one of its own, of the size of the
    caller's. Raises StartError for what cannot be said in JSON, or has no place in the container.
    """
    seen = seen or view(spec)
    document: dict[str, Any] = {
        "ociVersion": VERSION,
        "process": _process(spec, args, env, terminal=terminal),
        "root": {"path": spec.rootfs.tree, "readonly": spec.readonly},
        "mounts": list(_mounts(seen, terminal=terminal)),
        "linux": _linux(spec),
    }
    if spec.hostname:
        document["hostname"] = spec.hostname
    if faked:
        document["linux"]["seccomp"] = _fake_root()
    text = fastjson.dumps(document)
    if _ODD in text:
        _check_text(document)
    return text


def _process(
    spec: RuntimeSpec, args: Sequence[str], env: Variables, *, terminal: bool
) -> dict[str, Any]:
    user = spec.process.user
    allowed = CAPABILITIES if user.uid == 0 else ()
    kinds = ("bounding", "effective", "permitted")
    size = os.get_terminal_size(0) if terminal else (80, 24)
    return {
        "terminal": terminal,
        "consoleSize": {"height": size[1], "width": size[0]},
        "user": {
            "uid": user.uid,
            "gid": user.gid,
            "umask": _umask() if spec.umask is None else spec.umask,
        },
        "args": list(args),
        "env": [f"{name}={value}" for name, value in env],
        "cwd": spec.process.cwd,
        "capabilities": {**dict.fromkeys(kinds, allowed), "inheritable": (), "ambient": ()},
        "rlimits": list(_limits(spec)),
        "noNewPrivileges": True,
    }


def _linux(spec: RuntimeSpec) -> dict[str, Any]:
    user = spec.process.user
    names = {"user": True, "mount": True, "uts": spec.hostname, "network": spec.network != "host"}
    return {
        "namespaces": [{"type": name} for name, wanted in names.items() if wanted],
        "uidMappings": [{"containerID": user.uid, "hostID": os.geteuid(), "size": 1}],
        "gidMappings": [{"containerID": user.gid, "hostID": os.getegid(), "size": 1}],
        "rootfsPropagation": "rslave",
    }


def _mounts(seen: View, *, terminal: bool) -> Iterator[dict[str, Any]]:
    ours, points = {mount.destination for mount in seen.placed}, Points()
    for mount in seen.placed:
        if mount.destination in _made_by_runtimes() or mount.destination.startswith(_REFUSED):
            continue
        if mount.destination == _TERMINALS and terminal:
            yield _mount(_TERMINALS, "devpts", "devpts", _OWN_TERMINALS)
        elif mount.kind == "bind" and mount.readonly:
            # `ro` holds for one mount, and runtimes before 2022 know no `rro` for all of them
            for part in with_submounts(mount, points):
                if part is mount or part.destination not in ours:
                    yield _bind(part, points)
        elif mount.kind == "bind":
            yield _bind(mount, points)
        else:
            options = ["nosuid", "nodev", *filter(None, mount.options.split(","))]
            yield _mount(mount.destination, mount.kind, mount.kind, options)


_REFUSED = "/proc/driver/"
"""runc starts nothing with a mount there ("inside /proc"); programs can do without the driver's."""
_TERMINALS = "/dev/pts"
_OWN_TERMINALS = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")
"""From the host's, which nobody may make new ones in, the program's own cannot come."""


def _made_by_runtimes() -> tuple[str, ...]:
    """Nodes that every runtime makes. Source: config-linux.md, "Default Devices"."""
    return tuple(f"/dev/{name}" for name in NODES)


def _bind(mount: Mount, points: Points) -> dict[str, Any]:
    source = os.path.realpath(mount.source)
    # Never without the mounts below, which nobody may uncover in a user namespace; but not
    # with the container's own, where it lies there: it would show in itself.
    kind = "rbind" if any(points.below(source)) else "bind"
    options = [kind, "rslave", *(["ro", *_kept(source)] if mount.readonly else [])]
    return _mount(mount.destination, "bind", source, options)


def _kept(path: str) -> Iterator[str]:
    """Yield what a mount of the host forbids: a remount must not ask for it to be allowed."""
    while not os.path.exists(path):  # a file of the bundle, which is written later
        path = os.path.dirname(path)
    flags = os.statvfs(path).f_flag
    for flag, name in ((os.ST_NOSUID, "nosuid"), (os.ST_NODEV, "nodev"), (os.ST_NOEXEC, "noexec")):
        if flags & flag:
            yield name


def _mount(destination: str, kind: str, source: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": options}


def _limits(spec: RuntimeSpec) -> Iterator[dict[str, Any]]:
    """Yield the limits asked for, and that of open files, which runtimes in Go change."""
    import resource

    names = {limit.name for limit in spec.limits}
    for limit in spec.limits:
        yield _limit(limit.name, limit.soft, limit.hard)
    if "nofile" not in names:
        yield _limit("nofile", *resource.getrlimit(resource.RLIMIT_NOFILE))


def _limit(name: str, soft: int, hard: int) -> dict[str, Any]:
    unlimited = (1 << 64) - 1
    values = (unlimited if number < 0 else number for number in (soft, hard))
    return dict(zip(("type", "soft", "hard"), (f"RLIMIT_{name.upper()}", *values)))


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _fake_root() -> dict[str, Any]:
    from udocker.engines.sandbox.fakeroot import rules

    machine = os.uname().machine
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": _ARCHITECTURES.get(machine, ()),
        "syscalls": [entry for rule in rules() for entry in _entries(rule)],
    }


def _entries(rule: Rule) -> Iterator[dict[str, Any]]:
    entry = {"names": rule.names, "action": "SCMP_ACT_ERRNO", "errnoRet": rule.errno}
    if rule.argument < 0:
        yield entry
    for value in rule.values:
        test = {"index": rule.argument, "value": rule.mask, "valueTwo": value}
        yield {**entry, "args": [{**test, "op": "SCMP_CMP_MASKED_EQ"}]}


def _check_text(value: Any) -> None:
    """Raise StartError for bytes that are no UTF-8: JSON has no way to say them."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_text(part)
    elif isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise StartError(
                f"{ascii(value[:100])} is not UTF-8, and runc and crun take nothing else",
                hint="--engine userns or bwrap take it",
            ) from None
