"""Listing and showing containers: what scripts look for, filters, templates, many and broken."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from unprivileged import Unprivileged

from udocker.registry.loopback import LoopbackRegistry

WRONG_MEMBERS = (
    *(("created", "x"), ("image", 5), ("config", "md5:0"), ("options", [1]), ("command", "sh")),
    *(("tree", None), ("location", 3)),
)


@pytest.fixture(scope="module")
def image(busybox_image):
    with LoopbackRegistry(busybox_image.path) as address:
        yield f"{address}/library/{busybox_image.reference}"


@pytest.fixture(scope="module")
def user(account, image):
    """A user with a container that was made, one that has ended, and one that runs."""
    user = Unprivileged(account)
    user.udocker("pull", image)
    user.udocker("create", "--name=made", "-l", "tier=web", "-l", "bare", image, "sh")
    user.udocker("run", "-d", "--name=done", image, "sh", "-c", "echo > /written; exit 4")
    user.udocker("wait", "done")
    user.udocker("run", "-d", "--name=up", "-l", "tier=db", image, "sleep", "1000")
    yield user
    user.close()


def ps(user, *words, **options):
    return user.udocker("ps", *words, **options).stdout


def inspected(user, name, template):
    return user.udocker("inspect", "-f", template, name).stdout.rstrip("\n")


def test_every_container_is_listed_with_what_it_does(user):
    header, *lines = ps(user).splitlines()
    assert header.split() == ["CONTAINER", "ID", "STATUS", "NAMES", "IMAGE"]
    words = [line.split() for line in lines]
    assert [line[1] for line in words] == ["created", "exited", "running"]
    assert [line[2] for line in words[1:2]] == ["(4)"]
    for name, line in zip(("made", "done", "up"), lines):
        assert f"['{name}']" in line  # what scripts look for
        assert line.startswith(inspected(user, name, "{{.Id}} "))
        assert line.endswith("/library/busybox:test")


def test_options_of_udocker_and_docker_are_understood(user):
    ids = ps(user, "-q").split()
    assert len(ids) == 3
    assert ps(user, "-a", "-q", "--no-trunc").split() == ids
    assert ps(user, "-lq").split() == ids[-1:]
    assert ps(user, "-n", "2", "-q").split() == ids[-2:]
    table = ps(user, "-m", "-s").splitlines()
    assert table[0].split() == ["CONTAINER", "ID", "MODE", "STATUS", "NAMES", "IMAGE", "SIZE"]
    assert [line.split()[1] for line in table[1:]][0] == "-"
    assert "4.1 kB" in table[2]
    table = ps(user, "-m", "-s", "--platform").splitlines()
    assert table[0].split()[-2:] == ["SIZE", "PLATFORM"]
    assert all(line.split()[-1].startswith("linux/") for line in table[1:])


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["name=ma"], ["made"]),
        (["status=running"], ["up"]),
        (["status=running", "status=created"], ["made", "up"]),
        (["label=tier"], ["made", "up"]),
        (["label=tier=web"], ["made"]),
        (["label=bare", "status=exited"], []),
        (["exited=4"], ["done"]),
        (["exited=0"], []),
        (["ancestor=nowhere"], []),
    ],
)
def test_filters_choose(user, filters, names):
    words = [word for text in filters for word in ("--filter", text)]
    assert ps(user, *words, "--format", "{{.Names}}").split() == names


def test_a_filter_or_template_that_is_not_known_is_a_usage_error(user):
    for words in (
        ["-f", "colour=red"],
        ["-f", "status=up"],
        ["-f", "name"],
        ["--format", "{{.X}}"],
    ):
        assert user.udocker("ps", *words, check=False).returncode == 2


def test_containers_are_printed_as_json_and_by_template(user):
    rows = [json.loads(line) for line in ps(user, "--format", "json").splitlines()]
    assert [row["Names"] for row in rows] == ["made", "done", "up"]
    assert [row["State"] for row in rows] == ["created", "exited", "running"]
    assert rows[0]["Labels"] == "tier=web,bare="
    assert ps(user, "--format", "table {{.Names}}\\t{{.State}}", "-l") == (
        "NAMES  STATE\nup     running\n"
    )
    without_ages = [
        re.sub(r" \d+ \w+( ago)? +", " ", ps(user, *words)).split()
        for words in ((), ("--format", "table"))
    ]
    assert without_ages[0] == without_ages[1]


def test_the_processes_of_running_containers_are_listed(user):
    lines = ps(user, "--running").splitlines()
    assert len(lines) == 2
    assert "['up']" in lines[1] and lines[1].endswith("sleep 1000")


def test_a_container_is_shown_in_dockers_words(user):
    shown = json.loads(user.udocker("inspect", "up").stdout)
    assert shown["State"]["Running"] is True
    assert os.path.exists(f"/proc/{shown['State']['Pid']}")
    assert shown["Config"]["Labels"] == {"tier": "db"}
    assert shown["Config"]["Cmd"] == ["sleep", "1000"]
    assert shown["State"]["StartedAt"] < time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    assert inspected(user, "done", "{{.State.ExitCode}} {{.State.Status}}") == "4 exited"
    assert inspected(user, "made", "{{json .Names}} {{.State.Pid}}") == '["made"] 0'
    both = json.loads(user.udocker("inspect", "up", "done").stdout)
    assert [one["Name"] for one in both] == ["up", "done"]
    assert user.udocker("inspect", "up", "nowhere", check=False).returncode == 1
    assert user.udocker("inspect", "--type=image", "up", check=False).returncode == 1


def test_images_are_printed_as_json_and_by_template(user, image):
    row = json.loads(user.udocker("images", "-a", "--no-trunc", "--format", "json").stdout)
    assert f"{row['Repository']}:{row['Tag']}" == image
    assert row["Digest"] == row["ID"] and row["ID"].startswith("sha256:")
    shown = user.udocker("images", "--format", "table {{.Tag}}\\t{{.ID}}").stdout.split()
    assert shown == ["TAG", "IMAGE", "ID", "test", row["ID"][7:19]]


def test_an_image_is_shown_as_its_config(user, image):
    assert json.loads(user.udocker("inspect", image).stdout)["os"] == "linux"
    assert inspected(user, image, "{{.config.Env}}") == "[PATH=/bin GREETING=hello]"


def test_the_path_of_a_containers_files_is_what_the_program_sees(user):
    user.udocker("exec", "up", "sh", "-c", "echo there > /file")
    path = user.udocker("inspect", "-p", "up").stdout.strip()
    assert user.run(["cat", f"{path}/file"]).stdout == "there\n"
    assert user.run(["cat", f"{path}/etc/greeting"]).stdout == "hello\n"
    done = user.udocker("inspect", "-p", "done")
    assert os.path.exists(f"{done.stdout.strip()}/etc/greeting")
    assert done.stderr.strip().endswith("/upper")


def test_two_lists_at_once_do_not_take_each_other_for_a_run(user):
    command = [user.python, "-m", "udocker", "ps", "-f", "status=created", "-q"]
    lists = [user.popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    said = [one.communicate(timeout=60)[0].split() for one in lists]
    assert [len(ids) for ids in said] == [1] * 6


def test_other_containers_processes_are_left_alone(user, image):
    user.udocker("run", "-d", "--name=victim", image, "sleep", "1000")
    user.udocker("rm", "-f", "victim")
    assert inspected(user, "up", "{{.State.Running}}") == "true"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_leaves_a_true_status(user, image, number):
    command = [user.python, "-m", "udocker", "run", "--name=cut", image, "sh", "-c", "echo; cat"]
    process = user.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert inspected(user, "cut", "{{.State.Status}} {{.State.ExitCode}}") == "exited <no value>"
    user.udocker("rm", "cut")


# what follows ends all processes of the account, and with them the module's container


def test_a_broken_container_is_told_of_and_hides_no_other(unprivileged, image):
    unprivileged.udocker("pull", image)
    ids = [unprivileged.udocker("create", image).stdout.strip() for _ in range(3)]
    path = f"{unprivileged.udocker_dir}/containers/{ids[1]}/container.json"
    with open(path) as file:
        record = json.load(file)
    wrong = [{**record, key: value} for key, value in WRONG_MEMBERS]
    for text in ("", "{", "[]", "{}", *map(json.dumps, wrong)):
        with open(path, "w") as file:
            file.write(text)
        done = unprivileged.udocker("ps", "-q")
        assert set(done.stdout.split()) == {ids[0], ids[2]}, text
        assert "is broken" in done.stderr
    assert unprivileged.udocker("inspect", ids[0][:12]).returncode == 0
    told = unprivileged.udocker("inspect", ids[1], check=False)
    assert told.returncode == 1 and "is broken" in told.stderr
    unprivileged.udocker("rmi", "-f", image, check=False)
    assert unprivileged.udocker("rm", ids[0]).stdout.strip() == ids[0]


def test_a_store_that_cannot_be_read_is_said(unprivileged, image):
    unprivileged.udocker("pull", image)
    unprivileged.udocker("create", "--name=c", image)
    for closed, command in (
        ("containers/names", "ps"),
        ("containers", "ps"),
        ("partial", f"pull {image}-other"),
    ):
        path = f"{unprivileged.udocker_dir}/{closed}"
        os.chmod(path, 0)
        done = unprivileged.udocker(*command.split(), check=False)
        os.chmod(path, 0o700)
        assert done.returncode == 1
        said = done.stderr.splitlines()
        assert said[0] == f"udocker: {path}: Permission denied" and len(said) == 2


def test_a_store_that_cannot_be_written_to_is_listed(unprivileged, image):
    unprivileged.udocker("pull", image)
    unprivileged.udocker("run", "--name=c", image, "true")
    store = unprivileged.udocker_dir
    closed = f"mount --bind {store} {store} && mount -o remount,ro,bind {store} && exec "
    program = f"{unprivileged.python} -m udocker ps --format '{{{{.Names}}}} {{{{.State}}}}'"
    done = unprivileged.run(["unshare", "-rm", "sh", "-c", closed + program])
    assert done.stdout == "c exited\n"


def test_the_time_for_many_containers_grows_as_their_number(unprivileged, image):
    unprivileged.udocker("pull", image)
    first = unprivileged.udocker("create", image).stdout.strip()
    directory = f"{unprivileged.udocker_dir}/containers"
    with open(f"{directory}/{first}/container.json") as file:
        record = file.read()
    costs = {}
    for count in (250, 1000):
        for number in range(len(os.listdir(directory)), count):
            identifier = f"{number:032x}"
            os.mkdir(f"{directory}/{identifier}")
            with open(f"{directory}/{identifier}/container.json", "w") as file:
                file.write(record.replace(first, identifier))
        unprivileged.own(directory)
        costs[count] = min(_cost(unprivileged, count) for _ in range(3))
    assert costs[1000] < 8 * costs[250] + 0.2


def _cost(user, count):
    """Return the seconds that listing takes beyond the start of udocker."""
    began = time.monotonic()
    user.udocker("ps", "--help")
    between = time.monotonic()
    lines = ps(user).splitlines()
    ended = time.monotonic()
    assert len(lines) >= count
    return max(0.01, (ended - between) - (between - began))
