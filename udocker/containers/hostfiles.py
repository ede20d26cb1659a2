"""Files of a container: those it has, and small ones that must know of the host or the user."""

from __future__ import annotations

import os

from udocker.containers.spec import Bind, ContainerEdits, TextFile
from udocker.errors import StartError
from udocker.host.root import Root, Stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.containers.accounts import Accounts
    from udocker.containers.container import Container
    from udocker.containers.request import RunRequest
    from udocker.containers.spec import User
    from udocker.host.probe import Host

HOSTS, RESOLVER, HOSTNAME = "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"
PASSWD, GROUP = "/etc/passwd", "/etc/group"
_LOOPBACK = "127.0.0.1\tlocalhost\n::1\tlocalhost\n"
_ZONES = "/usr/share/zoneinfo"
_RENDERING = ("/usr/lib64", "/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu")
"""Directories of the host in which `dri` holds the drivers of direct rendering."""


def files_of(container: Container) -> Root:
    """Return the files that a container has, written ones over the image's, for safe reading."""
    if os.path.isdir(container.rootfs):
        return Root(container.rootfs, origin=container.tree)
    return Stack(container.upper, container.tree)


def host_edits(host: Host, request: RunRequest) -> ContainerEdits:
    """Return binds of the host's files that a request wants, directly or by asking for none.

    Those by which names are resolved on the host's network, its accounts, its time zone, its
    libraries of direct rendering. Raises StartError for a time zone that it does not have.
    """
    binds = [*_resolving(host, request), *_zone(host, request.time_zone)]
    if request.host_accounts:
        binds += [_shown(host, name) for name in (PASSWD, GROUP) if host.exists(name)]
    if request.direct_rendering:
        places = (f"{place}/dri" for place in _RENDERING)
        binds += [_shown(host, place) for place in places if os.path.isdir(host.path(place))]
    return ContainerEdits(binds=tuple(binds))


def _resolving(host: Host, request: RunRequest) -> Iterator[Bind]:
    if request.network != "host" or not request.system_directories:
        return
    if not (request.dns or request.dns_search or request.dns_options):
        yield from _shown_file(host, RESOLVER)
    if request.hosts_file and not _has_own_hosts(request):
        yield from _shown_file(host, HOSTS)


def _shown_file(host: Host, name: str) -> tuple[Bind, ...]:
    """Return the bind of a file, or none where its links lead to nothing."""
    return (_shown(host, name),) if os.path.isfile(host.path(name)) else ()


def _shown(host: Host, name: str) -> Bind:
    return Bind(host.path(name), name, readonly=True)


def _zone(host: Host, zone: str | None) -> tuple[Bind, ...]:
    if zone is None:
        return ()
    path = host.path("/etc/localtime" if zone == "local" else f"{_ZONES}/{zone}")
    if os.path.isfile(path):
        return (Bind(os.path.realpath(path), "/etc/localtime", readonly=True),)
    if zone == "local":  # it has Coordinated Universal Time
        return ()
    raise StartError(f"--tz {zone}: this host has no such time zone in {_ZONES}")


def name_files(host: Host, request: RunRequest) -> tuple[TextFile, ...]:
    """Return /etc/hostname, /etc/hosts and /etc/resolv.conf where they are the container's own."""
    files = []
    if request.hostname is not None:
        files.append(TextFile(HOSTNAME, request.hostname + "\n"))
    if request.hosts_file and _has_own_hosts(request):
        files.append(TextFile(HOSTS, _hosts(host, request)))
    if request.dns or request.dns_search or request.dns_options:
        files.append(TextFile(RESOLVER, _resolver(host, request)))
    return tuple(files)


def _has_own_hosts(request: RunRequest) -> bool:
    own = request.hostname or request.domainname or request.extra_hosts
    return bool(own) or request.network != "host"


def _hosts(host: Host, request: RunRequest) -> str:
    """Return /etc/hosts: what the user adds comes first, for the first line of a name counts."""
    base = host.text(HOSTS) if request.network == "host" else _LOOPBACK
    added = "".join(f"{address}\t{name}\n" for name, address in request.extra_hosts)
    if request.hostname is None and request.domainname is None:
        return added + base
    name = request.hostname or os.uname().nodename.partition(".")[0]
    names = f"{name}.{request.domainname} {name}" if request.domainname else name
    return f"{added}{base.rstrip()}\n127.0.1.1\t{names}\n"


def _resolver(host: Host, request: RunRequest) -> str:
    """Return resolv.conf: the host's lines for what the user does not say.

    Source: docker-run(1), resolv.conf(5).
    """
    text = host.text(RESOLVER) if request.network == "host" else ""
    lines = [line.split() for line in text.splitlines()]
    known = [words for words in lines if len(words) > 1 and words[0][0] not in "#;"]
    servers = request.dns or _said(known, "nameserver")
    search = request.dns_search or _said(known, "search") or _said(known, "domain")
    options = request.dns_options or _said(known, "options")
    made = [f"nameserver {address}" for address in servers]
    made += [f"search {' '.join(search)}"] if search and search != (".",) else []
    made += [f"options {' '.join(options)}"] if options else []
    return "\n".join([*made, ""])


def _said(lines: list[list[str]], key: str) -> tuple[str, ...]:
    return tuple(word for words in lines if words[0] == key for word in words[1:])


def account_files(accounts: Accounts, user: User, line: str | None = None) -> tuple[TextFile, ...]:
    """Return passwd and group with the user added, where the container does not know it.

    Programs that ask for the caller's name (ssh, MPI launchers, Python's getpass) fail when
    the uid has none. `line` is that of passwd, with `$UID` and the like.
    """
    if accounts.by_uid(user.uid, user.gid) or not (user.name or line):
        return ()
    entry = _account_line(user, line or "$USERNAME:x:$UID:$GID:$NAME:$HOME:/bin/sh")
    files = [TextFile(PASSWD, _with_line(accounts.passwd(), entry + "\n"))]
    group = accounts.group()
    if user.name and f":{user.gid}:" not in group:
        files.append(TextFile(GROUP, _with_line(group, f"{user.name}:x:{user.gid}:\n")))
    return tuple(files)


def _account_line(user: User, line: str) -> str:
    """Return a line of passwd by podman's template. Source: podman-run(1), --passwd-entry."""
    known = {"$USERNAME": user.name or str(user.uid), "$UID": str(user.uid), "$GID": str(user.gid)}
    known.update({"$NAME": user.name, "$HOME": user.home})
    for word, value in known.items():
        line = line.replace(word, value)
    return line


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
