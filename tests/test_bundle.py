"""OCI bundles: config.json as runc and crun read it, and where mounts go."""

import ast
import json
import os
import stat
import subprocess
import sys

import pytest

import udocker
from udocker.containers.spec import (
    Bind,
    ContainerEdits,
    Launch,
    Limit,
    Process,
    Rootfs,
    RuntimeSpec,
    Symlink,
    TextFile,
    Tmpfs,
    User,
)
from udocker.engines import bundle, launching, layout
from udocker.errors import StartError
from udocker.values import replace


@pytest.fixture
def spec(tmp_path):
    root = tmp_path / "root"
    for name in ("etc", "srv", "usr/lib"):
        (root / name).mkdir(parents=True)
    process = Process(("sh", "-c", "true"), (("PATH", "/bin"),), "/", User(0, 0, "root", "/root"))
    return RuntimeSpec(Rootfs(str(root), flat=True), process, scratch=f"{tmp_path}/scratch")


def config(spec, **how):
    env = spec.process.env
    given = {"faked": False, "terminal": False, **how}
    return json.loads(bundle.config(spec, spec.process.args, env, **given))


def mounts(spec):
    return {mount["destination"]: mount for mount in config(spec)["mounts"]}


def test_there_is_one_id_and_no_more_namespaces_than_asked_for(spec):
    linux = config(spec)["linux"]
    assert [entry["type"] for entry in linux["namespaces"]] == ["user", "mount"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
    apart = config(replace(spec, hostname="box", network="none"))
    kinds = {entry["type"] for entry in apart["linux"]["namespaces"]}
    assert kinds == {"user", "mount", "uts", "network"}
    assert apart["hostname"] == "box"


def test_root_of_the_container_has_the_rights_to_files_and_others_have_none(spec):
    allowed = config(spec)["process"]["capabilities"]["effective"]
    assert "CAP_DAC_OVERRIDE" in allowed and "CAP_SYS_ADMIN" not in allowed
    process = replace(spec.process, user=User(1000, 100, "", "/"))
    other = config(replace(spec, process=process))
    assert other["process"]["capabilities"]["effective"] == []
    assert other["linux"]["gidMappings"][0]["containerID"] == 100


def test_fake_root_is_a_filter_for_all_kinds_of_calls(spec):
    assert "seccomp" not in config(spec)["linux"]
    filters = config(spec, faked=True)["linux"]["seccomp"]
    names = {name for entry in filters["syscalls"] for name in entry["names"]}
    assert {"fchownat", "setgroups", "chown32", "mknodat"} <= names
    assert all(entry["errnoRet"] == 0 for entry in filters["syscalls"])
    nodes = [entry["args"][0] for entry in filters["syscalls"] if entry["names"] == ["mknodat"]]
    assert {(test["value"], test["valueTwo"]) for test in nodes} == {
        (0o170000, 0o020000),
        (0o170000, 0o060000),
    }
    assert len(filters["architectures"]) >= 2


def test_limits_are_written_and_that_of_open_files_always_is(spec):
    limits = {entry["type"]: entry for entry in config(spec)["process"]["rlimits"]}
    assert list(limits) == ["RLIMIT_NOFILE"]
    limited = replace(spec, limits=(Limit("core", 0, -1), Limit("nofile", 64, 128)))
    limits = {entry["type"]: entry for entry in config(limited)["process"]["rlimits"]}
    assert limits["RLIMIT_NOFILE"]["soft"] == 64
    assert limits["RLIMIT_CORE"]["hard"] == (1 << 64) - 1


def test_deeper_mounts_come_later_and_files_lie_beside_the_bundle(spec):
    edits = ContainerEdits(binds=(Bind("/usr", "/srv/a/b"), Bind("/etc", "/srv")))
    files = (TextFile("/etc/hosts", "text"),)
    whole = replace(spec, edits=edits, files=files, tmpfs=(Tmpfs("/srv/a"),))
    order = [mount["destination"] for mount in config(whole)["mounts"]]
    assert order.index("/srv") < order.index("/srv/a") < order.index("/srv/a/b")
    assert order.index("/dev") < order.index("/dev/shm")
    (_, config_text), (path, text) = bundle.files(whole, "{}")
    assert (config_text, text) == ("{}", "text")
    assert mounts(whole)["/etc/hosts"]["source"] == path
    assert "ro" in mounts(whole)["/etc/hosts"]["options"]


def test_destinations_are_free_of_the_images_links(spec):
    os.symlink("/run/resolv/stub", f"{spec.rootfs.tree}/etc/resolv.conf")
    os.symlink("../../../../etc", f"{spec.rootfs.tree}/srv/up")
    edits = ContainerEdits(
        binds=(Bind("/etc/hosts", "/etc/resolv.conf"), Bind("/usr", "/srv/up/x"))
    )
    found = mounts(replace(spec, edits=edits))
    assert "/run/resolv/stub" in found and "/etc/x" in found


def test_links_of_a_volume_are_followed_in_the_container(spec, tmp_path):
    (tmp_path / "volume").mkdir()
    os.symlink("/srv/target", tmp_path / "volume/link")
    binds = (Bind(str(tmp_path / "volume"), "/data"), Bind("/usr", "/data/link/x"))
    assert "/srv/target/x" in mounts(replace(spec, edits=ContainerEdits(binds=binds)))


@pytest.fixture
def injected(spec, tmp_path):
    """A spec with a link in /usr/bin to a program that lies in what is injected."""
    os.makedirs(f"{spec.rootfs.tree}/usr/bin")
    drawer = tmp_path / "links/bin"
    drawer.mkdir(parents=True)
    os.symlink("/run/udocker/gpu/host/sh", drawer / "smi")
    binds = (
        Bind(str(tmp_path / "links"), f"{layout.OWN}/gpu", readonly=True),
        Bind("/bin", f"{layout.OWN}/gpu/host", readonly=True),
    )
    link = Symlink("/usr/bin/smi", f"{layout.OWN}/gpu/bin/smi")
    return replace(spec, edits=ContainerEdits(binds=binds, symlinks=(link,)))


def test_a_link_to_what_is_injected_stands_in_the_containers_files(injected):
    place, target = f"{injected.rootfs.tree}/usr/bin/smi", f"{layout.OWN}/gpu/bin/smi"
    seen = layout.view(injected)
    assert seen.links == [(place, target)] and "/usr/bin/smi" not in mounts(injected)
    launch = Launch(("true",), links=tuple(seen.links))
    launching.make_links(launch)
    launching.make_links(launch)
    assert os.readlink(place) == target
    assert stat.S_ISREG(seen.status("/usr/bin/smi").st_mode)
    again = layout.view(injected)
    assert again.links == [] and again.placed == seen.placed


def test_directories_are_made_for_a_link_and_what_has_come_to_its_place_stays(tmp_path):
    launch = Launch(("true",), links=((f"{tmp_path}/a/b/link", "/run/udocker/x"),))
    launching.make_links(launch)
    assert os.readlink(tmp_path / "a/b/link") == "/run/udocker/x"
    (tmp_path / "a/b/link").unlink()
    (tmp_path / "a/b/link").write_text("the container's")
    launching.make_links(launch)
    assert (tmp_path / "a/b/link").read_text() == "the container's"


IN_ITS_PLACE = {
    "a file": lambda root, path: open(path, "w").close(),
    "another link": lambda root, path: os.symlink("/usr/bin/other", path),
    "files of an image": lambda root, path: None,
    "a directory of the host": lambda root, path: None,
    "a directory of the host by a link": lambda root, path: [
        os.rename(f"{root}/usr/bin", f"{root}/usr/old"),
        os.symlink("/srv/volume", f"{root}/usr/bin"),
    ],
}


@pytest.mark.parametrize("kind", IN_ITS_PLACE)
def test_where_a_link_has_no_place_what_it_leads_to_is_mounted(injected, tmp_path, kind):
    root = injected.rootfs.tree
    IN_ITS_PLACE[kind](root, f"{root}/usr/bin/smi")
    (tmp_path / "volume").mkdir()
    if "host" in kind:
        over = "/srv/volume" if "link" in kind else "/usr/bin"
        binds = (*injected.edits.binds, Bind(str(tmp_path / "volume"), over))
        injected = replace(injected, edits=replace(injected.edits, binds=binds))
    if "image" in kind:
        injected = replace(injected, rootfs=Rootfs(root))
    seen = layout.view(injected)
    assert seen.links == []
    assert os.path.samefile(seen.placed[-1].source, "/bin/sh") and seen.placed[-1].readonly
    real = {
        "another link": "/usr/bin/other",
        "a directory of the host by a link": "/srv/volume/smi",
    }
    assert seen.placed[-1].destination == real.get(kind, "/usr/bin/smi")
    assert os.listdir(tmp_path / "volume") == []


def test_a_volume_that_is_a_link_of_the_host_is_what_that_leads_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("x")
    os.symlink("real", tmp_path / "link")
    seen = layout.View(str(tmp_path / "root"))
    seen.place(layout.Mount("/data", str(tmp_path / "link")))
    assert seen.resolve("/data/file") == "/data/file"
    assert seen.status("/data/file").st_size == 1


def test_a_link_to_nothing_that_is_injected_is_refused(injected):
    links = (Symlink("/srv", f"{layout.OWN}/gpu/none"), Symlink("/usr/lib", f"{layout.OWN}/none"))
    for link in links:
        with pytest.raises(StartError, match="none, which is not in the container"):
            layout.view(replace(injected, edits=replace(injected.edits, symlinks=(link,))))


def test_what_was_mounted_last_shows(tmp_path):
    seen = layout.View(str(tmp_path))
    for place, source in (("/a/b", "/one"), ("/a", "/two"), ("/a/b/c", "/three"), ("/a/b", "")):
        seen.place(layout.Mount(place, source, kind="bind" if source else "tmpfs"))
        assert seen.host_path(f"{place}/x") == (f"{source}/x" if source else None)
    assert seen.host_path("/a/x") == "/two/x" and seen.host_path("/a") == "/two"
    assert seen.host_path("/a/b/c/x") is None and seen.host_path("/ab") == f"{tmp_path}/ab"


def test_a_circle_of_links_and_a_file_over_a_directory_are_refused(spec):
    os.symlink("b", f"{spec.rootfs.tree}/srv/a")
    os.symlink("a", f"{spec.rootfs.tree}/srv/b")
    for bind in (Bind("/usr", "/srv/a"), Bind("/etc/hosts", "/etc"), Bind("/usr", "/srv/..")):
        with pytest.raises(StartError):
            config(replace(spec, edits=ContainerEdits(binds=(bind,))))


def test_a_link_to_an_injected_file_is_the_same_file(spec):
    binds = (Bind("/usr/lib", "/run/udocker/lib", readonly=True),)
    links = (Symlink("/run/udocker/gpu/liba.so", "../lib/liba.so.1"),)
    found = mounts(replace(spec, edits=ContainerEdits(binds=binds, symlinks=links)))
    assert found["/run/udocker"]["type"] == "tmpfs"
    assert (
        found["/run/udocker/gpu/liba.so"]["source"] == os.path.realpath("/usr/lib") + "/liba.so.1"
    )
    nowhere = ContainerEdits(symlinks=(Symlink("/usr/lib/x", "not-there"),))
    with pytest.raises(StartError, match="not-there"):
        config(replace(spec, edits=nowhere))


def test_a_volume_brings_the_mounts_below_it_but_not_the_container_itself(spec, tmp_path):
    edits = ContainerEdits(binds=(Bind("/", "/host"), Bind(str(tmp_path), "/own")))
    found = mounts(replace(spec, edits=edits))
    assert "rbind" in found["/host"]["options"]
    assert "rbind" not in found["/own"]["options"]
    readonly = ContainerEdits(binds=(Bind("/dev", "/host", readonly=True),))
    below = mounts(replace(spec, edits=readonly))
    for point in layout.Points().below("/dev"):
        assert "ro" in below[f"/host{point[4:]}"]["options"]


def test_the_mounts_of_the_host_are_listed_as_the_kernel_does_whatever_their_names(tmp_path):
    place = tmp_path / "a b\tc\\d\n\udcff"
    script = """
import sys
from udocker.engines import layout
points, top = layout.Points(), sys.argv[1]
open(top + "/file", "w").close()
print(ascii([[*points.below(path)] for path in ("/", top, top + "/x", top + "/file")]))
"""
    inside = 'mkdir -p "$1/x" && mount -t tmpfs t "$1/x" && exec "$0" -c "$2" "$1"'
    words = ["unshare", "-rm", "sh", "-euc", inside, sys.executable, os.fsencode(place), script]
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(udocker.__file__))}
    done = subprocess.run(words, env=env, capture_output=True, timeout=60, check=True)
    everywhere, *rest = ast.literal_eval(done.stdout.decode())
    assert f"{place}/x" in everywhere and "/proc" in everywhere
    assert rest == [[f"{place}/x"], [], []]


def test_nothing_is_mounted_where_runc_refuses_it(spec, tmp_path):
    (tmp_path / "params").write_text("ModifyDeviceFiles: 0")
    bind = Bind(str(tmp_path / "params"), "/proc/driver/nvidia/params", readonly=True)
    found = mounts(replace(spec, edits=ContainerEdits(binds=(bind,))))
    assert [place for place in found if place.startswith("/proc/")] == []


def test_what_json_cannot_say_is_refused(spec):
    process = replace(spec.process, env=(("A", "\udcff"),))
    with pytest.raises(StartError, match="not UTF-8"):
        config(replace(spec, process=process))


def test_without_the_hosts_directories_there_is_only_what_was_asked_for(spec):
    bare = replace(spec, system_directories=False, tmpfs=(Tmpfs("/tmp"),))
    assert list(mounts(bare)) == ["/tmp"]
