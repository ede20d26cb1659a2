"""`udocker gpu doctor` names what is wrong with InfiniBand, MPI and what starts ranks."""

from __future__ import annotations

import os
import time

import pytest

from gpu import drivertree, elffile, fabrictree
from gpu.fabrictree import MACHINE, PLACE
from udocker.diagnosis import fabric, hcas
from udocker.diagnosis.finding import OK, WARN
from udocker.host import elf, elffacts
from udocker.host.probe import Host
from udocker.host.root import Root

OPEN_MPI = "int ompi_mpi_comm_world; int MPI_Init(void) { return 0; }"
MPI = "int MPI_Init(void) { return 0; }"


@pytest.fixture
def host(tmp_path):
    os.makedirs(tmp_path / "node")
    return Host(str(tmp_path / "node"))


@pytest.fixture
def image(tmp_path):
    """A function that makes an image of some files."""

    def make(files=()):
        root = str(tmp_path / "image")
        os.makedirs(root, exist_ok=True)
        for path, content in dict(files).items():
            drivertree.write(root, path, content)
        return Root(root)

    return make


def of_host(host, **environment):
    return {finding.key: finding for finding in fabric.findings(host, environment, -1)}


def of_image(host, image, job=None, **environment):
    environment = {**(job or {}), **environment}
    found = fabric.image_findings(host, job or {}, image, environment)
    return {finding.key: finding for finding in found}


def agrees(finding, status, text, fix):
    assert (finding.status, text in finding.text, fix in finding.fix) == (status, True, True), (
        finding
    )
    assert bool(fix) == bool(finding.fix), finding


def test_a_node_without_a_fabric_needs_nothing(host):
    found = of_host(host)
    assert list(found) == [
        "shm",
        "memlock",
        "infiniband",
        "rdma",
        "other_fabrics",
        "mpi",
        "pmi",
    ]
    assert {f.key for f in found.values() if f.status != OK} == {"shm"}
    assert not any(f.status == "fail" for f in found.values())


@pytest.mark.parametrize(
    ("key", "words", "status", "text", "fix"),
    [
        ("infiniband", {}, OK, "mlx5_0/1 InfiniBand 200 Gb/sec", ""),
        ("infiniband", {"layer": "Ethernet"}, OK, "mlx5_0/1 Ethernet 200", ""),
        ("infiniband", {"state": "1: DOWN"}, WARN, "(mlx5_0/1 DOWN)", "ibstat"),
        ("infiniband", {"state": "2: INIT"}, WARN, "no port is active", "subnet manager"),
        (
            "infiniband",
            {"state": "1: DOWN", "physical": "2: Polling"},
            WARN,
            "mlx5_0: no port is active",
            "cable",
        ),
        ("rdma", {}, OK, "/dev/infiniband/uverbs0 can be opened, verbs ABI 6", ""),
        ("rdma", {"node": False}, WARN, "the kernel offers no verbs", "modprobe ib_uverbs"),
        ("rdma", {"abi": "7"}, WARN, "ABI 7", "administrators"),
        ("other_fabrics", {}, OK, "none", ""),
        ("other_fabrics", {"name": "hfi1_0", "driver": "hfi1"}, OK, "Omni-Path: prog", ""),
        ("other_fabrics", {"name": "rdmap0", "driver": "efa"}, OK, "EFA: programs need", ""),
    ],
)
def test_what_is_wrong_with_an_adapter_has_a_cause_and_a_cure(host, key, words, status, text, fix):
    fabrictree.add_hca(host.root, **words)
    agrees(of_host(host)[key], status, text, fix)


def test_ports_that_are_down_beside_others_are_told_and_no_more(host):
    fabrictree.add_hca(host.root)
    fabrictree.add_hca(host.root, "mlx5_1", number=1, state="1: DOWN")
    agrees(of_host(host)["infiniband"], OK, "Gb/sec; not up: mlx5_1/1 DOWN", "")


def test_nodes_of_adapters_are_opened(host):
    fabrictree.add_hca(host.root)
    os.unlink(host.path("/dev/infiniband/uverbs0"))
    agrees(of_host(host)["rdma"], WARN, "uverbs0: missing", "batch system")
    os.mkfifo(host.path("/dev/infiniband/uverbs0"))
    os.unlink(host.path("/dev/infiniband/rdma_cm"))
    agrees(of_host(host)["rdma"], OK, "no rdma_cm", "")


def test_slingshot_is_known_by_its_nodes(host):
    drivertree.write(host.root, "dev/cxi0")
    agrees(of_host(host)["other_fabrics"], OK, "Slingshot: programs need libcxi", "")


@pytest.mark.parametrize(
    ("name", "driver", "modalias", "provider"),
    [
        ("ibp1s0", "mlx5_core", "", "mlx5"),
        ("ibp1s0", "", fabrictree.MELLANOX, "mlx5"),
        ("ibp1s0", "", "pci:v000015B3d00001003sv0", "mlx4"),
        ("rocep1", "ice", "pci:v00008086d00001592", "irdma"),
        ("rxe0", "", "", "rxe"),
        ("mlx5_bond_0", "", "pci:nonsense", ""),
        ("odd", "", "pci:v000015B3dxyz", "mlx5"),
    ],
)
def test_an_adapters_provider_is_known_by_module_address_or_name(
    host, name, driver, modalias, provider
):
    fabrictree.add_hca(host.root, name, driver=driver, modalias=modalias)
    (found,) = hcas.find_hcas(host)
    assert (found.provider, found.driver) == (provider, driver)


def without(files, *paths):
    return {path: content for path, content in files.items() if path not in paths}


MLX5 = f"{PLACE}/libibverbs/libmlx5-rdmav34.so"


@pytest.mark.parametrize(
    ("files", "status", "text", "fix"),
    [
        (fabrictree.rdma_core(), OK, "own libibverbs (rdmav34) drives mlx5_0: mlx5", ""),
        ({}, WARN, "no RDMA libraries (libibverbs.so.1): mlx5_0 will not", "ibverbs-providers"),
        (fabrictree.rdma_core(names=("mlx4",)), WARN, "no mlx5 provider", "rdma-core"),
        (
            fabrictree.rdma_core("57", made_for="34"),
            WARN,
            "its mlx5 provider is for rdmav34, but its libibverbs wants rdmav57",
            "from one release",
        ),
        (
            fabrictree.rdma_core(private="22"),
            WARN,
            "needs IBVERBS_PRIVATE_22, which the image's libibverbs does not define",
            "from one release",
        ),
        (
            fabrictree.rdma_core(needed=("libnl-3.so.200",)),
            WARN,
            "the image has no libnl-3.so.200, which",
            "ibverbs-providers",
        ),
        (
            without(fabrictree.rdma_core(), "etc/libibverbs.d/mlx5.driver"),
            WARN,
            "names mlx5: libibverbs does not load it",
            "echo driver mlx5 > /etc/libibverbs.d/mlx5",
        ),
        ({**fabrictree.rdma_core(), MLX5: b"\x7fELF rubbish"}, WARN, "no library for this", "one"),
    ],
)
def test_an_images_rdma_libraries_are_judged_by_the_hosts_adapters(
    host, image, files, status, text, fix
):
    fabrictree.add_hca(host.root)
    agrees(of_image(host, image(files))["image_rdma"], status, text, fix)


def test_without_an_adapter_nothing_is_asked_of_an_image(host, image):
    agrees(of_image(host, image())["image_rdma"], OK, "no adapter here", "")
    found = of_image(host, image(fabrictree.rdma_core("57")))
    agrees(found["image_rdma"], OK, "(rdmav57), providers: none; no adapter", "")


def test_a_variable_may_name_providers_and_where_libraries_lie(host, image):
    fabrictree.add_hca(host.root)
    files = fabrictree.rdma_core()
    moved = {path.replace(PLACE, "opt/mofed"): content for path, content in files.items()}
    tree = image(without(moved, "etc/libibverbs.d/mlx5.driver"))
    assert of_image(host, tree)["image_rdma"].status == WARN
    variables = {"LD_LIBRARY_PATH": "/opt/mofed", "RDMAV_DRIVERS": "mlx5"}
    agrees(of_image(host, tree, **variables)["image_rdma"], OK, "drives mlx5_0", "")


def test_providers_that_are_links_out_of_their_directory_count(host, image):
    fabrictree.add_hca(host.root)
    files = fabrictree.rdma_core()
    content = files.pop(MLX5)
    tree = image({**files, f"{PLACE}/libmlx5.so.1.24": content})
    os.symlink("../libmlx5.so.1.24", f"{tree.path}/{MLX5}")
    agrees(of_image(host, tree)["image_rdma"], OK, "drives mlx5_0", "")
    os.unlink(f"{tree.path}/{MLX5}")
    os.symlink("/proc/self/exe", f"{tree.path}/{MLX5}")
    assert of_image(host, tree)["image_rdma"].status == WARN


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Files of an image with one MPI, by a short word; each is linked once."""
    directory = str(tmp_path_factory.mktemp("mpi"))

    def linked(text, soname):
        path = f"{directory}/library"
        fabrictree.link_library(path, text, soname)
        with open(path, "rb") as file:
            return file.read()

    sonames = {
        "ompi": (OPEN_MPI, "libmpi.so.40"),
        "old ompi": (OPEN_MPI, "libmpi.so.12"),
        "mpich": (MPI, "libmpi.so.12"),
        "debian": (MPI, "libmpich.so.12"),
        "cray": (MPI, "libmpi_gnu_123.so.12"),
        "abi": (MPI, "libmpi_abi.so.1"),
        "no mpi": ("int other;", "libmpi.so.12"),
    }
    return {word: (soname, linked(text, soname)) for word, (text, soname) in sonames.items()}


def put(libraries, word, place=PLACE):
    soname, content = libraries[word]
    return {f"{place}/{soname}": content}


@pytest.mark.parametrize(
    ("own", "theirs", "status", "text"),
    [
        ("ompi", "cray", WARN, "use Open MPI (libmpi.so.40), the host offers Cray MPICH (libmpi_g"),
        ("ompi", "ompi", OK, "the host's Open MPI (libmpi.so.40) has the same ABI"),
        ("mpich", "old ompi", WARN, "the host offers Open MPI (libmpi.so.12): not ABI compatible"),
        ("debian", "mpich", OK, "has the same ABI (MPICH ABI) by another name"),
        ("debian", "cray", OK, "MPICH (libmpich.so.12) is used; the host's Cray MPICH"),
        ("abi", "mpich", WARN, "not ABI compatible"),
        ("abi", "abi", OK, "same ABI (MPI-5 ABI)"),
        ("ompi", "no mpi", OK, "this host has none to compare with"),
        ("no mpi", "ompi", OK, "the image has no MPI"),
    ],
)
def test_two_mpis_are_one_by_their_symbols(host, image, libraries, own, theirs, status, text):
    for path, content in put(libraries, theirs, "opt/vendor/lib").items():
        drivertree.write(host.root, path, content)
    finding = of_image(host, image(put(libraries, own)))["image_mpi"]
    assert (finding.status, text in finding.text) == (status, True), finding
    assert ("srun --mpi=pm" in finding.fix) == (status == WARN)


def test_functions_that_the_hosts_mpi_has_not_are_told(host, image, libraries, tmp_path):
    more = MPI + "".join(f"int MPI_Session_{n}(void) {{ return 0; }}" for n in "abcd")
    fabrictree.link_library(str(tmp_path / "newer"), more, "libmpi.so.12")
    newer = {f"{PLACE}/libmpi.so.12": (tmp_path / "newer").read_bytes()}
    for path, content in put(libraries, "mpich").items():
        drivertree.write(host.root, path, content)
    text = of_image(host, image(newer))["image_mpi"].text
    names = "MPI_Session_a, MPI_Session_b, MPI_Session_c and 1 more"
    assert text.endswith(f"(MPICH ABI), but lacks 4 of its 5 functions: {names}")


def test_a_hosts_mpi_is_found_by_variables_and_in_usual_places(host, libraries):
    assert of_host(host)["mpi"].text == "none found on this host"
    places = ("opt/cray/pe/mpich/8.1/ofi/gnu/12.3/lib-abi-mpich", "usr/lib64/openmpi/lib")
    for word, place in zip(("mpich", "ompi"), places):
        for path, content in put(libraries, word, place).items():
            drivertree.write(host.root, path, content)
    text = of_host(host)["mpi"].text
    assert "Open MPI (libmpi.so.40) in /usr/lib64/openmpi/lib; Cray MPICH (libmpi.so.12)" in text
    for path, content in put(libraries, "abi", "home/me/mpi/lib").items():
        drivertree.write(host.root, path, content)
    assert of_host(host, MPI_HOME="/home/me/mpi")["mpi"].text.startswith("MPI-5 ABI (libmpi_abi")


def test_symbols_that_are_only_asked_for_are_not_defined(tmp_path):
    path = str(tmp_path / "library")
    text = "extern int theirs; int *mine(void) { return &theirs; }"
    for style in ("gnu", "sysv"):
        fabrictree.link_library(path, text, "libx.so.1", f"-Wl,--hash-style={style}")
        assert elf.exported(path, ("mine", "theirs", "nobodys")) == {"mine"}
        assert elf.undefined(path) == {"theirs"}
        assert (elf.defined(path, "mi"), elf.defined(path, "t")) == ({"mine"}, set())
    drivertree.write(str(tmp_path), "library", elffile.library("libx.so.1"))
    assert elf.exported(path, ("mine",)) is None
    assert elf.undefined(path) == elf.defined(path, "") == set()


@pytest.mark.parametrize("style", ["gnu", "sysv"])
def test_broken_tables_of_symbols_end_soon(tmp_path, host, image, style):
    path = str(tmp_path / "library")
    fabrictree.link_library(path, MPI, "libmpi.so.12", f"-Wl,--hash-style={style}")
    section = ".gnu.hash" if style == "gnu" else ".hash"
    with open(path, "rb") as file:
        data = file.read()
    table = elf.section(path, section, 1 << 16)
    start = data.index(table)
    begin = time.process_time()
    for filler in (b"\xff", b"\x00", b"\x01\0\0\0", b"\xfe\xff\xff\xff"):
        for offset in (0, 4, 8, 16):
            bad = (table[:offset] + filler * len(table))[: len(table)]
            broken = data[:start] + bad + data[start + len(table) :]
            drivertree.write(str(tmp_path), "library", broken)
            elf.exported(path, ("MPI_Init", "ompi_mpi_comm_world"))
            elf.undefined(path)
    assert time.process_time() - begin < 5
    tree = image({f"{PLACE}/libmpi.so.12": broken, f"{PLACE}/libmpi.so.40": b"\x7fELF\2\1\1"})
    assert of_image(host, tree)["image_mpi"].status == OK


def test_an_image_full_of_names_and_links_ends_soon(host, image):
    fabrictree.add_hca(host.root)
    tree = image(fabrictree.rdma_core())
    for number in range(300):
        os.makedirs(f"{tree.path}/opt/{number}/{number}/lib")
        drivertree.write(tree.path, f"etc/libibverbs.d/{number}", "driver " * 1000)
        os.symlink(f"libmpi.so.{number + 1}", f"{tree.path}/{PLACE}/libmpi.so.{number}")
    os.mkfifo(f"{tree.path}/{PLACE}/libmpich.so.12")
    begin = time.process_time()
    found = of_image(host, tree, LD_LIBRARY_PATH=":/x" * 10000)
    assert found["image_mpi"].text == "the image has no MPI"
    assert time.process_time() - begin < 2


SRUN_PMIX = {"PMIX_RANK": "3", "PMIX_NAMESPACE": "slurm.pmix.7.0", "SLURM_MPI_TYPE": "pmix"}
SRUN_PMI2 = {"PMI_RANK": "1", "PMI_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "status", "text", "fix"),
    [
        ({}, OK, "not in a step", ""),
        ({"SLURM_STEP_NUM_TASKS": "1"}, OK, "not in a step", ""),
        ({"SLURM_STEP_NUM_TASKS": "8"}, WARN, "8 tasks without PMI", "srun --mpi=pmix"),
        (SRUN_PMIX, OK, "PMIx, rank 3, srun --mpi=pmix", ""),
        ({**SRUN_PMIX, "PMIX_SERVER_TMPDIR": "/spool/7"}, OK, "PMIx, rank 3", ""),
        ({**SRUN_PMIX, "PMIX_SERVER_TMPDIR": "/spool/8"}, WARN, "/spool/8, which is", "step"),
        (SRUN_PMI2, OK, "PMI, rank 1", ""),
        ({**SRUN_PMI2, "PMI_RANK": "2"}, WARN, "PMI_RANK=2 of PMI_SIZE=2", "unset"),
        ({**SRUN_PMI2, "PMI_FD": "0"}, OK, "PMI, rank 1", ""),
        ({**SRUN_PMI2, "PMI_FD": "98765"}, WARN, "PMI_FD=98765 is not open", "by srun directly"),
        ({**SRUN_PMI2, "PMI_FD": "9" * 99}, WARN, "is not open", "by srun directly"),
        ({"PALS_RANKID": "0", "PALS_APID": "x"}, OK, "PALS, rank 0", ""),
    ],
)
def test_what_the_step_offers_is_read_from_its_variables(host, environment, status, text, fix):
    os.makedirs(host.path("/spool/7"))
    agrees(of_host(host, **environment)["pmi"], status, text, fix)


LIBPMIX = {f"{PLACE}/libpmix.so.2": elffile.library("libpmix.so.2", machine=MACHINE)}
LINKED_TO_PMIX = {
    f"{PLACE}/libmpich.so.12": elffile.library(
        "libmpich.so.12", needed=("libpmix.so.2",), runpath="$ORIGIN/mpich", machine=MACHINE
    ),
    f"{PLACE}/mpich/libpmix.so.2": elffile.library("libpmix.so.2", machine=MACHINE),
}
LIBPMI2 = {f"{PLACE}/libpmi2.so.0": elffile.library("libpmi2.so.0", machine=MACHINE)}
PLUGIN = {f"{PLACE}/openmpi/mca_pmix_pmix3x.so": b""}
PALS_RANK = {"PALS_RANKID": "0"}


@pytest.mark.parametrize(
    ("word", "files", "job", "status", "text", "fix"),
    [
        ("ompi", LIBPMIX, {}, OK, "Open MPI (libmpi.so.40) has libpmix.so.2: srun --mpi=pmix", ""),
        ("ompi", LIBPMIX, SRUN_PMIX, OK, "libpmix.so.2, the step offers PMIx", ""),
        ("ompi", PLUGIN, SRUN_PMIX, OK, "mca_pmix_pmix3x.so", ""),
        ("ompi", {}, SRUN_PMIX, WARN, "has neither PMIx nor PMI: each rank", "libpmix"),
        ("ompi", LIBPMIX, SRUN_PMI2, WARN, "the step offers PMI: each rank", "srun --mpi=pmix"),
        ("ompi", LIBPMI2, SRUN_PMI2, OK, "libpmi2.so.0", ""),
        (
            "ompi",
            LIBPMIX,
            {**SRUN_PMIX, "PMIX_SERVER_TMPDIR": "/spool/7"},
            WARN,
            "the PMIx server's memory in /spool/7",
            "--env=PMIX_MCA_gds=hash",
        ),
        (
            "ompi",
            LIBPMIX,
            {**SRUN_PMIX, "PMIX_SERVER_TMPDIR": "/spool/7", "PMIX_MCA_gds": "hash"},
            OK,
            "the step offers PMIx",
            "",
        ),
        ("mpich", {}, {}, OK, "has its own PMI: srun --mpi=pmi2", ""),
        ("mpich", {}, SRUN_PMI2, OK, "the step offers PMI", ""),
        ("mpich", LIBPMIX, SRUN_PMIX, WARN, "offers PMIx: unless it was built", "srun --mpi=pmi2"),
        ("no mpi", LINKED_TO_PMIX, SRUN_PMIX, OK, "has libpmix.so.2, the step", ""),
        ("mpich", {}, PALS_RANK, WARN, "speaks the step's PALS", "--pmi=pmix"),
        ("no mpi", {}, SRUN_PMIX, OK, "the image has no MPI", ""),
    ],
)
def test_an_image_must_understand_what_the_step_offers(
    host, image, libraries, word, files, job, status, text, fix
):
    found = of_image(host, image({**put(libraries, word), **files}), job)
    agrees(found["image_pmi"], status, text, fix)


def test_a_linkers_private_versions_are_read_as_ours(tmp_path):
    drivertree.write(str(tmp_path), "map", "IBVERBS_PRIVATE_34 { global: verbs_register; };\n")
    path = str(tmp_path / "library")
    script = f"-Wl,--version-script,{tmp_path}/map"
    fabrictree.link_library(path, "int verbs_register;", "libibverbs.so.1", script)
    assert elffacts.scan(path).version_definitions == ("IBVERBS_PRIVATE_34",)
    assert elf.exported(path, ("verbs_register",)) == {"verbs_register"}
