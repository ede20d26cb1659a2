import os

import pytest

from udocker.commands import runoptions, words
from udocker.containers.spec import Bind
from udocker.errors import UsageError


def request(*given, environment=None):
    values, _, rest = words.parse(given, runoptions.OPTIONS)
    return runoptions.make_request(values, rest[1:], environment or {})


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("/a:/b", Bind("/a", "/b")),
        ("/a:/b:ro", Bind("/a", "/b", readonly=True)),
        ("/a:/b/:rw,z", Bind("/a", "/b")),
        ("/a", Bind("/a", "/a")),
        ("/a:/../b/./c", Bind("/a", "/b/c")),
        (".:/b", Bind(os.getcwd(), "/b")),
    ],
)
def test_a_volume_is_source_destination_and_words(text, bind):
    assert runoptions.parse_volume(text) == bind


@pytest.mark.parametrize("text", ["", ":/b", "/a:b", "/a:/", "/a:/b:rx", "data:/b", "/a:/b\0"])
def test_a_volume_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError):
        runoptions.parse_volume(text)


@pytest.mark.parametrize(
    ("given", "selection"),
    [
        ((), None),
        (("--gpu",), "all"),
        (("--gpu=try",), "try"),
        (("--gpus", "all"), "all"),
        (("--gpus=2",), "0,1"),
        (("--gpus", '"device=1,GPU-x"'), "1,GPU-x"),
        (("--nv",), "all"),
        (("--nvidia",), "all"),
    ],
)
def test_gpus_are_asked_for_in_the_words_of_many_tools(given, selection):
    assert request(*given, "img").gpu == selection


def test_variables_of_files_come_before_those_given(tmp_path):
    file = tmp_path / "env"
    file.write_text("# comment\nA=1\n\n  B=x y\nC\n")
    made = request("--env-file", str(file), "-e", "A=2", "img")
    assert made.env == (("A", "1"), ("B", "x y"), ("C", None), ("A", "2"))


def test_a_missing_env_file_is_an_error():
    with pytest.raises(UsageError, match="nowhere"):
        request("--env-file", "/nowhere", "img")


def test_what_callers_of_udocker_1_3_pass_is_accepted():
    # Source: the command lines that cwltool 3.3 and miniwdl 1.16 make
    made = request(
        "--nobanner",
        "--volume=/tmp:/data:rw",
        "--workdir=/data",
        "--rm",
        "--env=A=b",
        "img",
        "/bin/sh",
        "-c",
        "x",
    )
    assert (made.remove, made.working_dir, made.args) == (True, "/data", ("/bin/sh", "-c", "x"))


@pytest.mark.parametrize(
    ("ports", "told"), [("80:80", 0), ("8080:80", 1), ("127.0.0.1:8080:80/tcp", 1), ("80", 0)]
)
def test_a_published_port_that_is_another_inside_is_told(ports, told):
    assert len(request("-p", ports, "img").notes) == told


def test_the_home_directory_shows_unless_it_is_left_out():
    environment = {"HOME": "/tmp"}
    assert request("--bindhome", "img", environment=environment).binds == (Bind("/tmp", "/tmp"),)
    assert request("--bindhome", "--novol=/tmp", "img", environment=environment).binds == ()


@pytest.mark.parametrize(
    "given",
    [
        ("--network=bridge",),
        ("--pull=sometimes",),
        ("--hostname", "a b"),
        ("--userns=x",),
        ("--device=/etc/passwd",),
        ("--device=/dev/../etc/passwd",),
        ("--tmpfs=tmp",),
        ("--tmpfs=/tmp:colour=blue",),
    ],
)
def test_words_that_cannot_be_meant_are_refused(given):
    with pytest.raises(UsageError):
        request(*given, "img")
