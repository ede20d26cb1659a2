"""`udocker install` and `udocker bundle` as a user runs them."""

import gzip
import hashlib
import io
import json
import lzma
import os
import platform
import shutil
import subprocess
import tarfile

import debrepo
import pytest
from registries import needs

from udocker.engines import programs
from udocker.registry.loopback import LoopbackRegistry

MACHINE = platform.machine()
UDOCKERS = {"x86_64": "x86_64", "aarch64": "arm64"}.get(MACHINE, MACHINE)
HIDDEN = {
    "UDOCKER_USE_PROOT_EXECUTABLE": "UDOCKER",
    "UDOCKER_USE_RUNC_EXECUTABLE": "UDOCKER",
    "UDOCKER_FAKECHROOT_SO": "UDOCKER",
}
"""Hides what the host has: the value is udocker 1.3's word for its own programs."""
PROGRAM_C = '#include <stdio.h>\nint main(void) { puts("%s 1.2.3"); return 0; }\n'


@pytest.fixture(scope="module")
def elves(tmp_path_factory):
    """Static programs called proot and crun, and a library."""
    needs("gcc")
    directory = str(tmp_path_factory.mktemp("elves"))
    made = {}
    for name in ("proot", "crun"):
        debrepo.write(f"{directory}/{name}.c", (PROGRAM_C % name).encode())
        build = ["gcc", "-static", "-o", f"{directory}/{name}", f"{directory}/{name}.c"]
        subprocess.run(build, check=True)
        made[name] = debrepo.read(f"{directory}/{name}")
    made["library"] = debrepo.compiled(directory)[1]
    return made


@pytest.fixture
def tarball(elves, unprivileged):
    """What udocker 1.3 downloads, made small."""
    path = f"{unprivileged.home}/udocker-englib-1.2.11.tar.gz"
    debrepo.write(path, gzip.compress(tar(old_tools(elves)), mtime=0))
    unprivileged.own(unprivileged.home)
    return path


def old_tools(elves):
    library = elves["library"]
    return {
        "udocker_dir/lib/VERSION": b"1.2.11\n",
        f"udocker_dir/bin/proot-{UDOCKERS}": b"for old kernels",
        f"udocker_dir/bin/proot-{UDOCKERS}-4_8_0": elves["proot"],
        "udocker_dir/bin/proot-mips": b"another machine's",
        f"udocker_dir/bin/crun-{UDOCKERS}": elves["crun"],
        f"udocker_dir/bin/patchelf-{UDOCKERS}": b"not needed",
        f"udocker_dir/lib/libfakechroot-Debian-11-{UDOCKERS}.so": library,
        f"udocker_dir/lib/libfakechroot-Alpine-3.18-{UDOCKERS}.so": library,
        f"udocker_dir/lib/libfakechroot-{UDOCKERS}.so": library,
        "udocker_dir/doc/LICENSE": b"text",
        "../escape": b"outside",
    }


def tar(files, *extra):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in extra:
            archive.addfile(member)
    return stream.getvalue()


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def install(user, *words, env=HIDDEN, **options):
    return user.udocker("install", *words, env=env, **options)


def listed(user):
    """Return what is installed: names and versions."""
    place = f"{user.udocker_dir}/engines"
    names = sorted(os.listdir(place)) if os.path.isdir(place) else []
    return {name: sorted(set(os.listdir(f"{place}/{name}")) - {"current"}) for name in names}


def test_with_nothing_to_do_and_no_network_it_says_what_is_there(unprivileged, tmp_path):
    needs("proot", "crun")
    done = unprivileged.udocker("install")
    assert "/usr/bin/proot" in done.stdout
    assert listed(unprivileged) == {}
    assert "userns" in done.stderr


def test_force_without_a_network_is_no_failure_where_containers_run_anyway(unprivileged):
    sources = f"{unprivileged.home}/empty.list"
    proxies = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = install(unprivileged, "--force", env={**HIDDEN, **proxies})
    assert "no package proot can be had" in done.stderr
    assert "containers run here by userns" in done.stderr
    debrepo.write(sources, b"# nothing\n")
    done = install(unprivileged, "--sources", sources, "proot", check=False)
    assert done.returncode == 1
    assert "no Debian repository" in done.stderr


@pytest.mark.parametrize("words", [["emacs"], ["apptainer"], ["--sha256=00", "proot"]])
def test_what_makes_no_sense_is_a_usage_error(unprivileged, words):
    done = install(unprivileged, *words, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    both = install(unprivileged, "--purge", "--list", check=False)
    assert both.returncode == 2


def test_the_tools_of_udocker_1_3_are_taken_from_its_tarball(unprivileged, tarball):
    done = install(unprivileged, "--from", tarball)
    assert listed(unprivileged) == {
        "crun": ["1.2.11"],
        "libfakechroot": ["1.2.11", "1.2.11-Alpine-3.18", "1.2.11-Debian-11"],
        "proot": ["1.2.11"],
    }
    assert "udocker tools 1.2.11" in done.stdout
    program = f"{unprivileged.udocker_dir}/engines/proot/current/proot"
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"proot 1.2.3\n"
    assert not os.path.exists(f"{unprivileged.home}/escape")


def test_only_what_is_named_is_taken(unprivileged, tarball):
    install(unprivileged, "--from", tarball, "crun")
    assert list(listed(unprivileged)) == ["crun"]
    done = install(unprivileged, "--from", tarball, "runc", check=False)
    assert done.returncode == 1
    assert "runc is not in" in done.stderr


def test_the_directory_of_udocker_1_3_does_as_well(unprivileged, elves):
    for path, data in old_tools(elves).items():
        if path.startswith("udocker_dir/"):
            debrepo.write(f"{unprivileged.home}/old/{path[len('udocker_dir/') :]}", data)
    unprivileged.own(unprivileged.home)
    install(unprivileged, "--from", f"{unprivileged.home}/old", "proot")
    assert listed(unprivileged) == {"proot": ["1.2.11"]}


def test_the_tarball_must_have_the_checksum_that_is_given(unprivileged, tarball):
    right = hashlib.sha256(debrepo.read(tarball)).hexdigest()
    wrong = install(unprivileged, "--from", tarball, "--sha256", "0" * 64, check=False)
    assert (wrong.returncode, listed(unprivileged)) == (1, {})
    install(unprivileged, "--from", tarball, "--sha256", right.upper())
    assert "proot" in listed(unprivileged)


@pytest.mark.parametrize("name", ["SHA256SUMS", "metadata.json"])
def test_a_checksum_that_lies_beside_the_tarball_counts(unprivileged, tarball, name):
    file_name = os.path.basename(tarball)
    for checksum, code in (
        ("0" * 64, 1),
        (hashlib.sha256(debrepo.read(tarball)).hexdigest(), 0),
    ):
        text = f"{checksum}  ./{file_name}\n"
        if name == "metadata.json":
            text = json.dumps([{"url": f"https://x/{file_name}", "sha256": checksum}])
        debrepo.write(f"{os.path.dirname(tarball)}/{name}", text.encode())
        done = install(unprivileged, "--from", tarball, "proot", check=False)
        assert done.returncode == code


def test_a_tarball_comes_from_the_web_with_the_checksum_beside_it(unprivileged, tarball, tmp_path):
    name = os.path.basename(tarball)
    shutil.copy(tarball, tmp_path / name)
    checksum = hashlib.sha256(debrepo.read(tarball)).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{checksum} *{name}\n")
    with debrepo.Server(str(tmp_path)) as server:
        install(unprivileged, "--from", f"{server.url}/{name}", "crun")
        assert listed(unprivileged) == {"crun": ["1.2.11"]}
        none = install(unprivileged, "--from", f"{server.url}/nothing", check=False)
        (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64} *{name}\n")
        wrong = install(unprivileged, "--from", f"{server.url}/{name}", check=False)
    assert (none.returncode, wrong.returncode) == (1, 1)
    assert "checksum" in wrong.stderr


def test_what_comes_over_plain_http_needs_a_checksum(unprivileged, tarball, tmp_path):
    place = tmp_path / "http:" / "site.example"  # as a proxy is asked for it
    place.mkdir(parents=True)
    shutil.copy(tarball, place / "tools.tgz")
    checksum = hashlib.sha256(debrepo.read(tarball)).hexdigest()
    with debrepo.Server(str(tmp_path)) as server:
        words = ("--from", "http://site.example/tools.tgz", "crun")
        env = {**HIDDEN, "http_proxy": server.url}
        refused = install(unprivileged, *words, env=env, check=False)
        assert (refused.returncode, listed(unprivileged)) == (1, {})
        assert "--sha256" in refused.stderr
        install(unprivileged, *words, "--sha256", checksum, env=env)
        install(unprivileged, *words, "--insecure", env=env)
    assert listed(unprivileged) == {"crun": ["1.2.11"]}


@pytest.mark.parametrize(
    "hostile",
    [
        lambda e: tar({}, link(f"udocker_dir/bin/proot-{UDOCKERS}", "/etc/passwd")),
        lambda e: tar(
            {}, link(f"udocker_dir/bin/proot-{UDOCKERS}", "/etc/shadow", tarfile.LNKTYPE)
        ),
        lambda e: tar({}, link(f"bin/crun-{UDOCKERS}", "", tarfile.CHRTYPE)),
        lambda e: tar({f"bin/proot-{UDOCKERS}": b"#!/bin/sh\nid >$HOME/ran\n"}),
        lambda e: tar({f"bin/proot-{UDOCKERS}": bytes(65 << 20)}),
        lambda e: tar({f"bin/crun-{UDOCKERS}": e["crun"]})[:-20000],
        lambda e: b"not a tar" * 1000,
        lambda e: b"",
        lambda e: tar({"MANIFEST.json": b"{}"}),
        lambda e: tar({"MANIFEST.json": b'{"format": 1, "machine": "sparc", "programs": []}'}),
        lambda e: tar({f"bin/proot-{UDOCKERS}": e["proot"], f"./bin/proot-{UDOCKERS}": b""}),
    ],
)
def test_a_hostile_archive_installs_nothing(unprivileged, elves, hostile):
    path = f"{unprivileged.home}/hostile.tar.xz"
    if os.path.exists(path):
        os.unlink(path)
    data = hostile(elves)
    if len(data) > 1 << 20:
        data = lzma.compress(data, preset=0)
    debrepo.write(path, data)
    unprivileged.own(unprivileged.home)
    done = install(unprivileged, "--from", path, check=False)
    assert (done.returncode, listed(unprivileged)) == (1, {})
    assert "Traceback" not in done.stderr
    assert not os.path.exists(f"{unprivileged.home}/ran")


def test_a_bundle_installs_elsewhere_what_was_installed_here(unprivileged, tarball, account):
    install(unprivileged, "--from", tarball)
    first, second = f"{unprivileged.home}/first.tgz", f"{unprivileged.home}/second.tgz"
    for path in (first, second):
        assert unprivileged.udocker("bundle", "-o", path).stdout == f"{path}\n"
    assert debrepo.read(first) == debrepo.read(second)
    before = listed(unprivileged)
    elsewhere = {**HIDDEN, "UDOCKER_DIR": f"{unprivileged.home}/elsewhere"}
    install(unprivileged, "--from", first, env=elsewhere)
    shown = unprivileged.udocker("install", "--list", env=elsewhere).stdout
    assert f"{unprivileged.home}/elsewhere/engines/proot/1.2.11/proot" in shown
    for name, versions in before.items():
        there = os.listdir(f"{unprivileged.home}/elsewhere/engines/{name}")
        assert sorted(set(there) - {"current"}) == versions


def test_a_bundle_holds_the_libraries_that_its_programs_need(unprivileged):
    needs("proot")
    path = f"{unprivileged.home}/bundle.tgz"
    unprivileged.udocker("bundle", "-o", path, "proot")
    with tarfile.open(path) as archive:
        names = archive.getnames()
        manifest = json.load(archive.extractfile("MANIFEST.json"))
    assert [os.path.basename(name) for name in names if "/lib/" in name] == ["libtalloc.so.2"]
    assert not any("libc.so" in name for name in names)
    assert manifest["machine"] == MACHINE
    install(unprivileged, "--from", path)
    program = f"{unprivileged.udocker_dir}/engines/proot/current/proot"
    loaded = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    assert f"{unprivileged.udocker_dir}/engines/proot/" in loaded
    again = f"{unprivileged.home}/again.tgz"
    unprivileged.udocker("bundle", "-o", again, "proot", env=HIDDEN)
    assert debrepo.read(again)[:2] == b"\x1f\x8b"


@pytest.mark.parametrize("engine", ["proot", "runc"])
def test_a_program_from_a_bundle_runs_containers(unprivileged, busybox_image, engine):
    if programs.on_host(engine) is None:
        pytest.skip(f"needs {engine}")
    path = f"{unprivileged.home}/bundle.tgz"
    unprivileged.udocker("bundle", "-o", path, engine)
    install(unprivileged, "--from", path)
    with LoopbackRegistry(busybox_image.path) as address:
        image = f"{address}/library/{busybox_image.reference}"
        unprivileged.udocker("pull", image)
    words = ("run", "--rm", f"--engine={engine}", image, "cat", "/etc/greeting")
    done = unprivileged.udocker(*words, env=HIDDEN, check=False)
    assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr


def test_a_bundle_that_was_changed_is_refused(unprivileged, tarball):
    install(unprivileged, "--from", tarball, "crun")
    path = f"{unprivileged.home}/bundle.tgz"
    unprivileged.udocker("bundle", "-o", path)
    install(unprivileged, "--purge")
    with tarfile.open(path) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
    for name in sorted(files):
        changed = {**files, name: files[name] + b" " if "json" not in name else b"[]"}
        debrepo.write(path, gzip.compress(tar(changed)))
        done = install(unprivileged, "--from", path, check=False)
        assert (done.returncode, listed(unprivileged)) == (1, {}), name


def test_nothing_to_bundle_is_an_error(unprivileged):
    done = unprivileged.udocker("bundle", check=False)
    assert done.returncode == 1
    assert "udocker install" in done.stderr


def test_purge_removes_what_was_installed(unprivileged, tarball):
    install(unprivileged, "--from", tarball)
    install(unprivileged, "--purge", "crun")
    assert sorted(listed(unprivileged)) == ["libfakechroot", "proot"]
    install(unprivileged, "--purge")
    assert listed(unprivileged) == {}
    install(unprivileged, "--purge")


def test_installs_at_the_same_time_do_each_other_no_harm(unprivileged, tarball):
    words = [unprivileged.python, "-m", "udocker", "install", "--from", tarball]
    options = {"env": HIDDEN, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    running = [unprivileged.popen(words, **options) for _ in range(4)]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    assert sorted(listed(unprivileged)) == ["crun", "libfakechroot", "proot"]
    program = f"{unprivileged.udocker_dir}/engines/proot/current/proot"
    subprocess.run([program], check=True, stdout=subprocess.DEVNULL)


def test_what_a_killed_install_left_is_removed_by_the_next(unprivileged, tarball):
    ended = subprocess.Popen(["true"])
    ended.wait()
    draft = f"{unprivileged.udocker_dir}/engines/.draft.{os.uname().nodename}-{ended.pid}.00"
    debrepo.write(f"{draft}/proot", b"half")
    unprivileged.own(unprivileged.home)
    for path in (unprivileged.udocker_dir, f"{unprivileged.udocker_dir}/engines"):
        os.chmod(path, 0o700)
    install(unprivileged, "--from", tarball, "crun")
    assert not os.path.exists(draft)


def test_a_store_that_others_can_write_to_is_refused(unprivileged, tarball):
    os.mkdir(unprivileged.udocker_dir)
    unprivileged.own(unprivileged.udocker_dir)
    os.chmod(unprivileged.udocker_dir, 0o775)
    done = install(unprivileged, "--from", tarball, check=False)
    assert done.returncode == 1
    assert f"chmod go-w {unprivileged.udocker_dir}" in done.stderr


@pytest.mark.slow
def test_the_machines_own_mirror_has_proot(unprivileged):
    needs("gpgv")
    if not os.path.isdir("/etc/apt/sources.list.d"):
        pytest.skip("needs Debian or Ubuntu")
    done = install(unprivileged, "proot", timeout=300)
    assert done.returncode == 0
    (version,) = listed(unprivileged)["proot"]
    program = f"{unprivileged.udocker_dir}/engines/proot/{version}/proot"
    help_text = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    assert "--rootfs" in help_text.stdout
    assert program in install(unprivileged, "--list").stdout
