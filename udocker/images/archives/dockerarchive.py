"""What `docker save` wrote: the images in an archive, their names, configs and layers.

Two layouts: `manifest.json` (docker 1.10 and later; later than 25 beside an OCI layout), and
before it `repositories` with a directory for each layer. Source: moby, image/tarexport;
docker image specification v1.0 to v1.2.
"""

from __future__ import annotations

import hashlib

from udocker import fastjson
from udocker.errors import InvalidDocument, UnpackError
from udocker.images.archives.archivefiles import of_archive, read
from udocker.images.compression import decompress
from udocker.oci import Digest
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.images.archives.archivefiles import Files, Part

_MAX_IMAGES = 10_000
_MAX_LAYERS = 4096
_MAX_OLD_LAYERS = 1 << 15
"""Of all images together in the layout where each layer has a document to read."""
_OF_LAYERS = ("id", "parent", "parent_id", "layer_id", "Size", "throwaway")
"""What a layer's own document says beyond an image's. Source: moby, image/v1/imagev1.go."""


@dataclass(frozen=True)
class Saved:
    """One image of an archive."""

    names: tuple[str, ...]
    """As they stand there, checked for nothing."""
    config: str
    """The file of its config; without `manifest.json`, of its top layer's document."""
    layers: tuple[str, ...]
    """The files of its layers, lowest first."""
    is_old: bool = False


def saved_images(files: Files) -> list[Saved]:
    """Return the images of an archive, none where it is not one of docker.

    Raises InvalidDocument.
    """
    data = read(files, "manifest.json")
    if data is not None:
        return [_saved(files.name, value) for value in _entries(files.name, data)]
    data = read(files, "repositories")
    return [] if data is None else _old_images(files, _json(files.name, "repositories", data))


def config_of(files: Files, saved: Saved) -> bytes:
    """Return the bytes of an image's config; for the old layout it is made of what is there."""
    data = read(files, saved.config)
    if data is None:
        raise InvalidDocument(f"{files.name}: {saved.config} is missing, the config of an image")
    return _made_config(files, saved, data) if saved.is_old else data


def layer_part(files: Files, path: str) -> Part:
    """Return the file of a layer. Raises InvalidDocument where it is missing."""
    part = files.find(path)
    if part is None:
        raise InvalidDocument(f"{files.name}: {path[:200]} is missing, a layer of an image")
    return part


def diff_id_of(part: Part, name: str) -> tuple[Digest, int]:
    """Return digest and size of a layer's tar stream, inflated if need be."""
    hasher, size_bytes = hashlib.sha256(), 0
    try:
        for chunk in decompress.chunks(part.chunks()):
            hasher.update(chunk)
            size_bytes += len(chunk)
    except UnpackError as error:
        raise of_archive(error, name) from error
    return Digest("sha256", hasher.hexdigest()), size_bytes


def _entries(name: str, data: bytes) -> list[Any]:
    values = _json(name, "manifest.json", data)
    if not isinstance(values, list):
        raise InvalidDocument(f"{name}: manifest.json is not a list of images")
    if len(values) > _MAX_IMAGES:
        raise InvalidDocument(f"{name}: more than {_MAX_IMAGES} images")
    return values


def _saved(name: str, value: Any) -> Saved:
    members = value if isinstance(value, dict) else {}
    config = members.get("Config")
    if not isinstance(config, str):
        raise InvalidDocument(f"{name}: an image in manifest.json has no config")
    return Saved(
        names=_texts(name, members, "RepoTags"),
        config=config,
        layers=_texts(name, members, "Layers"),
    )


def _texts(name: str, members: dict[str, Any], key: str) -> tuple[str, ...]:
    values = members.get(key) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidDocument(f"{name}: {key} in manifest.json is not a list of texts")
    if len(values) > _MAX_LAYERS:
        raise InvalidDocument(
            f"{name}: an image in manifest.json has more than {_MAX_LAYERS} {key}"
        )
    return tuple(values)


def _json(name: str, path: str, data: bytes) -> Any:
    try:
        return fastjson.from_outside(data)
    except ValueError as error:
        raise InvalidDocument(f"{name}: {path} is not JSON: {error}") from error


# the layout before manifest.json


def _old_images(files: Files, repositories: Any) -> list[Saved]:
    names: dict[str, list[str]] = {}
    if not isinstance(repositories, dict):
        raise InvalidDocument(f"{files.name}: repositories is not an object")
    for repository, tags in repositories.items():
        for tag, top in (tags if isinstance(tags, dict) else {}).items():
            if not isinstance(top, str):
                raise InvalidDocument(f"{files.name}: {repository}:{tag} is no id in repositories")
            names.setdefault(top, []).append(f"{repository}:{tag}")
    found, count = [], 0
    for top, given in names.items():
        found.append(_old_image(files, top, tuple(given)))
        count += len(found[-1].layers)
        if count > _MAX_OLD_LAYERS:
            raise InvalidDocument(f"{files.name}: its images have more than {count - 1} layers")
    return found


def _old_image(files: Files, top: str, names: tuple[str, ...]) -> Saved:
    layers: list[str] = []
    layer = top
    while layer:
        if layer in layers or len(layers) >= _MAX_LAYERS:
            raise InvalidDocument(f"{files.name}: the layers of {names[0][:200]} have no end")
        layers.append(layer)
        parent = _old_document(files, layer).get("parent") or ""
        layer = parent if isinstance(parent, str) else ""
    lowest_first = tuple(f"{layer}/layer.tar" for layer in reversed(layers))
    return Saved(names, f"{top}/json", lowest_first, is_old=True)


def _old_document(files: Files, layer: str) -> dict[str, Any]:
    data = read(files, f"{layer}/json")
    if data is None:
        raise InvalidDocument(f"{files.name}: {layer[:200]}/json is missing, a layer of an image")
    document = _json(files.name, f"{layer[:200]}/json", data)
    if not isinstance(document, dict):
        raise InvalidDocument(f"{files.name}: {layer[:200]}/json is not an object")
    return document


def _made_config(files: Files, saved: Saved, data: bytes) -> bytes:
    """Return the config that docker makes of an image in the old layout."""
    document = _json(files.name, saved.config, data)
    for key in _OF_LAYERS:
        document.pop(key, None)
    document["architecture"] = document.get("architecture") or "amd64"
    document["os"] = document.get("os") or "linux"
    parts = [layer_part(files, layer) for layer in saved.layers]
    diff_ids = [str(diff_id_of(part, files.name)[0]) for part in parts]
    document["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    document["history"] = [_step(files, layer) for layer in saved.layers]
    return fastjson.dumps(document).encode()


def _step(files: Files, layer: str) -> dict[str, str]:
    document = _old_document(files, layer.rpartition("/")[0])
    made_by = document.get("container_config")
    words = made_by.get("Cmd") if isinstance(made_by, dict) else None
    step = {"created": str(document.get("created") or "1970-01-01T00:00:00Z")}
    if isinstance(words, list):
        step["created_by"] = " ".join(map(str, words))
    return step
