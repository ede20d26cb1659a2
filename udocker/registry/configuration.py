"""What registries.conf says: where images really lie, mirrors, and what short names mean.

Mirrors, other locations and blocked registries are a site's matter: they count from every file.
What names without a host mean counts from the user's own files alone. Here `ubuntu` is
docker.io/library/ubuntu, as it is to docker and was in every udocker; the lists that come with
a distribution's podman (`centos` is quay.io/centos/centos there) do not change it. Who wants
them says CONTAINERS_REGISTRIES_CONF=/etc/containers/registries.conf.

Source: containers-registries.conf(5), version 2; version 1 is read as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from udocker.registry import toml
from udocker.values import dataclass, replace

SYSTEM_DIRECTORY = "/etc/containers"
ALL, BY_DIGEST, BY_TAG = "all", "digest-only", "tag-only"
"""Which names a mirror is asked for."""

_MODES = ("", "enforcing", "permissive", "disabled")
_MAX_FILES = 1000


@dataclass(frozen=True)
class Mirror:
    """A place that has copies of a registry, or of a part of it."""

    location: str
    insecure: bool = False
    serves: str = ALL


@dataclass(frozen=True)
class Rule:
    """What holds for the images whose names begin with `prefix`."""

    prefix: str
    """`host[:port][/path]`, or `*.domain`."""
    location: str
    """What stands in the place of the prefix; empty: itself."""
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()
    origin: str = ""
    """The file that says so."""

    def matched(self, name: str) -> int:
        """Return how many characters of an image's name the prefix stands for, 0 for none."""
        if self.prefix.startswith("*."):
            host = name.partition("/")[0]
            return len(host) if host.partition(":")[0].endswith(self.prefix[1:]) else 0
        rest = name[len(self.prefix) :]
        return len(self.prefix) if name.startswith(self.prefix) and rest[:1] in "/:@" else 0


@dataclass(frozen=True)
class Registries:
    """What all files together say."""

    rules: tuple[Rule, ...] = ()
    search: tuple[str, ...] = ()
    """Registries where names without a host are looked up, in this order; empty: not said."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Short names, and the names that they stand for."""
    short_name_mode: str = ""

    def rule(self, name: str) -> Rule | None:
        """Return the rule with the longest prefix that fits an image's full name."""
        fitting = [rule for rule in self.rules if rule.matched(name)]
        return max(fitting, key=lambda rule: len(rule.prefix), default=None)

    def alias(self, short: str) -> str:
        """Return the full name that a short one, without tag, stands for; empty: none."""
        return dict(self.aliases).get(short, "")

    def overridden(self, later: Registries) -> Registries:
        """Return both, in which `later` counts where they contradict each other."""
        new = {rule.prefix for rule in later.rules}
        aliases = {**dict(self.aliases), **dict(later.aliases)}
        return Registries(
            (*(rule for rule in self.rules if rule.prefix not in new), *later.rules),
            later.search or self.search,
            tuple((short, full) for short, full in aliases.items() if full),
            later.short_name_mode or self.short_name_mode,
        )


def load(environment: Mapping[str, str], system: str = SYSTEM_DIRECTORY) -> Registries:
    """Return what the files in force say. Raises UsageError with the place of what is wrong."""
    found = Registries()
    for path, own in files(environment, system):
        table = toml.read(path)
        if table:
            says = parse(table)
            found = found.overridden(says if own else Registries(says.rules))
    return found


def files(
    environment: Mapping[str, str], system: str = SYSTEM_DIRECTORY
) -> Iterator[tuple[str, bool]]:
    """Yield the files in force, the most important one last, and whether each is the user's own.

    The user's registries.conf stands in the place of the system's; the directories of both add
    to it. The one that the variable names stands alone.
    """
    named = environment.get("CONTAINERS_REGISTRIES_CONF")
    if named:
        yield named, True
        return
    home = environment.get("HOME", "")
    config = environment.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    user = f"{config}/containers/registries.conf" if config else ""
    if user and os.path.exists(user):
        yield user, True
    else:
        yield f"{system}/registries.conf", False
    yield from ((path, False) for path in _dropped_in(f"{system}/registries.conf.d"))
    if user:
        yield from ((path, True) for path in _dropped_in(f"{user}.d"))


def _dropped_in(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    chosen = sorted(name for name in names if name.endswith(".conf"))
    return [f"{directory}/{name}" for name in chosen[:_MAX_FILES]]


def parse(table: toml.Table) -> Registries:
    """Return what one file says. Raises UsageError."""
    if "registries" in table.members:
        return _parse_version_1(table)
    mode = table.text("short-name-mode")
    if mode not in _MODES:
        raise table.wrong(mode, f"short-name-mode is {mode!r}, not one of {', '.join(_MODES[1:])}")
    search = tuple(_host(table, text) for text in table.texts("unqualified-search-registries"))
    aliases = table.table("aliases")
    full = tuple((short, aliases.text(short)) for short in aliases.members)
    return Registries(tuple(map(_rule, table.tables("registry"))), search, full, mode)


def _rule(table: toml.Table) -> Rule:
    location = _location(table, "location")
    prefix = table.text("prefix").rstrip("/") or location
    if not prefix:
        raise table.wrong("[[registry]]", "a [[registry]] has neither prefix nor location")
    return Rule(
        prefix=prefix,
        location="" if location == prefix else location,
        insecure=table.flag("insecure"),
        blocked=table.flag("blocked"),
        mirrors=tuple(_mirror(mirror, table) for mirror in table.tables("mirror")),
        origin=table.path,
    )


def _mirror(table: toml.Table, registry: toml.Table) -> Mirror:
    location = _location(table, "location")
    if not location:
        raise table.wrong("[[registry.mirror]]", "a [[registry.mirror]] has no location")
    serves = table.text("pull-from-mirror") or ALL
    if serves not in (ALL, BY_DIGEST, BY_TAG):
        choices = f"{ALL}, {BY_DIGEST} or {BY_TAG}"
        raise table.wrong(serves, f"pull-from-mirror is {serves!r}, not {choices}")
    if registry.flag("mirror-by-digest-only"):
        if "pull-from-mirror" in table.members:
            key = "mirror-by-digest-only"
            raise registry.wrong(key, f"{key} and pull-from-mirror exclude each other")
        serves = BY_DIGEST
    return Mirror(location, table.flag("insecure"), serves)


def _location(table: toml.Table, key: str) -> str:
    text = table.text(key).rstrip("/")
    if "://" in text:
        raise table.wrong(text, f"{key} {text!r} is a URL; write host[:port][/path]")
    return text


def _host(table: toml.Table, text: str) -> str:
    if not text or "/" in text:
        raise table.wrong(text, f"{text!r} is not host[:port]")
    return text


def _parse_version_1(table: toml.Table) -> Registries:
    """Read lists of hosts: `[registries.search]`, `.insecure`, `.block`."""
    if "registry" in table.members or "unqualified-search-registries" in table.members:
        raise table.wrong("[registries", "it mixes versions 1 and 2 of registries.conf")
    lists = table.table("registries")
    search, insecure, blocked = (
        lists.table(name).texts("registries") for name in ("search", "insecure", "block")
    )
    rules = {host: Rule(host, "", insecure=True, origin=table.path) for host in insecure if host}
    for host in filter(None, blocked):
        rule = rules.get(host, Rule(host, "", origin=table.path))
        rules[host] = replace(rule, blocked=True)
    return Registries(tuple(rules.values()), tuple(_host(table, text) for text in search))
