"""What the kernel and its security policies let this user do."""

from __future__ import annotations

import os

from udocker.diagnosis.finding import FAIL, OK, WARN, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.probe import Host

_OVERLAYS = (5, 11)
"""The first kernel whose overlays users may mount (distributions have brought it to older ones)."""
_CLONE = "/proc/sys/kernel/unprivileged_userns_clone"
_LIMIT = "/proc/sys/user/max_user_namespaces"
_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_FILTERED = "2"
"""The value of `Seccomp` where a filter of system calls is in force. Source: proc(5)."""


def findings(host: Host) -> Iterator[Finding]:
    """Yield what is to be said of the kernel of `host`, none of it by trying."""
    yield _kernel(host)
    yield _distribution(host)
    yield _namespaces(host)
    yield _apparmor(host)
    yield _seccomp(host)
    yield _ptrace(host)
    yield _cgroups(host)


def _kernel(host: Host) -> Finding:
    text = f"Linux {os.uname().release} ({host.machine})"
    if host.kernel >= _OVERLAYS:
        return Finding("kernel", OK, text)
    return Finding(
        "kernel",
        WARN,
        f"{text}: older than 5.11, so overlays are perhaps not to be had",
        "a container is then a copy of its image: nothing need be done",
    )


def _distribution(host: Host) -> Finding:
    """Source: os-release(5)."""
    fields = {}
    for line in host.text("/etc/os-release").splitlines():
        name, _, value = line.partition("=")
        fields[name] = value.strip("\"'")
    text = fields.get("PRETTY_NAME") or fields.get("NAME") or "unknown"
    return Finding("distribution", OK, text)


def _namespaces(host: Host) -> Finding:
    limit = host.text(_LIMIT).strip()
    if not host.exists("/proc/self/ns/user"):
        return Finding(
            "user_namespaces", FAIL, "the kernel has none", "another kernel; PRoot works without"
        )
    if limit == "0":
        fix = "an administrator: sysctl user.max_user_namespaces=15000"
        return Finding("user_namespaces", FAIL, "their number is limited to 0", fix)
    if host.text(_CLONE).strip() == "0":
        fix = "an administrator: sysctl kernel.unprivileged_userns_clone=1"
        return Finding("user_namespaces", FAIL, "only root may make them", fix)
    return Finding("user_namespaces", OK, f"at most {limit}" if limit else "no limit is known")


def _apparmor(host: Host) -> Finding:
    if host.text(_APPARMOR).strip() != "1":
        return Finding("apparmor", OK, "does not restrict user namespaces")
    return Finding(
        "apparmor",
        WARN,
        "only programs with a profile may use user namespaces",
        "an administrator: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or packages "
        "crun, bubblewrap or apptainer, which have a profile",
    )


def _seccomp(host: Host) -> Finding:
    fields = dict(_status(host))
    filtered = fields.get("Seccomp") == _FILTERED
    if filtered:
        return Finding(
            "seccomp",
            WARN,
            "a filter of system calls is in force: this is a container, or a sandbox",
            "what it forbids cannot be had from inside; the engines above say whether it matters",
        )
    if fields.get("NoNewPrivs") == "1":
        return Finding(
            "seccomp", WARN, "no filter; programs that are set-uid have no effect (no_new_privs)"
        )
    return Finding("seccomp", OK, "no filter")


def _status(host: Host) -> Iterator[tuple[str, str]]:
    for line in host.text("/proc/self/status").splitlines():
        name, _, value = line.partition(":")
        yield name, value.strip()


def _ptrace(host: Host) -> Finding:
    """Source: Linux, Documentation/admin-guide/LSM/Yama.rst."""
    scope = host.text(_YAMA).strip()
    if scope in ("", "0"):
        return Finding("ptrace", OK, "processes of one user may trace each other")
    if scope == "1":
        return Finding(
            "ptrace",
            WARN,
            "yama.ptrace_scope is 1: only children may be traced, so that MPI ranks of a node "
            "cannot read each other's memory (CMA), with or without containers",
            "an administrator: sysctl kernel.yama.ptrace_scope=0; MPI is slower without",
        )
    return Finding(
        "ptrace",
        WARN,
        f"yama.ptrace_scope is {scope}: nothing may be traced, and PRoot cannot work",
        "an administrator: sysctl kernel.yama.ptrace_scope=1",
    )


def _cgroups(host: Host) -> Finding:
    kinds = {kind: point for point, kind, _ in mounts(host) if kind in ("cgroup", "cgroup2")}
    if "cgroup2" not in kinds:
        text = "version 1" if kinds else "none is mounted"
        return Finding("cgroups", OK, f"{text}: limits are the batch system's")
    if "cgroup" in kinds:
        return Finding(
            "cgroups",
            WARN,
            "both versions (hybrid), which crun refuses",
            "runc takes them; an administrator can boot with systemd.unified_cgroup_hierarchy=1",
        )
    own = host.text("/proc/self/cgroup").strip().rpartition("::")[2]
    delegated = os.access(host.path(f"{kinds['cgroup2']}{own}"), os.W_OK)
    return Finding("cgroups", OK, "version 2" + (", delegated to this user" if delegated else ""))


def mounts(host: Host) -> Iterator[tuple[str, str, str]]:
    """Yield mount point, type and options of what is mounted, later ones over earlier ones.

    Source: proc(5), /proc/PID/mountinfo.
    """
    for line in host.text("/proc/self/mountinfo", 4 << 20).splitlines():
        before, _, after = line.partition(" - ")
        words, kind = before.split(), after.split()[:1]
        if len(words) >= 6 and kind:
            yield _unescaped(words[4]), kind[0], words[5]


def _unescaped(path: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
