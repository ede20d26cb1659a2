"""What options of `run` and `create` do to a real program, as a user without privileges."""

import json
import os
import time

import pytest
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


@pytest.fixture
def place(user):
    """A directory of the user, named anew for each test."""
    path = os.path.join(user.home, f"place-{time.monotonic_ns()}")
    os.mkdir(path)
    user.own(path)
    return path


def run(user, *words, **how):
    return user.udocker("run", "--rm", *words, **how)


def out(user, image, script, *options, **how):
    return run(user, *options, image, "sh", "-c", script, **how).stdout


# -- files


def test_a_named_volume_keeps_what_containers_write(user, image):
    out(user, image, "echo kept >/data/f", "-v", "store1:/data")
    assert out(user, image, "cat /other/f", "--mount", "src=store1,dst=/other,ro") == "kept\n"
    assert os.listdir(f"{user.udocker_dir}/volumes/store1") == ["f"]


def test_a_new_volume_has_what_the_image_has_at_its_path(user, image):
    assert out(user, image, "cat /etc/greeting", "-v", "etc1:/etc") == "hello\n"
    listed = out(user, image, "ls /etc/greeting 2>&1", "-v", "etc2:/etc:nocopy", check=False)
    assert "No such file" in listed


def test_a_dry_run_makes_no_volume(user, image):
    run(user, "--dry-run", "-v", "never:/data", image, "true")
    assert not os.path.lexists(f"{user.udocker_dir}/volumes/never")


def test_mounts_in_the_long_form_show_and_are_read_only(user, image, place):
    mount = ("--mount", f"type=bind,source={place},target=/in,readonly")
    done = run(user, *mount, image, "sh", "-c", "ls -d /in; touch /in/x", check=False)
    assert done.stdout == "/in\n"
    assert "Read-only" in done.stderr
    memory = ("--mount", "type=tmpfs,dst=/m,tmpfs-size=1m,tmpfs-mode=700")
    said = out(user, image, "stat -c %a /m; mount | grep ' /m '", *memory)
    assert said.startswith("700\n")
    assert "size=1024k" in said


def test_a_volume_whose_source_is_missing_is_an_error_that_names_it(user, image, place):
    done = run(user, "-v", f"{place}/none:/x", image, "true", check=False)
    assert done.returncode == 125
    assert f"{place}/none" in done.stderr


def test_a_relative_volume_means_the_same_in_later_runs(user, image, place):
    with open(f"{place}/file", "w") as file:
        file.write("here")
    user.udocker("create", "--name=relative", "-v", "./:/in", image, cwd=place)
    assert user.udocker("run", "relative", "cat", "/in/file").stdout == "here"
    user.udocker("rm", "relative")


def test_volumes_of_another_container_show_and_may_be_read_only(user, image, place):
    user.udocker("create", "--name=giver", "-v", f"{place}:/a", "-v", "given:/b", image)
    assert out(user, image, "touch /a/x /b/x; ls /a /b", "--volumes-from=giver").count("x") == 2
    done = run(user, "--volumes-from=giver:ro", image, "touch", "/b/y", check=False)
    assert "Read-only" in done.stderr
    user.udocker("create", "--name=taker", "--volumes-from=giver", image)
    user.udocker("rm", "giver")
    assert user.udocker("run", "taker", "ls", "/a").stdout == "x\n"
    user.udocker("rm", "taker")


def test_shared_memory_of_its_own_has_the_size_asked_for(user, image):
    said = out(user, image, "df -k /dev/shm | tail -n1; stat -c %a /dev/shm", "--shm-size=32m")
    assert said.split()[1] == "32768"
    assert said.split()[-1] == "1777"


def test_secrets_are_files_that_only_show(user, image, place):
    with open(f"{place}/key", "w") as file:
        file.write("s3cret")
    words = ("--secret", f"id=token,src={place}/key", "--secret", f"{place}/key")
    script = "cat /run/secrets/token /run/secrets/key; echo x >/run/secrets/key"
    done = run(user, *words, image, "sh", "-c", script, check=False)
    assert done.stdout == "s3crets3cret"
    assert done.returncode != 0


def test_nosysdirs_leaves_out_the_hosts_files(user, image):
    script = "ls /sys | wc -l; cat /etc/resolv.conf 2>/dev/null | wc -c; echo ok >/dev/null"
    assert out(user, image, script, "--nosysdirs").split() == ["0", "0"]


def test_a_path_that_is_left_out_stays_the_images(user, image):
    assert out(
        user, image, "ls /etc", "--novol=/etc/hosts", "--novol=/etc/resolv.conf"
    ).split() == [*("greeting", "group", "passwd")]


def test_a_device_that_is_not_there_is_told_when_the_program_is_to_start(user, image):
    user.udocker("create", "--name=dev", "--device=/dev/no-such-node", image)
    done = user.udocker("run", "dev", "true", check=False)
    assert done.returncode == 125
    assert "/dev/no-such-node" in done.stderr
    user.udocker("rm", "dev")
    assert out(user, image, "ls /dev/nothing", "--device=/dev/null:/dev/nothing:rw").strip()


# -- names of hosts and users


def test_names_of_hosts_come_from_the_options(user, image):
    words = ["--add-host=db:10.0.0.9", "--add-host=gate:host-gateway", "-h", "box"]
    said = out(user, image, "cat /etc/hosts; hostname", *words, "--domainname=example.org")
    assert "10.0.0.9\tdb\n" in said
    assert "127.0.0.1\tgate\n" in said
    assert "127.0.1.1\tbox.example.org box\n" in said
    assert said.endswith("box\n")


def test_name_servers_come_from_the_options_and_the_rest_from_the_host(user, image):
    words = ["--dns=192.0.2.1", "--dns=2001:db8::1", "--dns-search=.", "--dns-option=ndots:3"]
    assert out(user, image, "cat /etc/resolv.conf", *words) == (
        "nameserver 192.0.2.1\nnameserver 2001:db8::1\noptions ndots:3\n"
    )
    with open("/etc/resolv.conf") as file:
        servers = [line.strip() for line in file if line.startswith("nameserver")]
    said = out(user, image, "cat /etc/resolv.conf", "--dns-search=example.org").splitlines()
    assert said[: len(servers)] == servers
    assert "search example.org" in said


def test_the_images_hosts_file_can_be_kept(user, image):
    assert out(user, image, "ls /etc", "--no-hosts").split().count("hosts") == 0


def test_hostauth_shows_the_hosts_accounts_and_the_callers_own_id(user, image):
    said = out(user, image, "id -u; cat /etc/passwd", "--hostauth").splitlines()
    assert said[0] == str(user.uid)
    with open("/etc/passwd") as file:
        assert set(file.read().splitlines()) <= set(said)
    assert any(f":{user.uid}:" in line for line in said[1:])


def test_the_options_of_ifcas_jobs_work(user, image, place):
    with open("/etc/passwd") as file:
        name = next((line.split(":")[0] for line in file if f":x:{user.uid}:" in line), "root")
    words = ["--hostenv", "--hostauth", f"--user={name}", "-v", f"{place}:{place}"]
    said = out(user, image, f"whoami; ls -d {place}; echo $JOB", *words, env={"JOB": "7"})
    assert said.split() == [name, place, "7"]


def test_the_accounts_of_the_image_stay_as_they_are_when_asked(user, image):
    words = ["--userns=keep-id"]
    assert str(user.uid) in out(user, image, "cat /etc/passwd", *words)
    for flag in ("--containerauth", "--passwd=false"):
        assert str(user.uid) not in out(user, image, "cat /etc/passwd", *words, flag)
    line = "--passwd-entry=$USERNAME:x:$UID:$GID:of mine:/srv:/bin/none"
    assert f":x:{user.uid}:{user.gid}:of mine:/srv:/bin/none\n" in out(
        user, image, "cat /etc/passwd", *words, line
    )


def test_a_group_that_the_caller_is_not_in_is_told(user, image):
    assert run(user, "--group-add=keep-groups", image, "true").stderr == ""
    assert "--group-add 4321" in run(user, "--group-add=4321", image, "true").stderr
    done = run(user, "--strict", "--group-add=4321", image, "true", check=False)
    assert done.returncode == 125


# -- the program


def test_variables_can_be_kept_out(user, image):
    env = {"http_proxy": "http://p", "TZ": "UTC", "OMP_NUM_THREADS": "3", "MY_A": "1", "MY_B": "2"}
    plain = out(user, image, "env", env=env).splitlines()
    assert {"http_proxy=http://p", "GREETING=hello", "OMP_NUM_THREADS=3"} <= set(plain)
    assert "MY_A=1" not in plain
    without = out(user, image, "env", "--http-proxy=false", "--unsetenv=GREETING", env=env)
    assert "proxy" not in without and "GREETING" not in without
    only = out(user, image, "env", "--unsetenv-all", "-e", "MY_*", env=env).split()
    assert set(only) - {"PWD=/", "SHLVL=1"} == {"MY_A=1", "MY_B=2", "PATH=/bin"}


def test_the_umask_is_the_one_asked_for(user, image):
    assert out(user, image, "umask", "--umask=0027") == "0027\n"
    assert out(user, image, "umask; stat -c %a /run/udocker", "--umask=077", "-h", "b").split() == [
        *("0077", "755")
    ]


def test_the_time_zone_is_the_one_asked_for(user, image):
    if not os.path.exists("/usr/share/zoneinfo/Asia/Tokyo"):
        pytest.skip("needs time zones (package tzdata)")
    assert out(user, image, "date +%Z", "--tz=Asia/Tokyo", env={"TZ": "UTC"}) == "JST\n"
    done = run(user, "--tz=Asia/Nowhere", image, "true", check=False)
    assert done.returncode == 125
    assert run(user, "--tz=local", image, "true").stderr == ""


def test_a_file_of_variables_is_read_when_the_container_is_made(user, image, place):
    path = f"{place}/env"
    with open(path, "wb") as file:
        file.write(b'\xef\xbb\xbfA=1\r\n# no\n B="x y"\nC\nD\n')
    user.own(path)
    user.udocker("create", "--name=filed", "--env-file=env", image, cwd=place, env={"C": "3"})
    os.unlink(path)
    said = user.udocker("run", "filed", "env").stdout.splitlines()
    assert {"A=1", 'B="x y"', "C=3"} <= set(said)
    assert not any(line.startswith("D") for line in said)
    user.udocker("rm", "filed")


# -- limits


def test_limits_hold_for_the_program(user, image):
    limits = ["--ulimit=nofile=100:200", "--ulimit=core=0", "--ulimit", "cpu=3600"]
    said = out(user, image, "ulimit -n; ulimit -Hn; ulimit -c; ulimit -t", *limits)
    assert said.split() == ["100", "200", "0", "3600"]


def test_a_limit_above_the_callers_is_an_error_that_says_what_can_be_had(user, image):
    command = [user.python, "-m", "udocker", "run", "--rm", "--ulimit=nofile=4000", image, "true"]
    done = user.run(["sh", "-c", 'ulimit -n 512; exec "$@"', "sh", *command], check=False)
    assert done.returncode == 125
    assert "512" in done.stderr


def test_processors_are_those_asked_for_if_they_can_be_had(user, image):
    mine = sorted(os.sched_getaffinity(0))
    said = out(user, image, "grep Cpus_allowed_list /proc/self/status", f"--cpuset-cpus={mine[0]}")
    assert said.split()[-1] == str(mine[0])
    done = run(user, "--cpuset-cpus=0-9999", image, "true", check=False)
    assert done.returncode == 125
    assert "9999" in done.stderr


def test_limits_that_need_a_control_group_are_told_once_and_run(user, image):
    words = ["-m", "512m", "--cpus=1.5", "--cpu-shares=256", "--memory-swap=1g", "--privileged"]
    done = run(user, *words, "--cap-add=SYS_ADMIN", image, "echo", "ran")
    assert done.stdout == "ran\n"
    notes = done.stderr.splitlines()
    assert len(notes) == 2
    assert any("--memory" in note and "--cpus" in note for note in notes)
    assert run(user, "--strict", *words, image, "true", check=False).returncode == 125
    assert user.udocker("-q", "run", "--rm", *words, image, "true").stderr == ""


# -- images, containers


def test_a_container_is_reused_by_its_name(user, image):
    words = ["--name=again", "--pull=reuse", image]
    user.udocker("run", *words, "sh", "-c", "echo first >/f")
    assert user.udocker("run", *words, "cat", "/f").stdout == "first\n"
    done = user.udocker("run", "--name=again", "--pull=reuse", "other:1", "true", check=False)
    assert done.returncode == 125
    assert "not of the image" in done.stderr
    user.udocker("rm", "again")


def test_a_directory_of_the_host_can_be_the_root(user, image, place):
    copy = f"cp -a /bin /etc {place}/ && mkdir {place}/proc {place}/dev {place}/sys {place}/tmp"
    out(user, image, copy, "-v", place)
    script = ("sh", "-c", "echo mark >/tmp/mark; cat /etc/greeting")
    assert run(user, f"--location={place}", *script).stdout == "hello\n"
    assert run(user, "--rootfs", place, "cat", "/tmp/mark").stdout == "mark\n"
    user.udocker("create", "--name=mine", "--location", ".", "cat", "/tmp/mark", cwd=place)
    assert user.udocker("run", "mine").stdout == "mark\n"
    assert place in user.udocker("ps").stdout
    user.udocker("rm", "mine")
    assert os.path.exists(f"{place}/tmp/mark")
    line = run(user, "--dry-run", "--rootfs", place, "cat", "/tmp/mark").stdout
    assert user.run(["sh", "-c", line]).stdout == "mark\n"
    for wrong in ("/", "/nowhere"):
        assert run(user, f"--location={wrong}", "true", check=False).returncode == 125


def test_what_the_image_says_can_be_ignored(user, image):
    assert "GREETING" not in out(user, image, "env", "--nometa")
    assert run(user, "--nometa", image, check=False).returncode == 125


def test_create_writes_the_id_into_a_new_file_and_replaces_by_name(user, image, place):
    words = ["create", "--name=held", f"--cidfile={place}/id", image]
    first = user.udocker(*words).stdout.strip()
    with open(f"{place}/id") as file:
        assert file.read() == first
    assert user.udocker(*words, check=False).returncode == 125
    os.unlink(f"{place}/id")
    second = user.udocker("create", "--replace", *words[1:]).stdout.strip()
    assert json.loads(user.udocker("inspect", "held").stdout)["Id"] == second
    user.udocker("rm", "held")


def test_the_containers_words_hold_in_later_runs_and_those_of_one_run_do_not(user, image):
    words = ["--name=words", "--pull=missing", "--label=a=b", "-m", "1g", "-eA=1", "-it"]
    user.udocker("create", *words, image, "sh", "-c", "echo $A")
    done = user.udocker("run", "words")
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert user.udocker("run", "--privileged", "-eA=2", "words").stdout == "2\n"
    user.udocker("rm", "words")


# -- the options of programs that call udocker


def test_cwltools_and_miniwdls_commands_work(user, image, place):
    cwl = ["--quiet", "run", "--nobanner", f"--volume={place}:/var/lib/cwl:rw", "--workdir=/tmp"]
    cwl += ["--rm", "--env=TMPDIR=/tmp", "--env=HOME=/var", image, "sh", "-c", "pwd; echo $HOME"]
    done = user.udocker(*cwl)
    assert (done.stdout, done.stderr) == ("/tmp\n/var\n", "")
    wdl = ["--allow-root", "run", "--workdir", "/mnt/work", "--nobanner", "--rm"]
    wdl += ["-v", f"{place}:/mnt/work", image, "/bin/sh", "-c", "pwd"]
    assert user.udocker(*wdl).stdout == "/mnt/work\n"


def test_options_that_cannot_be_had_are_refused_with_the_way_out(user, image):
    for words, said in (
        (["--restart=always"], "batch script"),
        (["--ip=10.0.0.2"], "--network"),
        (["--network=bridge"], "host, none"),
        (["--ipc=private"], "--shm-size"),
        (["--sysctl", "a=b"], "administrator"),
    ):
        done = run(user, *words, image, "true", check=False)
        assert done.returncode == 125
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    done = run(user, "--hostnme=x", image, "true", check=False)
    assert "did you mean --hostname?" in done.stderr


def test_the_help_is_ordered_by_subject(user):
    shown = user.udocker("run", "--help").stdout
    titles = ["Container", "Image", "Program", "User", "Files", "Network", "GPUs", "Way of running"]
    places = [shown.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    assert max(map(len, shown.splitlines())) <= 80
