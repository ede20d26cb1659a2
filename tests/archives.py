"""Archives of images made by hand, as docker save wrote them at different times, and odd ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from images import COMPRESSIONS, HERE
from registries import KIND, REF_NAME, digest
from tarballs import archive, file, folder, hard_link, symlink

from udocker.images.store import ImageStore
from udocker.reference import Reference
from udocker.settings import Settings
from udocker.transfer.archives.archivenames import Wanted
from udocker.transfer.archives.load import Load, load

BASE = archive(folder("etc"), file("etc/name", b"base\n"), file("etc/gone", b"x"))
TOP = archive(file("etc/name", b"top\n"), file("etc/.wh.gone"), hard_link("etc/same", "etc/name"))


@dataclass
class Link:
    """A symbolic link as a member, or a hard one."""

    target: str
    hard: bool = False


@dataclass
class Image:
    """What an archive is to hold: uncompressed layers, lowest first, names, the process."""

    layers: list = field(default_factory=lambda: [BASE, TOP])
    names: list | None = field(default_factory=lambda: ["img:1"])
    process: dict = field(default_factory=dict)

    @property
    def config(self):
        diff_ids = [digest(layer) for layer in self.layers]
        document = {
            "architecture": HERE,
            "os": "linux",
            "config": self.process,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        return json.dumps(document).encode()

    @property
    def id(self):
        return hashlib.sha256(self.config).hexdigest()


def packed(files):
    """Return the tar of a dict: names to bytes or `Link`s, in its order."""
    members = []
    for name, content in files.items():
        if isinstance(content, Link):
            make = hard_link if content.hard else symlink
            members.append(make(name, content.target))
        else:
            members.append(file(name, content))
    return archive(*members)


def listed(*images):
    """Return the entries of manifest.json for images whose layers are `HEX/layer.tar`."""
    return [
        {
            "Config": f"{image.id}.json",
            "RepoTags": image.names,
            "Layers": [f"{_hex(layer)}/layer.tar" for layer in image.layers],
        }
        for image in images
    ]


def docker_files(*images):
    """Return the files of `docker save` from 1.10 to 24."""
    files = {}
    for image in images:
        files[f"{image.id}.json"] = image.config
        for layer in image.layers:
            files[f"{_hex(layer)}/layer.tar"] = layer
    return {**files, "manifest.json": json.dumps(listed(*images)).encode()}


def old_files(*images):
    """Return the files of `docker save` before 1.10: no manifest.json, no config."""
    files, repositories = {}, {}
    for image in images:
        parent = ""
        for layer in image.layers:
            own = hashlib.sha256(f"{parent}{digest(layer)}".encode()).hexdigest()
            document = {"id": own, "created": "2015-01-01T00:00:00Z", "os": "linux"}
            document.update({"parent": parent} if parent else {})
            document.update({"architecture": HERE, "config": image.process})
            files[f"{own}/VERSION"] = b"1.0"
            files[f"{own}/json"] = json.dumps(document).encode()
            files[f"{own}/layer.tar"] = layer
            parent = own
        for name in image.names:
            repository, _, tag = name.rpartition(":")
            repositories.setdefault(repository, {})[tag] = parent
    return {**files, "repositories": json.dumps(repositories).encode()}


def layout_files(*images, compression="", name=lambda name: {REF_NAME: name}):
    """Return the files of an OCI layout."""
    files, entries = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}, []

    def blob(data, kind):
        files[f"blobs/sha256/{_hex(data)}"] = data
        return {"mediaType": f"{KIND}.{kind}", "digest": digest(data), "size": len(data)}

    for image in images:
        compress = COMPRESSIONS[compression]
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{KIND}.manifest.v1+json",
            "config": blob(image.config, "config.v1+json"),
            "layers": [blob(compress(la), f"layer.v1.tar{compression}") for la in image.layers],
        }
        entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
        names = [name(one) for one in image.names or ()] or [{}]
        entries += [{**entry, "annotations": annotations} for annotations in names]
    index = {"schemaVersion": 2, "manifests": entries}
    return {**files, "index.json": json.dumps(index).encode()}


def modern_files(*images):
    """Return the files of `docker save` since 25: an OCI layout, and manifest.json beside it."""

    def annotations(name):
        whole = str(Reference.parse(name))
        return {"io.containerd.image.name": whole, REF_NAME: whole.rpartition(":")[2]}

    entries = listed(*images)
    for entry, image in zip(entries, images):
        entry["Config"] = f"blobs/sha256/{image.id}"
        entry["Layers"] = [f"blobs/sha256/{_hex(layer)}" for layer in image.layers]
    files = layout_files(*images, name=annotations)
    return {**files, "manifest.json": json.dumps(entries).encode()}


LAYOUTS = {
    "docker": docker_files,
    "old docker": old_files,
    "docker 25": modern_files,
    "oci": layout_files,
}


class Loader:
    """A store in a directory, into which archives are loaded."""

    def __init__(self, directory):
        self.directory = str(directory)
        self.settings = Settings(f"{directory}/store", {}, quiet=True, jobs=2)
        self.store = ImageStore(self.settings.directory)

    def __call__(self, source, name=None, platform=None):
        """Load a path, or the bytes of an archive; return the names in their familiar form."""
        path = source
        if isinstance(source, bytes):
            path = f"{self.directory}/archive"
            with open(path, "wb") as file:
                file.write(source)
        wanted = Wanted.of(name, Reference.parse(name)) if name else None
        what = Load(str(path), wanted, platform)
        return [reference.familiar for reference in load(self.settings, self.store, what)]

    def find(self, name):
        return self.store.find(Reference.parse(name))

    def config(self, name):
        """Return the digest of an image's config."""
        return self.store.read_manifest(self.find(name)).config.digest.hex


def _hex(data):
    return hashlib.sha256(data).hexdigest()
