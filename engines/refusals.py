"""Why a kernel refuses user namespaces, and what an administrator would set.

Source: user_namespaces(7), unshare(2); Ubuntu, "Restricted unprivileged user namespaces" (23.10);
Debian, linux/debian/patches add-sysctl-to-disallow-unprivileged-CLONE_NEWUSER; RHEL 7 and 8
documentation of user.max_user_namespaces; Docker's default seccomp profile.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host

_REFUSED = (errno.EPERM, errno.EACCES)
_LIMIT = "/proc/sys/user/max_user_namespaces"
_DEBIAN = "/proc/sys/kernel/unprivileged_userns_clone"
_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


def explain(host: Host, step: str, error: int) -> str:
    """Return in one sentence why `step` (`namespaces`, `mount`) failed with the errno `error`."""
    limit = host.text(_LIMIT).strip()
    if limit == "0":
        return (
            "user namespaces are limited to 0 here; the administrator allows them with "
            "sysctl -w user.max_user_namespaces=28633" + _old_red_hat(host)
        )
    if error == errno.ENOSPC:
        return (
            f"the {limit or 'allowed'} user namespaces of this user are in use, or they are "
            "nested deeper than 32 (sysctl user.max_user_namespaces)"
        )
    if host.text(_DEBIAN).strip() == "0":
        return (
            "only root may make user namespaces; the administrator allows them to all with "
            "sysctl -w kernel.unprivileged_userns_clone=1"
        )
    if error in _REFUSED and host.text(_APPARMOR).strip() == "1":
        return _apparmor()
    return _around(host, step, error)


def _old_red_hat(host: Host) -> str:
    if host.kernel >= (3, 11):
        return ""
    return ", and the boot option namespace.unpriv_enable=1"


def _apparmor() -> str:
    python = os.path.realpath(sys.executable or "/usr/bin/python3")
    profile = f"profile udocker {python} flags=(unconfined) {{ userns, }}"
    return (
        "AppArmor keeps programs without a profile from using user namespaces; the administrator "
        "allows them to all with sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or to "
        f"this Python with the line '{profile}' after 'abi <abi/4.0>,' in /etc/apparmor.d/udocker "
        "and apparmor_parser -r /etc/apparmor.d/udocker"
    )


def _around(host: Host, step: str, error: int) -> str:
    """Return what around this process may have refused: a chroot, PRoot, a container."""
    reason = os.strerror(error) if error else "unknown reason"
    status = _fields(host.text("/proc/self/status"))
    if error in (*_REFUSED, errno.EINVAL) and _is_chroot(host):
        return "there are no user namespaces in a chroot, which is where this process runs"
    if error == errno.EINVAL and status.get("TracerPid", "0") != "0":
        return "there are no user namespaces below PRoot or a debugger, where this process runs"
    if error == errno.EINVAL:
        return "the kernel is built without user namespaces (CONFIG_USER_NS)"
    if error in _REFUSED:
        return f"making {step} is not permitted ({reason}): {_container(host, status)}"
    return f"making {step} failed: {reason}"


def _container(host: Host, status: dict[str, str]) -> str:
    if host.exists("/run/secrets/kubernetes.io"):
        return (
            "the pod around this process forbids it; its securityContext allows it with "
            "seccompProfile.type: Unconfined and procMount: Unmasked"
        )
    if host.exists("/.dockerenv") or host.exists("/run/.containerenv"):
        return (
            "the container around this process forbids it; it is allowed with --security-opt "
            "seccomp=unconfined --security-opt apparmor=unconfined --security-opt "
            "systempaths=unconfined"
        )
    if status.get("Seccomp") == "2":
        return "a seccomp filter around this process forbids it, as containers and sandboxes have"
    return "a container or a security policy around this process forbids it"


def _fields(text: str) -> dict[str, str]:
    parts = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in parts}


def _is_chroot(host: Host) -> bool:
    """Tell whether the root directory is no mount, which outside of a chroot it always is."""
    mounts = [line.split() for line in host.text("/proc/self/mountinfo").splitlines()]
    return bool(mounts) and all(len(fields) > 4 and fields[4] != "/" for fields in mounts)
