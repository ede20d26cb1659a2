"""Images of the files of a system: from a file, a pipe or the web, compressed in any way."""

import hashlib
import io
import json
import os
import tarfile

import pytest
from conftest import _busybox_layer
from images import COMPRESSIONS
from registries import Reply, Server, needs
from tarballs import archive, device, file, folder, symlink
from unprivileged import Unprivileged

SMALL = archive(folder("./"), folder("./etc"), file("./etc/name", b"small\n"), file("/top", b"1"))


@pytest.fixture(scope="module")
def user(account):
    user = Unprivileged(account)
    yield user
    user.close()


def bring(user, data, *words, **options):
    """Import `data` from standard input."""
    return user.udocker("import", "-", *words, input=data, text=False, **options)


def tree(user, name):
    return user.udocker("inspect", "-p", name).stdout.strip()


def config(user, name):
    return json.loads(user.udocker("inspect", name).stdout)


def names(user):
    return user.udocker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()


def leftovers(user):
    return os.listdir(f"{user.udocker_dir}/partial")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_files_become_an_image_whatever_leads_their_names(user, compression):
    name = f"made:{compression[1:] or 'plain'}"
    done = bring(user, COMPRESSIONS[compression](SMALL), name)
    assert len(done.stdout.decode().strip()) == 64
    assert sorted(os.listdir(tree(user, name))) == ["etc", "top"]
    diff_ids = config(user, name)["rootfs"]["diff_ids"]
    assert diff_ids == [f"sha256:{hashlib.sha256(SMALL).hexdigest()}"]
    assert leftovers(user) == []


def test_the_config_says_what_was_wished_for(user):
    words = ["-c", 'CMD ["sh"]', "--change", "ENV A=b C=d", "-m", "why", "--platform", "linux/"]
    assert bring(user, SMALL, *words, "x", check=False).returncode == 1
    words[-1] = "linux/arm64/v8"
    bring(user, SMALL, *words, "changed")
    said = config(user, "changed")
    assert said["config"] == {"Cmd": ["sh"], "Env": ["A=b", "C=d"]}
    assert (said["architecture"], said["variant"]) == ("arm64", "v8")
    assert said["history"][0]["comment"] == "why"
    assert bring(user, SMALL, "-c", "NONSENSE", "x", check=False).returncode == 2


def test_a_system_of_files_runs_as_image_and_as_container(user, tmp_path):
    needs("busybox")
    data = _busybox_layer("/bin/busybox" if os.path.exists("/bin/busybox") else "/usr/bin/busybox")
    path = f"{user.home}/system.tar"
    with open(path, "wb") as out:
        out.write(data)
    user.own(path)
    user.udocker("import", path, "system:1")
    assert user.udocker("run", "system:1", "/bin/echo", "hello").stdout == "hello\n"
    before = names(user)
    made = user.udocker("import", "--mv", "--tocontainer", "--name=mine", path)
    assert len(made.stdout.strip()) == 32
    assert user.udocker("run", "mine", "/bin/echo", "again").stdout == "again\n"
    assert names(user) == before
    assert not os.path.exists(path)
    user.udocker("rm", "mine")
    done = bring(user, data, "--tocontainer", "--name=a b", check=False)
    assert done.returncode == 2


def test_a_container_that_udocker_1_packed_is_one_again(user):
    said = {"architecture": "amd64", "config": {"Cmd": ["/bin/cat", "/etc/name"], "Env": ["A=b"]}}
    members = [folder("./ROOT"), folder("./ROOT/etc"), file("./ROOT/etc/name", b"mine\n", 0o600)]
    data = archive(
        *members, file("./container.json", json.dumps(said).encode()), file("./execmode")
    )
    before = names(user)
    made = bring(user, data, "--clone", "--name=old").stdout.decode().strip()
    shown = json.loads(user.udocker("inspect", "old").stdout)
    assert shown["Id"] == made
    assert shown["Config"]["Cmd"] == said["config"]["Cmd"]
    exported = user.udocker("export", "old", text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(exported)) as tar:
        assert tar.getmember("etc/name").mode == 0o600
        assert sorted(name for name in tar.getnames() if name != ".") == ["etc", "etc/name"]
    assert (names(user), leftovers(user)) == (before, [])


@pytest.mark.parametrize(
    "members", [[file("etc/name", b"x")], [symlink("ROOT", "/etc")], [file("ROOT", b"")]]
)
def test_what_udocker_1_did_not_pack_is_no_container(user, members):
    done = bring(user, archive(*members), "--clone", check=False)
    assert (done.returncode, b"not made by export --clone" in done.stderr) == (1, True)
    assert leftovers(user) == []


def test_without_a_name_it_is_called_by_its_id(user):
    bring(user, SMALL, "-m", "nameless")
    assert any(name.startswith("localhost/") for name in names(user))


def test_what_is_exported_is_imported_again(user):
    done = bring(user, SMALL, "first:1")
    user.udocker("create", "--name=c", "first:1")
    exported = user.udocker("export", "c", text=False).stdout
    assert bring(user, exported, "second:1").returncode == 0
    assert os.listdir(tree(user, "second:1")) == os.listdir(tree(user, "first:1"))
    assert done.stderr == b""


def test_a_layer_is_the_same_in_whatever_pieces_its_files_come(user):
    text = b"".join(b"%d of many lines\n" % number for number in range(60_000))
    path = f"{user.home}/pieces.tar"
    with open(path, "wb") as out:
        out.write(archive(file("text", text)))
    user.udocker("import", path, "pieces:file")
    trickle = f"dd if={path} bs=1777 status=none | {user.python} -m udocker import - pieces:pipe"
    user.run(["sh", "-c", trickle])
    assert _layers(user, "pieces:file") == _layers(user, "pieces:pipe")


def _layers(user, name):
    digests = user.udocker("images", "--format", "{{.Digest}}", name).stdout.split()
    with open(f"{user.udocker_dir}/images/blobs/{digests[0].replace(':', '/')}") as manifest:
        return json.load(manifest)["layers"]


def test_the_web_is_read_as_it_comes(user):
    def reply(asked):
        if asked.path == "/moved.tar":
            return Reply(302, {"Location": "/there.tar"})
        if asked.path == "/short.tar":
            return Reply(body=SMALL, cut_after=1000)
        return Reply(body=SMALL) if asked.path == "/there.tar" else Reply(404)

    with Server(reply) as server:
        user.udocker("import", f"{server.url}/moved.tar", "web:1")
        assert "top" in os.listdir(tree(user, "web:1"))
        secret = f"http://me:secret@{server.host}/no.tar?token=secret"
        for url in (f"{server.url}/short.tar", secret, "http://127.0.0.1:1/x.tar"):
            done = user.udocker("import", url, "web:2", check=False)
            assert (done.returncode, "secret" in done.stderr) == (1, False)
            assert done.stderr.startswith("udocker: ")
    assert leftovers(user) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "nothing was read"),
        (b"no tar at all" * 100, "not a tar archive"),
        (SMALL[:700], "cut off"),
        (COMPRESSIONS["+gzip"](SMALL)[:-9], "cut off"),
        (archive(file("a/.wh..")), "whiteout of nothing"),
        (archive(*(folder("/".join("d" * 300)) for _ in range(1))), "deep"),
    ],
)
def test_what_is_broken_or_hostile_gets_no_name(user, data, says):
    done = bring(user, data, "bad:1", check=False)
    assert (done.returncode, says in done.stderr.decode()) == (1, True), done.stderr
    assert user.udocker("inspect", "bad:1", check=False).returncode == 1
    assert leftovers(user) == []


def test_nothing_is_written_outside(user):
    victim = f"{user.home}/victim"
    os.mkdir(victim)
    user.own(victim)
    bring(user, archive(symlink("x", victim), file("x/a", b"1"), file("../../b", b"2")), "evil:1")
    assert os.listdir(victim) == []


def test_devices_are_left_out_with_a_note_and_archives_of_images_are_told(user):
    done = bring(user, archive(device("dev/a")), "dev:1")
    assert b"left out" in done.stderr
    assert bring(user, archive(device("dev/a")), "-q", "dev:1").stderr == b""
    done = bring(user, archive(file("manifest.json", b"[]")), "odd:1")
    assert b"udocker load" in done.stderr


def test_words_that_make_no_sense_are_errors(user):
    for words in (["--name=n", "x"], ["-", "UPPER"], []):
        assert user.udocker("import", *words, check=False).returncode == 2
    done = user.udocker("import", "/nowhere.tar", "x", check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "udocker: /nowhere.tar: No such file or directory\n",
    )
    command = f"{user.python} -m udocker import - x"
    done = user.run(["script", "-qec", command, "/dev/null"], check=False)
    assert (done.returncode, "standard input" in done.stdout) == (2, True)
