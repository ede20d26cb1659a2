"""Many who use one store at once: killed at any instant, on several hosts, without locks."""

import json
import os
import random
import subprocess

import pytest
from images import add_image
from registries import DockerRegistry, Layout, Proxy, needs
from tarballs import archive, file, folder

from udocker.registry.loopback import LoopbackRegistry

BASE = archive(folder("etc"), *(file(f"etc/{n}", b"%d" % n * 2000) for n in range(60)))
NOISE = random.Random(4).randbytes(300_000)
KILLS = int(os.environ.get("UDOCKER_TEST_KILLS", "200"))

KILLED = """
import os, random, signal, sys, time
from udocker import console, settings
from udocker.commands.stores import Stores
console.say = console.warn = lambda text: None
rounds, seed, *names = sys.argv[1:]
chance = random.Random(int(seed))
stores = Stores(settings.load({"quiet": True}))

def work():
    name = chance.choice(names)
    if chance.random() < 0.7 and stores.find_image(name):
        stores.remove_names(name, force=True)
        stores.collect()
    stores.pull(name)

def timed():
    stores.pull(names[0])
    begun = time.monotonic()
    stores.remove_names(names[0], force=True); stores.collect(); stores.pull(names[0])
    return time.monotonic() - begun

whole_s, done = timed(), 0
for number in range(int(rounds)):
    chance.random()
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), getattr(error, "hint", ""), file=sys.stderr)
            os._exit(1)
    time.sleep(chance.random() * whole_s * 1.2)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    done += os.WIFSIGNALED(status)
    for image in stores.images.images():
        assert stores.images.is_whole(image), (number, image)
print(done)
"""


@pytest.fixture
def layout(tmp_path):
    layout = Layout(str(tmp_path / "layout"))
    for number in range(3):
        own = archive(file(f"own{number}", NOISE), file("who", b"%d" % number))
        add_image(layout, f"n{number}", [BASE, own], Env=["PATH=/bin"])
    return layout


@pytest.fixture
def registry(layout):
    with LoopbackRegistry(layout.directory) as host:
        yield [f"{host}/img:n{number}" for number in range(3)]


def in_order(user, names):
    """The next commands use the store, all of it is as it has to be, and nothing lies about."""
    for name in names:
        user.udocker("pull", "-q", name)
    assert user.udocker("verify", "--deep").returncode == 0
    user.udocker("prune", "-f")
    assert os.listdir(f"{user.udocker_dir}/partial") == []
    known = {"content", "index"}
    assert set(os.listdir(f"{user.udocker_dir}/locks")) <= known
    layout = f"{user.udocker_dir}/images"
    with open(f"{layout}/index.json") as index:
        listed = [entry["annotations"] for entry in json.load(index)["manifests"]]
    assert sorted(m["org.opencontainers.image.ref.name"] for m in listed) == sorted(names)
    assert len(os.listdir(f"{user.udocker_dir}/trees")) == len(names)
    assert len(os.listdir(f"{layout}/blobs/sha256")) == 3 * len(names) + 1
    user.udocker("rmi", "--all")
    for directory in ("trees", "records", "names", "partial", "images/blobs/sha256"):
        assert os.listdir(f"{user.udocker_dir}/{directory}") == []


def test_a_store_is_whole_after_a_kill_at_any_instant(unprivileged, registry):
    command = [unprivileged.python, "-c", KILLED, str(KILLS), "7", *registry]
    done = unprivileged.run(command, timeout=600)
    assert int(done.stdout) > KILLS // 10  # the others ended before they were killed
    for lock in os.scandir(f"{unprivileged.udocker_dir}/locks"):
        os.utime(lock, (0, 0))  # those of killed pulls are removed when they are old
    in_order(unprivileged, registry)


def together(user, commands, **options):
    """All commands at once; return what each of them said."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [user.popen(words, **streams, **options) for words in commands]
    said = [process.communicate() for process in running]
    codes = [process.returncode for process in running]
    assert not any(codes), [one for one, code in zip(said, codes) if code]
    return said


def test_32_processes_pull_the_same_and_different_images_at_once(unprivileged, registry):
    pull = [unprivileged.python, "-m", "udocker", "pull", "-q"]
    together(unprivileged, [[*pull, registry[n % 3]] for n in range(32)])
    in_order(unprivileged, registry)


def test_of_several_who_pull_one_layer_one_downloads_it(unprivileged, tmp_path, layout):
    with DockerRegistry(tmp_path / "registry") as server:
        for number in range(3):
            server.push(layout, f"n{number}", f"img{number}:1")
        with Proxy(server.host) as proxy:
            pull = [unprivileged.python, "-m", "udocker", "pull", "-q"]
            names = [f"{proxy.host}/img{n % 3}:1" for n in range(6)]
            together(unprivileged, [[*pull, name] for name in names])
            asked = [a.path for a in proxy.asked if "/blobs/" in a.path and a.method == "GET"]
    blobs = [path.rpartition("/")[2] for path in asked]
    shared = layout.manifests[0]
    base = json.loads(layout.read(shared))["layers"][0]["digest"]
    assert blobs.count(base) == 1


HOST = 'hostname "$0"; exec "$@"'
NO_LOCKS = """
import errno, fcntl
def flock(fd, how):
    {does}
fcntl.flock = flock
"""


@pytest.mark.parametrize("does", ["raise OSError(errno.ENOLCK, 'No locks available')", "pass"])
def test_hosts_whose_locks_do_nothing_lose_nothing_of_each_other(
    unprivileged, registry, does, tmp_path
):
    """As on NFS without lockd, and with locks that other hosts do not see (localflock)."""
    needs("unshare", "hostname")
    place = f"{unprivileged.home}/site"
    os.mkdir(place)
    with open(f"{place}/sitecustomize.py", "w") as module:
        module.write(NO_LOCKS.format(does=does))
    os.chmod(place, 0o755)
    path = f"{place}:{unprivileged.environment()['PYTHONPATH']}"
    commands = []
    for number in range(8):
        words = ["pull", "-q", registry[number % 3]]
        if number % 4 == 3:
            words = ["prune", "-f"]
        host = ["unshare", "-r", "-u", "sh", "-c", HOST, f"node{number}"]
        commands.append([*host, unprivileged.python, "-m", "udocker", "--allow-root", *words])
    together(unprivileged, commands, env={"PYTHONPATH": path})
    assert names(unprivileged) == registry
    assert unprivileged.udocker("verify").returncode == 0
    unprivileged.udocker("rmi", "-f", registry[0])
    in_order(unprivileged, registry)


def names(user):
    return user.udocker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
