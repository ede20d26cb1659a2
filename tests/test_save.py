"""Images of the store as archives, which our own load and other tools read."""

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile

import pytest
from archives import BASE, TOP, Image, Loader, docker_files, layout_files, packed
from registries import Layout, needs
from tarballs import archive, file
from unprivileged import Unprivileged, remove_tree

from udocker.errors import StoreError
from udocker.images.archives import tar
from udocker.images.archives.archivewriter import ArchiveWriter
from udocker.images.archives.tarwriter import file_header
from udocker.reference import Reference
from udocker.registry.loopback import LoopbackRegistry
from udocker.transfer.archives.save import Chosen, write_docker_archive, write_oci_archive
from udocker.transfer.content import content_of

FORMATS = ("docker-archive", "oci-archive", "oci-dir")
WRITERS = {"docker-archive": write_docker_archive, "oci-archive": write_oci_archive}
OTHER = Image([BASE, archive(file("other", b"1"))], ["other:2"])


@pytest.fixture
def load(tmp_path):
    return Loader(tmp_path)


def saved(load, kind, *names):
    """Return the archive of images under their names, as it goes into a pipe."""
    chosen = []
    for name in names:
        content = content_of(load.store, load.find(name))
        chosen.append(Chosen(content, (Reference.parse(name),)))
    parts = []
    WRITERS[kind](load.store.blobs, chosen, ArchiveWriter(parts.append))
    return b"".join(parts)


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = [member for member in tar if not member.isdir()]
        return {m.name: m.linkname if m.issym() else tar.extractfile(m).read() for m in files}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("compression", ["", "+gzip", "+zstd"])
def test_what_was_saved_is_loaded_as_it_was(load, tmp_path, kind, compression):
    load(packed(layout_files(Image(), OTHER, compression=compression)))
    data = saved(load, kind, "img:1", "other:2")
    again = Loader(tmp_path / "again")
    os.mkdir(again.directory)
    assert again(data) == ["img:1", "other:2"]
    for name in ("img:1", "other:2"):
        assert again.config(name) == load.config(name)
        if kind == "oci-archive":
            assert again.find(name).manifest.digest == load.find(name).manifest.digest
    assert saved(again, kind, "img:1", "other:2") == data


def test_layers_are_plain_tar_in_a_docker_archive_and_shared_ones_there_once(load):
    load(packed(layout_files(Image(), OTHER, compression="+gzip")))
    files = members(saved(load, "docker-archive", "img:1", "other:2"))
    listed = json.loads(files["manifest.json"])
    assert [entry["RepoTags"] for entry in listed] == [
        ["docker.io/library/img:1"],
        ["docker.io/library/other:2"],
    ]
    assert [files[layer] for layer in listed[0]["Layers"]] == [BASE, TOP]
    assert listed[0]["Layers"][0] == listed[1]["Layers"][0]
    assert list(files.values()).count(BASE) == 1
    assert files[f"{Image().id}.json"] == Image().config


def test_a_docker_archive_is_read_without_its_manifest_as_before_docker_1_10(load, tmp_path):
    load(packed(docker_files(Image(), OTHER)))
    files = members(saved(load, "docker-archive", "img:1", "other:2"))
    del files["manifest.json"]
    again = Loader(tmp_path / "again")
    os.mkdir(again.directory)
    assert sorted(again(packed(files))) == ["img:1", "other:2"]
    assert again.find("img:1").chain_id == load.find("img:1").chain_id


@pytest.mark.parametrize("kind", WRITERS)
def test_a_layer_that_is_damaged_here_is_not_handed_on(load, kind):
    load(packed(docker_files(Image())))
    layer = load.store.read_manifest(load.find("img:1")).layers[1]
    path = load.store.blobs.path(layer.digest)
    os.chmod(path, 0o644)
    with open(path, "r+b") as blob:
        blob.seek(600)
        blob.write(b"wrong")
    with pytest.raises(StoreError, match=f"{layer.digest} is damaged here"):
        saved(load, kind, "img:1")
    os.unlink(path)
    with pytest.raises(StoreError, match="is not here"):
        saved(load, kind, "img:1")


def test_a_size_of_eight_gigabytes_and_more_stands_in_one_block():
    for size in (0, 8**11 - 1, 8**11, 1 << 50):
        reader = tar.Reader(iter([file_header(b"name", size)]), tar.Limits(size_bytes=1 << 60))
        assert next(iter(reader)).size == size


# as a user does it


@pytest.fixture(scope="module")
def user(account, busybox_image):
    user = Unprivileged(account)
    with LoopbackRegistry(busybox_image.path) as address:
        user.image = f"{address}/library/{busybox_image.reference}"
        user.udocker("pull", user.image)
    yield user
    user.close()


def save(user, *words, **options):
    return user.udocker("save", *words, user.image, text=False, **options)


def test_a_pipe_and_a_file_hold_the_same_and_the_file_appears_whole(user):
    path = f"{user.home}/image.tar"
    assert save(user, "-o", path).stdout == b""
    with open(path, "rb") as written:
        assert written.read() == save(user).stdout == save(user, "-").stdout
    blobs = f"{user.udocker_dir}/images/blobs/sha256"
    layer = max((f"{blobs}/{name}" for name in os.listdir(blobs)), key=os.path.getsize)
    os.rename(layer, f"{layer}.aside")
    assert save(user, "-o", path, check=False).returncode == 1
    with open(layer, "wb") as damaged, open(f"{layer}.aside", "rb") as whole:
        damaged.write(whole.read()[:-8] + b"\0" * 8)
    done = save(user, "-o", f"{user.home}/other.tar", check=False)
    os.rename(f"{layer}.aside", layer)
    assert (done.returncode, b"is damaged here" in done.stderr) == (1, True)
    assert sorted(n for n in os.listdir(user.home) if ".tar" in n) == ["image.tar"]


def test_a_name_says_how_it_is_compressed(user):
    plain = save(user).stdout
    save(user, "-o", f"{user.home}/x.tar.gz")
    with gzip.open(f"{user.home}/x.tar.gz") as packed_file:
        assert packed_file.read() == plain
    assert gzip.decompress(save(user, "--compress").stdout) == plain
    for ending in ("tgz", "zst", "bz2", "xz"):
        path = f"{user.home}/y.tar.{ending}"
        save(user, "-o", path)
        assert os.path.getsize(path) < len(plain) * 3 // 4
        user.udocker("load", "-i", path, "compressed:1")


def test_a_full_disk_and_a_terminal_are_told(user):
    done = save(user, "-o", "/dev/full", check=False)
    assert (done.returncode, b"No space left" in done.stderr) == (1, True)
    command = f"{user.python} -m udocker save {user.image}"
    done = user.run(["script", "-qec", command, "/dev/null"], check=False)
    assert (done.returncode, "does not suit a terminal" in done.stdout) == (2, True)


def test_an_id_is_no_name(user):
    identifier = user.udocker("images", "-q").stdout.split()[0]
    data = user.udocker("save", identifier, text=False).stdout
    assert json.loads(members(data)["manifest.json"])[0]["RepoTags"] is None


def test_words_that_make_no_sense_are_errors(user):
    assert user.udocker("save", check=False).returncode == 2
    assert user.udocker("save", "no/such:1", check=False).returncode == 1
    assert save(user, "--format=oci-dir", check=False).returncode == 2
    os.makedirs(f"{user.home}/full/x")
    assert save(user, "--format=oci-dir", "-o", f"{user.home}/full", check=False).returncode == 2


@pytest.fixture(scope="module")
def archives(user):
    """The image in every format: paths by format."""
    paths = {kind: f"{user.home}/{kind}" for kind in FORMATS}
    for kind, path in paths.items():
        save(user, "--format", kind, "-o", path)
    return paths


def test_skopeo_finds_the_same_digests_in_every_format(user, archives, busybox_image):
    needs("skopeo")
    layout = Layout.__new__(Layout)
    layout.directory = busybox_image.path
    with open(f"{busybox_image.path}/index.json") as index:
        manifest = json.load(index)["manifests"][0]["digest"]
    config = json.loads(layout.read({"digest": manifest}))["config"]["digest"]
    for kind, path in archives.items():
        transport = "oci" if kind == "oci-dir" else kind
        command = ["skopeo", "inspect", "--raw", f"{transport}:{path}"]
        raw = user.run(command, text=False).stdout
        assert json.loads(raw)["config"]["digest"] == config
        if kind != "docker-archive":
            assert hash_of(raw) == manifest
        copy = ["skopeo", "--insecure-policy", "copy", "-q", f"{transport}:{path}"]
        user.run([*copy, f"oci:{user.home}/copied-{kind}:x"])


def hash_of(data):
    import hashlib

    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_umoci_reads_the_layout(user, archives):
    needs("umoci")
    command = ["umoci", "ls", "--layout", archives["oci-dir"]]
    assert subprocess.run(command, check=True, capture_output=True).stdout.decode().strip()


def test_docker_schema_2_stays_what_it_is(unprivileged, docker_registry, busybox_image):
    needs("skopeo")
    copy = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
    name = f"{docker_registry.host}/test/v2s2:1"
    source = f"oci:{busybox_image.path}:{busybox_image.reference}"
    subprocess.run([*copy, "--format=v2s2", source, f"docker://{name}"], check=True)
    unprivileged.udocker("pull", name)
    for kind in ("docker-archive", "oci-archive"):
        path = f"{unprivileged.home}/{kind}"
        unprivileged.udocker("save", "-o", path, "--format", kind, name)
        subprocess.run([*copy, f"{kind}:{path}", f"oci:{path}-oci:x"], check=True)
        done = unprivileged.udocker("load", "-i", path)
        assert done.stdout == f"Loaded image: {name}\n"


@pytest.fixture
def podman():
    """A podman whose store has a name that is short enough for it."""
    if shutil.which("podman") is None:
        pytest.skip("needs podman")
    path = tempfile.mkdtemp(prefix="u", dir="/tmp")
    yield ["podman", "--root", f"{path}/root", "--runroot", f"{path}/run", "--storage-driver=vfs"]
    remove_tree(path)


@pytest.mark.root
def test_podman_loads_what_we_save_and_we_what_it_saves(user, archives, podman):
    for kind in WRITERS:
        command = [*podman, "load", "-q", "-i", archives[kind]]
        done = subprocess.run(command, check=True, capture_output=True)
        assert done.stdout.decode().split()[-1] == user.image
    listed = subprocess.run(
        [*podman, "images", "-q", "--no-trunc"], check=True, capture_output=True
    )
    ids = set(listed.stdout.decode().split())
    assert len(ids) == 1
    for kind in ("docker-archive", "oci-archive"):
        path = f"{user.home}/podman-{kind}"
        command = [*podman, "save", "-q", "--format", kind, "-o", path, user.image]
        subprocess.run(command, check=True, capture_output=True)
        os.chmod(path, 0o644)
        done = user.udocker("load", "-i", path, f"podman:{kind}")
        config = user.udocker("inspect", f"podman:{kind}").stdout
        assert config == user.udocker("inspect", user.image).stdout
