"""Words for what shows in a container: volumes, mounts, memory, devices."""

import os

import pytest

from udocker.commands import runoptions
from udocker.commands.options import grammar
from udocker.commands.options.files import parse_volume
from udocker.containers.request import NamedVolume
from udocker.containers.spec import Bind, DeviceNode, Tmpfs
from udocker.errors import UsageError


def request(*given, environment=None):
    values, _, rest = runoptions.parse((*given, "img"))
    return runoptions.make_request(values, rest[1:], environment or {})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/a:/b", Bind("/a", "/b")),
        ("/a:/b:ro", Bind("/a", "/b", readonly=True)),
        ("/a:/b/:rw,z", Bind("/a", "/b")),
        ("/a:/b:ro,Z,rslave,U", Bind("/a", "/b", readonly=True)),
        ("/a", Bind("/a", "/a")),
        ("/a:/../b/./c", Bind("/a", "/b/c")),
        (".:/b", Bind(os.getcwd(), "/b")),
        ("./x/../y:/b", Bind(os.getcwd() + "/y", "/b")),
        ("~/x:/b", Bind("/home/me/x", "/b")),
        ("/a b:/c d", Bind("/a b", "/c d")),
        ("data:/b", NamedVolume("data", "/b")),
        ("data-1.x_y:/b:ro,nocopy", NamedVolume("data-1.x_y", "/b", readonly=True, copy=False)),
    ],
)
def test_a_volume_is_source_destination_and_words(text, shown):
    assert parse_volume(text, {"HOME": "/home/me"}) == shown


@pytest.mark.parametrize(
    "text",
    ["", ":/b", "/a:b", "/a:/", "/a:/b:rx", "/a:/b\0", "data", "a/b:/c", "-x:/c", "/a:/b:O"],
)
def test_a_volume_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError):
        parse_volume(text)


def test_a_volume_at_the_root_is_told_that_it_cannot_be():
    with pytest.raises(UsageError, match="nothing can show at /., the container's root"):
        parse_volume("/a:/.")


def test_of_two_volumes_at_one_place_the_last_one_shows():
    assert request("-v/a:/x", "-v", "data:/y", "-v/b:/x").binds == (Bind("/b", "/x"),)
    assert request("-v/a:/x", "-v", "data:/x").binds == ()


def test_a_name_that_is_also_a_directory_here_is_told(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "not ./data" in request("-v", "data:/x").notes[0]


def test_the_home_directory_shows_unless_it_is_left_out():
    environment = {"HOME": "/tmp"}
    assert request("--bindhome", environment=environment).binds == (Bind("/tmp", "/tmp"),)
    assert request("--bindhome", "--novol=/tmp", environment=environment).binds == ()


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("type=bind,source=/a,target=/b", Bind("/a", "/b")),
        ("type=bind,src=/a,dst=/b,readonly", Bind("/a", "/b", readonly=True)),
        ("type=bind,src=/a,destination=/b,ro=true", Bind("/a", "/b", readonly=True)),
        ("type=bind,src=/a,dst=/b,ro=false,bind-propagation=rslave", Bind("/a", "/b")),
        ('type=bind,"src=/a,b",dst=/b', Bind("/a,b", "/b")),
        ('type=bind,"src=/a ""q""",dst=/b', Bind('/a "q"', "/b")),
        ("src=data,dst=/b", NamedVolume("data", "/b")),
        (
            "type=volume,src=data,dst=/b,volume-nocopy,ro",
            NamedVolume("data", "/b", readonly=True, copy=False),
        ),
        ("type=tmpfs,dst=/b", Tmpfs("/b")),
        (
            "type=tmpfs,dst=/b,tmpfs-size=2m,tmpfs-mode=1770,ro",
            Tmpfs("/b", "ro,size=2097152,mode=1770"),
        ),
    ],
)
def test_a_mount_is_fields_of_csv(text, made):
    found = request("--mount", text)
    assert (*found.binds, *found.volumes, *found.tmpfs) == (made,)


@pytest.mark.parametrize(
    "text",
    [
        *("", "type=bind", "type=bind,src=/a", "type=bind,dst=/b", "type=image,src=x,dst=/b"),
        *("type=bind,src=/a,dst=b", "type=bind,src=/a,dst=/", "src=/a,dst=/b", "dst=/b"),
        *("type=bind,src=/a,dst=/b,ro=maybe", "type=bind,src=/a,dst=/b,colour=red"),
        *("type=bind,src=/a,dst=/b,tmpfs-size=1m", 'type=bind,"src=/a,dst=/b'),
        *("type=tmpfs,dst=/b,tmpfs-size=big", "type=tmpfs,dst=/b,tmpfs-mode=999"),
        *(
            "type=volume,src=a,dst=/b,volume-driver=nfs",
            "type=bind,src=/a,dst=/b,bind-recursive=no",
        ),
    ],
)
def test_a_mount_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError):
        request("--mount", text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        *(("0", 0), ("65536", 65536), ("64k", 65536), ("64K", 65536), ("1.5g", 1610612736)),
        *(("2GiB", 2 << 30), ("2gb", 2 << 30), ("7b", 7), ("1 m", 1 << 20), ("1t", 1 << 40)),
    ],
)
def test_a_size_has_dockers_units(text, size_bytes):
    assert grammar.size(text, "--x") == size_bytes


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "1e3", "0x10", "1mm", "1.2.3m", "9" * 30, "²", "1kk"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError):
        grammar.size(text, "--x")


def test_shared_memory_and_read_only_roots_are_asked_for():
    assert request("--shm-size=1g").shm_size == 1 << 30
    made = request("--read-only", "--read-only-tmpfs", "--tmpfs=/x:size=1m,exec")
    assert [memory.destination for memory in made.tmpfs] == ["/x", "/run", "/tmp", "/var/tmp"]
    assert made.tmpfs[0].options == "size=1m"


def test_a_device_has_a_place_and_rights_which_are_the_callers():
    made = request("--device=/dev/null:/dev/x:rwm", "--device=/dev/zero", "--device=/dev/full:r")
    assert made.devices == (
        DeviceNode("/dev/null", "/dev/x"),
        DeviceNode("/dev/zero", "/dev/zero"),
        DeviceNode("/dev/full", "/dev/full"),
    )
    assert len(made.notes) == 1 and "/dev/full" in made.notes[0]
    made = request("--device=nvidia.com/gpu=0", "--device", "nvidia.com/gpu=1")
    assert (made.devices, made.gpu) == ((), "0,1")
    assert made.cdi_devices == ("nvidia.com/gpu=0", "nvidia.com/gpu=1")


def test_a_device_of_any_vendor_has_a_qualified_name():
    made = request("--device=amd.com/gpu=0", "--device=/dev/null", "--cdi-dir=/a", "--cdi-dir=b")
    assert (made.cdi_devices, made.gpu) == (("amd.com/gpu=0",), None)
    assert made.devices == (DeviceNode("/dev/null", "/dev/null"),)
    assert made.cdi_directories == ("/a", os.path.abspath("b"))
    assert not made.cdi_ignore_hooks
    assert request("--device=a.b/c=d", "--cdi-ignore-hooks").cdi_ignore_hooks


@pytest.mark.parametrize(
    "text", ["/dev/a:/dev/b:rw:x", "sda", "/dev/a:b", "amd.com/gpu=", "1.x/gpu=0"]
)
def test_a_device_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError):
        request("--device", text)


def test_a_secret_is_a_file(tmp_path):
    file = tmp_path / "key"
    file.write_text("x")
    for text, place in (
        (str(file), "/run/secrets/key"),
        (f"id=token,src={file}", "/run/secrets/token"),
        (f"type=mount,source={file},target=/a/b", "/a/b"),
    ):
        assert request("--secret", text).binds == (Bind(str(file), place, readonly=True),)
    for text in ("name-of-podmans", "id=a", f"src={file},uid=0", f"type=env,src={file}"):
        with pytest.raises(UsageError):
            request("--secret", text)
