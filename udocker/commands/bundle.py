"""`udocker bundle`."""

from __future__ import annotations

import click

from udocker import console
from udocker.host.probe import Host
from udocker.provision import bundle
from udocker.settings import Settings


@click.command()
@click.option("-o", "--output", metavar="FILE", help="Where to; udocker-bundle-ARCH.tar.gz.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.pass_obj
def command(settings: Settings, names: tuple[str, ...], output: str | None) -> None:
    """Pack what `udocker install` brought, for machines without network.

    There `udocker install --from FILE` installs it.
    """
    machine = Host().machine
    path = output or f"udocker-bundle-{machine}.tar.gz"
    packed = bundle.write(settings.directory, path, names, machine)
    if not settings.quiet:
        for found in packed:
            console.say(f"{found.name} {found.version or '(of this host)'}")
    console.put(path)
