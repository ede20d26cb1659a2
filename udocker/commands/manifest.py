"""`udocker manifest`: what registries have, without pulling it."""

from __future__ import annotations

import sys

import click

from udocker import console, fastjson
from udocker.commands import reaching
from udocker.oci import INDEX_TYPES, OCI_MANIFEST, Descriptor, Index, Platform
from udocker.settings import Settings
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from udocker.transfer.source import RegistrySource


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look at manifests and indexes of a registry."""


@command.command()
@reaching.options
@click.option("--insecure", is_flag=True, help="Use http, and https without certificates.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Of an index, the manifest for this.")
@click.option("-v", "--verbose", is_flag=True, help="Descriptors too, and all that an index has.")
@click.option("--registry", "--index", metavar="HOST", help="Where a name without a host is.")
@click.argument("name")
@click.pass_obj
def inspect(
    settings: Settings,
    /,
    name: str,
    platform: str | None,
    verbose: bool,
    registry: str | None,
    insecure: bool,
    **how: Any,
) -> None:
    """Print the manifest or index that NAME has in its registry, byte for byte.

    Nothing is pulled. Written to a file or a pipe, its sha256sum is the image's digest.
    """
    from udocker.transfer.copying.ends import registry_source
    from udocker.transfer.resolve import narrow_strictly

    settings = reaching.applied(settings, registry=registry, **how)
    if insecure:
        settings = replace(settings, insecure=True)
    source = registry_source(settings, name)
    descriptor, data = source.document()
    if platform:
        wanted = Platform.parse(platform)
        descriptor, data = narrow_strictly(source, descriptor, data, wanted)
    if verbose:
        console.put(_indented(_described(source, descriptor, data)))
    elif sys.stdout is not None and sys.stdout.isatty():
        console.put(data.decode())
    else:
        console.put_bytes(data)


def _described(source: RegistrySource, descriptor: Descriptor, data: bytes) -> Any:
    """Return what docker's `--verbose` prints: of an index, a list with all that it has."""
    if descriptor.media_type in INDEX_TYPES:
        return list(_each(source, data))
    return _entry(source, descriptor, data)


def _each(source: RegistrySource, data: bytes) -> Iterator[Any]:
    from udocker.transfer.resolve import document

    for entry in Index.from_bytes(data).manifests:
        yield _entry(source, *document(source, entry))


def _entry(source: RegistrySource, descriptor: Descriptor, data: bytes) -> dict[str, Any]:
    kind = "OCIManifest" if descriptor.media_type == OCI_MANIFEST else "SchemaV2Manifest"
    kind = "Index" if descriptor.media_type in INDEX_TYPES else kind
    name = f"{source.reference.name}@{descriptor.digest}"
    return {"Ref": name, "Descriptor": descriptor.to_json(), kind: fastjson.loads(data)}


def _indented(value: Any) -> str:
    import json

    return json.dumps(value, indent=4, ensure_ascii=False)
