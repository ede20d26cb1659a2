"""Files of a container: those it has, and small ones that must know of the host or the user."""

from __future__ import annotations

import os

from udocker.containers.spec import Bind, ContainerEdits, TextFile
from udocker.host.root import Root, Stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.containers.accounts import Accounts
    from udocker.containers.container import Container
    from udocker.containers.spec import User
    from udocker.host.probe import Host


def files_of(container: Container) -> Root:
    """Return the files that a container has, written ones over the image's, for safe reading."""
    if os.path.isdir(container.rootfs):
        return Root(container.rootfs)
    return Stack(container.upper, container.tree)


def network_edits(host: Host, hostname: str | None, network: str) -> ContainerEdits:
    """Return binds of the host's files by which names are resolved, on the host's network."""
    if network != "host":
        return ContainerEdits()
    names = ("/etc/resolv.conf",) if hostname else ("/etc/resolv.conf", "/etc/hosts")
    found = [name for name in names if host.exists(name)]
    return ContainerEdits(binds=tuple(Bind(host.path(n), n, readonly=True) for n in found))


def name_files(host: Host, hostname: str | None, network: str) -> tuple[TextFile, ...]:
    """Return /etc/hostname and /etc/hosts for a container with a name of its own."""
    if hostname is None and network == "host":
        return ()
    base = (
        host.text("/etc/hosts") if network == "host" else "127.0.0.1\tlocalhost\n::1\tlocalhost\n"
    )
    if hostname is None:
        return (TextFile("/etc/hosts", base),)
    hosts = f"{base.rstrip()}\n127.0.1.1\t{hostname}\n"
    return (TextFile("/etc/hostname", hostname + "\n"), TextFile("/etc/hosts", hosts))


def account_files(accounts: Accounts, user: User) -> tuple[TextFile, ...]:
    """Return passwd and group with the user added, where the container does not know it.

    Programs that ask for the caller's name (ssh, MPI launchers, Python's getpass) fail when
    the uid has none.
    """
    if accounts.by_uid(user.uid, user.gid) or not user.name:
        return ()
    entry = f"{user.name}:x:{user.uid}:{user.gid}:{user.name}:{user.home}:/bin/sh\n"
    files = [TextFile("/etc/passwd", _with_line(accounts.passwd(), entry))]
    group = accounts.group()
    if f":{user.gid}:" not in group:
        files.append(TextFile("/etc/group", _with_line(group, f"{user.name}:x:{user.gid}:\n")))
    return tuple(files)


def package_files(files: Root, user: User) -> tuple[TextFile, ...]:
    """Return what lets package managers work that root of one user id alone would stop.

    apt gives itself the id of another user for downloads, and checks that it has got it.
    Source: apt.conf(5), "APT::Sandbox::User".
    """
    if user.uid != 0 or not files.exists("/etc/apt/apt.conf.d"):
        return ()
    return (TextFile("/etc/apt/apt.conf.d/zz-udocker", 'APT::Sandbox::User "root";\n'),)


def _with_line(text: str, line: str) -> str:
    return text + ("\n" if text and not text.endswith("\n") else "") + line
