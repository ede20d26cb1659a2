"""`udocker run` with the namespaces that the embedded engine makes on demand."""

import os
import signal
import socket
import subprocess
import time

import pytest
from test_userns_ids import Named
from unprivileged import Unprivileged

from udocker.registry.loopback import LoopbackRegistry


@pytest.fixture(scope="module")
def image(busybox_image):
    with LoopbackRegistry(busybox_image.path) as address:
        yield f"{address}/library/{busybox_image.reference}"


@pytest.fixture(scope="module")
def user(account, image):
    user = Unprivileged(account)
    user.udocker("pull", image)
    yield user
    user.close()


def run(user, *words, **options):
    return user.udocker("run", "--engine=userns", *words, **options)


def popen(user, *words, **options):
    command = [user.python, "-m", "udocker", "run", "--engine=userns", *words]
    return user.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def end(process):
    process.kill()
    process.communicate()


def names(user):
    return user.udocker("ps", "-q").stdout.split()


@pytest.mark.parametrize("rm", [["--rm"], []], ids=["rm", "kept"])
@pytest.mark.parametrize("words", [["--pid=private"], ["--init"]])
def test_a_process_namespace_is_had_on_demand(user, image, words, rm):
    script = "cd /proc; echo [0-9]*; exit 7"
    done = run(user, *rm, *words, image, "sh", "-c", script, check=False)
    assert (done.stdout, done.returncode, done.stderr) == ("1 2\n", 7, "")


def test_without_being_asked_processes_are_the_hosts(user, image):
    assert int(run(user, "--rm", image, "sh", "-c", "echo $$").stdout) > 2


@pytest.mark.parametrize("rm", [["--rm"], []], ids=["rm", "kept"])
def test_a_signal_reaches_the_program_of_a_process_namespace(user, image, rm):
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    process = popen(user, *rm, "--init", image, "sh", "-c", script)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == "caught\n"
    assert process.returncode == 5


@pytest.mark.parametrize("rm", [["--rm"], []], ids=["rm", "kept"])
def test_a_killed_run_takes_its_process_namespace_along(user, image, rm):
    script = "setsid sleep 1234.5 & readlink /proc/self/ns/pid; cat"
    process = popen(user, *rm, "--pid=private", image, "sh", "-c", script, stdin=subprocess.PIPE)
    namespace = process.stdout.readline().strip()
    assert members(namespace)
    end(process)
    for _ in range(250):
        if not members(namespace):
            return
        time.sleep(0.02)
    raise AssertionError("something of it goes on")


def members(namespace):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                ended = file.read().rpartition(")")[2].split()[0] in "ZX"
            if not ended and os.readlink(f"/proc/{name}/ns/pid") == namespace:
                found.append(name)
        except OSError:
            continue
    return found


def test_a_container_with_a_process_namespace_is_joined_and_ended(user, image):
    user.udocker("create", "--name=joined", "--pid=private", image)
    process = popen(user, "joined", "sh", "-c", "echo; while :; do sleep 0.1; done")
    process.stdout.readline()
    done = run(user, "joined", "sh", "-c", "cd /proc; echo [0-9]*; exit 3", check=False)
    assert done.stdout.startswith("1 2 ")
    assert done.returncode == 3
    user.udocker("rm", "-f", "joined")
    assert process.wait(30) == 143
    end(process)


@pytest.mark.parametrize("rm", [["--rm"], []], ids=["rm", "kept"])
def test_a_published_port_leads_into_a_container_without_network(user, image, rm):
    serve = "echo; nc -l -p 80 -e sh -c 'read x; echo got $x'"
    process = popen(user, *rm, "--network=none", "-p", "127.0.0.1::80", image, "sh", "-c", serve)
    said = process.stderr.readline()
    port = int(said.split()[9])
    assert f"port 80/tcp of the container is port {port} of this host" in said
    process.stdout.readline()
    for _ in range(100):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(b"hello\n")
                answer = client.recv(100)
        except (ConnectionResetError, BrokenPipeError):  # it does not listen yet
            answer = b""
        if answer:
            break
        time.sleep(0.05)
    assert answer == b"got hello\n"
    assert process.wait(30) == 0
    end(process)


def test_a_port_that_is_taken_is_125_and_leaves_no_container(user, image):
    before = names(user)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["--rm", "--network=none", "-p", f"127.0.0.1:{port}:80", image, "true"]
        done = run(user, *words, check=False)
    assert done.returncode == 125
    assert f"{port}/tcp" in done.stderr
    assert names(user) == before


def test_shared_memory_has_the_size_that_was_asked_for(user, image):
    done = run(
        user, "--rm", "--shm-size=3m", image, "sh", "-c", "df -k /dev/shm; stat -c %a /dev/shm"
    )
    assert done.stdout.split()[-6] == "3072"
    assert done.stdout.split()[-1] == "1777"


def test_without_system_directories_the_hosts_are_not_shown(user, image):
    done = run(user, "--rm", "--nosysdirs", image, "sh", "-c", "ls /sys; ls /dev; echo > /dev/null")
    assert "pts" not in done.stdout.split()
    assert {"null", "zero", "shm"} <= set(done.stdout.split())


@pytest.fixture
def named(user):
    return Named(user)


@pytest.mark.root
def test_many_ids_make_users_real_and_rm_removes_what_they_own(named, image):
    def udocker(*words, **options):
        return named.run([named.user.python, "-m", "udocker", *words], **options)

    auto = ["--userns=auto", "--engine=userns"]
    udocker("create", "--name=many", *auto, image)
    script = "echo bob:x:1000:7::/home/bob:/bin/sh >> /etc/passwd; mkdir -p /home/bob; "
    script += "chown bob /home/bob; su bob -c 'id -u; touch /home/bob/x' && chmod 700 /home/bob"
    assert udocker("run", "many", "sh", "-c", script).stdout == "1000\n"
    assert udocker("run", "many", "su", "bob", "-c", "ls /home/bob").stdout == "x\n"
    before = len(udocker("ps", "-q").stdout.split())
    udocker("rm", "many")
    assert len(udocker("ps", "-q").stdout.split()) == before - 1
    script = "mkdir /d; touch /d/f; chown -R 7 /d; chmod 700 /d; exit 4"
    assert udocker("run", "--rm", *auto, image, "sh", "-c", script, check=False).returncode == 4
    assert len(udocker("ps", "-q").stdout.split()) == before - 1


@pytest.mark.root
def test_a_user_without_ids_is_told_before_anything_is_made(named, image):
    named.write("subuid", "")
    before = names(named.user)
    words = ["run", "--rm", "--userns=auto", "--engine=userns", image, "true"]
    done = named.run([named.user.python, "-m", "udocker", *words], check=False)
    assert done.returncode == 125
    assert "usermod --add-subuids" in done.stderr
    assert names(named.user) == before


def test_new_terminals_can_be_opened_where_no_terminal_is(user, image):
    script = "exec 3<>/dev/ptmx && echo opened"
    done = run(user, "--rm", image, "sh", "-c", script)
    assert done.stdout == "opened\n"
