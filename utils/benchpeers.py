"""The tools that pull, and the least that a pull can be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence

import benchfloor
from benchtools import Bench, OlderUdocker, Podman, Refused, SkopeoUmoci, Tool, Udocker, remove

UTILS = os.path.dirname(os.path.abspath(__file__))
WITHOUT = (
    "import sys; sys.modules.update(isal=None, zlib_ng=None); "
    "from udocker.__main__ import main; main()"
)


class Floor(Tool):
    """Download, inflate, write the same files: what benchfloor.py does."""

    name = "floor, unchecked"
    program = "python3"
    words: Sequence[str] = ()

    def prepare(self) -> None:
        """Find out where in the layers the files lie."""
        Udocker(self.bench).install()
        self._plan = os.path.join(self.bench.scratch, "plan.json")
        with open(self._plan, "w") as file:
            json.dump(benchfloor.plan(self.bench.layout, self.bench.layout_tag), file)

    def fresh(self) -> None:
        """Start without files."""
        self.directory = self.bench.fresh("floor")

    def pull(self) -> None:
        """Run it in the Python of the installed udocker."""
        address, _, name = self.bench.reference.partition("/")
        script = os.path.join(UTILS, "benchfloor.py")
        words = [*self.words, address, name, self._plan, self.directory]
        _run_installed(self.bench, [script, *words])


class CheckedFloor(Floor):
    """The same with both digests compared, and blobs kept."""

    name = "floor"
    words = ("--checked",)


class PlainUdocker(Udocker):
    """This checkout where no wheel of isal or zlib-ng is to be had."""

    name = "udocker, zlib"

    def udocker(self, *words: str) -> None:
        """Run it with its own store, by the Python that it is installed in."""
        more = {"UDOCKER_DIR": self.directory, "UDOCKER_INSECURE": "1"}
        _run_installed(self.bench, ["-c", WITHOUT, *words], **more)


class Again(Udocker):
    """A second pull of what is there already."""

    name = "udocker, no-op"

    def fresh(self) -> None:
        """Start with the image."""
        self.install()
        self.directory = os.path.join(self.bench.scratch, "udocker-again")
        if not os.path.isdir(self.directory):
            self.bench.fresh("udocker-again")
            super().pull()

    def clear(self) -> None:
        """Keep the image."""

    def close(self) -> None:
        """Leave nothing for the next image."""
        remove(self.directory)


class Second(Again):
    """A further container of an image that is there."""

    name = "udocker, 2nd container"

    def pull(self) -> None:
        """Make it."""
        self.udocker("create", self.bench.reference)


class PodmanAgain(Podman):
    """A second pull of what is there already."""

    name = "podman, no-op"
    folder = "podman2"

    def fresh(self) -> None:
        """Start with the image."""
        if not self.directory:
            super().fresh()
            super().pull()

    def clear(self) -> None:
        """Keep the image."""

    def close(self) -> None:
        """Leave nothing for the next image."""
        super().close()
        remove(self.directory)


class Buildah(Podman):
    """Buildah, which has podman's storage, with the same settings."""

    name = "buildah"
    program = "buildah"
    folder = "buildah"

    def pull(self) -> None:
        """Pull into an empty store."""
        self.bench.run([*self.command, "pull", "--tls-verify=false", self.bench.reference])


class Charliecloud(Tool):
    """ch-image without its build cache, which would double the work. It speaks https only."""

    name = "ch-image"
    program = "ch-image"

    def fresh(self) -> None:
        """Start without images."""
        self.directory = self.bench.fresh("charliecloud")

    def pull(self) -> None:
        """Pull and unpack."""
        if not self.bench.tls_registry:
            raise Refused("it needs a registry with https, for which openssl is missing")
        more = {"USER": "bench", "CH_IMAGE_STORAGE": f"{self.directory}/storage"}
        # its interpreter is the one that Debian's modules belong to
        more["PATH"] = f"/usr/bin:{self.bench.env['PATH']}"
        name = f"{self.bench.tls_registry}/{self.bench.name}:{self.bench.tag}"
        self.bench.run(["ch-image", "pull", "--no-cache", "--tls-no-verify", name], **more)


class FetchedUdocker(OlderUdocker):
    """udocker 1.3.17 from the package index, in an environment of its own."""

    def __init__(self, bench: Bench) -> None:
        environment = os.path.join(bench.scratch, "older-env")
        super().__init__(bench, os.path.join(environment, "bin", "udocker"))
        self._environment = environment

    def is_there(self) -> bool:
        """Tell whether it can be installed, most likely."""
        return True

    def fresh(self) -> None:
        """Install it once; start without images."""
        if not os.path.exists(self.program):
            self.bench.run(["python3", "-m", "venv", self._environment])
            pip = [f"{self._environment}/bin/python", "-m", "pip", "install", "-q"]
            self.bench.run([*pip, "udocker==1.3.17"])
        super().fresh()


KINDS: tuple[Callable[[Bench], Tool], ...] = (
    CheckedFloor,
    Floor,
    Udocker,
    PlainUdocker,
    SkopeoUmoci,
    Podman,
    Buildah,
    Charliecloud,
    Again,
    PodmanAgain,
    Second,
)


def tools_of(bench: Bench, older: str | None, wanted: Sequence[str] | None) -> list[Tool]:
    """Return the tools whose names begin with one of the words that are `wanted`, or all."""
    tools = [kind(bench) for kind in KINDS]
    if older:
        peer = FetchedUdocker(bench) if older == "fetch" else OlderUdocker(bench, older)
        tools.insert(-3, peer)
    names = tuple(wanted or [""])
    return [tool for tool in tools if tool.name.startswith(names)]


def _run_installed(bench: Bench, words: Sequence[str], **more: str) -> None:
    """Run Python as the installed udocker has it: the same interpreter, the same libraries."""
    environment = os.path.join(bench.scratch, "installed", "env")
    with open(os.path.join(environment, "python")) as file:
        python = file.read().strip()
    bench.run([python, "-S", *words], PYTHONPATH=os.path.join(environment, "lib"), **more)
