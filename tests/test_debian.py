"""A real distribution, from a real registry, run by a user without privileges, with a GPU."""

import os
import shutil
import stat
import subprocess

import pytest
from gpu import drivertree
from registries import DockerRegistry, needs
from unprivileged import Unprivileged, remove_tree, scratch_directory

FAKENODE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gpu", "fakenode.sh")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.xdist_group("debian"),
]


@pytest.fixture(scope="module")
def scratch():
    path = scratch_directory()
    yield path
    remove_tree(path)


@pytest.fixture(scope="module")
def debian(scratch):
    """A registry with `debian:12`: debootstrap's minimal system, then layers that umoci makes."""
    needs("debootstrap", "umoci", "skopeo")
    with DockerRegistry(f"{scratch}/registry") as registry:
        make_layers(scratch)
        copy = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
        target = f"docker://{registry.host}/library/debian:12"
        subprocess.run([*copy, f"oci:{scratch}/oci:debian", target], check=True)
        yield registry.host


def make_layers(scratch):
    system, bundle = f"{scratch}/system", f"{scratch}/bundle"
    call("debootstrap", "--variant=minbase", "bookworm", system)
    call("umoci", "init", "--layout", f"{scratch}/oci")
    call("umoci", "new", "--image", f"{scratch}/oci:debian")
    for change in (None, whiteouts_and_files, links):
        call("umoci", "unpack", "--image", f"{scratch}/oci:debian", bundle)
        if change is None:
            os.rmdir(f"{bundle}/rootfs")
            os.rename(system, f"{bundle}/rootfs")
        else:
            change(f"{bundle}/rootfs")
        call("umoci", "repack", "--image", f"{scratch}/oci:debian", bundle)
        remove_tree(bundle)
    config = ["--config.cmd", "bash", "--config.env", "GREETING=hello"]
    call("umoci", "config", "--image", f"{scratch}/oci:debian", *config)


def whiteouts_and_files(rootfs):
    shutil.rmtree(f"{rootfs}/usr/share/doc")
    os.mkdir(f"{rootfs}/srv/app")
    for name in ("kept", "removed"):
        with open(f"{rootfs}/srv/app/{name}", "w") as file:
            file.write(name)


def links(rootfs):
    os.unlink(f"{rootfs}/srv/app/removed")
    os.link(f"{rootfs}/usr/bin/bash", f"{rootfs}/usr/bin/bash-again")
    os.symlink("/srv/app", f"{rootfs}/app")


def call(*command):
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def user(account, debian):
    user = Unprivileged(account)
    user.udocker("pull", f"{debian}/library/debian:12")
    yield user
    user.close()


@pytest.fixture
def run(user, debian):
    def run(*words, options=(), **how):
        return user.udocker("run", "--rm", *options, f"{debian}/library/debian:12", *words, **how)

    return run


def test_debian_runs_and_all_its_layers_are_there(run):
    done = run("bash", "-c", "cat /etc/debian_version; ls /app; echo $GREETING; id -un")
    version, *rest = done.stdout.split()
    assert version.startswith("12.")
    assert rest == ["kept", "hello", "root"]
    same = run(
        "sh",
        "-c",
        "ls /usr/share/doc; test /bin/bash -ef /bin/bash-again && echo same",
        check=False,
    )
    assert same.stdout == "same\n"


def test_the_package_database_is_whole(run):
    done = run("sh", "-c", "dpkg --audit && dpkg-query -W -f '${Package}\\n' | wc -l")
    assert int(done.stdout) > 80


def test_the_tree_is_what_umoci_unpacks(user, debian, scratch):
    tree = user.udocker("inspect", "-p", f"{debian}/library/debian:12").stdout.strip()
    call("umoci", "unpack", "--image", f"{scratch}/oci:debian", f"{scratch}/compare")
    theirs, ours = facts(f"{scratch}/compare/rootfs"), facts(tree)
    remove_tree(f"{scratch}/compare")
    assert ours == theirs


def facts(root):
    """Return type, mode, size and time of all but device nodes; set-id bits are ours to drop."""
    found = {}
    for directory, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                continue
            mode = status.st_mode if stat.S_ISDIR(status.st_mode) else status.st_mode & ~0o6000
            mode |= 0o700 if stat.S_ISDIR(mode) else 0o600
            size = 0 if stat.S_ISDIR(mode) else status.st_size
            found[os.path.relpath(path, root)] = (mode, size, int(status.st_mtime))
    found.pop("dev", None)
    return found


def test_nothing_in_the_tree_needs_root_to_be_removed(user, debian):
    user.udocker("create", "--name=gone", f"{debian}/library/debian:12")
    user.udocker("run", "gone", "sh", "-c", "mkdir -p /a/b && touch /a/b/c && chmod -R 000 /a")
    user.udocker("rm", "gone")
    assert user.udocker("ps", "-q").stdout == ""


def test_twenty_runs_at_once_all_work(user, debian):
    command = [user.python, "-m", "udocker", "run", "--rm", f"{debian}/library/debian:12"]
    words = ["bash", "-c", "echo $0 > /tmp/n; sort /etc/passwd >/dev/null; cat /tmp/n"]
    runs = [
        user.popen([*command, *words, str(n)], stdout=subprocess.PIPE, text=True) for n in range(20)
    ]
    assert [run.communicate(timeout=120)[0] for run in runs] == [f"{n}\n" for n in range(20)]


@pytest.fixture(scope="module")
def node(scratch, user):
    """A function that runs udocker as the user on this machine dressed as a node of two GPUs."""
    needs("gcc", "unshare")
    tree = drivertree.build(f"{scratch}/node", gpus=2)

    def udocker(*words, options=("--null-nodes",), check=True):
        become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
        command = [*become, user.python, "-m", "udocker", *words]
        done = subprocess.run(
            ["bash", FAKENODE, *options, tree, *command],
            env=user.environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return udocker


def test_the_drivers_program_runs_in_the_container_and_loads_the_hosts_library(node, debian):
    image = f"{debian}/library/debian:12"
    listed = node("run", "--rm", "--gpu", image, "nvidia-smi", "-L").stdout.splitlines()
    assert [line.partition(":")[0] for line in listed] == ["GPU 0", "GPU 1"]
    shown = node("run", "--rm", "--gpu", image, "nvidia-smi").stdout
    assert f"NVIDIA-SMI {drivertree.VERSION} NVML /run/udocker/gpu/lib/libnvidia-ml.so.1" in shown


def test_apt_installs_a_package(user, debian):
    package = (
        "mkdir -p /p/DEBIAN /p/opt && echo hello > /p/opt/greeting && chown 33:33 /p/opt/greeting",
        "printf 'Package: zz\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\n"
        "Description: x\n' > /p/DEBIAN/control",
        "dpkg-deb -b /p /zz.deb && apt-get install -y /zz.deb && cat /opt/greeting",
    )
    image = f"{debian}/library/debian:12"
    done = user.udocker("run", "--rm", image, "sh", "-c", " && ".join(package))
    assert done.stdout.endswith("hello\n")


@pytest.mark.parametrize("mode", ["N1", "N2"])
def test_libraries_that_the_container_got_meanwhile_are_found_beside_the_drivers(
    node, user, debian, mode
):
    image = f"{debian}/library/debian:12"
    user.udocker("create", f"--name=grown-{mode}", f"--execmode={mode}", image)
    install = (
        "mkdir /opt/grown && cp $(ldconfig -p | sed -n 's/.*libz.so.1.* => //p') /opt/grown",
        "echo /opt/grown > /etc/ld.so.conf.d/grown.conf && ldconfig",
    )
    user.udocker("run", f"grown-{mode}", "sh", "-c", " && ".join(install))
    seen = node("run", "--gpu", f"grown-{mode}", "ldconfig", "-p").stdout
    assert "=> /opt/grown/libz.so.1" in seen
    assert "libcuda.so.1" in seen
    user.udocker("rm", f"grown-{mode}")


def test_one_gpu_of_two_is_all_that_a_container_sees_of_them(node, debian):
    image = f"{debian}/library/debian:12"
    script = "ls /dev/nvidia[0-9]*; echo $CUDA_VISIBLE_DEVICES"
    seen = node("run", "--rm", "--gpu=1", image, "sh", "-c", script).stdout.split()
    assert len(seen) == 2
    assert drivertree.uuid(int(seen[0][len("/dev/nvidia") :])) == seen[1]


def test_without_the_flag_and_with_none_there_is_no_gpu(node, debian):
    image = f"{debian}/library/debian:12"
    for words in ([], ["--gpu=none"]):
        done = node(
            "run",
            "--rm",
            *words,
            image,
            "sh",
            "-c",
            "ls /dev/nvidia* /run/udocker/gpu",
            check=False,
        )
        assert done.stdout == ""


def test_the_image_is_not_touched_by_a_gpu(node, user, debian):
    image = f"{debian}/library/debian:12"
    tree = user.udocker("inspect", "-p", image).stdout.strip()
    before = facts(tree)
    node("run", "--rm", "--gpu", "--read-only", image, "nvidia-smi")
    assert facts(tree) == before


def test_another_jobs_gpus_are_not_shown(node, debian):
    image = f"{debian}/library/debian:12"
    options = ["--null-nodes", "--deny", "0"]
    listed = node("run", "--rm", "--gpu", image, "ls", "/dev", options=options).stdout.split()
    assert "nvidia1" in listed
    assert "nvidia0" not in listed


def test_a_gpu_that_is_not_there_is_125_with_the_way_out(run, node, debian):
    done = run("true", options=["--gpu"], check=False)
    assert done.returncode == 125
    assert "no NVIDIA driver" in done.stderr
    assert run("echo", "on", options=["--gpu=try"]).stdout == "on\n"
    image = f"{debian}/library/debian:12"
    assert node("run", "--gpu=7", image, "true", check=False).returncode == 125


def test_a_program_with_fake_root_installs_a_package(run, scratch):
    """dpkg changes owners and modes of what it unpacks."""
    build = f"{scratch}/package"
    os.makedirs(f"{build}/DEBIAN")
    os.makedirs(f"{build}/opt/thing")
    with open(f"{build}/DEBIAN/control", "w") as file:
        file.write("Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: T <t@e.example>\n")
        file.write("Description: a thing\n")
    with open(f"{build}/opt/thing/file", "w") as file:
        file.write("installed\n")
    os.chown(f"{build}/opt/thing/file", 33, 33)
    call("dpkg-deb", "--build", build, f"{scratch}/thing.deb")
    script = "dpkg -i /thing.deb >/dev/null && cat /opt/thing/file"
    done = run("sh", "-c", script, options=["-v", f"{scratch}/thing.deb:/thing.deb:ro"])
    assert done.stdout == "installed\n"


def test_a_package_comes_from_the_mirror_as_fake_root(run):
    """The mirror is the one that debootstrap wrote into the image; apt's own user is not used."""
    script = "apt-get update -qq && apt-get install -y -qq hello && hello"
    done = run("sh", "-c", script, env={"DEBIAN_FRONTEND": "noninteractive"})
    assert done.stdout.endswith("Hello, world!\n")


def test_accounts_are_made_and_files_given_to_them_as_fake_root(run):
    steps = (
        "groupadd staffers && useradd -m -G staffers bob && id bob",
        "echo bob:secret | chpasswd && usermod -c Bob bob && getent passwd bob",
        "touch /f && chown bob:staffers /f && chgrp -h tty /f",
        "install -o bob -g staffers -m 4755 /f /g && stat -c %a /g",
        "dpkg-statoverride --update --add bob staffers 0750 /g",
        "mknod /null c 1 3 && mknod /disk b 8 0 && mkfifo /pipe && test -p /pipe",
        "tar -C / -cf /t.tar f g pipe && mkdir /x && tar -C /x --same-owner -xpf /t.tar",
        "userdel bob && ! id bob",
    )
    said = run("sh", "-c", " && ".join(steps)).stdout.splitlines()
    assert said[0].startswith("uid=1000(bob) gid=")
    assert "staffers" in said[0]
    assert said[1].startswith("bob:x:1000:")
    assert said[2] == "4755"


def test_a_change_of_user_by_fake_root_changes_nothing_and_fails_nowhere(run):
    """There is one user id; programs that want to be another one go on as they are."""
    script = "useradd -m bob && su bob -c 'id -u' && setpriv --reuid 5 --clear-groups id -u"
    assert run("sh", "-c", script).stdout.split() == ["0", "0"]
