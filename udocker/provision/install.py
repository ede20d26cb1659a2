"""Installing: find out what is here, bring what is not, try it, and only then let it be used."""

from __future__ import annotations

import os
from functools import partial

from udocker import console, disk
from udocker.engines import programs
from udocker.errors import IntegrityError, UdockerError
from udocker.provision import archive, catalogue, place, relocate, sources, trial
from udocker.provision.debian import Debian
from udocker.provision.place import Draft, Found
from udocker.provision.repository import Access, open_all
from udocker.registry.route import is_loopback, split
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from udocker.engines.programs import Installed
    from udocker.host.probe import Host
    from udocker.provision.archive import Parcel
    from udocker.provision.catalogue import Item
    from udocker.provision.repository import Repository
    from udocker.settings import Settings

_CHECKSUM_FILES = ("SHA256SUMS", "metadata.json")
_MAX_CHECKSUMS_BYTES = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """What became of one thing that was to be installed."""

    name: str
    installed: Installed | None = None
    """None: it cannot be had, and `fault` says why."""
    fresh: bool = False
    """It was installed now; else it was here."""
    note: str = ""
    """Why its engine cannot be used here, or what a library is for."""
    fault: UdockerError | None = None


class Installer:
    """Brings programs to the store of `settings`, for this machine."""

    def __init__(self, settings: Settings, host: Host, *, insecure: bool = False) -> None:
        self._directory = settings.directory
        self._host = host
        self._quiet = settings.quiet
        self._insecure = insecure
        self._access = Access(host, settings.environment, insecure=insecure)

    def from_repositories(
        self, items: tuple[Item, ...], *, force: bool, sources_file: str | None
    ) -> list[Outcome]:
        """Bring what is not here; with `force` or a list of sources also what is.

        The repositories are those of the `sources_file` (as in sources.list(5)), else those that
        this machine is configured for.
        """
        place.remove_leftovers(self._directory)
        debian: Debian | None = None
        outcomes = []
        for item in items:
            here = self._here(item)
            if here and not force and not sources_file:
                note = self._note(item, here)
                outcomes.append(Outcome(item.name, trial.with_version(here), note=note))
                continue
            debian = debian or Debian(self._host, self._repositories(sources_file))
            outcomes += self._from_debian(debian, item, here)
        return outcomes

    def from_archive(
        self, origin: str, items: tuple[Item, ...], sha256: str | None
    ) -> list[Outcome]:
        """Bring what the file, directory or web address `origin` has, of `items` if any are given.

        Raises UdockerError, IntegrityError when it is not what its checksum says.
        """
        place.remove_leftovers(self._directory)
        found = self._parcels(origin, sha256)
        wanted = {item.name for item in items} or {parcel.name for parcel in found}
        outcomes = []
        for name in wanted - {parcel.name for parcel in found}:
            outcomes.append(Outcome(name, fault=UdockerError(f"{name} is not in {origin}")))
        for parcel in found:
            if parcel.name in wanted:
                outcomes += self._from_parcel(parcel)
        return sorted(outcomes, key=lambda outcome: outcome.name)

    def purge(self, items: tuple[Item, ...]) -> None:
        """Remove all versions of what was installed of `items`; everything when none is given."""
        place.remove_leftovers(self._directory)
        if not items:
            place.purge(self._directory)
        names = {item.name for item in items}
        for installed in programs.installed(self._directory):
            if installed.name in names:
                place.remove(installed)

    def _here(self, item: Item) -> Installed | None:
        try:
            return programs.find(self._directory, item.name)
        except UdockerError as error:  # a variable names what is not there
            console.warn(error.message)
            return None

    def _note(self, item: Item, installed: Installed) -> str:
        if item.kind == catalogue.LIBRARY:
            return trial.coverage(installed.path)
        return trial.obstacle(self._host, self._directory, item)

    def _repositories(self, path: str | None) -> tuple[Repository, ...]:
        architecture = catalogue.DEBIAN_MACHINES.get(self._host.machine, self._host.machine)
        if path is None:
            found = sources.configured(self._host, architecture)
        else:
            found = sources.parse(_text(path), path, architecture)
        if found and not self._quiet:
            console.say("reading the lists of packages of " + ", ".join(s.suite for s in found))
        return open_all(found, architecture, self._access)

    def _from_debian(self, debian: Debian, item: Item, here: Installed | None) -> list[Outcome]:
        """Install the newest version that works; of a library every one, for old containers too."""
        outcomes: list[Outcome] = []
        faults: list[UdockerError] = []
        try:
            versions = debian.versions(item)
            if item.kind == catalogue.LIBRARY:
                versions.reverse()  # the last one is the one in use
            for stanza in versions:
                fill = partial(debian.fill, item=item, stanza=stanza)
                outcomes += self._placed(item, fill, faults)
                if outcomes and item.kind != catalogue.LIBRARY:
                    break
        except UdockerError as error:
            faults.append(error)
        return outcomes or [Outcome(item.name, here, fault=fault) for fault in faults[:1]]

    def _placed(
        self, item: Item, fill: Callable[[Draft], Found], faults: list[UdockerError]
    ) -> list[Outcome]:
        """Fill a draft, try what is in it, and let it be used. Nothing stays of a failure."""
        draft = Draft(self._directory, item.name)
        try:
            found = fill(draft)
            trial.test(item, draft.file, self._host.machine)
            installed = draft.commit(found)
        except UdockerError as error:
            faults.append(error)
            return []
        finally:
            draft.discard()
        note = self._note(item, installed)
        place.note_verdict(installed, note if item.kind != catalogue.LIBRARY else "")
        return [Outcome(item.name, installed, fresh=True, note=note)]

    def _from_parcel(self, parcel: Parcel) -> list[Outcome]:
        faults: list[UdockerError] = []
        fill = partial(_fill_from_parcel, parcel=parcel)
        done = self._placed(catalogue.item(parcel.name), fill, faults)
        return done or [Outcome(parcel.name, fault=fault) for fault in faults]

    def _parcels(self, origin: str, sha256: str | None) -> tuple[Parcel, ...]:
        machine, kernel = self._host.machine, self._host.kernel
        if not origin.startswith(("http://", "https://")):
            if not os.path.isdir(origin):
                self._verify(origin, os.path.basename(origin), sha256, self._beside_file(origin))
            elif sha256:
                raise UdockerError(f"{origin} is a directory: it has no checksum")
            return archive.parcels(origin, machine, kernel)
        name = os.path.basename(split(origin).path) or "archive"
        draft = Draft(self._directory, "download")
        try:
            data = self._access.get(origin, archive.MAX_ARCHIVE_BYTES)
            path = f"{draft.path}/{name[:100]}"
            disk.write_whole(path, data, sync=False)
            self._verify(path, name, sha256, self._beside_url(origin), of=origin)
            return archive.parcels(path, machine, kernel)
        except FileNotFoundError as error:
            raise UdockerError(str(error)) from error
        finally:
            draft.discard()

    def _verify(
        self, path: str, name: str, sha256: str | None, beside: Iterator[str], of: str = ""
    ) -> None:
        """Return when the checksum that is known is right; without TLS there must be one."""
        stated = (archive.stated_checksum(text, name) for text in beside)
        checksum = sha256 or next(filter(None, stated), "")
        if checksum:
            archive.verify(path, checksum)
            return
        host = split(of).hostname or "" if of else ""
        if of.startswith("http:") and not is_loopback(host) and not self._insecure:
            raise IntegrityError(
                f"{of}: nobody can tell whether it was changed on its way",
                hint="give its checksum with --sha256 HEX, take https, or say --insecure",
            )

    def _beside_file(self, path: str) -> Iterator[str]:
        for name in _CHECKSUM_FILES:
            data = disk.read(f"{os.path.dirname(path) or '.'}/{name}", _MAX_CHECKSUMS_BYTES)
            if data:
                yield data.decode("utf-8", "replace")

    def _beside_url(self, url: str) -> Iterator[str]:
        for name in _CHECKSUM_FILES:
            try:
                data = self._access.get(f"{url.rpartition('/')[0]}/{name}", _MAX_CHECKSUMS_BYTES)
                yield data.decode("utf-8", "replace")
            except (FileNotFoundError, UdockerError):
                continue


def _fill_from_parcel(draft: Draft, parcel: Parcel) -> Found:
    for relative, data in parcel.files:
        draft.put(data, "" if relative == programs.file_name(parcel.name) else relative)
    relocate.relocate(draft.path, draft.target(parcel.version), parcel.name)
    return Found(parcel.name, parcel.version, parcel.origin)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(sources.MAX_BYTES)
    except OSError as error:
        raise UdockerError(f"{path}: {error.strerror}") from error
