"""Images made by hand: layers as they are given, compressed in any way, for any platform."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import platform

import zstandard
from registries import KIND, digest

COMPRESSIONS = {
    "": lambda data: data,
    "+gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "+zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "+bzip2": bz2.compress,
    "+xz": lzma.compress,
}
HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def add_image(layout, name, layers, *, architecture=HERE, compression="+gzip", **process):
    """Write an image of uncompressed tar `layers` into `layout`; return its descriptor."""
    return layout.add_document(name, manifest(layout, layers, architecture, compression, process))


def add_index(layout, name, layers_of):
    """Write an image for several architectures, and an attestation before them."""
    nothing = manifest(layout, [], "unknown", "", {})
    entries = [_entry(layout, nothing, {"os": "unknown", "architecture": "unknown"})]
    for architecture, layers in layers_of.items():
        made = manifest(layout, layers, architecture, "+gzip", {})
        entries.append(_entry(layout, made, {"os": "linux", "architecture": architecture}))
    kind = f"{KIND}.index.v1+json"
    return layout.add_document(name, {"schemaVersion": 2, "mediaType": kind, "manifests": entries})


def manifest(layout, layers, architecture, compression, process):
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": process,
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    compress = COMPRESSIONS[compression]
    return {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.manifest.v1+json",
        "config": layout.blob(json.dumps(config).encode(), f"{KIND}.config.v1+json"),
        "layers": [
            layout.blob(compress(layer), f"{KIND}.layer.v1.tar{compression}") for layer in layers
        ],
    }


def _entry(layout, document, where):
    return {**layout.blob(json.dumps(document).encode(), document["mediaType"]), "platform": where}
