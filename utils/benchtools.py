"""The tools that are measured, and what they share: a place, an image, an environment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
UID = 65532
NAME = "bench/debian"
TAG = "12"
LAYERS = (("usr/share",), ("usr/lib",), ("usr",), ("",))
"""Parts of the tree, one a layer: what an earlier one has is not in a later one."""
LEFT_OUT = ("dev", "proc", "sys", "var/cache/apt")
PULL_LIMIT_S = 600


class Refused(Exception):
    """A tool does not do this here; the text is its own last word."""


class Bench:
    """What all tools share: a place, the image as tree and in a registry, the environment."""

    def __init__(self, store: str, place: str | None = None) -> None:
        self.store = store
        self.image = os.path.join(store, "image")
        self.tree = os.path.join(self.image, "tree")
        self.layout = os.path.join(self.image, "layout")
        self.layout_tag = TAG
        self.name, self.tag = NAME, TAG
        self.place = place or store
        """Where the tools work."""
        self.scratch = os.path.join(self.place, f"s{os.getpid()}")
        self.registry = ""
        self.tls_registry = ""
        """The same by https, where openssl is there to make a certificate."""
        home = os.path.join(self.scratch, "home")
        self.env = {
            "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin",
            "HOME": home,
            "XDG_RUNTIME_DIR": os.path.join(home, "run"),
            "TMPDIR": os.path.join(home, "tmp"),
            "LANG": "C.UTF-8",
            **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
        }

    def fresh(self, name: str) -> str:
        """Return the path of a directory that is new."""
        path = os.path.join(self.scratch, name)
        remove(path)
        os.makedirs(path, mode=0o700)
        return path

    def run(self, argv: Sequence[str], **more: str) -> str:
        """Run a program to its end and return what it printed. Raises Refused."""
        done = subprocess.run(
            argv,
            env={**self.env, **more},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PULL_LIMIT_S,
            text=True,
            check=False,
        )
        if done.returncode:
            words = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise Refused(words[-1][-160:].replace("|", "/"))
        return done.stdout

    @property
    def reference(self) -> str:
        """The image's name with its registry."""
        return f"{self.registry}/{self.name}:{self.tag}"


class Tool:
    """A tool that is measured: how to start a container, and how to pull."""

    name = ""
    program = ""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.directory = ""
        """Where what it stores lies."""

    def is_there(self) -> bool:
        """Tell whether it is installed."""
        return shutil.which(self.program, path=self.bench.env["PATH"]) is not None

    def prepare(self) -> None:
        """What one does once, before containers are started."""

    def start(self) -> None:
        """Start a container and wait for its end."""
        raise NotImplementedError

    def execute(self, script: str) -> None:
        """Run a shell script in a container that is there."""
        raise NotImplementedError

    def fresh(self) -> None:
        """What one does before each pull: nothing is stored yet."""

    def pull(self) -> None:
        """Bring the image here, ready to run."""
        raise NotImplementedError

    def clear(self) -> None:
        """Throw away what a pull has brought."""
        if self.directory:
            remove(self.directory)

    def close(self) -> None:
        """Leave nothing behind but what lies in the scratch directory."""


class Floor(Tool):
    """An interpreter that does nothing: no tool in Python can be faster."""

    name = "python3 -I -c pass"
    program = "python3"

    def start(self) -> None:
        """Start an interpreter and wait for its end."""
        self.bench.run(["python3", "-I", "-c", "pass"])


class Udocker(Tool):
    """This checkout, installed as its users do."""

    name = "udocker"
    program = "sh"

    def prepare(self) -> None:
        """Install and pull."""
        self.fresh()
        self.pull()

    def fresh(self) -> None:
        """Start without images."""
        self.install()
        self.directory = self.bench.fresh("udocker")

    def pull(self) -> None:
        """Pull into an empty store."""
        self.udocker("pull", self.bench.reference)

    def start(self) -> None:
        """Run from the image."""
        self.udocker("run", "--rm", self.bench.reference, "/bin/true")

    def install(self) -> None:
        """This checkout is installed."""
        self._program = os.path.join(self.bench.scratch, "installed", "bin", "udocker")
        if os.path.exists(self._program):
            return
        script = os.path.join(CHECKOUT, "utils", "bootstrap.sh")
        prefix = os.path.join(self.bench.scratch, "installed")
        self.bench.run(["sh", script, "--prefix", prefix], UDOCKER_DIR=prefix)

    def udocker(self, *words: str) -> None:
        """Run it with its own store."""
        more = {"UDOCKER_DIR": self.directory, "UDOCKER_INSECURE": "1"}
        self.bench.run([self._program, *words], **more)


class OlderUdocker(Tool):
    """A udocker 1.3, named with --peer-udocker; it starts containers that were made before."""

    name = "udocker 1.3"

    def __init__(self, bench: Bench, program: str) -> None:
        super().__init__(bench)
        self.program = program

    def prepare(self) -> None:
        """Install its engines, pull, and make the container."""
        self.fresh()
        self.pull()

    def fresh(self) -> None:
        """Start without images."""
        self.directory = self.bench.fresh("older")

    def pull(self) -> None:
        """Pull, and make a container: before that nothing is unpacked."""
        image = f"{self.bench.name}:{self.bench.tag}"
        self._udocker("pull", f"--registry=http://{self.bench.registry}", image)
        self._udocker("create", "--name=bench", image)

    def start(self) -> None:
        """Run the container that was made before."""
        self._udocker("run", "--nobanner", "bench", "/bin/true")

    def _udocker(self, *words: str) -> None:
        self.bench.run([self.program, *words], UDOCKER_DIR=self.directory)


class Podman(Tool):
    """Podman as a user without subordinate ids has it, with the host's network."""

    name = "podman"
    program = "podman"
    folder = "podman"
    _runtime: Sequence[str] = ()
    _cgroups: Sequence[str] = ("--cgroups=disabled",)

    def prepare(self) -> None:
        """Pull; take runc where podman's first choice refuses this machine's cgroups."""
        self.fresh()
        self.pull()
        try:
            self.start()
        except Refused:
            self._runtime, self._cgroups = ["--runtime=runc"], []

    def fresh(self) -> None:
        """Start without images."""
        self.directory = self.bench.fresh(self.folder)
        places = ["--root", f"{self.directory}/graph", "--runroot", f"{self.directory}/r"]
        single_id = ["--storage-opt", "overlay.ignore_chown_errors=true"]
        self.command = [self.program, *places, "--storage-driver", "overlay", *single_id]

    def pull(self) -> None:
        """Pull into an empty store."""
        self._podman("pull", "--tls-verify=false", self.bench.reference)

    def start(self) -> None:
        """Run from the image."""
        host = ("--network=host", "--pull=never", *self._cgroups)
        # where the limits that it would set are higher than a user may have
        limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
        self._podman("run", "--rm", *host, *limits, self.bench.reference, "/bin/true")

    def close(self) -> None:
        """End the process that holds podman's user namespace, and what it leaves in memory."""
        pause = os.path.join(self.bench.env["XDG_RUNTIME_DIR"], "libpod", "tmp", "pause.pid")
        with contextlib.suppress(OSError, ValueError), open(pause) as file:
            os.kill(int(file.read()), signal.SIGTERM)
        if os.getuid() == UID:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"/dev/shm/libpod_rootless_lock_{UID}")

    def _podman(self, *words: str) -> None:
        self.bench.run([*self.command, *self._runtime, "--cgroup-manager=cgroupfs", *words])


class Bwrap(Tool):
    """Bubblewrap on the unpacked tree, read-only: the least that a sandbox can be."""

    name = "bwrap"
    program = "bwrap"

    def start(self) -> None:
        """Run in the tree."""
        self.bench.run(["bwrap", "--ro-bind", self.bench.tree, "/", "/bin/true"])


class Crun(Tool):
    """An OCI runtime on the unpacked tree."""

    name = "crun"
    program = "crun"

    def prepare(self) -> None:
        """Write the bundle."""
        self._bundle = self.bench.fresh(f"bundle-{self.name}")
        make = 'cd "$1" && "$2" spec --rootless'
        self.bench.run(["sh", "-c", make, "sh", self._bundle, self.program])
        path = os.path.join(self._bundle, "config.json")
        with open(path) as file:
            spec = json.load(file)
        spec["root"] = {"path": self.bench.tree, "readonly": True}
        spec["process"].update(args=["/bin/true"], terminal=False)
        with open(path, "w") as file:
            json.dump(spec, file)

    def start(self) -> None:
        """Run the bundle."""
        words = ["run", "--bundle", self._bundle, f"bench-{os.getpid()}"]
        self.bench.run([self.program, *self.options(), *words])

    def options(self) -> list[str]:
        """What it needs to run without cgroups of its own."""
        return ["--cgroup-manager=disabled"]


class Runc(Crun):
    """The other OCI runtime."""

    name = "runc"
    program = "runc"

    def options(self) -> list[str]:
        """Where it keeps its state; it does without cgroups by itself."""
        return ["--root", os.path.join(self.bench.scratch, "runc")]


class SkopeoUmoci(Tool):
    """skopeo into an OCI layout, umoci from there into a tree."""

    name = "skopeo + umoci"
    program = "umoci"

    def is_there(self) -> bool:
        """Tell whether both are installed."""
        return super().is_there() and bool(shutil.which("skopeo", path=self.bench.env["PATH"]))

    def fresh(self) -> None:
        """Start without images."""
        self.directory = self.bench.fresh("umoci")

    def pull(self) -> None:
        """Copy, then unpack."""
        layout = f"{self.directory}/layout:{TAG}"
        source = f"docker://{self.bench.reference}"
        policy = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false"]
        self.bench.run([*policy, source, f"oci:{layout}"])
        bundle = f"{self.directory}/bundle"
        self.bench.run(["umoci", "unpack", "--rootless", "--image", layout, bundle])


def make_image(bench: Bench) -> None:
    """The image lies in the store, as a tree and as an OCI layout of several layers."""
    if os.path.isdir(bench.layout):
        return
    remove(bench.image)
    os.makedirs(bench.image)
    if os.geteuid() != 0:
        raise SystemExit("bench: debootstrap makes Debian as root only: run this once as root")
    print("fetching Debian with debootstrap", file=sys.stderr)
    bench.run(["debootstrap", "--variant=minbase", "bookworm", bench.tree])
    os.chmod(bench.tree, 0o755)
    made = f"{bench.layout}.new"
    bench.run(["umoci", "init", "--layout", made])
    bench.run(["umoci", "new", "--image", f"{made}:{TAG}"])
    done: tuple[str, ...] = LEFT_OUT
    for number, parts in enumerate(LAYERS):
        layer = os.path.join(bench.image, f"layer{number}.tar")
        write_layer(layer, bench.tree, parts, done)
        bench.run(["umoci", "raw", "add-layer", "--image", f"{made}:{TAG}", layer])
        os.unlink(layer)
        done += parts
    # umoci keeps its layouts to itself, and another user will read this one
    bench.run(["chmod", "-R", "a+rX", bench.image])
    os.rename(made, bench.layout)


def write_layer(path: str, tree: str, parts: Sequence[str], without: Sequence[str]) -> None:
    """Write the `parts` of a tree, without those that another layer has, as a tar."""

    def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if member.name in without else member

    with tarfile.open(path, "w") as layer:
        for part in parts:
            for name in [part] if part else sorted(os.listdir(tree)):
                layer.add(os.path.join(tree, name), name, filter=wanted)


def free_address() -> str:
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def wait_for(address: str) -> None:
    """Return when something listens at `address`. Raises Refused after ten seconds."""
    host, _, port = address.partition(":")
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        time.sleep(0.05)
    raise Refused("docker-registry does not answer")


def remove(path: str) -> None:
    """Nothing is left at `path`, whatever modes its directories have."""
    for directory, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            os.chmod(directory, 0o700)
            for name in os.listdir(directory):
                below = os.path.join(directory, name)
                if os.path.isdir(below) and not os.path.islink(below):
                    os.chmod(below, 0o700)
    shutil.rmtree(path, ignore_errors=True)
