"""The sandbox as a script, run by an unprivileged user on a tree of one static program."""

import ast
import errno
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

SANDBOX = os.path.join(os.path.dirname(os.path.dirname(__file__)), "engines", "sandbox")


class Cell:
    """A tree with busybox, and the sandbox script to run programs in it."""

    def __init__(self, user):
        busybox = shutil.which("busybox") or pytest.skip("needs busybox (package busybox-static)")
        self.user = user
        self.tree = f"{user.home}/tree"
        os.makedirs(f"{self.tree}/bin")
        shutil.copy(busybox, f"{self.tree}/bin/busybox")
        self.command = [user.python, "-I", "-S", f"{user.checkout}/udocker/engines/sandbox"]
        for name in ("upper", "work"):
            os.mkdir(f"{user.home}/{name}")
        user.own(user.home)

    def overlay(self):
        return ["--overlay", self.tree, f"{self.user.home}/upper", f"{self.user.home}/work"]

    def run(self, *words, script, check=True, root=None):
        command = [*self.command, *words]
        command += ["--memory-overlay", self.tree] if root is None else root
        return self.user.run([*command, "--", "/bin/busybox", "sh", "-c", script], check=check)


@pytest.fixture
def cell(unprivileged):
    return Cell(unprivileged)


def test_the_sandbox_imports_nothing_but_the_standard_library():
    names = set()
    for file in os.scandir(SANDBOX):
        if file.name.endswith(".py"):
            with open(file.path) as text:
                names |= imported(ast.parse(text.read()))
    foreign = [name for name in names if not name.startswith("udocker.engines.sandbox")]
    without_site_packages = [sys.executable, "-I", "-S", "-c"]
    subprocess.run([*without_site_packages, f"import {', '.join(foreign)}"], check=True)


def imported(tree):
    nodes = list(ast.walk(tree))
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    return names | {n.module for n in nodes if isinstance(n, ast.ImportFrom)}


def test_the_writable_layer_holds_what_is_written_and_the_tree_does_not(cell):
    cell.run(script="busybox echo hi > /file; busybox rm /bin/busybox", root=cell.overlay())
    with open(f"{cell.user.home}/upper/file") as file:
        assert file.read() == "hi\n"
    assert os.path.exists(f"{cell.tree}/bin/busybox")
    assert cell.run(script="echo $0", root=cell.overlay(), check=False).returncode == 127


def test_a_writable_layer_in_memory_leaves_nothing(cell):
    cell.run(script="busybox mkdir -p /a/b; busybox rm -r /bin; echo ok")
    assert sorted(os.listdir(cell.tree)) == ["bin"]


def test_a_volatile_layer_can_be_used_again(cell):
    volatile = ["--volatile-overlay", *cell.overlay()[1:]]
    cell.run(script="busybox touch /one", root=volatile)
    assert cell.run(script="busybox ls /one", root=volatile).stdout == "/one\n"


@pytest.mark.parametrize("ids", [(0, 0), (1000, 100)])
def test_the_program_sees_the_ids_it_was_given(cell, ids):
    done = cell.run("--ids", *map(str, ids), script="busybox id -u; busybox id -g")
    assert done.stdout.split() == [str(ids[0]), str(ids[1])]


def test_what_was_put_over_the_image_cannot_be_taken_away(cell):
    script = "busybox umount /secret; busybox umount -l /secret; busybox cat /secret"
    done = cell.run("--text", "/secret", "injected", script=script)
    assert done.stdout == "injected"


def test_a_link_in_the_image_leads_no_mount_point_to_the_host(cell):
    outside = tempfile.mkdtemp(dir="/tmp")  # not below what the container sees of the host
    cell.user.own(outside)
    os.symlink(outside, f"{cell.tree}/data")
    os.symlink(f"{outside}/file", f"{cell.tree}/etcfile")
    words = [
        "--bind",
        "/usr/share",
        "/data/deep/er",
        "--text",
        "/etcfile",
        "x",
        "--tmpfs",
        "/data/t",
        "",
    ]
    try:
        done = cell.run(*words, script="busybox ls /data/; busybox cat /etcfile")
        assert os.listdir(outside) == []
    finally:
        shutil.rmtree(outside)
    assert done.stdout.split() == ["deep", "file", "t", "x"]


def test_a_bound_directory_that_holds_the_store_does_not_show_the_container(cell):
    done = cell.run("--bind", cell.user.home, "/home", script="busybox ls /home/tree")
    assert done.stdout == "bin\n"


def test_a_readonly_bind_is_readonly_and_another_is_not(cell):
    shared = f"{cell.user.home}/shared"
    os.mkdir(shared)
    cell.user.own(shared)
    words = ["--ro-bind", shared, "/ro", "--bind", shared, "/rw"]
    done = cell.run(
        *words, script="echo 1 > /rw/file; echo 2 > /ro/file; busybox cat /ro/file", check=False
    )
    assert done.stdout == "1\n"
    assert "Read-only" in done.stderr
    assert os.stat(f"{shared}/file").st_uid == cell.user.uid


def test_a_readonly_root_takes_no_files_but_its_mounts_do(cell):
    done = cell.run("--read-only", "--tmpfs", "/t", "", script="busybox touch /t/x /x", check=False)
    assert done.returncode == 1
    assert "/x: Read-only" in done.stderr
    assert "/t/x" not in done.stderr


def test_without_network_there_is_only_the_loopback(cell):
    script = "busybox ls /sys/class/net; busybox ifconfig lo | busybox grep -c UP"
    assert cell.run("--network", "none", script=script).stdout.split() == ["lo", "1"]


def test_the_host_name_is_the_containers_own(cell):
    assert cell.run("--hostname", "inside", script="busybox hostname").stdout == "inside\n"
    assert os.uname().nodename != "inside"


def test_devices_can_be_written_to_and_the_terminal_is_the_callers(cell):
    script = (
        "echo x > /dev/null; busybox test -c /dev/tty; busybox head -c 3 /dev/zero | busybox wc -c"
    )
    assert cell.run(script=script).stdout == "3\n"


def test_fake_root_can_give_files_away_in_its_own_eyes(cell):
    script = "busybox touch /f; busybox chown 12:34 /f && busybox mknod /n c 1 3 && echo ok;"
    script += "busybox mkfifo /p && busybox test -p /p && echo fifo"
    assert cell.run("--fake-root", script=script).stdout.split() == ["ok", "fifo"]
    assert cell.run(script=script, check=False).stdout.split() == ["fifo"]


@pytest.mark.parametrize(
    ("program", "code"),
    [("/nowhere", 127), ("nowhere", 127), ("/bin", 126), ("/plain", 126), ("/script", 127)],
)
def test_a_program_that_cannot_be_run_has_dockers_exit_code(cell, program, code):
    for name, text, mode in (("plain", "x", 0o644), ("script", "#!/nowhere\n", 0o755)):
        with open(f"{cell.tree}/{name}", "w") as file:
            file.write(text)
        os.chmod(f"{cell.tree}/{name}", mode)
        cell.user.own(f"{cell.tree}/{name}")
    words = ["--memory-overlay", cell.tree, "--", program]
    done = cell.user.run([*cell.command, *words], env={"PATH": "/bin"}, check=False)
    assert done.returncode == code
    assert program in done.stderr


@pytest.mark.parametrize("words", [["--bind", "/nowhere", "/x"], ["--cwd"], ["--unknown"]])
def test_what_cannot_be_set_up_is_125_and_says_so(cell, words):
    done = cell.run(*words, script="echo started", check=False)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("udocker: ")


JOIN = """
import os, sys
from udocker.engines.sandbox import namespaces, run
pid = sys.argv[1]
found = namespaces.open_namespaces(pid, os.readlink(f"/proc/{pid}/ns/mnt"))
run.main(["--join", ",".join(map(str, found)), *sys.argv[2:]], {})
"""


def test_a_joined_container_shares_files_and_network(cell):
    first = cell.user.popen(
        [
            *(*cell.command, "--network", "none"),
            *(*cell.overlay(), "--", "/bin/busybox", "sh", "-c"),
            "echo here > /file; echo; busybox cat",
        ],
        stdin=-1,
        stdout=-1,
    )
    first.stdout.readline()
    script = "busybox cat /file; busybox ls /sys/class/net; busybox id -u"
    words = [str(first.pid), "--", "/bin/busybox", "sh", "-c", script]
    done = cell.user.run([cell.user.python, "-c", JOIN, *words])
    first.communicate(timeout=30)
    assert done.stdout.split() == ["here", "lo", "0"]


def test_the_probe_tells_what_the_kernel_allows(unprivileged):
    program = "import sys; from udocker.engines.sandbox.run import probe; print(probe(sys.argv[1]))"
    directory = f"{unprivileged.home}/probe"
    os.mkdir(directory)
    unprivileged.own(unprivileged.home)
    command = [unprivileged.python, "-c", program, directory]
    assert unprivileged.run(command).stdout == "('', 0)\n"
    off = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    without = ["unshare", "-U", "-c", "--keep-caps", "sh", "-c", off, "sh"]
    assert unprivileged.run([*without, *command]).stdout == f"('namespaces', {errno.ENOSPC})\n"


@pytest.mark.parametrize("count", [2, 300, 500])
def test_many_layers_lie_over_each_other_the_top_one_first(cell, count):
    words = []
    for number in range(count):
        layer = f"{cell.user.home}/layer-with-a-name-as-long-as-digests-are/{number:064d}"
        os.makedirs(layer)
        for name in ("all", str(number)):
            with open(f"{layer}/{name}", "w") as file:
                file.write(f"{number}\n")
        words += ["--lower", layer]
    cell.user.own(cell.user.home)
    words[-1] = cell.tree
    for root in (None, cell.overlay()):
        script = f"busybox cat /all /0 /{count - 2}; echo x > /written; busybox rm /0"
        assert cell.run(*words, script=script, root=root).stdout == f"0\n0\n{count - 2}\n"
    assert cell.run(*words, script="busybox ls /", root=cell.overlay()).stdout.count("written") == 1
    assert os.listdir(cell.tree) == ["bin"]


def test_more_layers_than_the_kernel_takes_are_an_error_with_a_way_out(cell):
    done = cell.run(*["--lower", cell.tree] * 501, script="echo", check=False)
    assert done.returncode == 125
    assert "the kernel takes 500; --execmode=N1" in done.stderr


@pytest.mark.parametrize("name", ["a:b", "a,b", "a\\b", "a b", "a\nb"])
def test_directories_may_have_names_that_mean_something_to_mount(cell, name):
    place = f"{cell.user.home}/{name}"
    os.mkdir(place)
    for part in ("tree", "upper", "work"):
        os.rename(f"{cell.user.home}/{part}", f"{place}/{part}")
    cell.user.own(place)
    cell.tree = f"{place}/tree"
    overlay = ["--overlay", cell.tree, f"{place}/upper", f"{place}/work"]
    for root in (overlay, ["--flat", cell.tree], None):
        cell.run("--bind", place, "/m:a,b", script="echo x > /file", root=root)
    assert os.path.exists(f"{place}/upper/file")


def test_a_volatile_layer_of_a_machine_that_was_started_anew_may_be_damaged(cell):
    volatile = ["--volatile-overlay", *cell.overlay()[1:]]
    cell.run(script="true", root=volatile)
    assert cell.run(script="true", root=volatile).stderr == ""
    mark = f"{cell.user.home}/work/work/incompat/volatile/dirty"
    cell.user.run([*_as_root_of_a_namespace(), "sh", "-c", f"touch -d 2001-01-01 {mark}"])
    assert "may be damaged" in cell.run(script="true", root=volatile).stderr
    assert cell.run(script="true", root=volatile).stderr == ""


def _as_root_of_a_namespace():
    return ["unshare", "-U", "-r"]


def test_shared_memory_may_be_the_containers_own(cell):
    script = "busybox df -k /dev/shm | busybox tail -n 1; busybox stat -c %a /dev/shm"
    words = ["--tmpfs", "/dev/shm", "mode=1777,size=64k"]
    said = cell.run(*words, script=script).stdout.split()
    assert (said[1], said[-1]) == ("64", "1777")


def test_without_system_directories_only_harmless_devices_are_there(cell):
    done = cell.run("--no-system-directories", script="busybox ls /dev /sys; echo > /dev/null")
    devices, system = done.stdout.split("\n\n")
    found = set(devices.split()[1:])
    assert {"null", "zero", "full", "random", "urandom", "tty", "fd", "shm"} <= found
    assert not found & {"pts", "mqueue", "ptmx"}
    assert system.split() == ["/sys:"]


def test_twenty_directories_of_the_host_are_shown(cell):
    words = [word for n in range(20) for word in ("--bind", cell.tree, f"/mnt/{n}")]
    assert cell.run(*words, script="busybox ls -d /mnt/*/bin | busybox wc -l").stdout == "20\n"
