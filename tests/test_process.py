import pytest

from udocker.containers.accounts import Accounts
from udocker.containers.process import DEFAULT_PATH, ProcessRequest, arguments, make_process
from udocker.containers.spec import User
from udocker.errors import StartError
from udocker.oci import ImageConfig, Platform

ROOT = User(0, 0, "root", "/root")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:100:101::/srv:/bin/sh\nbroken\n"
GROUP = b"root:x:0:\nwww:x:33:\n"


def config(**members):
    return ImageConfig(Platform("linux", "amd64"), (), **members)


def env(image_env=(), request=(), host=None, **flags):
    wish = ProcessRequest(args=("x",), env=tuple(request), **flags)
    return dict(make_process(config(env=image_env), wish, ROOT, host or {}).env)


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "given", "args", "result"),
    [
        (("/e", "1"), ("c",), None, (), ("/e", "1", "c")),
        (("/e",), ("c",), None, ("a", "b"), ("/e", "a", "b")),
        ((), ("c", "d"), None, (), ("c", "d")),
        ((), ("c",), None, ("a",), ("a",)),
        (("/e",), ("c",), "/n", (), ("/n",)),
        (("/e",), ("c",), "/n", ("a",), ("/n", "a")),
        (("/e",), ("c",), "", ("a",), ("a",)),
    ],
)
def test_entrypoint_and_command_follow_dockers_rules(entrypoint, cmd, given, args, result):
    wish = ProcessRequest(args=args, entrypoint=given)
    assert arguments(config(entrypoint=entrypoint, cmd=cmd), wish) == result


@pytest.mark.parametrize("given", [None, ""])
def test_nothing_to_run_is_an_error(given):
    with pytest.raises(StartError, match="no program"):
        arguments(
            config(entrypoint=("/e",) if given == "" else ()), ProcessRequest(entrypoint=given)
        )


def test_path_and_home_are_there_when_the_image_says_nothing():
    assert (env()["PATH"], env()["HOME"]) == (DEFAULT_PATH, "/root")
    assert env(("PATH=/x", "HOME=/h"))["PATH"] == "/x"


def test_of_the_hosts_environment_only_what_a_job_needs_passes():
    host = {
        "SLURM_JOB_ID": "7",
        "CUDA_VISIBLE_DEVICES": "0",
        "SECRET": "s",
        "HOME": "/home/u",
        "LANG": "C",
        "CUDA_HOME": "/opt",
    }
    passed = env(host=host)
    assert (passed["SLURM_JOB_ID"], passed["CUDA_VISIBLE_DEVICES"], passed["LANG"]) == (
        "7",
        "0",
        "C",
    )
    assert not {"SECRET", "CUDA_HOME"} & passed.keys()
    assert passed["HOME"] == "/root"


def test_the_job_beats_the_image_and_the_image_beats_conveniences():
    host = {"OMP_NUM_THREADS": "4", "LANG": "xx"}
    passed = env(("OMP_NUM_THREADS=1", "LANG=C.UTF-8"), host=host)
    assert (passed["OMP_NUM_THREADS"], passed["LANG"]) == ("4", "C.UTF-8")


def test_the_user_beats_everything():
    assert env(("A=image",), [("A", "user")], {"A": "host"})["A"] == "user"
    assert env(("A=image",), [("A", None)], {"A": "host"})["A"] == "host"
    assert "A" not in env(("A=image",), [("A", None)], {})


def test_all_of_the_environment_passes_when_asked_except_path_and_home():
    host = {"SECRET": "s", "PATH": "/hostbin", "HOME": "/home/u"}
    passed = env(host=host, all_host_env=True)
    assert (passed["SECRET"], passed["PATH"], passed["HOME"]) == ("s", DEFAULT_PATH, "/root")


def accounts():
    files = {"/etc/passwd": PASSWD, "/etc/group": GROUP}
    return Accounts(lambda path, limit: files[path][:limit])


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("app", User(100, 101, "app", "/srv")),
        ("100", User(100, 101, "app", "/srv")),
        ("app:www", User(100, 33, "app", "/srv")),
        ("7:8", User(7, 8, "", "/")),
        ("7", User(7, 0, "", "/")),
        (":www", User(0, 33, "", "/")),
    ],
)
def test_a_user_is_a_name_or_a_number(text, user):
    assert accounts().user(text) == user


@pytest.mark.parametrize("text", ["nobody", "app:staff", "-1", "99999999999", "4294967295", "²"])
def test_a_user_that_the_image_does_not_know_is_refused(text):
    with pytest.raises(StartError):
        accounts().user(text)
