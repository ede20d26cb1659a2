"""`udocker verify`: stores that something has damaged, what is said of them, and repairs."""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import add_image
from registries import REF_NAME, DockerRegistry, Layout, Proxy, body, digest
from tarballs import archive, fifo, file, folder, hard_link, symlink

from udocker.errors import UnpackError
from udocker.images import layers
from udocker.images.layers.compare import differences

ONE = archive(
    folder("etc"),
    file("etc/name", b"one\n"),
    file("etc/gone", b"x"),
    file("etc/secret", b"s", mode=0o600),
    folder("lib", mode=0o755),
    symlink("lib64", "lib"),
    file("file"),
    folder("srv"),
    fifo("pipe"),
)
TWO = archive(
    file("etc/name", b"two\n", mtime=1000),
    file("etc/.wh.gone"),
    hard_link("etc/same", "etc/name"),
    file("lib64/deep", b"d", mode=0o755),
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


class Case:
    """A pulled image of two layers, its blobs as a manifest calls them, and its registry."""

    def __init__(self, user, registry, directory, name):
        self.user, self.registry = user, registry
        self.layout = Layout(directory)
        self.entry = add_image(self.layout, "img:1", [ONE, TWO])
        registry.push(self.layout, "img:1", name)
        self.proxy = Proxy(registry.host)
        self.repository = name.partition(":")[0]
        self.name = f"{self.proxy.host}/{name}"
        document = json.loads(self.layout.read(self.entry))
        self.blobs = {
            "manifest": self.entry,
            "config": document["config"],
            "layer": document["layers"][1],
        }

    def path(self, blob):
        name = self.blobs[blob]["digest"].replace(":", "/")
        return f"{self.user.udocker_dir}/images/blobs/{name}"

    @property
    def tree(self):
        (name,) = os.listdir(f"{self.user.udocker_dir}/trees")
        return f"{self.user.udocker_dir}/trees/{name}"

    @property
    def index(self):
        return f"{self.user.udocker_dir}/images/index.json"

    def verify(self, *words, **options):
        done = self.user.udocker("verify", *words, check=False, **options)
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr
        return done

    def faulty(self, *expected, words=()):
        """The image is at fault, and of the faults these words are told."""
        done = self.verify(*words)
        assert done.returncode == 1
        for text in expected:
            assert text in done.stdout, done.stdout
        return done

    def good(self):
        """Everything is right, also to the eyes of those who read every byte."""
        assert self.verify("--deep").returncode == 0
        with open(f"{self.tree}/etc/same") as same:
            assert same.read() == "two\n"
        assert os.listdir(f"{self.user.udocker_dir}/partial") == []


@pytest.fixture
def case(unprivileged, registry, tmp_path, request):
    number = abs(hash(request.node.name)) % 10**9
    case = Case(unprivileged, registry, str(tmp_path / "layout"), f"team/img{number}:1")
    with case.proxy:
        unprivileged.udocker("pull", "-q", case.name)
        case.proxy.asked.clear()
        yield case


def read(path):
    with open(path) as text:
        return text.read()


def remove(path):
    os.unlink(path)


def shorten(path):
    os.chmod(path, 0o644)
    os.truncate(path, os.stat(path).st_size - 5)


def blank(path):
    os.chmod(path, 0o644)
    with open(path, "r+b") as blob:
        blob.write(bytes(os.stat(path).st_size))


def test_a_good_image_is_right_without_network(case):
    done = case.verify(case.name)
    assert (done.returncode, done.stdout) == (0, f"{case.name}: ok\n")
    assert done.stderr.count("checked") == 2
    assert case.verify("-q").stdout == ""
    assert case.verify("-q").stderr == ""
    case.good()
    assert case.proxy.asked == []


def test_what_is_not_here_is_at_fault(case):
    done = case.verify("no/such", case.name, "UPPER")
    assert done.returncode == 1
    assert "no image 'no/such' here" in done.stdout
    assert f"{case.name}: ok" in done.stdout


@pytest.mark.parametrize(
    ("blob", "damage"),
    [("manifest", blank), ("config", remove), *(("layer", d) for d in (remove, shorten, blank))],
)
def test_a_damaged_blob_is_told_and_repaired(case, blob, damage):
    path = case.path(blob)
    with open(path, "rb") as whole:
        good = whole.read()
    damage(path)
    what = "missing" if damage is remove else "damaged"
    case.faulty(f"{blob} {case.blobs[blob]['digest']} is {what}")
    assert case.proxy.asked == []
    done = case.verify("--repair")
    assert done.returncode == 0
    assert f"{case.name}: repaired" in done.stdout
    assert [asked.path for asked in case.proxy.asked if asked.path != "/v2/"] == [
        f"/v2/{case.repository}/{'manifests' if blob == 'manifest' else 'blobs'}/"
        + case.blobs[blob]["digest"]
    ]
    with open(path, "rb") as whole:
        assert whole.read() == good
    case.good()


def changed_content(tree):
    path = f"{tree}/etc/secret"
    with open(path, "r+b") as secret:
        secret.write(b"t")
    os.utime(path, ns=(0, 0))


def swap(path, other):
    os.unlink(path)
    os.rename(other, path)


def relink(path):
    os.unlink(path)
    os.symlink("/etc", path)


TREE_FAULTS = (
    (lambda tree: os.unlink(f"{tree}/etc/name"), "/etc/name is missing"),
    (lambda tree: os.mkdir(f"{tree}/more"), "/more is in no layer"),
    (lambda tree: swap(f"{tree}/file", f"{tree}/srv"), "/file is of another type"),
    (lambda tree: os.chmod(f"{tree}/lib", 0o700), "/lib has mode 700, not 755"),
    (lambda tree: os.truncate(f"{tree}/etc/secret", 9), "/etc/secret has 9 bytes, not 1"),
    (lambda tree: os.utime(f"{tree}/etc/same"), "/etc/same was written to"),
    (lambda tree: relink(f"{tree}/lib64"), "/lib64 leads elsewhere"),
    (lambda tree: os.unlink(f"{tree}/pipe"), "/pipe is missing"),
)


def test_a_tree_that_is_not_what_the_layers_make_is_told_and_made_anew(case):
    for damage, _ in TREE_FAULTS:
        damage(case.tree)
    case.faulty(*(expected for _, expected in TREE_FAULTS))
    assert case.verify("--repair").returncode == 0
    case.good()
    shutil.rmtree(case.tree)
    case.faulty("its tree is missing")
    assert case.verify("--repair").returncode == 0
    case.good()
    assert case.proxy.asked == []


def test_changed_content_of_the_same_size_and_time_is_found_by_a_deep_look(case):
    changed_content(case.tree)
    assert case.verify().returncode == 0
    case.faulty("/etc/secret has other content", words=["--deep"])
    assert case.verify("--deep", "--repair").returncode == 0
    case.good()


def test_holes_are_not_read_and_what_lies_behind_them_is(tmp_path):
    for tree, end in (("one", b"x"), ("same", b"x"), ("other", b"y")):
        (tmp_path / tree).mkdir()
        with open(tmp_path / tree / "f", "wb") as sparse:
            sparse.truncate(1 << 42)
            os.pwrite(sparse.fileno(), b"first", 1 << 21)
            os.pwrite(sparse.fileno(), end, (1 << 41) + 5)
        os.utime(tmp_path / tree / "f", (0, 0))
    one, same, other = (str(tmp_path / tree) for tree in ("one", "same", "other"))
    assert list(differences(one, same, content=True)) == []
    assert list(differences(one, other, content=True)) == ["/f has other content"]


def test_many_differences_are_counted(case):
    for number in range(50):
        os.mkdir(f"{case.tree}/more{number}")
    done = case.faulty("30 more differences")
    assert len(done.stdout.splitlines()) == 21


def test_what_the_registry_does_not_have_any_more_stays_and_is_told(case):
    os.unlink(case.path("layer"))
    case.proxy.add("/blobs/", body(lambda data: b"\0" + data[1:]), times=1000)
    done = case.verify("--repair")
    assert done.returncode == 1
    assert "came as" in done.stdout
    assert case.user.udocker("images", "-q").stdout != ""
    case.proxy.faults.clear()
    assert case.verify("--repair").returncode == 0
    case.good()


def test_an_image_that_is_wrong_in_itself_is_not_repaired_nor_dropped(case):
    document = json.loads(case.layout.read(case.entry))
    names = f"{case.user.udocker_dir}/names"
    (name,) = os.listdir(names)
    entry = json.loads(read(f"{names}/{name}"))
    document["layers"].reverse()
    data = json.dumps(document).encode()
    path = f"{case.user.udocker_dir}/images/blobs/sha256/{digest(data)[7:]}"
    with open(path, "wb") as blob:
        blob.write(data)
    with open(f"{names}/{name}", "w") as out:
        json.dump({**entry, "digest": digest(data), "size": len(data)}, out)
    done = case.verify("--repair")
    assert done.returncode == 1
    assert "unpacks to" in done.stdout
    assert "not repaired" in done.stdout
    assert "nothing was thrown away" in done.stderr
    assert case.user.udocker("images", "-q").stdout != ""


def test_broken_names_are_told_and_put_aside_and_the_rest_stays(case):
    names = f"{case.user.udocker_dir}/names"
    (good,) = os.listdir(names)
    whole = json.loads(read(f"{names}/{good}"))
    annotations = whole["annotations"]
    bad = {
        "empty": "",
        "digest": json.dumps({"digest": "sha256:1"}),
        "tree": json.dumps({**whole, "annotations": {**annotations, "org.udocker.chain-id": "x"}}),
        "name": json.dumps({**whole, "annotations": {**annotations, REF_NAME: "A b"}}),
        "copy": json.dumps(whole),
    }
    for name, text in bad.items():
        with open(f"{names}/{name}", "w") as out:
            out.write(text)
        case.user.own(f"{names}/{name}")
    done = case.verify()
    assert done.returncode == 1
    for name in bad:
        assert f"{names}/{name} is broken" in done.stdout
    assert f"{case.name}: ok" in done.stdout
    done = case.verify("--repair")
    assert done.returncode == 0
    assert "pull that image again" in done.stdout
    assert os.listdir(names) == [good]
    assert sorted(os.listdir(f"{case.user.udocker_dir}/broken")) == sorted(bad)
    assert case.verify().returncode == 0


def test_a_name_that_is_none_is_put_aside_and_pulled_again(case):
    (name,) = os.scandir(f"{case.user.udocker_dir}/names")
    with open(name.path, "w") as out:
        out.write("{}")
    assert f"{name.path} is broken" in case.verify("--quiet").stdout
    assert case.verify("--repair").returncode == 0
    assert case.user.udocker("images", "-q").stdout == ""
    case.user.udocker("pull", "-q", case.name)
    case.good()


@pytest.mark.parametrize("text", ["garbage", '{"manifests": []}'])
def test_an_index_that_is_broken_or_not_that_of_the_names_is_made_again(case, text):
    good = read(case.index)
    with open(case.index, "w") as index:
        index.write(text)
    os.unlink(f"{case.user.udocker_dir}/images/oci-layout")
    case.faulty("index.json", words=["--quiet"])
    assert case.verify("--repair").returncode == 0
    assert read(case.index) == good
    case.good()


def test_blobs_that_no_image_has_are_checked_too(case):
    blobs = f"{case.user.udocker_dir}/images/blobs/sha256"
    good, bad = digest(b"good")[7:], digest(b"bad")[7:]
    for name, data in ((good, b"good"), (bad, b"other"), ("strange", b"x")):
        with open(f"{blobs}/{name}", "wb") as blob:
            blob.write(data)
    case.user.own(blobs)
    case.faulty(f"blob sha256:{bad} is damaged; no image needs it")
    assert f"sha256:{bad}: thrown away" in case.verify("--repair").stdout
    assert os.path.exists(f"{blobs}/{good}")
    assert not os.path.exists(f"{blobs}/{bad}")
    case.good()


def test_a_running_container_keeps_the_tree_that_a_repair_replaces(unprivileged, busybox_reference):
    run = ["run", "-d", "--name=kept", busybox_reference, "sleep", "60"]
    unprivileged.udocker(*run)
    (tree,) = os.listdir(f"{unprivileged.udocker_dir}/trees")
    tree = f"{unprivileged.udocker_dir}/trees/{tree}"
    os.utime(f"{tree}/etc/passwd")
    assert unprivileged.udocker("verify", "-q", check=False).returncode == 1
    before = os.stat(tree).st_ino
    unprivileged.udocker("verify", "-q", "--repair")
    assert os.stat(tree).st_ino != before
    partial = f"{unprivileged.udocker_dir}/partial"
    assert len(os.listdir(partial)) == 1
    done = unprivileged.udocker("exec", "kept", "cat", "/etc/greeting")
    assert done.stdout == "hello\n"
    unprivileged.udocker("pull", "-q", busybox_reference)
    assert len(os.listdir(partial)) == 1
    unprivileged.udocker("kill", "kept")
    unprivileged.udocker("wait", "kept")
    unprivileged.udocker("prune")
    assert os.listdir(partial) == []
    unprivileged.udocker("start", "kept")
    unprivileged.udocker("rm", "-f", "kept")


def test_an_image_of_the_sites_store_is_verified_and_not_repaired(case):
    site = f"{case.user.home}/site"
    os.rename(case.user.udocker_dir, site)
    environment = {"UDOCKER_SITE_STORES": site}
    assert case.verify(case.name, env=environment).stdout == f"{case.name}: ok\n"
    assert case.verify(env=environment).stdout == ""
    os.unlink(case.path("layer").replace(case.user.udocker_dir, site))
    done = case.verify("--repair", case.name, env=environment)
    assert (done.returncode, "not yours" in done.stdout) == (1, True)


NAMES = st.sampled_from([b"a", b"b", b"c/d", b"c", b"a/b/c", b"l/x"])
MEMBERS = st.lists(
    st.builds(file, NAMES, st.binary(max_size=3), st.sampled_from([0o644, 0o755, 0]))
    | st.builds(folder, NAMES, st.sampled_from([0o755, 0o500]))
    | st.builds(symlink, NAMES | st.just(b"l"), st.sampled_from([b"c", b"/a", b"..", b"l"]))
    | st.builds(hard_link, NAMES, NAMES)
    | st.builds(lambda name: file(name[:-1] + b".wh." + name[-1:]), NAMES)
    | st.just(file(b".wh..wh..opq")),
    max_size=6,
)


def made(directory, streams, *, hollow):
    os.mkdir(directory)
    parts = []
    for number, stream in enumerate(streams):
        place = f"{directory}/{number}"
        os.mkdir(place)
        parts.append((place, layers.unpack(iter([stream]), place, hollow=hollow)))
    layers.merge(parts, f"{directory}/rootfs")
    return f"{directory}/rootfs"


@settings(max_examples=40, deadline=None)
@given(st.lists(MEMBERS, min_size=1, max_size=3), st.binary(min_size=1, max_size=1))
def test_layers_without_content_make_the_tree_that_they_make_with_it(stack, byte):
    streams = [archive(*members) for members in stack]
    with tempfile.TemporaryDirectory() as directory:
        try:
            whole = made(f"{directory}/whole", streams, hollow=False)
        except UnpackError:
            with pytest.raises(UnpackError):
                made(f"{directory}/hollow", streams, hollow=True)
            return
        hollow = made(f"{directory}/hollow", streams, hollow=True)
        assert list(differences(hollow, whole, content=False)) == []
        assert list(differences(whole, whole, content=True)) == []
        for path, _, names in os.walk(whole):
            for name in names[:1]:
                one = os.path.join(path, name)
                if os.path.isfile(one) and not os.path.islink(one) and os.path.getsize(one):
                    os.chmod(one, 0o600)
                    with open(one, "ab") as changed:
                        changed.write(byte)
                    assert list(differences(hollow, whole, content=False)) != []
                    return


def test_a_killed_repair_leaves_a_store_that_the_next_one_mends(case):
    command = [case.user.python, "-m", "udocker", "verify", "-q", "--repair"]
    dice = random.Random(5)
    for round_number in range(8):
        if os.path.exists(case.path("layer")):
            blank(case.path("layer"))
        if os.listdir(f"{case.user.udocker_dir}/trees"):
            os.utime(f"{case.tree}/etc/name")
        repair = case.user.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(dice.uniform(0.15, 0.6))
        repair.send_signal(signal.SIGKILL)
        repair.wait(20)
        if round_number % 4 == 3:
            case.user.udocker("verify", "-q", "--repair")
            case.good()
