"""`udocker gpu cdi`: specifications that this node's GPUs are described by, read by others too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile

import pytest
from registries import needs

from gpu import cdispecs, drivertree, drivervariants, kerneltree, test_cdi_run
from gpu.test_fakenode import FAKENODE, PROJECT
from udocker.host import ldcache
from udocker.host.root import Root
from udocker.nvidia import driver
from udocker.nvidia.cdi import applying, generate, registry, spec, yamlfile
from udocker.nvidia.devices.gpus import find_gpus

LIBRARIES = f"/usr/lib/{drivertree.MACHINE}-linux-gnu"
VERSION = drivertree.VERSION
HOOK = "/usr/bin/nvidia-cdi-hook"


@pytest.fixture
def made(machine):
    """A function that makes a specification of a machine with two GPUs."""

    def make(layout="deb", **words):
        host = machine(layout, gpus=2)
        return generate.document(
            host, driver.find(host), find_gpus(host), generate.Wish(**words)
        ), host

    return make


def shown(value):
    return {a["containerPath"]: a["hostPath"] for a in value["containerEdits"]["mounts"]}


@pytest.mark.parametrize("layout", ["deb", "rhel", "usrlocal"])
def test_libraries_show_by_name_where_loaders_of_each_family_look(made, layout):
    value, host = made(layout)
    mounts = shown(value)
    for place in (LIBRARIES, "/usr/lib64"):
        for name in ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvidia-nvvm70.so.4"):
            source = mounts[f"{place}/{name}"]
            assert os.path.isfile(host.path(source)) and not source.startswith(host.root)
        assert mounts[f"{place}/vdpau/libvdpau_nvidia.so.1"].endswith(f".so.{VERSION}")
    assert mounts["/usr/bin/nvidia-smi"].endswith("/bin/nvidia-smi")
    assert "hooks" not in value["containerEdits"]


def test_every_gpu_has_a_number_and_a_uuid_and_all_have_a_name_together(made):
    value, _ = made()
    devices = {a["name"]: a["containerEdits"]["deviceNodes"] for a in value["devices"]}
    assert devices == {
        "0": [{"path": "/dev/nvidia1"}],
        drivertree.uuid(1): [{"path": "/dev/nvidia1"}],
        "1": [{"path": "/dev/nvidia0"}],
        drivertree.uuid(0): [{"path": "/dev/nvidia0"}],
        "all": [{"path": "/dev/nvidia1"}, {"path": "/dev/nvidia0"}],
    }
    assert [a["path"] for a in value["containerEdits"]["deviceNodes"]] == [
        *("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
    ]


def test_names_kind_capabilities_and_places_can_be_chosen(made):
    value, _ = made(
        kind="site.org/accelerator",
        by_uuid=False,
        capabilities=("utility",),
        library_directories=("/opt/driver",),
    )
    assert value["kind"] == "site.org/accelerator"
    assert [device["name"] for device in value["devices"]] == ["0", "1", "all"]
    mounts = shown(value)
    assert "/opt/driver/libnvidia-ml.so.1" in mounts
    assert not [path for path in mounts if "libcuda" in path or path.startswith("/usr/lib")]


def test_libraries_of_32_bits_come_where_they_are_asked_for(machine, tmp_path):
    host = machine()
    drivervariants.add_twins(host.root, "deb")
    both = ("compute", "compat32")
    smaller = ldcache.COMPAT32[drivertree.MACHINE]
    place32 = ldcache.default_directories(smaller)[1]
    for hooks in ("", HOOK):
        wish = generate.Wish(capabilities=both, hooks=hooks)
        value = generate.document(host, driver.find(host), find_gpus(host), wish)
        name = f"libcuda.so.{VERSION}" if hooks else "libcuda.so.1"
        assert f"{place32}/{name}" in shown(value)
    cdispecs.write(str(tmp_path / "cdi"), "nvidia.json", value)
    found = registry.scan((str(tmp_path / "cdi"),)).resolve(["nvidia.com/gpu=0"])
    plan = applying.plan(host, found, Root(str(tmp_path)), str(tmp_path / "cache"))
    source = next(bind.source for bind in plan.edits.binds if bind.destination == ldcache.PATH)
    with open(source, "rb") as file:
        merged = ldcache.parse(file.read())
    for size, place in ((drivertree.MACHINE, LIBRARIES), (smaller, place32)):
        path = f"{place}/libcuda.so.{VERSION}"
        assert merged.paths("libcuda.so.1", ldcache.FLAGS[size]) == (path,)


def test_a_kind_that_is_none_is_refused(made):
    with pytest.raises(ValueError, match="does not begin with a letter"):
        made(kind="1/gpu")


def test_rendering_nodes_of_a_gpu_come_with_it(machine):
    host = machine()
    for path in ("sys/bus/pci/devices/0000:22:00.0/drm/card7/x", "dev/dri/card7"):
        drivertree.write(host.root, path)
    wish = generate.Wish(by_uuid=False)
    value = generate.document(host, driver.find(host), find_gpus(host), wish)
    nodes = value["devices"][0]["containerEdits"]["deviceNodes"]
    assert nodes == [
        {"path": "/dev/nvidia0"},
        {"path": "/dev/dri/card7"},
        {"path": "/dev/dri/by-path/pci-0000:22:00.0-card", "hostPath": "/dev/dri/card7"},
    ]


def test_the_parts_of_a_gpu_in_mig_mode_take_its_place(machine):
    host = machine(gpus=2, mig={1: {7: 1, 8: 1}})
    value = generate.document(host, driver.find(host), find_gpus(host), generate.Wish())
    nodes = {
        a["name"]: [node["path"] for node in a["containerEdits"]["deviceNodes"]]
        for a in value["devices"]
    }
    caps = [
        f"/dev/nvidia-caps/nvidia-cap{kerneltree.gi_minor(1, gi) + n}"
        for gi in (7, 8)
        for n in (0, 1)
    ]
    assert nodes == {
        "0:0": ["/dev/nvidia1", *caps[:2]],
        "0:1": ["/dev/nvidia1", *caps[2:]],
        "1": ["/dev/nvidia0"],
        drivertree.uuid(0): ["/dev/nvidia0"],
        "all": ["/dev/nvidia1", *caps, "/dev/nvidia0"],
    }


@pytest.mark.parametrize("hooks", ["", HOOK])
def test_what_is_made_can_be_applied_again(made, hooks, tmp_path):
    """With hooks, libraries stay where the host has them, and what we do as hooks finds them."""
    value, host = made(hooks=hooks)
    os.makedirs(tmp_path / "cdi")
    (tmp_path / "cdi" / "nvidia.yaml").write_text(generate.text(value, VERSION, as_json=False))
    known = registry.scan((str(tmp_path / "cdi"),))
    assert known.faults == ()
    plan = applying.plan(
        host, known.resolve(["nvidia.com/gpu=0"]), Root(str(tmp_path)), str(tmp_path / "cache")
    )
    places = {bind.destination for bind in plan.edits.binds}
    places.update(link.path for link in plan.edits.symlinks)
    assert {f"{LIBRARIES}/{name}" for name in ("libcuda.so", "libcuda.so.1")} < places
    assert f"{LIBRARIES}/gbm/nvidia-drm_gbm.so" in places
    assert ("/etc/ld.so.cache" in places) == bool(hooks)


def test_yaml_and_json_say_the_same_and_yaml_says_why(made):
    value, _ = made()
    text = generate.text(value, VERSION, as_json=False)
    assert yamlfile.loads(text.encode()) == value
    assert json.loads(generate.text(value, VERSION, as_json=True)) == value
    assert text.startswith(f"# GPUs of this node with driver {VERSION}")
    assert spec.parse(value).version == "0.5.0"


pod = pytest.mark.root


@pytest.fixture
def node(tmp_path):
    """A function that runs a shell script on this machine dressed as a node of two GPUs."""
    needs("gcc", "unshare")
    udocker = f"{sys.executable} -m udocker"

    def run(script, options=("--null-nodes",), check=True, **kernel):
        tree = str(tmp_path / "tree")
        if not os.path.exists(tree):
            drivertree.build(tree, gpus=2, **kernel)
            os.makedirs(f"{tree}/etc/cdi")
        words = ["bash", FAKENODE, *options, tree, "bash", "-c", script]
        environment = {**os.environ, "PYTHONPATH": PROJECT, "U": udocker, "D": str(tmp_path)}
        environment["UDOCKER_DIR"] = str(tmp_path / "udocker")
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pod
def test_the_command_prints_or_writes_the_nodes_specification(node, tmp_path):
    node("$U gpu cdi >$D/printed; $U gpu cdi --json >$D/json; $U gpu cdi -o $D/written")
    printed, of_json, written = (
        (tmp_path / a).read_bytes() for a in ("printed", "json", "written")
    )
    assert printed == written
    value = yamlfile.loads(printed)
    assert value == json.loads(of_json)
    assert [device["name"] for device in value["devices"]] == [
        *("0", drivertree.uuid(1), "1", drivertree.uuid(0), "all")
    ]


@pod
def test_parts_are_named_as_nvml_names_them(node, tmp_path):
    node("$U gpu cdi --json -o $D/json", mig={1: {7: 1, 8: 1}})
    value = json.loads((tmp_path / "json").read_bytes())
    assert {device["name"] for device in value["devices"]} == {
        *("0:0", "0:1", "1", "all", drivertree.uuid(0)),
        *(kerneltree.mig_uuid(1, gi) for gi in (7, 8)),
    }


@pod
def test_a_user_describes_what_the_job_may_open(unprivileged, tmp_path):
    tree = drivertree.build(str(tmp_path / "tree"), gpus=2)
    become = [f"--reuid={unprivileged.uid}", f"--regid={unprivileged.gid}", "--clear-groups"]
    udocker = ["setpriv", *become, unprivileged.python, "-m", "udocker", "gpu", "cdi", "--json"]

    def describe(*denied):
        words = ["bash", FAKENODE, "--null-nodes", *denied, tree, *udocker]
        return subprocess.run(
            words,
            env=unprivileged.environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )

    value = json.loads(describe("--deny", "1").stdout)
    assert [a["name"] for a in value["devices"]] == ["1", drivertree.uuid(0), "all"]
    none = describe("--deny", "0", "--deny", "1")
    assert (none.returncode, none.stdout) == (125, "")
    assert "there is no GPU on this node that this user may open" in none.stderr


@pod
def test_what_cannot_be_done_leaves_the_file_as_it_was(node, tmp_path):
    (tmp_path / "old").write_text("old")
    words = ["$U gpu cdi -o /dev/null", "$U gpu cdi --vendor=1 -o $D/old"]
    words += ["$U gpu cdi -o $D/none/x.yaml", "$U gpu cdi --hooks=x", "$U gpu cdi --gpu-caps=x"]
    for command in words:
        assert node(command, check=False).returncode != 0
    assert (tmp_path / "old").read_text() == "old"
    assert os.path.exists("/dev/null") and not os.path.isfile("/dev/null")


RUN = """
$U import $D/image.tar glibc:test >&2
run() { $U run --rm --engine=userns --device nvidia.com/gpu=1 glibc:test sh -c \
    'busybox ls /dev | busybox grep "nvidia[0-9]"; load libcuda.so.1 libnvidia-ml.so.1'; }
"""


@pod
@pytest.mark.parametrize(("options", "place"), [("", ".1"), (f"--hooks {HOOK}", f".{VERSION}")])
def test_udocker_reads_what_it_has_written(node, podman_image, options, place):
    done = node(RUN + f"$U gpu cdi -o /etc/cdi/nvidia.yaml {options}; run")
    assert done.stdout.split() == [
        *("nvidia0", f"{LIBRARIES}/libcuda.so{place}", f"{LIBRARIES}/libnvidia-ml.so{place}")
    ]
    assert "note" not in done.stderr


@pod
def test_where_binds_are_dear_the_specification_names_the_files_only(node, podman_image):
    script = (
        RUN.replace("userns", "proot")
        + f"""
        $U gpu cdi -o /etc/cdi/nvidia.yaml --hooks {HOOK}
        run
        $U gpu info | grep -o 'cdi .etc.cdi.nvidia.yaml'
    """
    )
    done = node(script)
    *_, cuda, nvml, source = done.stdout.splitlines()  # PRoot shows all of the host's /dev
    assert cuda.startswith("/run/udocker/gpu/") and "libcuda.so" in cuda
    assert nvml.startswith("/run/udocker/gpu/")
    assert source == "cdi /etc/cdi/nvidia.yaml"


@pod
@pytest.mark.parametrize("engine", ["userns", "proot"])
def test_gpus_and_another_vendors_device_are_found_in_one_cache(
    node, podman_image, tmp_path, engine
):
    vendor = str(tmp_path / "vendor")
    drivertree.write(vendor, "libvendor.so.1.2.3", drivertree.stub_library("libvendor.so.1"))
    drivertree.write(vendor, "vendor.conf", "")
    value = test_cdi_run.network(vendor)
    del value["containerEdits"]["mounts"][2]
    cdispecs.write(str(tmp_path / "specs"), "net.json", value)
    script = f"""
        $U import $D/image.tar glibc:test >&2
        $U run --rm --engine={engine} --gpu=0 --cdi-dir=$D/specs --device=vendor.com/net=x \
            glibc:test load libcuda.so.1 libvendor.so.1
    """
    gpu, other = node(script).stdout.split()
    assert os.path.basename(gpu).startswith("libcuda.so") and gpu.startswith("/run/udocker/gpu")
    assert other == f"{test_cdi_run.FOLDER}/libvendor.so.1.2.3"


@pod
def test_a_specification_of_another_driver_is_told_and_not_used(node, podman_image):
    script = "$U gpu cdi | sed s/580.159.04/575.51.03/ >/etc/cdi/nvidia.yaml; run"
    done = node(RUN + script)
    assert "libcuda.so.1" in done.stdout and "/run/udocker/gpu" in done.stdout
    assert "/etc/cdi/nvidia.yaml is of driver 575.51.03, but 580.159.04 is loaded" in done.stderr


@pytest.fixture
def podman_image(tmp_path):
    """The archive of an image with this machine's C library, a shell and `load`."""
    needs("podman", "runc", "busybox", "gcc")
    path = str(tmp_path / "image.tar")
    with tarfile.open(path, "w") as tar:
        test_cdi_run.add_system(tar, str(tmp_path))
    return path


PODMAN = """
mount -t tmpfs tmpfs /mnt
$U gpu cdi -o /etc/cdi/nvidia.yaml --names=index || exit 9
podman() {
    command podman --root /mnt/root --runroot /mnt/run --storage-driver vfs --runtime runc \\
        --cgroup-manager cgroupfs --events-backend none "$@"
}
podman import -q $D/image.tar glibc:test >&2 || exit 8
limits='--ulimit nofile=256:256 --ulimit nproc=256:256 --network host'
"""


@pod
def test_podman_gives_a_container_the_gpu_that_our_specification_describes(node, podman_image):
    """Podman's own reader of CDI, its runtime, and the loader of the image."""
    script = """
        podman run --rm $limits --device nvidia.com/gpu=1 glibc:test sh -c '
            busybox ls /dev | busybox grep nvidia; load libcuda.so.1 libcuda.so libnvidia-ml.so.1
            echo $NVIDIA_VISIBLE_DEVICES'
    """
    done = node(PODMAN + script)
    assert done.stdout.split() == [
        *("nvidia-modeset", "nvidia-uvm", "nvidia-uvm-tools", "nvidia0", "nvidiactl"),
        f"{LIBRARIES}/libcuda.so.1",
        f"{LIBRARIES}/libcuda.so.1",
        f"{LIBRARIES}/libnvidia-ml.so.1",
        "void",
    ], done.stderr


@pod
def test_podman_calls_the_hooks_of_our_specification(node, podman_image, tmp_path):
    program = tmp_path / "nvidia-cdi-hook"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\ncat >/dev/null\n')
    program.chmod(0o755)
    script = """
        $U gpu cdi -o /etc/cdi/nvidia.yaml --hooks $D/nvidia-cdi-hook
        podman run --rm $limits --device nvidia.com/gpu=0 glibc:test busybox ls $L
    """.replace("$L", LIBRARIES)
    assert f"libcuda.so.{VERSION}" in node(PODMAN + script).stdout.split()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[0] for call in calls] == [
        *("create-symlinks", "enable-cuda-compat", "update-ldcache"),
        *("disable-device-node-modification", "update-application-profile"),
    ]
    assert f"libcuda.so.1::{LIBRARIES}/libcuda.so" in calls[0].split()
    assert calls[2] == f"update-ldcache --folder {LIBRARIES} --folder {LIBRARIES}/vdpau"


@pod
def test_podman_knows_the_names_of_our_specification_and_no_others(node, podman_image):
    script = """
        for name in 0 1 all; do
            podman run --rm $limits --device nvidia.com/gpu=$name glibc:test sh -c \\
                'busybox ls /dev | busybox grep -c "nvidia[0-9]"'
        done
        podman run --rm $limits --device nvidia.com/gpu=7 glibc:test true || echo none
    """
    done = node(PODMAN + script)
    assert done.stdout.split() == ["1", "1", "2", "none"], done.stderr
    assert "unresolvable CDI devices nvidia.com/gpu=7" in done.stderr
