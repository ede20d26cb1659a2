"""A program and the libraries that this host lacks, from packages of Debian or Ubuntu."""

from __future__ import annotations

import re

from udocker import console
from udocker.engines import programs
from udocker.errors import UdockerError
from udocker.host import elf
from udocker.provision import place, relocate
from udocker.provision.deb import Package
from udocker.provision.libraries import HostLibraries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.host.elf import ElfFacts
    from udocker.host.probe import Host
    from udocker.provision.catalogue import Item
    from udocker.provision.place import Draft, Found
    from udocker.provision.repository import Repository, Stanza

_MAX_LIBRARIES = 64


class Debian:
    """The repositories that this machine, or the user, names."""

    def __init__(self, host: Host, repositories: tuple[Repository, ...]) -> None:
        self._host = host
        self._repositories = repositories
        self._libraries = HostLibraries(host)
        self._unusable: dict[Repository, UdockerError] = {}
        self._packages: dict[str, Package] = {}

    def versions(self, item: Item) -> list[Stanza]:
        """Return the versions of an item that can be had, newest first. Raises UdockerError."""
        found = self._stanzas(item.package)
        if found:
            return found
        reasons = "; ".join(error.message for error in self._unusable.values())
        hint = next((error.hint for error in self._unusable.values() if error.hint), None)
        if not self._repositories:
            reasons = "no Debian repository is configured here (/etc/apt)"
            hint = "--sources FILE names repositories; --from FILE takes a bundle"
        raise UdockerError(
            f"no package {item.package} can be had: {reasons or 'no repository has it'}",
            hint=hint or "--sources FILE names other repositories; --from FILE takes a bundle",
        )

    def fill(self, draft: Draft, item: Item, stanza: Stanza) -> Found:
        """Put one version of an item into a draft, with the libraries that the host lacks.

        Raises UdockerError when it cannot run on this host.
        """
        package = self._package(stanza)
        paths = (path.format(machine=self._host.machine) for path in item.paths)
        data = next(filter(None, map(package.file, paths)), None)
        if data is None:
            raise UdockerError(f"{stanza.name} {stanza.version} has no {item.name} in it")
        facts = _facts(draft.put(data), self._host.machine, item.name)
        if item.name not in programs.LIBRARIES:  # it is loaded with the container's libraries
            self._add_libraries(draft, facts, stanza)
        origin = f"{stanza.repository.title} ({stanza.name} {stanza.version})"
        relocate.relocate(draft.path, draft.target(stanza.version), item.name)
        return place.Found(item.name, stanza.version, origin)

    def _add_libraries(self, draft: Draft, facts: ElfFacts, stanza: Stanza) -> None:
        waiting = [(facts, stanza)]
        added: set[str] = set()
        while waiting:
            user, owner = waiting.pop()
            for soname in self._libraries.lacking(user):
                if soname in added:
                    continue
                added.add(soname)
                if len(added) > _MAX_LIBRARIES or "/" in soname:
                    raise UdockerError(f"{stanza.name} needs too many libraries, or {soname}")
                waiting.append(self._add_library(draft, soname, owner))

    def _add_library(self, draft: Draft, soname: str, owner: Stanza) -> tuple[ElfFacts, Stanza]:
        """Put a library from a package that `owner` depends on into the draft."""
        machine = self._host.machine
        problems = []
        for stanza in self._suppliers(soname, owner):
            data = self._package(stanza).library(soname, machine)
            if data is None:
                continue
            facts = _facts(draft.put(data, f"{place.LIBRARIES}/{soname}"), machine, soname)
            try:
                self._libraries.lacking(facts)
            except UdockerError as error:
                problems.append(f"{soname} of {stanza.name} {stanza.version}: {error.message}")
                continue
            return facts, stanza
        reason = "; ".join(problems) or "no package that it depends on has it"
        raise UdockerError(f"{owner.name} needs {soname}, which this host lacks: {reason}")

    def _suppliers(self, soname: str, owner: Stanza) -> Iterator[Stanza]:
        """Yield packages that may have a library, likely ones first, newest first.

        Debian calls the package of libtalloc.so.2 libtalloc2 and that of liblz4.so.1 liblz4-1.
        """
        stem = re.sub(r"\.so\.?", "", soname).lower()
        plain = [name.replace("-", "") for name in owner.depends]
        likely = [n for n, p in zip(owner.depends, plain) if p.startswith(stem.replace("-", ""))]
        for name in dict.fromkeys((*likely, *owner.depends)):
            yield from self._stanzas(name)

    def _stanzas(self, package: str) -> list[Stanza]:
        found = {}
        for source in self._repositories:
            if source in self._unusable:
                continue
            try:
                found.update({(s.version, s.sha256): s for s in source.versions(package)})
            except UdockerError as error:
                self._unusable[source] = error
                console.warn(f"{source.source.suite}: {error.message}")
        return sorted(found.values(), key=lambda s: programs.version_key(s.version), reverse=True)

    def _package(self, stanza: Stanza) -> Package:
        if stanza.sha256 not in self._packages:
            subject = f"{stanza.name} {stanza.version}"
            self._packages[stanza.sha256] = Package(stanza.fetch(), subject)
        return self._packages[stanza.sha256]


def _facts(path: str, machine: str, subject: str) -> ElfFacts:
    facts = elf.read(path)
    if facts is None or facts.machine != machine:
        what = f"for {facts.machine}" if facts else "not an ELF file"
        raise UdockerError(f"{subject}: it is {what}, this machine is {machine}")
    return facts
