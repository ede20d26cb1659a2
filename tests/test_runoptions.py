import difflib
import subprocess
import sys

import pytest

from udocker.commands import runoptions, words
from udocker.commands.options import accepted, refused, table
from udocker.commands.options.image import settings_for
from udocker.containers import features
from udocker.containers.request import RunRequest
from udocker.errors import UsageError
from udocker.settings import Settings


def request(*given, environment=None):
    values, _, rest = runoptions.parse(given)
    return runoptions.make_request(values, rest[1:], environment or {})


def test_words_that_say_nothing_make_a_request_of_nothing():
    assert request("img", "a") == RunRequest(args=("a",))


def test_what_callers_of_udocker_1_3_pass_is_accepted():
    # Source: the command lines that cwltool 3.3 and miniwdl 1.16 make
    made = request(
        *("--nobanner", "--volume=/tmp:/data:rw", "--workdir=/data", "--rm", "--env=A=b"),
        *("--gpus=1", "img", "/bin/sh", "-c", "x"),
    )
    assert (made.remove, made.working_dir, made.args) == (True, "/data", ("/bin/sh", "-c", "x"))
    assert (made.gpu, made.notes) == ("0", ())


def test_what_the_readmes_of_deep_modules_say_is_accepted():
    ports = ("-p", "5000:5000", "-p", "6006:6006", "-p", "8888:8888")
    made = request("-ti", *ports, "--gpus", "all", "img", "cmd")
    assert (made.terminal, made.interactive, made.gpu, made.notes) == (True, True, "all", ())
    assert [port.host_port for port in made.ports] == [5000, 6006, 8888]


DOCKER = """-a --attach --add-host --annotation --blkio-weight --blkio-weight-device --cap-add
--cap-drop --cgroup-parent --cgroupns --cidfile --cpu-count --cpu-percent --cpu-period --cpu-quota
--cpu-rt-period --cpu-rt-runtime -c --cpu-shares --cpus --cpuset-cpus --cpuset-mems -d --detach
--detach-keys --device --device-cgroup-rule --device-read-bps --device-read-iops
--device-write-bps --device-write-iops --disable-content-trust --dns --dns-option --dns-search
--domainname --entrypoint -e --env --env-file --expose --gpus --group-add --health-cmd
--health-interval --health-retries --health-start-interval --health-start-period --health-timeout
-h --hostname --init -i --interactive --io-maxbandwidth --io-maxiops --ip --ip6 --ipc --isolation
--kernel-memory -l --label --label-file --link --link-local-ip --log-driver --log-opt
--mac-address -m --memory --memory-reservation --memory-swap --memory-swappiness --mount --name
--network --network-alias --no-healthcheck --oom-kill-disable --oom-score-adj --pid --pids-limit
--platform --privileged -p --publish -P --publish-all --pull -q --quiet --read-only --restart --rm
--runtime --security-opt --shm-size --sig-proxy --stop-signal --stop-timeout --storage-opt
--sysctl --tmpfs -t --tty --ulimit --use-api-socket -u --user --userns --uts -v --volume
--volume-driver --volumes-from -w --workdir"""
"""Source: docker-run(1), version 28."""
PODMAN = """--arch --authfile --cgroup-conf --cgroups --chrootdirs --conmon-pidfile --env-host
--env-merge --gidmap --health-on-failure --hostuser --http-proxy --image-volume --init-path
--no-hosts --os --passwd --passwd-entry --personality --pidfile --pod --pod-id-file --preserve-fds
--read-only-tmpfs --replace --requires --rmi --rootfs --sdnotify --seccomp-policy --secret
--subgidname --subuidname --systemd --timeout --tls-verify --tz --uidmap --umask --unsetenv
--unsetenv-all --variant"""
"""Source: podman-run(1), version 4.3, beyond docker's."""
UDOCKER = """--bindhome --containerauth --cpuset-cpus --device --dri --entrypoint --env --env-file
--hostauth --hostenv --hostname --kernel --location --name --nobanner --nometa --nosysdirs --novol
--netcoop --platform --publish --publish-all --pull --rm --user --volume --volumes-from --workdir
--dns --dns-search --httpproxy --index --registry"""
"""Source: `udocker run --help`, version 1.3."""


@pytest.mark.parametrize("name", sorted({*f"{DOCKER} {PODMAN} {UDOCKER}".split()}))
def test_every_option_of_docker_podman_and_udocker_has_an_answer(name):
    known = {n for option in (*table.OPTIONS, *accepted.OPTIONS) for n in option.names}
    assert name in known or name in refused.REFUSED


def test_no_name_means_two_options():
    options = (*table.OPTIONS, *accepted.OPTIONS)
    names = [name for option in options for name in option.names]
    assert len(names) == len(set(names)) and not set(names) & set(refused.REFUSED)
    keys = [option.key for option in options]
    assert len(keys) == len(set(keys))


def test_every_option_of_the_help_says_what_it_does():
    for option in table.OPTIONS:
        assert option.help.endswith(".")


def test_the_features_that_options_ask_for_are_options_that_there_are():
    names = {name for option in table.OPTIONS for name in option.names}
    for text in features.OPTIONS.values():
        assert {word for word in text.split() if word.startswith("--")} <= names


@pytest.mark.parametrize("name", sorted(refused.REFUSED))
def test_an_option_that_cannot_be_had_is_refused_with_a_reason(name):
    with pytest.raises(UsageError, match="cannot be had: ") as caught:
        runoptions.parse(["--rm", f"{name}=x", "img"])
    assert caught.value.message.startswith(name)


def test_an_unknown_option_is_not_taken_for_one_that_is_refused():
    with pytest.raises(UsageError, match="no such option: --ipp"):
        runoptions.parse(["--ipp=1", "img"])
    with pytest.raises(UsageError) as caught:
        runoptions.parse(["--memroy=1g", "img"])
    assert caught.value.hint == "did you mean --memory?"


def test_options_without_effect_are_told_once_by_kind():
    made = request("-m", "1g", "--cpus=2", "--cap-add=X", "--privileged", "--log-opt=a=b", "img")
    assert len(made.notes) == 3
    assert made.notes[0].startswith("--privileged, --cap-add: no effect")
    assert made.notes[1].startswith("--memory, --cpus: no effect")
    assert request("--nobanner", "--no-healthcheck", "--detach-keys=x", "img").notes == ()


@pytest.mark.parametrize("given", [("--memory=much",), ("--memory-swap=-2",)])
def test_sizes_that_have_no_effect_are_still_sizes(given):
    with pytest.raises(UsageError):
        request(*given, "img")
    assert request("--memory-swap=-1", "img").notes


def test_strict_makes_an_error_of_what_would_be_told():
    with pytest.raises(UsageError, match="no control group"):
        request("--strict", "-m1g", "img")
    assert request("--strict", "--rm", "img").remove


@pytest.mark.parametrize(
    "given",
    [
        *(("--pull=sometimes",), ("--hostname", "a b"), ("--userns=x",), ("--network=bridge",)),
        *(("--tmpfs=tmp",), ("--tmpfs=/tmp:colour=blue",), ("--log-driver=syslog",)),
        *(("--device=/etc/passwd",), ("--device=/dev/../etc/passwd",), ("--attach=stdlog",)),
        *(("--stop-signal=SIGNOTHING",), ("--stop-signal=0",), ("--stop-signal=99",)),
        *(("--stop-timeout=soon",), ("--timeout=-1",), ("--umask=99",), ("--umask=",)),
        *(("--tz=../../etc/shadow",), ("--tz=/etc/shadow",), ("--tz=Europe//Berlin",)),
        *(("--label==x",), ("--annotation==x",), ("--os=linux",), ("--pid=container:x",)),
        *(("--platform=a/b", "--arch=b"), ("--ipc=private",), ("--cgroupns=private",)),
        *(("--uts=host", "--hostname=a"), ("--hostauth", "--containerauth")),
        *(("--passwd-entry=a:b",), ("--userns=keep-id:size=3",), ("--userns=auto:uid=3",)),
        *(("--env==x",), ("--kernel=",), ("--authfile=/nowhere", "--pull=odd")),
    ],
)
def test_words_that_cannot_be_meant_are_refused(given):
    with pytest.raises(UsageError):
        request(*given, "img")


def test_variables_of_files_come_before_those_given(tmp_path):
    file = tmp_path / "env"
    file.write_text("# comment\nA=1\n\n  B=x y \nC\nD\nE='q'\n\tF=\x0bv\n")
    made = request("--env-file", str(file), "-e", "A=2", "img", environment={"C": "3"})
    assert made.env == (
        *(("A", "1"), ("B", "x y "), ("C", "3"), ("E", "'q'"), ("F", "\x0bv"), ("A", "2")),
    )


@pytest.mark.parametrize("data", [b"=x\n", b"A B=1\n", b"A=\xff\n", b"A=\0\n"])
def test_a_file_of_variables_that_is_none_is_refused(data, tmp_path):
    file = tmp_path / "env"
    file.write_bytes(data)
    with pytest.raises(UsageError, match="--env-file"):
        request("--env-file", str(file), "img")


def test_a_missing_env_file_is_an_error():
    with pytest.raises(UsageError, match="nowhere"):
        request("--env-file", "/nowhere", "img")


def test_labels_come_from_files_and_words_the_last_one_counts(tmp_path):
    file = tmp_path / "labels"
    file.write_bytes(b"\xef\xbb\xbfa=1\r\n#no\nb\n")
    made = request("--label-file", str(file), "-l", "a=2", "--annotation=x=y=z", "img")
    assert made.labels == (("a", "2"), ("b", ""))
    assert made.annotations == (("x", "y=z"),)


@pytest.mark.parametrize(
    ("text", "signal"),
    [("TERM", "SIGTERM"), ("sigint", "SIGINT"), ("15", "15"), ("RTMIN", "SIGRTMIN")],
)
def test_a_stop_signal_is_a_name_or_a_number(text, signal):
    assert request(f"--stop-signal={text}", "img").stop_signal == signal


def test_how_a_run_ends_is_read():
    made = request("--stop-timeout=-1", "--timeout=5", "--sig-proxy=false", "-d", "--rm", "img")
    assert (made.stop_timeout_s, made.timeout_s, made.signal_proxy) == (-1, 5, False)
    assert (made.detach, made.remove) == (True, True)
    assert request("--detach=false", "img").signal_proxy


def test_a_platform_may_be_given_in_parts():
    assert request("--arch=arm64", "--variant=v8", "img").platform == "linux/arm64/v8"
    assert request("--platform=linux/amd64", "img").platform == "linux/amd64"


def test_the_user_namespace_is_podmans():
    assert request("--userns=keep-id", "img").keep_id is True
    assert request("--userns=host", "img").keep_id is False
    assert request("--userns=auto", "img").many_ids
    made = request("--userns=keep-id:uid=7,gid=8", "img")
    assert (made.user, made.keep_id) == ("7:8", None)
    made = request("--userns=keep-id", "--user=9", "img")
    assert (made.user, made.keep_id) == ("9", None)


def test_an_init_has_a_namespace_unless_the_hosts_is_asked_for():
    assert (request("--init", "img").pid, request("--init", "img").init) == ("private", True)
    made = request("--init", "--pid=host", "img")
    assert (made.pid, made.init) == ("host", False)


@pytest.mark.parametrize(
    ("runtime", "engine", "gpu"),
    [
        *(("/usr/bin/crun", "crun", None), ("io.containerd.runc.v2", "runc", None)),
        *(("nvidia", "", "auto"), ("proot", "proot", None)),
    ],
)
def test_a_runtime_is_an_engine_or_asks_for_gpus(runtime, engine, gpu):
    made = request(f"--runtime={runtime}", "img")
    assert (made.engine, made.gpu) == (engine, gpu)
    assert request(f"--runtime={runtime}", "--engine=P1", "--gpu=0", "img").engine == "P1"


def test_what_the_pull_is_to_know_goes_into_the_settings(tmp_path):
    file = tmp_path / "auth.json"
    file.write_text("{}")
    words = ["--registry=https://index.docker.io/v1/", "--tls-verify=false", "-q"]
    words += [f"--authfile={file}", "--httpproxy=http://p:1"]
    made = settings_for(runoptions.parse(words)[0], Settings("/d", {"A": "b"}))
    assert (made.registry, made.insecure, made.quiet) == ("docker.io", True, True)
    assert made.environment == {
        **{"A": "b", "REGISTRY_AUTH_FILE": str(file)},
        **{"http_proxy": "http://p:1", "https_proxy": "http://p:1"},
    }
    values = runoptions.parse(["--index=registry.example.org:5000/v2"])[0]
    assert settings_for(values, Settings("/d", {})).registry == "registry.example.org:5000"
    plain = Settings("/d", {})
    assert runoptions.pull_settings(runoptions.parse(["--rm"])[0], plain) is plain


def test_the_target_is_an_image_or_a_directory():
    def target(*given):
        values, _, rest = runoptions.parse(given)
        return (*runoptions.split_target(values, rest), values.last("location"))

    assert target("img", "a") == ("img", ["a"], None)
    assert target("--rootfs", "/r", "a") == ("/r", ["a"], "/r")
    assert target("--location=/r", "a", "b") == ("/r", ["a", "b"], "/r")
    for given in ([], ["--rootfs"]):
        with pytest.raises(UsageError, match="no image"):
            target(*given)


def test_a_container_keeps_the_words_that_concern_more_than_one_run():
    passing = ["--name=x", "-m", "1g", "--pull=never", "--strict"]
    values, _, _ = runoptions.parse(
        [*("-itd", "--rm", *passing), *("-eA=b", "-e", "C", "--gpu", "-v/a:/b", "-h", "box")]
    )
    kept = runoptions.kept_words(values)
    assert kept == [
        *("--interactive=true", "--tty=true", "--rm=true", "--env=A=b", "--env=C", "--gpu=all"),
        *("--volume=/a:/b", "--hostname=box"),
    ]
    again, _, rest = words.parse(kept, runoptions.OPTIONS)
    assert (runoptions.kept_words(again), rest) == (kept, [])


def test_a_similar_word_is_suggested_for_options_of_every_kind():
    for name in ("--volum", "--cpu", "--environment-file"):
        with pytest.raises(UsageError) as caught:
            runoptions.parse([f"{name}=x"])
        known = [n for option in (*table.OPTIONS, *accepted.OPTIONS) for n in option.names]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        assert (caught.value.hint or "").endswith(f"{close[0]}?" if close else "")


def test_reading_the_usual_options_imports_nothing_heavy():
    usual = "-it --rm --name x -v /tmp:/x -w /x -e A=b --gpus all -p 80:80 -h box --shm-size 1g"
    code = f"""
import sys
sys.path += {[path for path in sys.path if path]!r}
before = set(sys.modules)
from udocker.commands import runoptions
values, _, rest = runoptions.parse({usual!r}.split() + ["-u", "1:2", "--ulimit=core=0", "img"])
runoptions.make_request(values, rest, {{}})
print(*(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.decode().split()}
    light = {"udocker", "__future__", "_collections_abc", "_signal", "_stat", "abc", "_abc"}
    assert loaded <= light | {"errno", "genericpath", "os", "posixpath", "stat", "math", "time"}
