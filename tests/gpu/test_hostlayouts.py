"""However a distribution or an accident has laid out the driver, what is found is the same."""

from __future__ import annotations

import os
import shutil

import pytest

from gpu import drivertree, drivervariants, elffile
from udocker.host.probe import Host
from udocker.nvidia import driver
from udocker.nvidia.driver import libraries

V, OLD = drivertree.VERSION, drivervariants.OLD
CORE = {"libcuda.so.1": f"libcuda.so.{V}", "libnvidia-ml.so.1": f"libnvidia-ml.so.{V}"}


def files(found):
    """Return SONAME and file name of every locked library of 64 bits."""
    return {a.soname: os.path.basename(a.path) for a in found.libraries}


@pytest.mark.parametrize(
    ("layout", "word"),
    [
        ("deb", "multiarch"),
        ("rhel", "lib64"),
        ("usrlocal", "usr-local"),
        ("alternatives", "alternatives"),
        ("arch", "lib"),
        ("numbered", "nvidia-580"),
        ("notebook", "notebook"),
        ("nix", "nix"),
        ("kubernetes", "kubernetes"),
        ("opt", "opt"),
        ("container", "driver-container"),
    ],
)
def test_a_layout_has_a_word_and_its_programs_and_configuration(machine, layout, word):
    found = driver.find(machine(layout))
    assert (found.layout, found.obstacle, found.doubts) == (word, None, ())
    assert found.source == "filelist"
    libraries_at, programs_at, share = drivertree.LAYOUTS[layout]
    sources = {file.source for file in found.binaries + found.files}
    for path in (f"{programs_at}/nvidia-imex", f"{share}/{drivertree.CONFIGS[-1]}"):
        assert [s for s in sources if s.endswith(f"/machine/{path}")], path
    assert f"/machine/{libraries_at}/" in found.libraries[0].path


ODDITIES = {
    "an older driver's files beside": drivervariants.add_leftovers,
    "libcuda.so.1 leads to an older one": drivervariants.mislead_libcuda,
    "links are absolute": drivervariants.make_links_absolute,
    "twins of 32 bits": drivervariants.add_twins,
}


@pytest.mark.parametrize("file_list", [True, False])
@pytest.mark.parametrize("oddity", ODDITIES)
@pytest.mark.parametrize("layout", ["deb", "rhel", "usrlocal"])
def test_an_odd_machine_gives_the_loaded_drivers_libraries(machine, layout, oddity, file_list):
    host = machine(layout, file_list=file_list)
    plain = files(driver.find(host))
    ODDITIES[oddity](host.root, layout)
    found = driver.find(host)
    assert files(found) == plain
    assert CORE.items() <= files(found).items()
    assert found.obstacle is None
    assert found.other_versions == ((OLD,) if "older" in oddity else ())
    assert bool(found.doubts) == ("leads" in oddity)
    assert bool(found.libraries32) == ("twins" in oddity)


@pytest.mark.parametrize("layout", sorted(drivervariants.TWIN_DIRECTORIES))
def test_twins_of_32_bits_are_kept_apart(machine, layout):
    host = machine(layout)
    plain = driver.find(host)
    drivervariants.add_twins(host.root, layout)
    found = driver.find(host)
    assert found.libraries == plain.libraries
    assert {a.bits for a in found.libraries} == {64}
    assert {a.bits for a in found.libraries32} == {32}
    base = {a.soname.partition(".so")[0] for a in found.libraries32}
    assert base == {os.path.basename(name) for name in drivervariants.TWINS}
    assert "vdpau" in {a.plugin_directory for a in found.libraries32}
    neutral = {(a.bits, a.soname) for a in found.vendor_neutral}
    assert {(32, "libGL.so.1"), (64, "libGL.so.1"), (32, "libOpenCL.so.1")} <= neutral


class Aarch64(Host):
    """A machine of another architecture."""

    machine = "aarch64"


def test_another_architecture_has_other_names_for_everything(tmp_path):
    host = Aarch64(str(tmp_path))
    drivertree.build_kernel(host.root)
    for machine, bits, triplet in (
        ("aarch64", 64, "aarch64-linux-gnu"),
        ("arm", 32, "arm-linux-gnueabihf"),
        ("x86_64", 64, "x86_64-linux-gnu"),
        ("x86_64", 64, "aarch64-linux-gnu/nvidia/current"),
    ):
        for soname in CORE:
            content = elffile.library(soname, bits=bits, machine=machine)
            drivertree.write(host.root, f"usr/lib/{triplet}/{CORE[soname]}", content)
    found = driver.find(host)
    assert found.obstacle is None
    assert [a.path.split("/")[-2] for a in found.libraries] == ["aarch64-linux-gnu"] * 2
    assert [a.path.split("/")[-2] for a in found.libraries32] == ["arm-linux-gnueabihf"] * 2


def test_dispatchers_are_candidates_of_their_own_kind(machine):
    found = driver.find(machine())
    assert {a.soname for a in found.vendor_neutral} == set(drivertree.NEUTRAL.values())
    assert {a.capabilities for a in found.vendor_neutral if a.soname != "libOpenCL.so.1"} == {
        ("graphics",)
    }
    assert not {a.soname for a in found.libraries} & set(drivertree.NEUTRAL.values())


def test_every_library_of_a_driver_is_found_but_the_desktops(machine):
    there = driver.find(machine()).libraries
    found = {a.soname.partition(".so")[0] for a in there}
    installed = {os.path.basename(name) for name in drivertree.VERSIONED}
    installed |= {name.partition(".so")[0] for name in drivertree.UNVERSIONED}
    assert installed - found == {"libnvidia-gtk3", "libnvidia-wayland-client"}
    assert found - installed == {"nvidia-drm_gbm"}
    indirect = [a for a in there if "GLX_nvidia" in a.soname]
    assert indirect[0].extra_names == ("libGLX_indirect.so.0",)


def test_alternatives_of_debian_lead_to_the_current_driver(machine):
    host = machine("alternatives")
    plain = {(a.plugin_directory, a.soname) for a in driver.find(host).libraries}
    drivervariants.use_alternatives(host.root)
    assert {(a.plugin_directory, a.soname) for a in driver.find(host).libraries} == plain
    older = f"usr/lib/{drivertree.MACHINE}-linux-gnu/nvidia/tesla-535/libcuda.so.{OLD}"
    drivertree.write(host.root, older, drivertree.stub_library("libcuda.so.1"))
    found = driver.find(host)
    assert CORE.items() <= files(found).items()
    assert (found.layout, found.other_versions, found.doubts) == ("alternatives", (OLD,), ())


def test_the_alternative_that_is_loaded_counts(machine):
    host = machine("alternatives")
    parent = f"{host.root}/usr/lib/{drivertree.MACHINE}-linux-gnu/nvidia"
    os.rename(f"{parent}/current", f"{parent}/tesla-580")
    assert driver.find(host).obstacle is None


def test_links_of_a_driver_container_stay_in_it(machine):
    host = machine("container")
    drivervariants.make_links_absolute(host.root, "container", prefix="run/nvidia/driver")
    found = driver.find(host)
    assert CORE.items() <= files(found).items()
    assert all("/run/nvidia/driver/usr/lib/" in a.path for a in found.libraries)
    assert ("gbm", "nvidia-drm_gbm.so") in {(a.plugin_directory, a.soname) for a in found.libraries}


def test_a_driver_in_two_places_has_two_words(machine):
    host = machine()
    main = drivervariants.library_directory("deb")
    os.makedirs(host.path("/usr/lib64"))
    file = f"libnvidia-ml.so.{V}"
    os.rename(host.path(f"/{main}/{file}"), host.path(f"/usr/lib64/{file}"))
    assert driver.find(host).layout == "multiarch+lib64"


def hide(host, directory):
    """Move the libraries of a machine where no layout has them."""
    os.makedirs(os.path.dirname(host.path(directory)), exist_ok=True)
    shutil.move(f"{host.root}/{drivervariants.library_directory('deb')}", host.path(directory))


def test_the_users_search_path_is_the_last_place(machine, tmp_path):
    host = machine()
    hide(host, "/scratch/driver")
    kept = str(tmp_path / "kept")
    environment = {"LD_LIBRARY_PATH": "/nowhere:relative:/scratch/driver"}
    lost = driver.load(host, kept)
    assert "no libcuda.so" in lost.obstacle and "name its directory in LD_LIBRARY_PATH" in lost.cure
    found = driver.load(host, kept, environment)
    assert (found.obstacle, found.layout) == (None, "LD_LIBRARY_PATH")
    assert driver.load(host, kept, environment) == found


def test_a_search_path_changes_nothing_where_the_driver_is_found(machine, tmp_path):
    host = machine()
    compat = f"usr/local/cuda/compat/libcuda.so.{OLD}"
    drivertree.write(host.root, compat, drivertree.stub_library("libcuda.so.1"))
    environment = {"LD_LIBRARY_PATH": "/usr/local/cuda/compat"}
    kept = str(tmp_path / "kept")
    assert driver.load(host, kept, environment) == driver.load(host, kept)
    assert len(os.listdir(kept)) == 1


def test_the_loaders_cache_knows_further_places(machine):
    from udocker.host import ldcache

    host = machine()
    hide(host, "/srv/driver")
    entries = tuple(
        ldcache.Entry(name, f"/srv/driver/{name}", ldcache.FLAGS[host.machine]) for name in CORE
    )
    drivertree.write(host.root, "etc/ld.so.cache", ldcache.serialize(ldcache.LdCache(entries)))
    found = driver.find(host)
    assert (found.obstacle, found.layout) == (None, "ld.so.cache")
    drivertree.write(host.root, "etc/ld.so.cache", b"garbage")
    assert driver.find(host).obstacle


def test_configuration_is_looked_for_where_the_user_has_it_too(machine):
    host = machine()
    icd = "vulkan/icd.d/nvidia_icd.json"
    drivertree.write(host.root, f"srv/share/{icd}", "{}")
    os.unlink(host.path(f"/usr/share/{icd}"))
    assert f"/etc/{icd}" not in {f.destination for f in driver.find(host).files}
    found = driver.find(host, {"XDG_DATA_DIRS": "/usr/share:/srv/share"})
    assert host.path(f"/srv/share/{icd}") in {f.source for f in found.files}


def test_configuration_that_only_the_list_names_goes_where_its_kind_goes(machine):
    host = machine()
    drivertree.write(host.root, "usr/share/vulkan/icd.d/nvidia_next.json", "{}")
    assert "/etc/vulkan/icd.d/nvidia_next.json" not in {
        f.destination for f in driver.find(host).files
    }
    entry = '[{"name": "nvidia_next.json", "type": "JSON", "category": ["vulkan"]}]'
    drivertree.write(host.root, "usr/share/nvidia/files.d/sandboxutils-filelist.json", entry)
    (added,) = [f for f in driver.find(host).files if "nvidia_next" in f.source]
    assert (added.destination, added.capability) == (
        "/etc/vulkan/icd.d/nvidia_next.json",
        libraries.GRAPHICS,
    )


@pytest.mark.parametrize("directory", ["/run/udocker/gpu/lib", "/.singularity.d/libs"])
def test_a_driver_that_another_tool_put_into_our_container_is_found(machine, directory):
    host = machine()
    plain = files(driver.find(host))
    hide(host, directory)
    place = host.path(directory)
    for name in os.listdir(place):  # under the names that programs open, and nothing more
        path = os.path.join(place, name)
        if os.path.islink(path):
            target = os.path.realpath(path)
            os.unlink(path)
            os.link(target, path)
    for name in os.listdir(place):
        if name.endswith(f".{V}") and name not in plain:
            os.unlink(os.path.join(place, name))
    found = driver.find(host)
    assert (found.obstacle, found.layout) == (None, "outer-container")
    assert set(files(found)) == set(plain)
    assert not {a.soname for a in found.libraries} & set(libraries.VENDOR_NEUTRAL)


def damage(host):
    drivertree.write(host.root, f"usr/lib64/libcuda.so.{V}", b"")


def only_32_bits(host):
    os.unlink(host.path(f"/usr/lib64/libcuda.so.{V}"))
    drivervariants.add_twins(host.root, "rhel")


def deceive(host):
    path = host.path(f"/usr/lib64/libcuda.so.{V}")
    os.rename(path, host.path(f"/usr/lib64/libcuda.so.{OLD}"))
    os.symlink(f"libcuda.so.{OLD}", path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (damage, f"kernel driver is {V} but /usr/lib64/libcuda.so.{V} is not a library that"),
        (only_32_bits, f"no libcuda.so.{V} is on disk for programs of 64 bits, only for those"),
        (deceive, f"kernel driver is {V} but libcuda on disk is {OLD}: the node was updated"),
    ],
)
def test_a_broken_driver_is_told_in_a_sentence(machine, change, sentence):
    host = machine("rhel")
    change(host)
    assert sentence in driver.find(host).obstacle


@pytest.mark.parametrize("soname", ["..", "", "../../etc/passwd", "x"])
def test_a_name_in_a_library_that_can_be_none_is_not_followed(machine, soname):
    host = machine("rhel")
    content = elffile.library(soname, machine=drivertree.MACHINE)
    drivertree.write(host.root, f"usr/lib64/libnvidia-novelty.so.{V}", content)
    assert f"libnvidia-novelty.so.{V}" in files(driver.find(host))


def test_an_alternative_that_is_not_the_loaded_one_is_told(machine):
    host = machine("alternatives")
    directory = f"usr/lib/{drivertree.MACHINE}-linux-gnu"
    older = f"{directory}/nvidia/tesla-535/libcuda.so.{OLD}"
    drivertree.write(host.root, older, drivertree.stub_library("libcuda.so.1"))
    drivertree.link(host.root, f"{directory}/libcuda.so.1", f"/{older}")
    (doubt,) = driver.find(host).doubts
    assert f"/{directory}/libcuda.so.1 leads to version {OLD}" in doubt


def test_a_misleading_link_is_told_though_it_does_no_harm(machine):
    host = machine("rhel")
    drivervariants.mislead_libcuda(host.root, "rhel")
    (doubt,) = driver.find(host).doubts
    assert f"/usr/lib64/libcuda.so.1 leads to version {OLD}, not to that of the kernel" in doubt
