"""What a container gets for its GPUs, from driver, devices and image together."""

from __future__ import annotations

import os

import pytest

from gpu import drivertree
from gpu.drivertree import uuid
from udocker.containers.spec import Bind, ContainerEdits, Symlink
from udocker.errors import GpuError
from udocker.host import ldcache
from udocker.host.probe import Host
from udocker.nvidia.edits import GpuPlan, GpuRequest, gpu_edits

V = drivertree.VERSION
FLAGS = ldcache.FLAGS[drivertree.MACHINE]
LIB = "/run/udocker/gpu/lib"
ASKS = (("NVIDIA_VISIBLE_DEVICES", "all"),)


@pytest.fixture
def plan(machine, image, tmp_path):
    """A function that plans for a machine of two GPUs; its words replace the ordinary."""

    def make(
        selection="all", *, host=None, tree=None, environment=(), env=(), capabilities=(), **words
    ):
        request = GpuRequest(selection, capabilities, env, **words)
        host = host or Host(str(tmp_path / "machine"))
        if not os.path.exists(host.root):
            machine(gpus=2)
        kept = str(tmp_path / "kept")
        return gpu_edits(host, request, tree or image(), kept, dict(environment))

    return make


def destinations(made):
    return {bind.destination for bind in made.edits.binds}


def merged_cache(made):
    (source,) = [bind.source for bind in made.edits.binds if bind.destination == ldcache.PATH]
    with open(source, "rb") as file:
        return ldcache.parse(file.read())


def test_a_container_gets_libraries_programs_sockets_and_nodes(plan, tmp_path):
    made = plan()
    assert f"{LIB}/libcuda.so.1" in destinations(made)
    assert f"{LIB}/libnvidia-ml.so.1" in destinations(made)
    assert "/usr/bin/nvidia-smi" in destinations(made)
    assert "/etc/OpenCL/vendors/nvidia.icd" in destinations(made)
    sockets = "/run/nvidia-persistenced"
    assert Bind(f"{tmp_path}/machine{sockets}", sockets) in made.edits.binds
    writable = [bind.destination for bind in made.edits.binds if not bind.readonly]
    assert writable == [sockets]
    assert Symlink(f"{LIB}/libcuda.so", "libcuda.so.1") in made.edits.symlinks
    assert made.edits.library_dirs == (LIB,)
    assert [node.destination for node in made.edits.device_nodes][-2:] == [
        "/dev/nvidia1",
        "/dev/nvidia0",
    ]
    assert [gpu.minor for gpu in made.gpus] == [1, 0]
    assert made.notes == ()


def test_capabilities_decide_what_goes_in(plan):
    compute, video = plan(), plan(capabilities=("video", "utility"))
    assert f"{LIB}/vdpau/libvdpau_nvidia.so.1" not in destinations(compute)
    assert f"{LIB}/vdpau/libvdpau_nvidia.so.1" in destinations(video)
    assert f"{LIB}/vdpau" in video.edits.library_dirs
    assert f"{LIB}/libcuda.so.1" in destinations(video), "video needs CUDA"
    everything = plan(capabilities=("all",))
    assert f"{LIB}/gbm/nvidia-drm_gbm.so" in destinations(everything)
    assert "/usr/share/glvnd/egl_vendor.d/10_nvidia.json" in destinations(everything)


def test_the_image_may_say_which_capabilities(plan):
    made = plan(env=(("NVIDIA_DRIVER_CAPABILITIES", "utility"),))
    assert f"{LIB}/libcuda.so.1" not in destinations(made)
    with pytest.raises(GpuError, match="'cheese' is not a driver capability"):
        plan(env=(("NVIDIA_DRIVER_CAPABILITIES", "utility,cheese"),))


def test_the_loader_finds_the_driver_first_and_the_image_behind(plan, image):
    own = (
        ldcache.Entry("libcuda.so.1", "/usr/lib/baked/libcuda.so.1", FLAGS),
        ldcache.Entry("libz.so.1", "/usr/lib/libz.so.1", FLAGS),
    )
    baked = "usr/lib/baked/libcuda.so.1"
    files = {
        "etc/ld.so.cache": ldcache.serialize(ldcache.LdCache(own)),
        baked: drivertree.stub_library("libcuda.so.1"),
    }
    made = plan(tree=image(files=files))
    known = merged_cache(made)
    assert known.paths("libcuda.so.1", FLAGS) == (f"{LIB}/libcuda.so.1",)
    assert known.paths("libcuda.so", FLAGS) == (f"{LIB}/libcuda.so.1",)
    assert known.paths("libz.so.1", FLAGS) == ("/usr/lib/libz.so.1",)
    assert any("image contains its own libcuda.so.1" in note for note in made.notes)


@pytest.mark.parametrize("content", [b"", b"garbage", b"glibc-ld.so.cache1.1" + b"\xff" * 99])
def test_an_image_with_a_broken_cache_gets_a_sound_one(plan, image, content):
    made = plan(tree=image(files={"etc/ld.so.cache": content}))
    assert merged_cache(made).paths("libcuda.so.1", FLAGS) == (f"{LIB}/libcuda.so.1",)


def test_a_cache_that_is_a_link_to_the_host_is_not_read(plan, image):
    tree = image()
    os.makedirs(f"{tree.path}/etc", exist_ok=True)
    os.symlink("../../../../../../../../../../etc/ld.so.cache", f"{tree.path}/etc/ld.so.cache")
    names = {entry.name.partition(".so")[0] for entry in merged_cache(plan(tree=tree)).entries}
    assert "libc" not in names


def test_a_library_that_wants_a_newer_glibc_is_left_out(plan, machine, image):
    host = machine()
    need = drivertree.needy_library("GLIBC_2.99", "libnvidia-nvvm.so.4")
    where = drivertree.LAYOUTS["deb"][0]
    drivertree.write(host.root, f"{where}/libnvidia-nvvm.so.{V}", need)
    for _ in range(2):  # found, then remembered
        made = plan(host=host, tree=image("GLIBC_2.17"))
        assert f"{LIB}/libnvidia-nvvm.so.4" not in destinations(made)
        assert f"{LIB}/libcuda.so.1" in destinations(made)
        assert made.notes == (
            "gpu: image glibc 2.17 is too old for libnvidia-nvvm.so.4 (needs GLIBC_2.99): left out",
        )
    newer = plan(host=host, tree=image("GLIBC_2.100"))
    assert f"{LIB}/libnvidia-nvvm.so.4" in destinations(newer)


@pytest.mark.parametrize("need", ["GLIBC_2.99", "GLIBC_ABI_NOVELTY"])
def test_an_image_too_old_for_cuda_itself_is_refused(plan, machine, need):
    host = machine()
    where = drivertree.LAYOUTS["deb"][0]
    content = drivertree.needy_library(need, "libcuda.so.1")
    drivertree.write(host.root, f"{where}/libcuda.so.{V}", content)
    with pytest.raises(GpuError, match=f"too old for libcuda.so.1 .needs {need}"):
        plan(host=host)


def test_musl_images_are_refused_in_words(plan, image):
    tree = image("", files={f"lib/ld-musl-{drivertree.MACHINE}.so.1": "musl"})
    with pytest.raises(GpuError, match="musl image"):
        plan(tree=tree)


def test_an_image_without_any_libc_gets_nodes_and_a_note(plan, image):
    made = plan(tree=image(""))
    assert made.edits.device_nodes
    assert ldcache.PATH not in destinations(made)
    assert "no C library" in made.notes[0]


def test_manifests_name_libraries_as_the_containers_loader_finds_them(plan, machine):
    """NixOS writes paths of the host, where the container has nothing."""
    host = machine(gpus=2)
    texts = {
        "vulkan/icd.d/nvidia_icd.json": '{"ICD": {"library_path": "/nix/x/libGLX_nvidia.so.0"}}',
        "vulkan/implicit_layer.d/nvidia_layers.json": '{"layers": [{"library_path": "/opt/a.so"}]}',
        "glvnd/egl_vendor.d/10_nvidia.json": '{"ICD": {"library_path": "libEGL_nvidia.so.0"}}',
        "egl/egl_external_platform.d/15_nvidia_gbm.json": '{"library_path": "/broken',
    }
    for name, text in texts.items():
        drivertree.write(host.root, f"usr/share/{name}", text)
    shown = {}
    for bind in plan(capabilities=("graphics",)).edits.binds:
        if bind.destination.endswith(".json"):
            with open(bind.source, encoding="utf-8") as file:
                shown[os.path.basename(bind.destination)] = bind.source, file.read()
    assert shown["nvidia_icd.json"][1] == '{"ICD": {"library_path": "libGLX_nvidia.so.0"}}'
    assert not shown["nvidia_icd.json"][0].startswith(host.root)
    for name in ("nvidia_layers.json", "10_nvidia.json", "15_nvidia_gbm.json"):
        assert shown[name][0].startswith(host.root)


def test_a_library_path_that_hides_the_host_is_told(plan, image):
    tree = image(files={"opt/compat/libcuda.so.1": "old"})
    made = plan(tree=tree, env=(("LD_LIBRARY_PATH", "/opt/none:/opt/compat"),))
    assert [note for note in made.notes if "LD_LIBRARY_PATH without /opt/compat" in note]
    assert dict(made.edits.env)["LD_LIBRARY_PATH"] == "/opt/none"


@pytest.mark.parametrize(
    ("selection", "environment", "expected"),
    [
        ("all", {}, {}),
        ("all", {"CUDA_VISIBLE_DEVICES": "1,0"}, {"CUDA_VISIBLE_DEVICES": "1,0"}),
        ("1", {}, {"CUDA_VISIBLE_DEVICES": uuid(0)}),
        ("0", {"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": uuid(0)}),
    ],
)
def test_the_variable_of_cuda_follows_the_selection(plan, selection, environment, expected):
    made = plan(selection, environment=environment)
    assert dict(made.edits.env) == expected


@pytest.mark.parametrize(("env", "on"), [((), False), (ASKS, True)])
def test_auto_is_on_when_the_image_asks(plan, env, on):
    made = plan("auto", env=env)
    assert bool(made.gpus) == on
    assert on or made == GpuPlan(notes=made.notes)
    assert [note for note in made.notes if "does not ask" in note] == list(made.notes)
    assert bool(made.notes) != on


def test_an_image_that_asks_for_no_gpu_gets_the_driver_alone(plan):
    made = plan("auto", env=(("NVIDIA_VISIBLE_DEVICES", "none"),))
    assert made.gpus == ()
    assert f"{LIB}/libcuda.so.1" in destinations(made)
    assert [node.destination for node in made.edits.device_nodes][0] == "/dev/nvidiactl"


def test_what_the_image_requires_is_told_or_refused(plan, machine, image, tmp_path):
    env = (*ASKS, ("NVIDIA_REQUIRE_CUDA", "cuda>=99.1"))
    (note,) = plan(env=env).notes
    assert "the image requires cuda>=99.1" in note
    host = Host(str(tmp_path / "machine"))
    strict = GpuRequest("all", program_env=env, strict=True)
    with pytest.raises(GpuError, match="requires cuda>=99.1"):
        gpu_edits(host, strict, image(), str(tmp_path / "kept"), {})


def test_the_image_may_name_the_gpus(plan):
    made = plan("auto", env=(("NVIDIA_VISIBLE_DEVICES", "1"),))
    assert [gpu.minor for gpu in made.gpus] == [0]


@pytest.mark.parametrize("selection", ["auto", "try"])
def test_without_a_gpu_a_wish_becomes_a_note_and_an_order_an_error(plan, tmp_path, selection):
    os.makedirs(tmp_path / "bare")
    bare = Host(str(tmp_path / "bare"))
    made = plan(selection, host=bare, env=ASKS)
    assert made.edits == ContainerEdits()
    assert len(made.notes) == 1
    assert "no NVIDIA driver on this node" in made.notes[0]
    with pytest.raises(GpuError, match="no NVIDIA driver on this node") as caught:
        plan("all", host=bare)
    assert "srun --gres=gpu:1" in caught.value.hint
    assert caught.value.exit_code == 125
    assert plan("none", host=bare) == GpuPlan()


def test_an_updated_node_is_told_before_anything_else(plan, machine):
    host = machine()
    drivertree.build_kernel(host.root, version="575.57.08")
    with pytest.raises(GpuError, match="updated without reboot"):
        plan(host=host)


@pytest.mark.parametrize("named", [False, True])
def test_the_daemon_that_shares_gpus_is_reachable(plan, machine, named):
    host = machine()
    directory = "/scratch/mps" if named else "/tmp/nvidia-mps"
    environment = {"CUDA_MPS_PIPE_DIRECTORY": directory} if named else {}
    assert directory not in destinations(plan(host=host, environment=environment))
    drivertree.write(host.root, f"{directory[1:]}/control", "")
    made = plan(host=host, environment=environment)
    assert Bind(host.path(directory), directory) in made.edits.binds
    assert dict(made.edits.env) == environment


def test_a_second_start_writes_nothing_anew(plan, image, tmp_path):
    tree = image()
    first = plan(tree=tree)
    kept = {
        name: os.stat(tmp_path / "kept" / name).st_mtime_ns
        for name in os.listdir(tmp_path / "kept")
    }
    assert plan(tree=tree) == first
    assert kept == {name: os.stat(tmp_path / "kept" / name).st_mtime_ns for name in kept}
    assert len(os.listdir(tmp_path / "kept")) == len(kept)


def test_an_answer_that_was_lost_or_broken_is_made_again(plan, image, tmp_path):
    tree = image()
    first = plan(tree=tree)
    for name in os.listdir(tmp_path / "kept"):
        if name.startswith("gpu-"):
            path = tmp_path / "kept" / name
            path.write_text('["x"]') if name.endswith(".json") else path.unlink()
    assert plan(tree=tree) == first


def test_the_answers_place_must_be_writable(machine, image):
    with pytest.raises(GpuError, match="cannot write to /proc/none"):
        gpu_edits(machine(), GpuRequest("all"), image(), "/proc/none", {})


def test_old_programs_of_32_bits_are_told_that_they_get_nothing(plan):
    made = plan(capabilities=("compute", "compat32"))
    assert [note for note in made.notes if "compat32" in note]


def test_the_images_own_newer_cuda_meets_its_requirement(plan, machine, image):
    host = machine(version="535.183.01")
    library = drivertree.stub_library("libcuda.so.1")
    tree = image(files={"usr/local/cuda/compat/libcuda.so.590.44.01": library})
    env = (("NVIDIA_REQUIRE_CUDA", "cuda>=13.0"),)
    (note,) = plan(host=host, tree=tree, env=env, compat="off").notes
    assert "cuda>=13.0" in note
    (note,) = plan(host=host, tree=tree, env=env).notes
    assert "cuda-compat 590.44.01 is used" in note
