"""From a request to a spec: a host and a container that are trees of files."""

import os

import pytest

from udocker.containers.assemble import make_spec
from udocker.containers.request import NamedVolume, RunRequest
from udocker.containers.spec import Bind, DeviceNode, Port, Rootfs, Tmpfs
from udocker.containers.store import ContainerStore
from udocker.errors import StartError
from udocker.host.probe import Host
from udocker.oci import ImageConfig, Platform


@pytest.fixture
def trees(tmp_path):
    for name in ("host/etc", "host/usr/share/zoneinfo/Europe", "host/usr/lib64/dri", "root/etc"):
        (tmp_path / name).mkdir(parents=True)
    files = {
        "host/etc/hosts": "127.0.0.1 localhost\n10.0.0.5 node5\n",
        "host/run": "search cluster.example\nnameserver 10.0.0.1\noptions rotate\n",
        "host/etc/passwd": "alice:x:70001:70001::/home/alice:/bin/sh\n",
        "host/usr/share/zoneinfo/Europe/Berlin": "TZif",
        "root/etc/passwd": "app:x:7:8::/srv:/bin/sh\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def spec_of(trees):
    """Makes the spec of a request; `exposed` are ports of the image."""

    def make(exposed=(), **wishes):
        store = ContainerStore(str(trees / "store"), "")
        container = store.plan_directory(str(trees / "root"))
        config = ImageConfig(Platform("linux", "amd64"), (), exposed_ports=exposed, env=("A=b",))
        request = RunRequest(args=("x",), **wishes)
        rootfs = Rootfs(container.rootfs, flat=True)
        return make_spec(Host(str(trees / "host")), container, config, request, rootfs, {"TZ": "Z"})

    return make


def texts(spec):
    return {file.destination: file.text for file in spec.files}


def binds(spec):
    return {bind.destination: bind.source for bind in spec.edits.binds}


def test_on_the_hosts_network_its_files_of_names_show(spec_of, trees):
    (trees / "host/etc/resolv.conf").write_text("nameserver 10.0.0.1\n")
    spec = spec_of()
    assert set(binds(spec)) == {"/etc/hosts", "/etc/resolv.conf"}
    assert binds(spec_of(network="none")) == {}
    assert binds(spec_of(system_directories=False)) == {}
    assert set(binds(spec_of(left_out=("/etc/hosts",)))) == {"/etc/resolv.conf"}
    assert set(binds(spec_of(hosts_file=False))) == {"/etc/resolv.conf"}


def test_a_resolver_file_that_is_a_link_shows_if_it_leads_somewhere(spec_of, trees):
    link = trees / "host/etc/resolv.conf"
    link.symlink_to("../run")
    assert "/etc/resolv.conf" in binds(spec_of())
    link.unlink()
    link.symlink_to("/run/systemd/no-such-directory/stub-resolv.conf")
    assert "/etc/resolv.conf" not in binds(spec_of())


def test_of_a_resolver_file_the_user_changes_what_they_name(spec_of, trees):
    (trees / "host/etc/resolv.conf").symlink_to("../run")
    spec = spec_of(dns=("1.1.1.1",))
    assert texts(spec)["/etc/resolv.conf"] == (
        "nameserver 1.1.1.1\nsearch cluster.example\noptions rotate\n"
    )
    spec = spec_of(dns_search=(".",), dns_options=("ndots:2",))
    assert texts(spec)["/etc/resolv.conf"] == "nameserver 10.0.0.1\noptions ndots:2\n"


def test_added_names_of_hosts_come_first(spec_of):
    hosts = texts(spec_of(extra_hosts=(("node5", "10.0.0.6"),)))["/etc/hosts"]
    assert hosts.splitlines() == ["10.0.0.6\tnode5", "127.0.0.1 localhost", "10.0.0.5 node5"]
    hosts = texts(spec_of(hostname="a", domainname="b.c", network="none"))["/etc/hosts"]
    assert hosts.splitlines() == ["127.0.0.1\tlocalhost", "::1\tlocalhost", "127.0.1.1\ta.b.c a"]


def test_what_the_user_binds_beats_what_would_show_unasked(spec_of, trees):
    own = str(trees / "host/run")
    spec = spec_of(binds=(Bind(own, "/etc/hosts"),))
    assert [bind.source for bind in spec.edits.binds if bind.destination == "/etc/hosts"] == [own]


def test_exposed_ports_are_published_when_all_are_to_be(spec_of):
    ports = (Port("", 8080, 80),)
    exposed = ("80/tcp", "53/udp", "9", "0/tcp", "x/tcp", "70000/tcp", "7/sctp")
    spec = spec_of(exposed, network="none", ports=ports, publish_all=True)
    assert spec.ports == (*ports, Port("", 0, 53, "udp"), Port("", 0, 9))
    assert spec_of(exposed, network="none", ports=ports).ports == ports
    assert spec_of(exposed, ports=ports, publish_all=True).ports == ()


def test_named_volumes_lie_in_the_store(spec_of, trees):
    spec = spec_of(volumes=(NamedVolume("data", "/data", readonly=True),))
    found = next(bind for bind in spec.edits.binds if bind.destination == "/data")
    assert found == Bind(str(trees / "store/volumes/data"), "/data", readonly=True)


def test_nothing_is_made_in_a_volume_for_what_shows_unasked(spec_of, trees):
    volume = trees / "volume"
    for path in (volume, trees / "root/etc/apt/apt.conf.d"):
        path.mkdir(parents=True)
    spec = spec_of(binds=(Bind(str(volume), "/etc"),))
    assert (texts(spec), list(binds(spec))) == ({}, ["/etc"])
    asked = spec_of(binds=(Bind(str(volume), "/etc"),), dns=("10.0.0.9",))
    assert list(texts(asked)) == ["/etc/resolv.conf"]
    (volume / "hosts").write_text("")
    assert set(binds(spec_of(binds=(Bind(str(volume), "/etc"),)))) == {"/etc", "/etc/hosts"}
    assert "/etc/apt/apt.conf.d/zz-udocker" in texts(spec_of())


def test_the_hosts_accounts_can_show(spec_of, trees):
    spec = spec_of(host_accounts=True, user="alice")
    assert (spec.process.user.uid, spec.process.user.home) == (70001, "/home/alice")
    assert binds(spec)["/etc/passwd"] == str(trees / "host/etc/passwd")
    spec = spec_of(host_accounts=True, keep_id=True)
    assert spec.process.user.uid == os.geteuid()
    assert "alice" in texts(spec)["/etc/passwd"] and "/etc/passwd" not in binds(spec)
    with pytest.raises(StartError, match="alice"):
        spec_of(user="alice")


def test_a_time_zone_is_a_file_of_the_host(spec_of, trees):
    spec = spec_of(time_zone="Europe/Berlin")
    zone = str(trees / "host/usr/share/zoneinfo/Europe/Berlin")
    assert binds(spec)["/etc/localtime"] == zone
    assert "TZ" not in dict(spec.process.env)
    assert dict(spec_of().process.env)["TZ"] == "Z"
    assert "/etc/localtime" not in binds(spec_of(time_zone="local"))
    with pytest.raises(StartError, match="Europe"):
        spec_of(time_zone="Europe")


def test_libraries_of_direct_rendering_show_where_the_host_has_them(spec_of):
    assert "/usr/lib64/dri" in binds(spec_of(direct_rendering=True))
    assert "/usr/lib/dri" not in binds(spec_of(direct_rendering=True))


def test_what_the_image_says_may_not_count(spec_of):
    assert dict(spec_of().process.env)["A"] == "b"
    assert "A" not in dict(spec_of(ignore_config=True).process.env)


def test_shared_memory_an_init_and_the_umask_reach_the_spec(spec_of):
    spec = spec_of(shm_size=1 << 20, init=True, umask=0o27, force=True)
    assert spec.tmpfs == (Tmpfs("/dev/shm", "mode=1777,size=1048576"),)
    assert (spec.pid, spec.umask, spec.force) == ("private", 0o27, True)


@pytest.mark.parametrize(
    "wishes",
    [
        {"devices": (DeviceNode("/dev/no-such-node", "/dev/x"),)},
        {"devices": (DeviceNode("/etc/passwd", "/dev/x"),)},
        {"binds": (Bind("/no/such/file", "/x"),)},
        {"cpus": (1 << 15,)},
        {"working_dir": "relative"},
    ],
)
def test_what_is_not_on_this_host_keeps_the_program_from_starting(spec_of, wishes):
    with pytest.raises(StartError):
        spec_of(**wishes)
