"""`udocker save`."""

from __future__ import annotations

import os

import click

from udocker import disk, trees
from udocker.commands import output
from udocker.commands.stores import Stores
from udocker.errors import InvalidReference, UsageError
from udocker.images.archives.archivewriter import ArchiveWriter
from udocker.images.archives.tarwriter import write_all
from udocker.images.compression.compress import Compressed, kind_by_name
from udocker.settings import Settings
from udocker.transfer.archives.save import (
    Chosen,
    write_docker_archive,
    write_oci_archive,
    write_oci_directory,
)
from udocker.transfer.content import content_of, reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from udocker.images.store import Image
    from udocker.reference import Reference

_FORMATS = ["docker-archive", "oci-archive", "oci-dir"]


@click.command()
@click.option("-o", "--output", "path", metavar="FILE", help="Write there; `-` is standard output.")
@click.option(
    "--format", "kind", type=click.Choice(_FORMATS), default=_FORMATS[0], help="Of the archive."
)
@click.option(
    "--compress", is_flag=True, help="Compress: as FILE's name says (.zst), or with gzip."
)
@click.option("-q", "--quiet", is_flag=True, help="Accepted; nothing is said.")
@click.argument("words", nargs=-1, required=True, metavar="[-] IMAGE...")
@click.pass_obj
def command(
    settings: Settings,
    path: str | None,
    kind: str,
    compress: bool,
    quiet: bool,
    words: tuple[str, ...],
) -> None:
    """Save images as an archive, to standard output or a file, for udocker, docker or podman load.

    A file whose name ends in .gz, .zst, .bz2 or .xz is compressed.
    """
    stores = Stores(settings)
    with reading(stores.images):
        _save(stores, words[1:] if words[0] == "-" else words, path, kind, compress=compress)


def _save(
    stores: Stores, words: Sequence[str], path: str | None, kind: str, *, compress: bool
) -> None:
    images = _chosen(stores, words)
    if kind == "oci-dir":
        _to_directory(stores, images, path)
        return
    compression = kind_by_name(path or "") or ("gzip" if compress else "")
    write = write_oci_archive if kind == "oci-archive" else write_docker_archive

    def save(descriptor: int, is_new_file: bool) -> None:
        to = write_all(descriptor)
        if not compression:
            write(
                stores.images.blobs, images, ArchiveWriter(to, descriptor if is_new_file else None)
            )
            return
        compressed = Compressed(to, compression)
        write(stores.images.blobs, images, ArchiveWriter(compressed.write))
        compressed.finish()

    output.write(path, "udocker save -o FILE IMAGE...", save)


def _chosen(stores: Stores, words: Sequence[str]) -> list[Chosen]:
    """Return the images, each once with all names that it was asked for by."""
    if not words:
        raise UsageError("save takes the names of images", hint="udocker images lists them")
    names: dict[str, list[Reference]] = {}
    found: dict[str, Image] = {}
    for word in words:
        image = stores.get_image(word)
        digest = image.manifest.digest.hex
        found.setdefault(digest, image)
        names.setdefault(digest, []).extend(_names(stores, word))
    return [
        Chosen(content_of(stores.images, image), tuple(dict.fromkeys(names[digest])))
        for digest, image in found.items()
    ]


def _names(stores: Stores, word: str) -> list[Reference]:
    """Return the name that a word is; an id is none, as docker sees it."""
    try:
        reference = stores.reference(word)
    except InvalidReference:
        return []
    return [reference] if stores.images.find(reference) else []


def _to_directory(stores: Stores, images: list[Chosen], path: str | None) -> None:
    """Write a layout's directory, which appears whole."""
    if path is None or path == "-":
        raise UsageError(
            "--format=oci-dir writes a directory", hint="udocker save -o DIRECTORY ..."
        )
    if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise UsageError(f"{path} is there already", hint="choose another directory, or remove it")
    draft = f"{path.rstrip('/')}.{disk.owner()}"
    try:
        os.mkdir(draft)
        try:
            write_oci_directory(stores.images.blobs, images, draft)
            os.rename(draft, path)
        except BaseException:
            trees.remove_tree(draft)
            raise
    except OSError as error:
        raise disk.output_error(error, path) from error
