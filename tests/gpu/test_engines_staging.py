"""Few binds for engines to which they are dear, and how what they show is found."""

from __future__ import annotations

import filecmp
import os
import stat
import threading

import pytest

from udocker.containers.spec import Bind, ContainerEdits, Symlink
from udocker.nvidia import staging
from udocker.nvidia.edits import GpuRequest, gpu_edits
from udocker.nvidia.staging import DIRECTORY, MOST_BINDS, Ways

CACHE = Bind("/kept/merged.cache", "/etc/ld.so.cache", readonly=True)


@pytest.fixture
def gather(tmp_path, image):
    """A function that gathers edits for an image, with the program's environment."""

    def make(edits, *, of=None, env=(), **ways):
        where = str(tmp_path / "kept")
        return staging.gather(edits, where, dict(env), of or image(), Ways(**ways))

    return make


@pytest.fixture
def driver_edits(machine, image, tmp_path):
    """A function that returns the edits for all capabilities of a machine's driver."""

    def make(layout="deb", capabilities=("all",)):
        request = GpuRequest("all", capabilities)
        return gpu_edits(machine(layout), request, image(), str(tmp_path / "kept"), {}).edits

    return make


def files(tmp_path, *paths):
    """Make files below a directory and return read-only binds of libraries and programs."""
    for path in paths:
        full = tmp_path / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_bytes(b"\x7fELF")
    return [
        Bind(str(tmp_path / path), destination(path), readonly=True) for path in map(str, paths)
    ]


def destination(path):
    name = os.path.basename(path)
    return f"{DIRECTORY}/lib/{name}" if ".so" in name else f"/usr/bin/{name}"


def lead(edits, path):
    """Return the host path that a path of the container leads to by the binds alone."""
    for _ in range(10):
        over = [
            b for b in edits.binds if path == b.destination or path.startswith(b.destination + "/")
        ]
        if not over:
            return None
        bind = max(over, key=lambda b: len(b.destination))
        host = bind.source + path[len(bind.destination) :]
        if not os.path.islink(host):
            return host
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(host)))
    return None


@pytest.mark.parametrize("layout", ["deb", "rhel", "usrlocal"])
def test_every_layout_takes_four_binds_at_most(driver_edits, gather, layout):
    edits = driver_edits(layout)
    few = gather(edits).edits
    assert len(few.binds) <= MOST_BINDS < len(edits.binds)
    for bind in edits.binds:
        if bind.destination.startswith(DIRECTORY):
            assert lead(few, bind.destination) == bind.source
        if bind.destination.startswith("/usr/bin/"):
            name = os.path.basename(bind.destination)
            assert lead(few, f"{DIRECTORY}/bin/{name}") == bind.source
    assert lead(few, "/etc/ld.so.cache")
    assert few.device_nodes == edits.device_nodes
    assert few.library_dirs == edits.library_dirs


def test_links_to_the_host_take_one_bind_beside_those_of_services(driver_edits, gather):
    edits = driver_edits()
    few = gather(edits, links=True).edits
    made, *services = few.binds
    assert made.destination == DIRECTORY
    assert [bind.destination for bind in services] == [
        b.destination
        for b in edits.binds
        if b.destination.startswith(("/run/nvidia", "/usr/share/nvidia", "/etc/nvidia"))
    ]
    library = next(b for b in edits.binds if b.destination.endswith("/libcuda.so.1"))
    assert os.readlink(f"{made.source}/lib/libcuda.so.1") == library.source


@pytest.mark.parametrize("layout", ["deb", "rhel", "usrlocal"])
def test_libraries_alone_are_gathered_for_programs_that_mount(driver_edits, tmp_path, layout):
    edits = driver_edits(layout)
    few = staging.gather_libraries(edits, str(tmp_path / "kept"))
    inside = [bind for bind in edits.binds if bind.destination.startswith(DIRECTORY)]
    assert len(inside) > 20
    assert all(lead(few, bind.destination) == bind.source for bind in inside)
    assert [bind for bind in edits.binds if bind not in inside] == list(few.binds[2:])
    assert few.symlinks == ()
    assert few.env == edits.env
    assert staging.gather_libraries(few, str(tmp_path / "kept")) == few


@pytest.mark.parametrize("layout", ["deb", "rhel", "usrlocal"])
def test_links_lead_to_programs_and_configuration_where_those_may_stand(
    driver_edits, tmp_path, layout
):
    edits = driver_edits(layout)
    few = staging.gather_libraries(edits, str(tmp_path / "kept"), linked=True)
    assert len(few.binds) < 10 < len(few.symlinks)
    known = {link.path: link.target for link in few.symlinks}
    for bind in edits.binds:
        path = known.get(bind.destination, bind.destination)
        found = lead(few, path)
        assert found == bind.source or filecmp.cmp(found, bind.source, shallow=False)
        assert (path == bind.destination) or path.startswith(f"{DIRECTORY}/")
    assert "/usr/bin/nvidia-smi" in known
    assert few.env == edits.env


def test_nothing_of_the_driver_is_copied(driver_edits, gather):
    edits = driver_edits()
    for ways in ({}, {"links": True}):
        few = gather(edits, **ways).edits
        made = next(bind.source for bind in few.binds if bind.destination == DIRECTORY)
        held = [os.path.join(top, name) for top, _, names in os.walk(made) for name in names]
        copied = [path for path in held if not os.path.islink(path)]
        assert len(held) > 30
        assert all(path.endswith((".json", ".icd")) for path in copied)
        assert sum(map(os.path.getsize, copied)) < 1024


def test_the_directory_is_made_once_and_programs_cannot_change_it(
    driver_edits, gather, image, tmp_path
):
    edits, tree = driver_edits(), image()
    made = {}

    def make(number):
        made[number] = gather(edits, of=tree).edits.binds[0].source

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made.values())) == 1
    names = os.listdir(tmp_path / "kept")
    assert [name for name in names if ".links" in name] == [os.path.basename(made[0])]
    modes = [os.stat(top).st_mode for top, _, _ in os.walk(made[0])]
    assert not any(mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) for mode in modes)


def test_other_versions_of_the_driver_have_other_directories(gather, tmp_path):
    one, two = (
        gather(ContainerEdits(binds=(*files(tmp_path, f"{version}/libcuda.so.1"), CACHE)))
        for version in ("580", "590")
    )
    assert one.edits.binds[0].source != two.edits.binds[0].source


def test_directories_that_are_too_many_show_by_their_common_parent(gather, tmp_path):
    binds = files(
        tmp_path,
        "usr/lib/nvidia-580/libcuda.so.1",
        "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        "usr/lib/x86_64-linux-gnu/vdpau/libvdpau_nvidia.so.1",
        "usr/bin/nvidia-smi",
    )
    few = gather(ContainerEdits(binds=(*binds, CACHE))).edits
    assert len(few.binds) == MOST_BINDS
    shown = {bind.source for bind in few.binds if bind.destination.startswith(f"{DIRECTORY}/host")}
    assert shown == {f"{tmp_path}/usr/lib", f"{tmp_path}/usr/bin"}
    assert all(lead(few, bind.destination) == bind.source for bind in binds[:3])


def test_the_whole_host_is_never_shown(gather):
    binds = [
        Bind("/bin/sh", f"{DIRECTORY}/lib/libcuda.so.1", readonly=True),
        Bind("/proc/version", "/usr/bin/nvidia-smi", readonly=True),
        Bind("/etc/passwd", "/usr/bin/nvidia-debugdump", readonly=True),
    ]
    found = gather(ContainerEdits(binds=(*binds, CACHE)))
    assert "/" not in [bind.source for bind in found.edits.binds]
    assert len(found.edits.binds) <= MOST_BINDS
    assert lead(found.edits, f"{DIRECTORY}/lib/libcuda.so.1") == os.path.realpath("/bin/sh")
    assert "/etc/passwd" in found.notes[0]


@pytest.mark.parametrize("mps", ["/tmp/nvidia-mps", "/scratch/job/pipe"])
def test_the_way_to_mps_goes_before_other_services_which_are_named(gather, tmp_path, mps):
    services = ("/run/nvidia-persistenced", "/run/nvidia-fabricmanager", mps)
    binds = (*files(tmp_path, "usr/lib/libcuda.so.1", "usr/bin/nvidia-smi"), CACHE)
    edits = ContainerEdits(
        env=(("CUDA_MPS_PIPE_DIRECTORY", mps),) if mps.startswith("/scratch") else (),
        binds=(*binds, *(Bind(str(tmp_path), service) for service in services)),
    )
    found = gather(edits)
    assert len(found.edits.binds) == MOST_BINDS
    assert found.edits.binds[-1].destination == mps
    assert found.notes == (
        "gpu: left out, for this engine has few binds: "
        "/run/nvidia-persistenced, /run/nvidia-fabricmanager",
    )


def test_data_of_the_driver_goes_before_services(driver_edits, gather):
    found = gather(driver_edits("deb"))
    assert "/usr/share/nvidia/nvoptix.bin" in [bind.destination for bind in found.edits.binds]
    assert ": /run/nvidia-persistenced" in found.notes[0]


def test_the_drivers_programs_go_before_services(gather, tmp_path):
    binds = (
        Bind("/bin/sh", f"{DIRECTORY}/lib/libcuda.so.1", readonly=True),
        Bind("/proc/version", "/usr/bin/nvidia-smi", readonly=True),
        Bind(str(tmp_path), "/run/nvidia-persistenced"),
    )
    found = gather(ContainerEdits(binds=(*binds, CACHE)))
    assert lead(found.edits, f"{DIRECTORY}/bin/nvidia-smi") == "/proc/version"
    assert ": /run/nvidia-persistenced" in found.notes[0]


def test_what_only_a_bind_can_show_stays(gather, tmp_path):
    foreign = Bind(str(tmp_path), "/opt/vendor", readonly=True)
    binds = (*files(tmp_path, "lib/libcuda.so.1"), foreign)
    link = Symlink("/usr/lib/libvendor.so", "libvendor.so.1")
    few = gather(ContainerEdits(binds=binds, symlinks=(link,))).edits
    assert foreign in few.binds
    assert few.symlinks == (link,)
    alone = ContainerEdits(binds=(foreign,), symlinks=(link,))
    assert gather(alone).edits == alone


def test_what_the_hosts_own_directories_have_is_not_made_again(gather, tmp_path):
    edits = ContainerEdits(
        binds=(
            *files(tmp_path, "lib/libcuda.so.1"),
            Bind("/kept/params", "/proc/driver/nvidia/params", readonly=True),
        ),
        symlinks=(Symlink("/dev/dri/by-path/pci-0000:1b:00.0-card", "../card0"),),
    )
    assert gather(edits).edits.symlinks == ()
    few = gather(edits, links=True).edits
    assert few.symlinks == ()
    assert [bind.destination for bind in few.binds] == [DIRECTORY]


def test_links_of_the_edits_are_in_the_directory(gather, tmp_path):
    edits = ContainerEdits(
        binds=tuple(files(tmp_path, "lib/libcuda.so.1")),
        symlinks=(Symlink(f"{DIRECTORY}/lib/libcuda.so", "libcuda.so.1"),),
    )
    few = gather(edits).edits
    assert few.symlinks == ()
    assert lead(few, f"{DIRECTORY}/lib/libcuda.so") == f"{tmp_path}/lib/libcuda.so.1"


def test_variables_find_programs_and_configuration_before_what_they_held(driver_edits, gather):
    given = {"PATH": "/opt/conda/bin:/bin", "XDG_DATA_DIRS": "/opt/share"}
    env = dict(gather(driver_edits(), env=given.items()).edits.env)
    assert env["PATH"] == f"{DIRECTORY}/bin:/opt/conda/bin:/bin"
    assert env["XDG_DATA_DIRS"] == f"{DIRECTORY}/share:/opt/share"
    assert env["__EGL_VENDOR_LIBRARY_DIRS"].startswith(f"{DIRECTORY}/share/glvnd/egl_vendor.d:")
    assert env["OCL_ICD_VENDORS"] == f"{DIRECTORY}/etc/OpenCL/vendors"
    assert env["VDPAU_DRIVER_PATH"] == f"{DIRECTORY}/lib/vdpau"


def test_the_images_own_opencl_drivers_are_found_too(driver_edits, gather, image):
    own = image(files={"etc/OpenCL/vendors/pocl.icd": "libpocl.so.2\n"})
    made = gather(driver_edits(), of=own).edits.binds[0].source
    vendors = f"{made}/etc/OpenCL/vendors"
    assert sorted(os.listdir(vendors)) == ["nvidia.icd", "pocl.icd"]
    assert os.readlink(f"{vendors}/pocl.icd") == "/etc/OpenCL/vendors/pocl.icd"


def test_a_program_is_started_by_the_containers_loader_where_the_hosts_would_be(
    driver_edits, gather
):
    made = gather(driver_edits(), links=True, loader=True).edits.binds[0].source
    with open(f"{made}/bin/nvidia-smi") as file:
        text = file.read()
    assert text.startswith("#!/bin/sh\nexec /lib")
    assert '/usr/bin/nvidia-smi\' "$@"' in text
    assert os.access(f"{made}/bin/nvidia-smi", os.X_OK)
    assert os.path.islink(f"{made}/bin/nvidia-cuda-mps-control")  # a script, in this tree
