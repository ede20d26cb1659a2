"""`udocker gpu cdi`."""

from __future__ import annotations

import os

import click

from udocker import console, disk
from udocker.commands.options.files import host_path
from udocker.errors import GpuError, UsageError
from udocker.host.probe import Host
from udocker.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from udocker.nvidia.cdi.generate import Wish

_NAMES = ("index", "uuid", "both")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
@click.option("-o", "--output", metavar="FILE", help="Write FILE: whole, or not at all.")
@click.option(
    "--names", type=click.Choice(_NAMES), default="both", help="What GPUs are called, beside all."
)
@click.option("--vendor", default="nvidia.com", metavar="VENDOR", help="First part of the kind.")
@click.option("--class", "kind", default="gpu", metavar="CLASS", help="Second part of the kind.")
@click.option("--gpu-caps", metavar="LIST", help="Driver capabilities: compute,utility,...; all.")
@click.option(
    "--library-dir",
    "directories",
    multiple=True,
    metavar="DIR",
    help="Where libraries show in the container; else where usual loaders look.",
)
@click.option(
    "--hooks",
    metavar="PROGRAM",
    help="Let this nvidia-cdi-hook do the rest, as specifications of NVIDIA's do.",
)
@click.pass_obj
def command(settings: Settings, /, as_json: bool, output: str | None, **words: Any) -> None:
    """Print a CDI specification of this node's GPUs, which podman and others read.

    Put it where they look: /etc/cdi or /var/run/cdi; udocker looks in ~/.config/cdi, too. GPUs
    are numbered as nvidia-smi numbers those of the whole node, parts of GPUs as 0:1; what other
    jobs have is left out.
    No root and no program of NVIDIA's is needed.
    """
    from udocker.nvidia import driver, edits
    from udocker.nvidia.cdi import generate
    from udocker.nvidia.devices.gpus import find_gpus

    host = Host()
    cache = f"{settings.directory}/cache"
    environment = settings.environment
    found = edits.usable(host, driver.load(host, cache, environment), environment)
    gpus = find_gpus(host)
    if any(gpu.mig for gpu in gpus):
        from udocker.nvidia.devices import partnames

        gpus = partnames.with_names(gpus, found, host.boot_id, cache, ())
    if not any(gpu.accessible for gpu in gpus):
        raise GpuError("gpu: there is no GPU on this node that this user may open")
    try:
        made = generate.document(host, found, gpus, _wish(**words))
    except ValueError as error:
        raise UsageError(f"no specification can be made: {error}") from error
    text = generate.text(made, found.version, as_json=as_json)
    if output is None or output == "-":
        console.put(text.removesuffix("\n"))
        return
    path = host_path(output, "--output", environment)
    if os.path.lexists(path) and not os.path.isfile(path):
        raise UsageError(f"--output {path} is not a regular file")
    disk.write_whole(path, text.encode())


def _wish(
    names: str,
    vendor: str,
    kind: str,
    gpu_caps: str | None,
    directories: tuple[str, ...],
    hooks: str | None,
) -> Wish:
    from udocker.nvidia.cdi.generate import Wish
    from udocker.nvidia.driver import libraries

    for path in (*directories, hooks or "/"):
        if not path.startswith("/"):
            raise UsageError(f"{path!r} is not an absolute path")
    given = (
        {"capabilities": libraries.parse_capabilities(tuple(gpu_caps.split(",")))}
        if gpu_caps
        else {}
    )
    return Wish(
        kind=f"{vendor}/{kind}",
        by_index=names != "uuid",
        by_uuid=names != "index",
        hooks=hooks or "",
        library_directories=tuple(directories),
        **given,
    )
