"""A file with which another machine, without network, gets the programs that are installed here."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile

from udocker import disk, fastjson
from udocker.engines import programs
from udocker.errors import StoreError, UdockerError
from udocker.host import loader
from udocker.host.root import Root
from udocker.provision import catalogue, place, trial
from udocker.provision.archive import FORMAT, MANIFEST
from udocker.provision.libraries import is_of_c_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from udocker.engines.programs import Installed


def write(directory: str, path: str, names: tuple[str, ...], machine: str) -> tuple[Installed, ...]:
    """Make `path` a bundle of what is installed in the store `directory`; return what is in it.

    `names` choose, of the host's own programs as well; none: all. What a program loads goes with
    it, but for the C library: a host with an older one cannot run it. The same programs give the
    same bytes. Raises UdockerError.
    """
    chosen = _chosen(directory, names)
    if not chosen:
        raise UdockerError("nothing is installed that could be bundled", hint="udocker install")
    members: dict[str, bytes] = {}
    entries = [_add(members, found) for found in chosen]
    manifest = {"format": FORMAT, "machine": machine, "programs": entries}
    members[MANIFEST] = _pretty(manifest)
    try:
        disk.write_whole(os.path.abspath(path), _packed(members))
    except StoreError as error:
        raise UdockerError(error.message) from error
    return chosen


def _chosen(directory: str, names: tuple[str, ...]) -> tuple[Installed, ...]:
    here = programs.installed(directory)
    if not names:
        return here
    chosen: list[Installed] = []
    for name in dict.fromkeys(catalogue.item(word).name for word in names):
        found = [installed for installed in here if installed.name == name]
        chosen += found or [_of_host(name)]
    return tuple(chosen)


def _of_host(name: str) -> Installed:
    found = programs.on_host(name)
    if found is None:
        raise UdockerError(f"{name} is not here", hint=f"udocker install {name}")
    return found


def _add(members: dict[str, bytes], found: Installed) -> dict[str, object]:
    """Add the files of a program to `members`; return its entry in the manifest."""
    version = found.version or trial.version_of(found.name, found.path) or "0"
    files = {}
    for relative, path in _files(found):
        with open(path, "rb") as file:
            members[f"engines/{found.name}/{version}/{relative}"] = data = file.read()
        files[relative] = hashlib.sha256(data).hexdigest()
    origin = found.origin if found.version else "the host that made the bundle"
    return {"name": found.name, "version": version, "origin": origin, "files": files}


def _files(found: Installed) -> Iterator[tuple[str, str]]:
    """Yield the program, and all that it loads but the C library: another host may lack it."""
    original = f"{os.path.dirname(found.path)}/{place.ORIGINAL}"
    is_changed = bool(found.version) and os.path.exists(original)
    yield programs.file_name(found.name), original if is_changed else found.path
    if found.name in programs.LIBRARIES:  # it is loaded with the container's libraries
        return
    for path, host_path in sorted(loader.closure([found.path], Root("/")).items()):
        name = os.path.basename(path)
        if path != found.path and not is_of_c_library(name):
            yield f"{place.LIBRARIES}/{name}", host_path


def _packed(members: dict[str, bytes]) -> bytes:
    """Return a tar.gz whose bytes depend on nothing but names and contents."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(members):
            member = tarfile.TarInfo(name)
            member.size = len(members[name])
            is_plain = name == MANIFEST or f"/{place.LIBRARIES}/" in name or name.endswith(".so")
            member.mode = 0o644 if is_plain else 0o755
            archive.addfile(member, io.BytesIO(members[name]))
    return gzip.compress(stream.getvalue(), mtime=0)


def _pretty(manifest: dict[str, object]) -> bytes:
    text = json.dumps(fastjson.loads(fastjson.dumps(manifest)), indent=1, sort_keys=True)
    return f"{text}\n".encode()
