"""`udocker copy`."""

from __future__ import annotations

import os

import click

from udocker import console
from udocker.commands import reaching
from udocker.commands.digestfile import option as digestfile_option
from udocker.commands.digestfile import write as write_digest
from udocker.commands.stores import Stores
from udocker.errors import UsageError
from udocker.oci import Platform
from udocker.settings import Settings
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.oci import Digest
    from udocker.transfer.copying.ends import Opened
    from udocker.transfer.copying.places import Location


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Whole indexes, all platforms.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Of an index, the image for this.")
@reaching.options
@click.option("--src-tls-verify", type=bool, metavar="BOOL", help="As --tls-verify, for SOURCE.")
@click.option("--dest-tls-verify", type=bool, metavar="BOOL", help="... for DESTINATION.")
@click.option("--src-authfile", metavar="FILE", help="As --authfile, for SOURCE.")
@click.option("--dest-authfile", metavar="FILE", help="... for DESTINATION.")
@click.option("--signature-policy", metavar="FILE", help="Which images may be copied.")
@click.option("--allow-foreign", is_flag=True, help="Layers from where the image says.")
@click.option("--preserve-digests", is_flag=True, help="Accepted: nothing is ever changed.")
@click.option("-q", "--quiet", is_flag=True, help="Print the digest and nothing else.")
@digestfile_option
@click.option(
    "--jobs", type=click.IntRange(1, 64), metavar="N", help="Blobs on their way at once (4)."
)
@click.argument("source")
@click.argument("destination")
@click.pass_obj
def command(
    settings: Settings,
    /,
    source: str,
    destination: str,
    everything: bool,
    platform: str | None,
    signature_policy: str | None,
    allow_foreign: bool,
    preserve_digests: bool,
    quiet: bool,
    digestfile: str | None,
    jobs: int | None,
    **how: Any,
) -> None:
    """Copy an image, byte for byte, without unpacking it. Prints where to, and its digest.

    SOURCE and DESTINATION are docker://NAME (or just NAME) in a registry, oci:DIRECTORY[:TAG],
    oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], or udocker:NAME, an image of your own.
    """
    from udocker.transfer.copying import ends
    from udocker.transfer.copying.places import Location

    if everything and platform:
        raise UsageError("--all and --platform contradict each other")
    settings = replace(settings, quiet=settings.quiet or quiet, jobs=jobs or settings.jobs)
    settings = replace(settings, policy=signature_policy or settings.policy)
    settings = replace(settings, foreign_layers=settings.foreign_layers or allow_foreign)
    reading = reaching.applied(settings, **_of_end(how, "src", "dest"))
    writing = reaching.applied(settings, **_of_end(how, "dest", "src"))
    start, end = Location.parse(source), Location.parse(destination)
    stores = Stores(settings)
    wanted = Platform.parse(platform) if platform else Platform.of_machine(os.uname().machine)
    with ends.opened(reading, stores.images, start, wanted) as found:
        work = _Copy(writing, stores, wanted, everything=everything, strict=bool(platform))
        digest = work.run(found, end)
    write_digest(digestfile, digest)
    console.put(str(digest) if settings.quiet else f"{end} {digest}")


def _of_end(how: dict[str, Any], end: str, other: str) -> dict[str, Any]:
    """Return the options for one end of a copy, its own before those for both."""
    common = {key: value for key, value in how.items() if not key.startswith((end, other))}
    own = {key: how[f"{end}_{key}"] for key in ("tls_verify", "authfile")}
    return {**common, **{key: value for key, value in own.items() if value is not None}}


class _Copy:
    """What of the source is copied, and how."""

    def __init__(
        self,
        settings: Settings,
        stores: Stores,
        platform: Platform,
        *,
        everything: bool,
        strict: bool,
    ) -> None:
        self._settings = settings
        self._stores = stores
        self._platform = platform
        self._everything = everything
        self._strict = strict

    def run(self, found: Opened, end: Location) -> Digest:
        from udocker.transfer.copying.copy import copy, look_over
        from udocker.transfer.copying.ends import into_store, target_at
        from udocker.transfer.copying.places import STORE

        if end.transport == STORE:
            if self._everything:
                raise UsageError("an image of your own is for one platform", hint="without --all")
            return into_store(
                self._settings, self._stores.images, found, end, self._platform, strict=self._strict
            )
        platform = None if self._everything else self._platform
        survey = look_over(found.source, platform, strict=self._strict)
        if found.admission:
            found.admission.check(found.source.name, survey.digests)
        with target_at(self._settings, self._stores.images, end, found.source) as target:
            return copy(self._settings, found.source, target, survey).digest
