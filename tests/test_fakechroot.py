"""Containers under libfakechroot: a small system of the host's own programs, in all four modes."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile

import pytest
from images import add_image
from registries import Layout, needs
from unprivileged import Unprivileged

from udocker.engines.rebase.preload import LOADERS, NAME, libraries
from udocker.host.loader import closure
from udocker.host.root import Root
from udocker.registry.loopback import LoopbackRegistry

MODES = ("F1", "F2", "F3", "F4")
TOOLS = ("cat", "cp", "env", "id", "ls", "mkdir", "mv", "readlink", "rm", "sleep", "stat", "touch")
TOOLS += ("ln", "chmod", "true", "sh", "bash")


@pytest.fixture(scope="module")
def image_layout(public_directory):
    """An image of the host's shell and tools, with a few traps."""
    if not list(libraries("/nowhere")):
        pytest.skip(f"needs {NAME} (package libfakechroot)")
    needs("busybox", "gcc")
    path = os.path.join(public_directory, "tools")
    env = ["PATH=/bin", "GREETING=hello", "FAKECHROOT_DETECT=3"]
    add_image(Layout(path), "tools:1", [_layer(public_directory)], compression="", Env=env)
    return path


def _layer(directory):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("bin", "data", "dev", "etc", "full", "mnt", "opt", "proc", "root", "sys"):
            _add(tar, name, kind=tarfile.DIRTYPE, mode=0o755)
        _add(tar, "tmp", kind=tarfile.DIRTYPE, mode=0o1777)
        needed = closure([os.path.realpath(shutil.which(tool)) for tool in TOOLS], Root("/"))
        for path, host_path in needed.items():
            with open(host_path, "rb") as file:
                _add(tar, path[1:], file.read(), mode=0o755)
        for tool in TOOLS:  # absolute, so that the kernel has to be led
            target = os.path.realpath(shutil.which(tool))
            if target != f"/bin/{tool}":
                _add(tar, f"bin/{tool}", kind=tarfile.SYMTYPE, link=target)
        with open(shutil.which("busybox"), "rb") as file:
            _add(tar, "bin/busybox", file.read(), mode=0o755)
        _add(tar, "bin/unpatched", _compiled(directory), mode=0o755)
        _add(tar, "bin/script", b"#!/bin/sh -e\necho script $0 $*\n", mode=0o755)
        _add(tar, "bin/nested", b"#! /bin/script  one word\n", mode=0o755)
        _add(tar, "bin/orphan", b"#!/no/interpreter\n", mode=0o755)
        _add(tar, "bin/text", b"nothing\n", mode=0o755)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add(tar, "etc/group", b"root:x:0:\n")
        _add(tar, "etc/greeting", b"hello\n")
        _add(tar, "etc/hosts", b"the image's\n")
        _add(tar, "full/file", b"of the image\n")
        _add(tar, "etc/link", kind=tarfile.SYMTYPE, link="/etc/greeting")
        _add(tar, "etc/high", kind=tarfile.SYMTYPE, link="../../../../etc/greeting")
        _add(tar, "etc/mtab", kind=tarfile.SYMTYPE, link="../proc/self/mounts")
    return stream.getvalue()


def _add(tar, name, data=b"", *, kind=tarfile.REGTYPE, mode=0o644, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.size = kind, mode, link, len(data)
    tar.addfile(member, io.BytesIO(data))


def _compiled(directory):
    source = b'#include <stdio.h>\nint main(void) { return puts("compiled") < 0; }\n'
    path = f"{directory}/compiled"
    subprocess.run(["gcc", "-x", "c", "-", "-o", path], input=source, check=True)
    with open(path, "rb") as file:
        return file.read()


@pytest.fixture(scope="module")
def user(account, image_layout):
    user = Unprivileged(account)
    with LoopbackRegistry(image_layout) as host:
        user.image = f"{host}/library/tools:1"
        user.image_directory = os.path.dirname(image_layout)
        user.udocker("pull", user.image)
        for mode in MODES:
            user.udocker("create", f"--name={mode}", user.image)
        yield user
    user.close()


def run(user, mode, *words, options=(), **how):
    """Run a program in the container that is named like the mode."""
    return user.udocker("run", f"--engine={mode}", *options, mode, *words, **how)


def sh(user, mode, script, *options, **how):
    return run(user, mode, "sh", "-c", script, options=options, **how).stdout


def refused(user, mode, *words, options=()):
    done = run(user, mode, *words, options=options, check=False)
    assert (done.returncode, done.stdout) == (125, ""), done
    assert "Traceback" not in done.stderr
    return done.stderr


def rootfs(user, mode):
    container = os.path.realpath(f"{user.udocker_dir}/containers/names/{mode}")
    return f"{container}/rootfs"


@pytest.fixture
def place(user, request):
    """A new directory of the user with a file in it."""
    path = f"{user.home}/place-{abs(hash(request.node.name))}"
    os.mkdir(path)
    with open(f"{path}/file", "w") as file:
        file.write("of the host\n")
    user.own(path)
    return path


@pytest.mark.parametrize("mode", MODES)
def test_programs_see_the_containers_files(user, mode):
    listed = sh(user, mode, "ls /; cat /etc/greeting /etc/link /etc/high; echo /bin/t*")
    assert {"bin", "data", "etc", "full", "opt", "tmp"} <= set(listed.split())
    assert listed.splitlines()[-4:] == ["hello"] * 3 + ["/bin/text /bin/touch /bin/true"]
    assert os.path.exists("/etc/os-release")
    assert sh(user, mode, "ls /etc/os-release 2>/dev/null; echo $?") == "2\n"


@pytest.mark.parametrize("mode", MODES)
def test_programs_that_programs_start_see_the_containers_files(user, mode):
    script = "bash -c 'sh -c \"cat /etc/link | cat\"; (exec ls -d /full); script a'"
    assert sh(user, mode, script).splitlines() == [
        "hello",
        "/full",
        "script /bin/script a",
    ]


@pytest.mark.parametrize("mode", MODES)
def test_links_and_directories_are_named_as_in_the_container(user, mode):
    script = (
        "readlink /etc/link; cd /full; pwd; readlink /proc/self/cwd; ls; readlink -f /bin/../etc"
    )
    assert sh(user, mode, script).split() == ["/etc/greeting", "/full", "/full", "file", "/etc"]
    assert "proc" in sh(user, mode, "cat /etc/mtab")


@pytest.mark.parametrize("mode", MODES)
def test_the_caller_has_a_name_and_an_environment_of_its_own(user, mode):
    script = "id -un; id -u; echo $0 $GREETING $FAKECHROOT_DETECT $MINE"
    name, uid, rest = sh(user, mode, script, "-e", "MINE=1").splitlines()
    assert (name, uid, rest) == (f"user{user.uid}", str(user.uid), "sh hello 1")


@pytest.mark.parametrize("mode", ["F1", "F3"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "kill -9 $$"], -signal.SIGKILL),
        (["nowhere"], 127),
        (["/bin/nowhere"], 127),
        ([""], 127),
        (["/etc/greeting"], 126),
        (["/etc"], 126),
        (["orphan"], 127),
        (["text"], 126),
    ],
)
def test_exit_codes_are_exact(user, mode, words, code):
    assert run(user, mode, *words, check=False).returncode == code


@pytest.mark.parametrize("mode", ["F1", "F3"])
def test_a_script_is_run_by_the_containers_interpreter(user, mode):
    assert run(user, mode, "script", "a", "b").stdout == "script /bin/script a b\n"
    assert run(user, mode, "nested", "a").stdout == "script /bin/script one word /bin/nested a\n"


@pytest.mark.parametrize("mode", ["F1", "F3"])
def test_a_directory_to_begin_in_is_made_where_it_is_not(user, mode):
    assert sh(user, mode, "pwd; touch x; ls", "-w", "/opt/new/one") == "/opt/new/one\nx\n"


@pytest.mark.parametrize("mode", MODES)
def test_a_static_program_is_refused_unless_it_is_forced(user, mode):
    said = refused(user, mode, "busybox", "ls", "/")
    assert "linked statically" in said and "engines that can: userns" in said
    done = run(user, mode, "busybox", "ls", "/", options=["--force"])
    assert "data" not in done.stdout.split()


@pytest.mark.parametrize("mode", MODES)
def test_a_volume_shows_where_it_was_asked_for(user, mode, place):
    script = "cat file; echo new >made; pwd; cat /data/made; cat /etc/config; ls /full"
    options = ("-v", f"{place}:/data", "-w", "/data", "-v", f"{place}/file:/etc/config")
    printed = sh(user, mode, script, *options, "-v", f"{place}:/full")
    assert printed.splitlines() == [
        *("of the host", place, "new", "of the host", "file", "made"),
    ]
    with open(f"{place}/made") as file:
        assert file.read() == "new\n"
    # nothing is left of it in the next run
    script = "ls /data; cat /full/file; ls /etc/config 2>/dev/null || echo gone"
    assert sh(user, mode, script) == "of the image\ngone\n"


@pytest.mark.parametrize("mode", ["F1", "F3"])
def test_a_volume_at_its_own_path_is_the_hosts(user, mode, place):
    assert sh(user, mode, f"cd {place}; cat file; pwd; ls {place}", "-v", place) == (
        f"of the host\n{place}\nfile\n"
    )


def test_a_volume_that_would_be_mixed_up_is_refused(user, place):
    for volume in ("/:/data", "/etc:/data", f"{place}:/dev/x"):
        assert "engines that can" in refused(user, "F3", "true", options=["-v", volume])
    nested = ("-v", f"{place}:/data", "-v", f"{place}:/data/in")
    assert "a --volume in another one" in refused(user, "F3", "true", options=nested)


def test_runs_side_by_side_need_the_same_volumes(user, place):
    first = [user.python, "-m", "udocker", "run", "--engine=F3", "-v", f"{place}:/data", "F3"]
    with user.popen(
        [*first, "sh", "-c", "echo ready; read x; cat /data/file"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        assert sh(user, "F3", "cat /data/file", "-v", f"{place}:/data") == "of the host\n"
        said = refused(user, "F3", "true", options=["-v", f"{place}:/mnt"])
        assert "running without /mnt" in said
        assert sh(user, "F3", "echo beside") == "beside\n"
        assert process.communicate("\n")[0] == "of the host\n"
    assert sh(user, "F3", "ls /data; echo -", "-v", f"{place}:/mnt") == "-\n"


def test_many_runs_of_a_new_container_begin_at_once(user, place):
    user.udocker("create", "--name=many", user.image)
    words = ["run", "--engine=F3", f"-v={place}:/data", "many", "cat", "/data/file"]
    running = [
        user.popen([user.python, "-m", "udocker", *words], stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    assert [process.communicate(timeout=60)[0] for process in running] == ["of the host\n"] * 6
    user.udocker("rm", "-f", "many")


def test_a_program_that_the_host_knows_runs_in_a_volume(user, image_layout, place):
    shutil.copy(f"{os.path.dirname(image_layout)}/compiled", place)
    user.own(place)
    for mode in MODES:
        done = run(user, mode, "/data/compiled", options=["-v", f"{place}:/data"])
        assert done.stdout == "compiled\n"


def test_f4_finds_programs_made_since(user):
    sh(user, "F4", "true")
    made = f"{rootfs(user, 'F4')}/tmp/made"
    shutil.copy(f"{user.image_directory}/compiled", made)
    user.own(made)
    assert run(user, "F4", "/tmp/made").stdout == "compiled\n"
    with open(made, "rb") as file:
        assert rootfs(user, "F4").encode() in file.read()


def test_another_mode_gets_the_files_as_they_were(user):
    user.udocker("create", "--name=fresh", user.image)
    user.udocker("run", "--engine=F1", "fresh", "true")
    plain = programs(user, "fresh")
    user.udocker("run", "--engine=F3", "fresh", "true")
    changed = programs(user, "fresh")
    assert all(plain[path] != changed[path] for path in plain)
    user.udocker("run", "--engine=F1", "fresh", "true")
    assert programs(user, "fresh") == plain


def programs(user, name):
    """Return the bytes of some programs of a container."""
    found = {}
    for path in ("ls", "cat", "bash"):
        real = os.path.realpath(shutil.which(path))
        with open(rootfs(user, name) + real, "rb") as file:
            found[real] = file.read()
    return found


def test_a_store_that_was_moved_is_used_on(unprivileged, image_layout):
    with LoopbackRegistry(image_layout) as host:
        unprivileged.udocker("pull", f"{host}/library/tools:1")
        unprivileged.udocker("create", "--name=c", f"{host}/library/tools:1")
    assert sh_named(unprivileged, "c").stdout == "hello\n"
    moved = f"{unprivileged.home}/elsewhere"
    os.rename(unprivileged.udocker_dir, moved)
    assert sh_named(unprivileged, "c", UDOCKER_DIR=moved).stdout == "hello\n"


def sh_named(user, name, **env):
    return user.udocker("run", "--engine=F3", name, "sh", "-c", "cat /etc/link", env=env)


def test_a_container_without_glibc_is_refused(unprivileged, busybox_image):
    with LoopbackRegistry(busybox_image.path) as host:
        image = f"{host}/library/{busybox_image.reference}"
        done = unprivileged.udocker("run", "--engine=F3", image, "true", check=False)
    assert done.returncode == 125
    assert f"no glibc for {os.uname().machine}" in done.stderr


def test_a_library_that_does_not_fit_is_refused_by_what_it_lacks(user, place):
    library = f"{place}/libfakechroot.so"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", library]
    subprocess.run(command, input=b"int __xstat(void) { return 0; }", check=True)
    user.own(place)
    env = {"UDOCKER_FAKECHROOT_SO": library}
    done = run(user, "F3", "true", env=env, check=False)
    assert done.returncode == 125
    assert "does not see the calls of stat and lstat and fstatat" in done.stderr
    assert "udocker install libfakechroot" in done.stderr


def test_what_only_a_root_of_ones_own_could_do_is_refused(user):
    for option in ("--user=5:5", "--read-only", "--hostname=x", "--network=none", "--tmpfs=/mnt"):
        assert "engines that can: " in refused(user, "F3", "true", options=[option])


def test_a_dry_run_prints_a_command_that_works(user, place):
    words = ["run", "--dry-run", "--engine=F3", f"-v={place}:/data", "-w", "/data", "F3"]
    text = user.udocker(*words, "cat", "file").stdout
    assert user.run(["sh", "-c", text]).stdout == "of the host\n"
    sh(user, "F3", "true")


def test_a_pasted_dry_run_makes_no_link_inside_of_a_directory_of_the_container(user, place):
    sh(user, "F3", "mkdir -p /was/empty /was/full/own")
    volumes = [f"-v={place}:/was/empty", f"-v={place}:/was/full"]
    text = user.udocker("run", "--dry-run", "--engine=F3", *volumes, "F3", "ls", "/was/empty")
    done = user.run(["sh", "-c", text.stdout])
    assert "file" in done.stdout
    assert "cannot overwrite directory" in done.stderr
    assert sh(user, "F3", "ls -A /was/full") == "own\n"


def test_loaders_of_all_known_processors_are_named():
    assert set(LOADERS) == {"x86_64", "aarch64"}
