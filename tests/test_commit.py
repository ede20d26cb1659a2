"""Images made of containers: valid OCI images that run, of just what was changed."""

import io
import json
import os
import shutil
import tarfile

import pytest
from unprivileged import Unprivileged

from udocker.errors import UsageError
from udocker.images.instructions import apply
from udocker.registry.loopback import LoopbackRegistry

CHANGES = """
echo data > /file; ln /file /hard; rm /etc/greeting; mkdir /new; echo x > /new/x
rm -r /root; mkdir /root; echo of-mine > /root/mine; rm /tmp -r; echo now-a-file > /tmp
ln -s /file /link; chmod 700 /new; echo hidden > /.wh.me
"""


@pytest.fixture(scope="module")
def user(account, busybox_image):
    user = Unprivileged(account)
    with LoopbackRegistry(busybox_image.path) as address:
        user.image = f"{address}/library/{busybox_image.reference}"
        mount = f"{user.home}:/mounted/here"
        user.udocker("run", "--name=changed", "-v", mount, user.image, "sh", "-c", CHANGES)
        yield user
    user.close()


def commit(user, *words, **options):
    return user.udocker("commit", *words, **options)


def newest_layer(user, identifier):
    """Return the members of the last layer of an image, and its config."""
    blobs = f"{user.udocker_dir}/images/blobs/sha256"
    with open(f"{blobs}/{identifier}") as file:
        manifest = json.load(file)
    with open(f"{blobs}/{manifest['config']['digest'][7:]}") as file:
        config = json.load(file)
    with tarfile.open(f"{blobs}/{manifest['layers'][-1]['digest'][7:]}") as tar:
        return tar.getmembers(), config, manifest


def facts(archive):
    """Return what an archive says of its members, but for directories that mounts touched."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            m.name: (m.type, m.mode, m.size, m.linkname, 0 if m.isdir() else m.mtime) for m in tar
        }


def test_an_image_of_a_container_runs_with_its_changes(user):
    change = ["-c", 'CMD ["cat", "/file"]', "-c", "ENV A=b", "-c", "WORKDIR /new"]
    done = commit(user, *change, "-m", "why", "-a", "who", "changed", "mine:1")
    assert "/.wh.me" in done.stderr
    run = ["run", "--rm", "mine:1"]
    assert user.udocker(*run).stdout == "data\n"
    show = (
        "pwd; echo $A $GREETING; cat /tmp /root/mine; ls /etc/greeting /mounted /root; ls -i /file"
    )
    told = user.udocker(*run, "sh", "-c", show, check=False).stdout
    assert told.startswith("/new\nb hello\nnow-a-file\nof-mine\n/root:\nmine\n")
    members, config, _ = newest_layer(user, done.stdout.strip())
    assert (config["author"], config["history"][-1]["comment"]) == ("who", "why")
    assert len(config["rootfs"]["diff_ids"]) == len(config["history"]) == 3
    assert {(member.uid, member.gid) for member in members} == {(0, 0)}


def test_the_layer_has_what_was_changed_and_nothing_else(user):
    identifier = commit(user, "changed", "mine:2").stdout.strip()
    members, _, _ = newest_layer(user, identifier)
    assert [member.name for member in members] == [
        *("etc", "etc/.wh.greeting", "file", "hard", "link", "new", "new/x"),
        *("root", "root/mine", "tmp"),
    ]
    assert next(member for member in members if member.name == "hard").islnk()


def test_the_tree_of_the_image_is_what_the_container_has(user):
    commit(user, "changed", "mine:3")
    user.udocker("create", "--name=again", "mine:3")
    assert user.udocker("diff", "again").stdout == ""
    archives = [user.udocker("export", name, text=False).stdout for name in ("changed", "again")]
    first, second = map(facts, archives)
    del first[".wh.me"], first["."], second["."]
    assert first == second
    user.udocker("rm", "again")
    user.udocker("rmi", "mine:3")


def test_other_tools_read_the_image(user):
    for program in ("skopeo", "umoci"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    commit(user, "changed", "mine:4")
    source = f"oci:{user.udocker_dir}/images:docker.io/library/mine:4"
    out = f"{user.home}/out"
    user.run(["skopeo", "--insecure-policy", "copy", "-q", source, f"oci:{out}:x"])
    user.run(["umoci", "unpack", "--rootless", "--image", f"{out}:x", f"{user.home}/bundle"])
    assert os.path.exists(f"{user.home}/bundle/rootfs/new/x")
    assert not os.path.exists(f"{user.home}/bundle/rootfs/etc/greeting")


def test_a_layer_over_a_layer_and_a_copy_give_the_same(user):
    commit(user, "changed", "mine:5")
    user.udocker(
        "run", "--name=second", "mine:5", "sh", "-c", "rm -r /new /root/mine; echo 2 > /file"
    )
    user.udocker("clone", "--name=third", "second")
    user.udocker("run", "--engine=N1", "third", "true")
    layers = []
    for name in ("second", "third"):
        identifier = commit(user, name, f"{name}:1").stdout.strip()
        members, config, _ = newest_layer(user, identifier)
        layers.append([member.name for member in members])
        assert len(config["rootfs"]["diff_ids"]) == 4
    assert layers[0] == layers[1] == ["file", ".wh.new", "root", "root/.wh.mine"]
    show = ["sh", "-c", "cat /file /hard; ls -a /root"]
    assert user.udocker("run", "--rm", "second:1", *show).stdout == "2\ndata\n.\n..\n"


def test_a_container_whose_image_is_gone_becomes_an_image_of_one_layer(user):
    commit(user, "changed", "base:1")
    identifier = commit(user, "-s", "changed", "squashed:1").stdout.strip()
    assert len(newest_layer(user, identifier)[2]["layers"]) == 1
    user.udocker("run", "--name=orphan", "squashed:1", "sh", "-c", "echo orphan > /orphan")
    user.udocker("rmi", "-f", "squashed:1")
    done = commit(user, "orphan", "alone:1")
    assert "are not here any more" in done.stderr
    assert (
        user.udocker("run", "--rm", "alone:1", "cat", "/orphan", "/file").stdout == "orphan\ndata\n"
    )


def test_an_image_without_a_name_gets_one_of_the_container(user):
    identifier = commit(user, "-q", "changed").stdout.strip()
    assert user.udocker("run", "--rm", identifier[:12], "cat", "/file").stdout == "data\n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nowhere"], 1),
        (["changed", "UPPER/Case"], 2),
        (["changed", f"x@sha256:{'0' * 64}"], 2),
        (["-c", "FROM x", "changed"], 2),
        (["-c", "EXPOSE http", "changed"], 2),
        (["-c", "CMD [1]", "changed"], 2),
        ([], 2),
    ],
)
def test_what_cannot_be_committed_leaves_nothing(user, words, code):
    before = user.udocker("images", "-q").stdout
    done = commit(user, *words, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert user.udocker("images", "-q").stdout == before
    assert os.listdir(f"{user.udocker_dir}/partial") == []


def test_changes_can_be_listed_as_docker_has_them_in_json(user):
    listed = json.loads(user.udocker("diff", "--format=json", "changed").stdout)
    assert {"Path": "/file", "Kind": 1} in listed
    assert {"Path": "/etc/greeting", "Kind": 2} in listed


@pytest.mark.parametrize(
    ("instruction", "member", "value"),
    [
        ("CMD a b", "Cmd", ["/bin/sh", "-c", "a b"]),
        ('cmd ["a", "b"]', "Cmd", ["a", "b"]),
        ('ENTRYPOINT ["x"]', "Entrypoint", ["x"]),
        ('ENV B=c D="e f"', "Env", ["A=1", "B=c", "D=e f"]),
        ("ENV A new value", "Env", ["A=new value"]),
        ("LABEL a=b c=d", "Labels", {"a": "b", "c": "d"}),
        ("EXPOSE 80 53/udp", "ExposedPorts", {"80/tcp": {}, "53/udp": {}}),
        ("USER nobody:users", "User", "nobody:users"),
        ('VOLUME ["/a", "/b c"]', "Volumes", {"/a": {}, "/b c": {}}),
        ("WORKDIR sub", "WorkingDir", "/work/sub"),
        ("WORKDIR /sub", "WorkingDir", "/sub"),
        ("STOPSIGNAL SIGINT", "StopSignal", "SIGINT"),
        ("ONBUILD RUN x", "OnBuild", ["RUN x"]),
    ],
)
def test_instructions_change_the_config_as_dockerfiles_do(instruction, member, value):
    before = {"Env": ["A=1"], "WorkingDir": "/work", "Cmd": ["old"]}
    assert apply(before, [instruction])[member] == value
    assert before == {"Env": ["A=1"], "WorkingDir": "/work", "Cmd": ["old"]}


@pytest.mark.parametrize(
    "text",
    ["", "RUN x", "ENV", "ENV A", "USER", "USER a b", "EXPOSE 70000", "LABEL a=b c", "WORKDIR"],
)
def test_instructions_that_make_no_sense_are_refused(text):
    with pytest.raises(UsageError):
        apply({}, [text])


def test_the_layer_of_equal_changes_is_the_same(user):
    first, second = (commit(user, "changed", f"same:{n}").stdout.strip() for n in (1, 2))
    layers = [newest_layer(user, identifier)[2]["layers"] for identifier in (first, second)]
    assert layers[0] == layers[1]
