"""A container's files changed for fakechroot, killed in the middle, and brought back."""

from __future__ import annotations

import os
import shutil
import subprocess
import textwrap

import pytest

from udocker.engines.rebase.blinding import blinding
from udocker.engines.rebase.preload import LOADERS
from udocker.engines.rebase.rebasing import Rebasing
from udocker.host import elf

LOADER = LOADERS.get(os.uname().machine, ("",))[0]
pytestmark = pytest.mark.skipif(not os.path.exists(LOADER), reason="needs a host with glibc")
PROGRAM = "int main(void) { return 42; }"
KILL = """
    import os, signal, sys
    from udocker.engines.rebase.rebasing import Rebasing

    step, action, directory, root, loader, mode = sys.argv[1:]
    left = int(step)

    def trace(frame, event, _):
        global left
        name = os.path.basename(frame.f_code.co_filename)
        if name not in ("journal.py", "rebasing.py", "elfwriter.py", "showing.py"):
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    rebasing = Rebasing(directory, root, mode, loader)
    sys.settrace(trace)
    getattr(rebasing, action)(*(["me:x:1:1::/:/bin/sh\\n", ""] if action == "apply" else []))
    sys.settrace(None)
    print(left)
"""


def make_container(directory):
    """Make a container's root with a bit of everything; return its path."""
    root = f"{directory}/rootfs"
    for name in ("bin", "etc", "opt/app", "usr/lib", "proc", os.path.dirname(LOADER)[1:]):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    shutil.copy(LOADER, root + LOADER)
    os.chmod(root + LOADER, 0o555)
    compile_to(f"{root}/bin/program", "-Wl,-rpath,/opt/app:$ORIGIN")
    compile_to(f"{root}/usr/lib/library.so", "-shared", "-fPIC", "-Wl,-rpath,/opt/app")
    shutil.copy(f"{root}/bin/program", f"{root}/bin/read-only")
    shutil.copy(f"{root}/bin/program", f"{root}/bin/unreadable")
    os.link(f"{root}/bin/program", f"{root}/opt/app/again")
    for name, target in {
        "opt/absolute": "/bin/program",
        "opt/relative": "../bin/program",
        "opt/app/climbing": "../../../../bin/program",
        "etc/mtab": "../proc/self/mounts",
        "etc/root": "/",
        "etc/null": "/dev/null",
    }.items():
        os.symlink(target, f"{root}/{name}")
    write(f"{root}/etc/passwd", "root:x:0:0::/root:/bin/sh")
    write(f"{root}/etc/text", "nothing\n" * 20)
    for name, mode in (("bin/read-only", 0o555), ("bin/unreadable", 0o111), ("opt/app", 0o555)):
        os.chmod(f"{root}/{name}", mode)
    for number, path in enumerate(sorted(inventory(root))):
        os.utime(root + path, ns=(0, 10**18 + number), follow_symlinks=False)
    return root


def compile_to(path, *words):
    command = ["gcc", "-x", "c", "-", *words, "-o", path]
    subprocess.run(command, input=PROGRAM.encode(), check=True)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def inventory(root):
    """Return mode, time, content or target of everything below `root`, by path."""
    found = {}
    for directory, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = f"{directory}/{name}"
            status = os.lstat(path)
            facts = [status.st_mode, status.st_mtime_ns, status.st_nlink]
            if os.path.islink(path):
                facts.append(os.readlink(path))
            elif os.path.isfile(path):
                facts.append(content(path))
            found[path[len(root) :]] = facts
    return found


def content(path):
    mode = os.stat(path).st_mode
    if not os.access(path, os.R_OK):
        os.chmod(path, mode | 0o400)
    try:
        with open(path, "rb") as file:
            return file.read()
    finally:
        os.chmod(path, mode)


@pytest.fixture
def container(tmp_path):
    directory = os.path.realpath(tmp_path)
    yield directory, make_container(directory)
    subprocess.run(["chmod", "-R", "u+rwx", directory], check=True)


def differences(before, after):
    return {path for path in {*before, *after} if before.get(path) != after.get(path)}


@pytest.mark.parametrize("mode", ["F1", "F2", "F3", "F4"])
def test_all_is_as_it_was_after_a_restore(container, mode):
    directory, root = container
    before = inventory(root)
    rebasing = Rebasing(directory, root, mode, LOADER)
    rebasing.apply("me:x:1:1::/:/bin/sh\n", "")
    assert rebasing.failures == []
    changed = differences(before, inventory(root))
    links = {"/opt/absolute", "/opt/app/climbing", "/etc/mtab", "/etc/root", "/etc/passwd"}
    files = {"/bin/program", "/usr/lib/library.so", "/bin/read-only", "/bin/unreadable"}
    expected = {
        "F1": links,
        "F2": {*links, LOADER},
    }.get(mode, {*links, LOADER, *files, "/opt/app/again"})
    assert changed == expected
    rebasing.restore()
    assert differences(before, inventory(root)) == set()
    assert sorted(os.listdir(directory)) == ["rootfs"]


def test_links_lead_below_the_root_or_to_the_hosts_own_directories(container):
    directory, root = container
    Rebasing(directory, root, "F1", LOADER).apply()
    for name, target in {
        "opt/absolute": f"{root}/bin/program",
        "opt/relative": "../bin/program",
        "opt/app/climbing": f"{root}/bin/program",
        "etc/mtab": "/proc/self/mounts",
        "etc/root": root,
        "etc/null": "/dev/null",
    }.items():
        assert os.readlink(f"{root}/{name}") == target


def test_programs_run_with_the_roots_loader_and_paths(container):
    directory, root = container
    Rebasing(directory, root, "F3", LOADER).apply()
    facts = elf.read(f"{root}/bin/program")
    assert facts.interpreter == root + LOADER
    assert facts.runpath == (f"{root}/opt/app", "$ORIGIN")
    libraries = subprocess.run(
        ["gcc", "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True
    ).stdout
    path = {"LD_LIBRARY_PATH": os.path.dirname(os.path.realpath(libraries.strip()))}
    assert subprocess.run([f"{root}/opt/absolute"], env=path).returncode == 42
    # the loader of the root looks nowhere else: without a path it finds no libc
    assert subprocess.run([f"{root}/opt/absolute"], env={}, stderr=-3).returncode == 127


def test_nothing_is_done_twice_and_a_moved_store_is_changed_anew(container):
    directory, root = container
    before = inventory(root)
    Rebasing(directory, root, "F3", LOADER).apply()
    once = inventory(root)
    Rebasing(directory, root, "F3", LOADER).apply()
    assert differences(once, inventory(root)) == set()
    moved = f"{directory}/moved"
    os.mkdir(moved)
    for name in os.listdir(directory):
        if name != "moved":
            os.rename(f"{directory}/{name}", f"{moved}/{name}")
    rebasing = Rebasing(moved, f"{moved}/rootfs", "F3", LOADER)
    rebasing.apply()
    assert elf.read(f"{moved}/rootfs/bin/program").interpreter == f"{moved}/rootfs{LOADER}"
    assert os.readlink(f"{moved}/rootfs/opt/absolute") == f"{moved}/rootfs/bin/program"
    rebasing.restore()
    assert differences(before, inventory(f"{moved}/rootfs")) == set()


def test_what_programs_changed_since_stays_theirs(container):
    directory, root = container
    before = inventory(root)
    rebasing = Rebasing(directory, root, "F3", LOADER)
    rebasing.apply("me:x:1:1::/:/bin/sh\n", "")
    os.unlink(f"{root}/bin/read-only")
    write(f"{root}/bin/read-only", "a script now")
    os.unlink(f"{root}/etc/root")
    os.symlink("elsewhere", f"{root}/etc/root")
    os.unlink(f"{root}/bin/program")  # another name of it is still there
    os.symlink(f"{root}/etc/text", f"{root}/etc/made-here")
    shutil.copy(f"{root}/opt/app/again", f"{root}/etc/copied-here")
    with open(f"{root}/etc/passwd", "a") as file:
        file.write("new:x:5:5::/:/bin/sh\n")
    rebasing.restore()
    after = inventory(root)
    assert after["/bin/read-only"][-1] == b"a script now"
    assert after["/etc/root"][-1] == "elsewhere"
    assert after["/etc/made-here"][-1] == "/etc/text"
    assert after["/etc/passwd"][-1] == before["/etc/passwd"][-1] + b"\nnew:x:5:5::/:/bin/sh\n"
    assert after["/opt/app/again"][-1] == before["/opt/app/again"][-1]
    facts = elf.read(f"{root}/etc/copied-here")
    assert (facts.interpreter, facts.runpath) == (LOADER, ("/opt/app", "$ORIGIN"))


def test_changed_programs_that_were_renamed_or_copied_over_others_name_no_root_after_a_restore(
    container,
):
    directory, root = container
    before = inventory(root)
    rebasing = Rebasing(directory, root, "F3", LOADER)
    rebasing.apply()
    os.chmod(f"{root}/bin/read-only", 0o755)
    shutil.copyfile(f"{root}/usr/lib/library.so", f"{root}/bin/read-only")  # the same inode
    os.rename(f"{root}/usr/lib/library.so", f"{root}/usr/lib/library.so.real")
    write(f"{root}/usr/lib/library.so", "a wrapper now")
    rebasing.restore()
    after = inventory(root)
    assert elf.read(f"{root}/bin/read-only").runpath == ("/opt/app",)
    assert after["/usr/lib/library.so"][-1] == b"a wrapper now"
    assert after["/usr/lib/library.so.real"] == before["/usr/lib/library.so"]


def test_files_made_since_are_found_by_a_refresh(container):
    directory, root = container
    rebasing = Rebasing(directory, root, "F4", LOADER)
    rebasing.apply()
    compile_to(f"{root}/bin/new")
    os.symlink("/bin/new", f"{root}/opt/new")
    os.symlink("/a/volume", f"{root}/opt/volume")
    rebasing.refresh(alone=True, volumes=frozenset(["opt/volume"]))
    assert elf.read(f"{root}/bin/new").interpreter == root + LOADER
    assert os.readlink(f"{root}/opt/new") == f"{root}/bin/new"
    assert os.readlink(f"{root}/opt/volume") == "/a/volume"
    rebasing.restore()
    assert elf.read(f"{root}/bin/new").interpreter == LOADER
    assert os.readlink(f"{root}/opt/new") == "/bin/new"


def test_files_that_another_run_may_be_writing_are_left_for_later(container):
    directory, root = container
    rebasing = Rebasing(directory, root, "F4", LOADER)
    rebasing.apply()
    compile_to(f"{root}/bin/new")
    rebasing.refresh(alone=False)
    assert elf.read(f"{root}/bin/new").interpreter == LOADER
    rebasing.refresh(alone=True)
    assert elf.read(f"{root}/bin/new").interpreter == root + LOADER


def test_a_kill_at_any_moment_can_be_undone(unprivileged):
    directory = f"{unprivileged.home}/container"
    os.mkdir(directory)
    root = make_container(directory)
    unprivileged.own(directory)
    before = inventory(root)

    def rebase(step, action):
        words = (str(step), action, directory, root, LOADER, "F3")
        script = textwrap.dedent(KILL)
        done = unprivileged.run([unprivileged.python, "-c", script, *words], check=False)
        assert done.returncode == -9 or done.stdout, done.stderr
        return done

    lines = 10**6 - int(rebase(10**6, "apply").stdout)
    undone = 10**6 - int(rebase(10**6, "restore").stdout)
    assert differences(before, inventory(root)) == set()
    for part in range(1, 13):
        rebase(lines * part // 13, "apply")
        rebase(undone * (part % 5) // 5 or 10**6, "restore")
        rebase(10**6, "restore")
        assert differences(before, inventory(root)) == set(), part
        rest = set(os.listdir(directory)) - {"rootfs"}
        assert rest <= {name for name in rest if ".json." in name}, rest


def test_no_directory_of_the_host_is_left_in_a_loader():
    with open(LOADER, "rb") as file:
        loader = bytearray(file.read())
    edits = list(blinding(bytes(loader)))
    assert {b"/etc/ld.so.cache\0", b"/etc/ld.so.preload\0"} <= {edit.old for edit in edits}
    for edit in edits:
        assert len(edit.old) == len(edit.new)
        loader[edit.offset : edit.offset + len(edit.new)] = edit.new
    assert list(blinding(bytes(loader))) == []
    assert b"\0/usr/lib/" not in loader
