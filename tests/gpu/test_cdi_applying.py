"""From devices of specifications to what shows in a container."""

from __future__ import annotations

import json
import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu import cdispecs, drivertree
from udocker.containers.spec import Bind, DeviceNode, Symlink, Tmpfs
from udocker.errors import StartError
from udocker.host import ldcache
from udocker.host.probe import Host
from udocker.host.root import Root
from udocker.nvidia import driver
from udocker.nvidia.cdi import applying, driverfiles, registry, spec, wish
from udocker.nvidia.cdi.hooks import emulate
from udocker.nvidia.cdi.surroundings import Surroundings
from udocker.nvidia.driver import hostlayout

LIBRARIES = f"/usr/lib/{drivertree.MACHINE}-linux-gnu"
FLAGS = ldcache.FLAGS[drivertree.MACHINE]
HOOK = "createContainer"


@pytest.fixture
def apply(tmp_path):
    """A function that applies devices of a specification to an empty image."""

    def apply_(value, *names, host=None, image=None, **words):
        specs = tmp_path / "specs"
        cdispecs.write(str(specs), "spec.json", value)
        wanted = names or tuple(f"{value['kind']}={device['name']}" for device in value["devices"])
        found = registry.scan((str(specs),)).resolve(wanted)
        tree = image or Root(str(tmp_path / "empty"))
        return applying.plan(host or Host(), found, tree, str(tmp_path / "cache"), **words)

    return apply_


def hook(*args, path="/usr/bin/nvidia-cdi-hook"):
    return {"hookName": HOOK, "path": path, "args": [os.path.basename(path), *args]}


def test_common_edits_come_once_and_before_those_of_devices(apply):
    value = {
        **cdispecs.minimal(),
        "containerEdits": {"env": ["A=common", "B=1"]},
        "devices": [
            {"name": name, "containerEdits": {"env": [f"A={name}"]}} for name in ("x", "y")
        ],
    }
    plan = apply(value, "vendor.com/net=y", "vendor.com/net=x")
    assert plan.edits.env == (("A", "common"), ("B", "1"), ("A", "y"), ("A", "x"))


def test_a_node_shows_at_its_path_from_its_host_path(apply):
    nodes = [{"path": "/dev/net0", "hostPath": "/dev/zero"}, {"path": "/dev/full"}]
    plan = apply(cdispecs.minimal(deviceNodes=nodes))
    assert plan.edits.device_nodes == (
        DeviceNode("/dev/zero", "/dev/net0"),
        DeviceNode("/dev/full", "/dev/full"),
    )
    assert plan.notes == ()


def test_of_nodes_and_mounts_at_one_path_the_last_counts(apply, tmp_path):
    value = cdispecs.minimal(
        deviceNodes=[{"path": "/dev/a", "hostPath": "/dev/full"}],
        mounts=[{"hostPath": "/usr", "containerPath": "/a"}],
    )
    value["containerEdits"] = {
        "deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/zero"}],
        "mounts": [
            {"hostPath": "/etc/passwd", "containerPath": "/a/b/c", "options": ["ro"]},
            {"hostPath": "/etc", "containerPath": "/a/./"},
        ],
    }
    plan = apply(value)
    assert plan.edits.device_nodes == (DeviceNode("/dev/full", "/dev/a"),)
    assert plan.edits.binds == (
        Bind("/usr", "/a"),
        Bind("/etc/passwd", "/a/b/c", readonly=True),
    )


def test_a_tmpfs_is_a_mount_too(apply):
    mount = {"hostPath": "tmpfs", "containerPath": "/scratch", "type": "tmpfs"}
    mount["options"] = ["nosuid", "size=1m", "mode=700", "ro"]
    assert apply(cdispecs.minimal(mounts=[mount])).tmpfs == (
        Tmpfs("/scratch", "size=1m,mode=700,ro"),
    )


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ({"deviceNodes": [{"path": "/dev/nosuch"}]}, "/dev/nosuch: No such file"),
        ({"deviceNodes": [{"path": "/etc/passwd"}]}, "/etc/passwd is not a device"),
        ({"deviceNodes": [{"path": "/dev/null", "type": "b"}]}, "/dev/null is not of type 'b'"),
        ({"mounts": [{"hostPath": "/nosuch", "containerPath": "/a"}]}, "/nosuch is not on this"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "/../"}]}, "the container's root"),
        (
            {"mounts": [{"hostPath": "/etc", "containerPath": "/a", "type": "overlay"}]},
            "a mount of type 'overlay' at /a needs root",
        ),
        ({"intelRdt": {"closID": "a"}}, "intelRdt of the container needs root"),
        ({"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}, "netDevices .* needs root"),
        (
            {"hooks": [hook("x", path="/opt/bin/vendor")]},
            "spec.json: the createContainer hook /opt",
        ),
        ({"hooks": [hook("dance")]}, "hook /usr/bin/nvidia-cdi-hook dance"),
        ({"hooks": [hook()]}, "hook /usr/bin/nvidia-cdi-hook "),
    ],
)
def test_what_cannot_be_honoured_is_told_with_its_file(apply, edits, says):
    with pytest.raises(StartError, match=says):
        apply(cdispecs.minimal(version="1.1.0", **edits))


def test_unknown_hooks_can_be_left_out(apply):
    value = cdispecs.minimal(hooks=[hook("x", path="/opt/bin/vendor")])
    plan = apply(value, ignore_hooks=True)
    assert len(plan.notes) == 1 and "/opt/bin/vendor" in plan.notes[0]


def test_a_node_with_another_number_than_was_written_is_told(apply):
    node = {"path": "/dev/zero", "type": "c", "major": 195, "minor": 5}
    assert "is 1:5, not 195:5" in apply(cdispecs.minimal(deviceNodes=[node])).notes[0]
    node["major"] = 1
    assert apply(cdispecs.minimal(deviceNodes=[node])).notes == ()


def test_groups_that_the_user_lacks_are_told(apply, monkeypatch):
    value = cdispecs.minimal(version="0.7.0", additionalGids=[44, 0, 109])
    monkeypatch.setattr(os, "getgroups", lambda: [44])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert apply(value).notes == (
        "cdi: the device wants members of group 109, which this user is not",
    )


def test_other_vendors_devices_need_nothing_of_nvidia(apply, tmp_path):
    for path in ("kfd", "dri/card0", "dri/renderD128", "dri/by-path/pci-0000:03:00.0-card"):
        drivertree.write(str(tmp_path / "host"), f"dev/{path}")
    host = Host(str(tmp_path / "host"))
    nodes = apply(cdispecs.amd(), host=host).edits.device_nodes
    assert [node.destination for node in nodes] == [
        *("/dev/kfd", "/dev/dri/card0", "/dev/dri/renderD128")
    ]
    edits = apply(cdispecs.intel(), host=host).edits
    assert [node.destination for node in edits.device_nodes] == [
        *("/dev/dri/card0", "/dev/dri/renderD128")
    ]
    assert [bind.destination for bind in edits.binds] == ["/dev/dri/by-path"]


@pytest.mark.parametrize("program", ["nvidia-cdi-hook", "nvidia-ctk"])
def test_the_hooks_of_nvidia_are_done_without_being_run(apply, machine, image, program):
    known = ldcache.serialize(ldcache.LdCache((ldcache.Entry("libc.so.6", "/lib/l", FLAGS),)))
    tree = image(files={"etc/ld.so.cache": known})
    host = machine()
    drivertree.write(host.root, "proc/driver/nvidia/params", "A: 1\nModifyDeviceFiles: 1\nB: 2\n")
    value = cdispecs.nvidia(directory=LIBRARIES, program=program)
    plan = apply(value, "nvidia.com/gpu=0", host=host, image=tree)
    shown = {bind.destination: bind.source for bind in plan.edits.binds}
    version = drivertree.VERSION
    assert set(plan.edits.symlinks) == {
        Symlink(f"{LIBRARIES}/libcuda.so", f"libcuda.so.{version}"),
        Symlink(f"{LIBRARIES}/libcuda.so.1", f"libcuda.so.{version}"),
        Symlink(f"{LIBRARIES}/libnvidia-ml.so.1", f"libnvidia-ml.so.{version}"),
    }
    with open(shown[ldcache.PATH], "rb") as file:
        merged = ldcache.parse(file.read())
    assert merged.paths("libcuda.so.1", FLAGS) == (f"{LIBRARIES}/libcuda.so.{version}",)
    assert merged.paths("libcuda.so", FLAGS) == (f"{LIBRARIES}/libcuda.so",)
    assert merged.paths("libc.so.6", FLAGS) == ("/lib/l",)
    with open(shown["/proc/driver/nvidia/params"], encoding="utf-8") as file:
        assert file.read() == "A: 1\nModifyDeviceFiles: 0\nB: 2\n"
    profile = "/etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf"
    with open(shown[profile], encoding="utf-8") as file:
        assert '"EGLVisibleDGPUDevices",0x1]' in file.read()
    assert plan.edits.library_dirs == (LIBRARIES,)


@pytest.mark.parametrize(("version", "first"), [("590.44.01", True), ("570.1.2", False)])
def test_the_images_newer_cuda_library_is_taken_by_nvidias_rule(
    apply, machine, image, version, first
):
    newer = f"usr/local/cuda-13.1/compat/libcuda.so.{version}"
    tree = image(files={newer: drivertree.stub_library("libcuda.so.1")})
    value = cdispecs.nvidia(directory=LIBRARIES)
    plan = apply(value, "nvidia.com/gpu=0", host=machine(), image=tree)
    source = next(bind.source for bind in plan.edits.binds if bind.destination == ldcache.PATH)
    with open(source, "rb") as file:
        found = ldcache.parse(file.read())
    host = f"{LIBRARIES}/libcuda.so.{drivertree.VERSION}"
    assert found.paths("libcuda.so.1", FLAGS) == (f"/{newer}" if first else host,)
    assert found.paths("libcuda.so", FLAGS) == (
        f"/{newer}" if first else f"{LIBRARIES}/libcuda.so",
    )
    assert bool(plan.notes) == first


def test_a_second_plan_reads_no_library(apply, machine, image, monkeypatch):
    host, tree = machine(), image()
    value = cdispecs.nvidia(directory=LIBRARIES)
    first = apply(value, "nvidia.com/gpu=0", host=host, image=tree)
    monkeypatch.setattr("udocker.host.elffacts.scan", None)
    assert apply(value, "nvidia.com/gpu=0", host=host, image=tree).edits == first.edits


def test_a_cache_that_is_planned_already_is_the_one_that_grows(apply, machine, image, tmp_path):
    planned = tmp_path / "planned.cache"
    entry = ldcache.Entry("libother.so.1", "/run/udocker/gpu/lib/libother.so.1", FLAGS)
    planned.write_bytes(ldcache.serialize(ldcache.LdCache((entry,))))
    value = cdispecs.nvidia(directory=LIBRARIES)
    words = {"host": machine(), "image": image(), "library_cache": str(planned)}
    plan = apply(value, "nvidia.com/gpu=0", **words)
    source = next(bind.source for bind in plan.edits.binds if bind.destination == ldcache.PATH)
    with open(source, "rb") as file:
        assert ldcache.parse(file.read()).paths("libother.so.1", FLAGS) == (entry.path,)


def test_links_are_made_in_the_container_only(apply, tmp_path):
    """A link below a mounted directory would lie in that directory, which is the host's."""
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    (vendor / "libx.so.1").write_bytes(b"")
    links = [f"libx.so.1::/opt/vendor/{name}" for name in ("liba.so", "sub/liba.so")]
    links += ["/opt/vendor/libx.so.1::/usr/lib/libx.so", "nowhere::/usr/lib/nothing", "a", "a::b"]
    words = [word for link in links for word in ("--link", link)]
    mount = {"hostPath": str(vendor), "containerPath": "/opt/vendor"}
    plan = apply(cdispecs.minimal(mounts=[mount], hooks=[hook("create-symlinks", *words)]))
    assert plan.edits.symlinks == (Symlink("/usr/lib/libx.so", "/opt/vendor/libx.so.1"),)
    assert [note for note in plan.notes if "/opt/vendor/liba.so is not made" in note]
    assert os.listdir(vendor) == ["libx.so.1"]


def test_links_that_lead_in_circles_are_left_out(apply):
    words = ["--link=b::/x/a", "--link=a::/x/b", "--link=/etc/passwd::/x/c"]
    assert apply(cdispecs.minimal(hooks=[hook("create-symlinks", *words)])).edits.symlinks == ()


def test_a_link_to_a_node_is_the_node_under_another_name(apply):
    """So that engines without links have it, too: NVIDIA's generator links /dev/dri/by-path."""
    words = ["--link", "../card1::/dev/dri/by-path/pci-0000:03:00.0-card"]
    node = {"path": "/dev/dri/card1", "hostPath": "/dev/zero"}
    value = cdispecs.minimal(deviceNodes=[node], hooks=[hook("create-symlinks", *words)])
    edits = apply(value).edits
    assert edits.symlinks == ()
    assert edits.device_nodes == (
        DeviceNode("/dev/zero", "/dev/dri/card1"),
        DeviceNode("/dev/zero", "/dev/dri/by-path/pci-0000:03:00.0-card"),
    )


@pytest.mark.parametrize(("mode", "told"), [("755", False), ("0755", False), ("777", True)])
def test_a_mode_that_is_not_so_already_is_told_to_need_root(apply, mode, told):
    value = cdispecs.minimal(hooks=[hook("chmod", "--mode", mode, "--path", "/dev/dri")])
    assert [("chmod needs root" in note) for note in apply(value).notes] == [True] * told


def test_links_with_sonames_alone_leave_the_cache_as_it_is(apply, machine, image):
    value = cdispecs.nvidia(directory=LIBRARIES)
    value["containerEdits"]["hooks"] = [hook("create-soname-symlinks", "--folder", LIBRARIES)]
    plan = apply(value, "nvidia.com/gpu=0", host=machine(), image=image())
    assert {link.path for link in plan.edits.symlinks} == {
        f"{LIBRARIES}/{name}" for name in ("libcuda.so.1", "libnvidia-ml.so.1")
    }
    assert ldcache.PATH not in {bind.destination for bind in plan.edits.binds}


WORDS = st.sampled_from(
    [
        *("create-symlinks", "update-ldcache", "enable-cuda-compat", "chmod", "hook", "--link"),
        *("--folder", "a::/usr/lib/b", "/usr/lib/b::/usr/lib/a", "::", "/", "/../..", "--folder=/"),
        *("--link=/usr/lib/a::/usr/lib/a", "--host-driver-version", "580.1", "-", "--", "\udc80"),
    ]
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(WORDS | st.text(max_size=6), max_size=6), max_size=5))
def test_whatever_hooks_are_told_they_stay_in_the_container(tmp_path, calls):
    hooks = tuple(("x.json", spec.Hook(HOOK, "/x/nvidia-cdi-hook", ("h", *a))) for a in calls)
    around = Surroundings(Host(), Root(str(tmp_path)), str(tmp_path / "cache"))
    made = emulate(hooks, around, ignore_unknown=True)
    for shown in (*made.edits.binds, *made.edits.device_nodes):
        assert shown.destination.startswith("/") and shown.destination != "/"
        assert ".." not in shown.destination.split("/")
    for link in made.edits.symlinks:
        assert os.path.normpath(link.path) == link.path != "/"


def choose(host, *names, directory="", **words):
    request = wish.CdiRequest(names, (str(directory),) if directory else (), **words)
    return wish.choose(host, request, os.path.join(host.root, "cache"), {})


@pytest.fixture
def node(machine):
    """A machine with a driver and its specification in /etc/cdi."""

    def make(version=drivertree.VERSION, **words):
        host = machine()
        value = cdispecs.nvidia(version, LIBRARIES, **words)
        cdispecs.write(f"{host.root}/etc/cdi", "nvidia.json", value)
        return host

    return make


def test_a_gpu_that_a_current_specification_has_is_taken_from_it(node):
    chosen = choose(node(), "nvidia.com/gpu=0")
    assert [found.device.name for found in chosen.devices] == ["0"]
    assert (chosen.left_gpus, chosen.notes) == (False, ())


def test_a_gpu_of_a_stale_specification_is_left_to_the_discovery_and_told(node):
    chosen = choose(node("570.1.2"), "nvidia.com/gpu=0")
    assert chosen.left_gpus and chosen.devices == ()
    text = "is of driver 570.1.2, but 580.159.04 is loaded: GPUs are found without it"
    assert len(chosen.notes) == 1 and text in chosen.notes[0]


def test_a_specification_of_which_a_file_is_gone_is_stale(node):
    host = node()
    os.unlink(f"{host.root}{LIBRARIES}/libnvidia-ml.so.{drivertree.VERSION}")
    chosen = choose(host, "nvidia.com/gpu=0")
    assert chosen.left_gpus and "is stale, for" in chosen.notes[0]
    assert driverfiles.find(host, drivertree.VERSION) is None


def test_a_gpu_that_no_specification_has_is_left_to_the_discovery(node):
    host = node()
    assert choose(host, "nvidia.com/gpu=7") == wish.Chosen((), left_gpus=True)
    known = wish.Chosen((), left_gpus=True, described=True)
    assert choose(host, "nvidia.com/gpu=0", own_gpus=True) == known


def test_another_jobs_gpu_is_left_to_the_discovery(node, monkeypatch):
    host = node()
    monkeypatch.setattr(os, "access", lambda path, _: not path.endswith("nvidia0"))
    chosen = choose(host, "nvidia.com/gpu=0")
    assert chosen.left_gpus and "is not this job's" in chosen.notes[0]


def test_gpus_and_devices_of_others_can_be_wished_together(node, tmp_path):
    directory = tmp_path / "more"
    cdispecs.write(str(directory), "x.json", cdispecs.minimal())
    host = node()
    chosen = choose(host, "vendor.com/net=x", "nvidia.com/gpu=0", directory=directory)
    assert [found.device.name for found in chosen.devices] == ["x", "0"]
    chosen = choose(host, "vendor.com/net=x", "nvidia.com/gpu=9", directory=directory)
    assert [found.device.name for found in chosen.devices] == ["x"] and chosen.left_gpus
    with pytest.raises(StartError, match="vendor.com/net=y"):
        choose(host, "vendor.com/net=y", "nvidia.com/gpu=0", directory=directory)


def test_the_specification_of_the_loaded_driver_lists_its_files(node):
    host = node()
    found = driverfiles.find(host, drivertree.VERSION)
    assert found.source == f"{host.root}/etc/cdi/nvidia.json"
    assert [os.path.basename(path) for path in found.libraries] == [
        f"libcuda.so.{drivertree.VERSION}",
        f"libnvidia-ml.so.{drivertree.VERSION}",
        "libnvidia-nvvm70.so.4",
    ]
    assert all(stat.S_ISREG(os.stat(path).st_mode) for path in found.libraries)
    assert found.binaries == (f"{host.root}/usr/bin/nvidia-smi",)
    assert driverfiles.find(host, "570.1.2") is None


def test_a_driver_is_found_anew_when_a_specification_has_changed(node, tmp_path):
    assert hostlayout.CDI_DIRECTORIES == registry.SYSTEM_DIRECTORIES
    host, kept = node(), str(tmp_path / "kept")
    before = driver.load(host, kept).key
    assert driver.load(host, kept).key == before
    path = f"{host.root}/etc/cdi/nvidia.json"
    with open(path, "a", encoding="utf-8") as file:
        file.write(" ")
    after = driver.load(host, kept).key
    assert after != before
    cdispecs.write(f"{host.root}/var/run/cdi", "other.json", json.dumps(cdispecs.minimal()))
    assert driver.load(host, kept).key not in (before, after)
