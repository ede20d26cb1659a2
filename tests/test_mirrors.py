"""An image comes from the mirrors that the user names, or else from its registry."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess

import pytest
from images import add_image
from registries import (
    PASSWORD,
    USER,
    DockerRegistry,
    Layout,
    Proxy,
    Reply,
    Server,
    body,
    needs,
    status,
)
from tarballs import archive, file

from udocker.errors import AccessDenied, ImageNotFound, RegistryError
from udocker.oci import Descriptor
from udocker.reference import Reference
from udocker.registry.client import Client
from udocker.registry.patience import Patience
from udocker.settings import Settings

QUICK = Patience(attempts=2, first_delay_s=0.01, longest_delay_s=0.02, read_timeout_s=1)
LARGE = random.Random(2).randbytes(3 << 20)
NAME = "origin.invalid/org/app:1"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mirrors")
    layout = Layout(str(directory / "layout"))
    layout.add("app", [LARGE])
    with DockerRegistry(directory / "registry") as registry:
        registry.push(layout, "app", "org/app:1")
        registry.push(layout, "app", "copies/org/app:1")
        registry.layer = Descriptor.from_json(layout.layers(layout.manifests[0])[0])
        yield registry


@pytest.fixture
def proxies(registry):
    with Proxy(registry.host) as first, Proxy(registry.host) as second:
        yield first, second


def rule(location, *mirrors):
    lines = ['[[registry]]\nprefix = "origin.invalid"', f'location = "{location}"']
    return "\n".join([*lines, *(f'[[registry.mirror]]\nlocation = "{m}"' for m in mirrors)])


def client(tmp_path, text, environment=None, patience=QUICK):
    path = tmp_path / "registries.conf"
    path.write_text(text)
    settings = Settings("/", {"CONTAINERS_REGISTRIES_CONF": str(path), **(environment or {})})
    return Client("origin.invalid", settings, patience=patience)


def pulled(reader, registry):
    reference = Reference.parse(NAME)
    reader.head(reference)
    reader.manifest(reference)
    return b"".join(reader.blob(reference, registry.layer))


def test_a_mirror_is_asked_in_place_of_the_registry(tmp_path, registry, proxies):
    mirror, home = proxies
    reader = client(tmp_path, rule(home.host, f"{mirror.host}/copies"))
    assert pulled(reader, registry) == LARGE
    assert [path.split("/")[2] for path in mirror.paths()] == ["copies", "copies"]
    assert home.asked == []


@pytest.mark.parametrize(
    ("fault", "is_told"),
    [
        (status(404), False),
        (status(500), True),
        (status(401), True),
        (body(lambda data: data + b" "), True),
    ],
)
def test_what_a_mirror_does_not_give_the_registry_gives(
    tmp_path, registry, proxies, capsys, fault, is_told
):
    mirror, home = proxies
    mirror.add("/manifests/", fault, times=9)
    reader = client(tmp_path, rule(home.host, mirror.host))
    reader.manifest(Reference.parse(NAME))
    asked = len(mirror.asked)
    assert pulled(reader, registry) == LARGE
    assert len(mirror.asked) == asked  # it has failed, and is left alone
    assert ("is passed over" in capsys.readouterr().err) == is_told


def test_a_mirror_that_wants_to_be_left_alone_is(tmp_path, registry, proxies, capsys):
    mirror, home = proxies
    mirror.add("/manifests/", status(429, {"Retry-After": "3600"}), times=9)
    reader = client(tmp_path, rule(home.host, mirror.host), patience=None)
    reader.manifest(Reference.parse(NAME))
    assert len(mirror.asked) == 2
    assert "trying again" not in capsys.readouterr().err  # which would be told from 5 s on


def test_a_blob_goes_on_at_the_registry_where_the_mirror_broke_off(tmp_path, registry, proxies):
    mirror, home = proxies
    mirror.add("/blobs/", mirror.cut(1 << 20))
    mirror.add("/blobs/", status(500), times=9)
    assert pulled(client(tmp_path, rule(home.host, mirror.host)), registry) == LARGE
    assert [asked.headers["Range"] for asked in home.asked] == [f"bytes={1 << 20}-"]


def test_the_error_tells_what_mirrors_said(tmp_path, registry):
    with Server(lambda asked: Reply(404)) as first, Server(lambda asked: Reply(404)) as second:
        reader = client(tmp_path, rule(second.host, first.host))
        with pytest.raises(ImageNotFound) as caught:
            reader.head(Reference.parse(NAME))
    assert first.host in caught.value.message and second.host in caught.value.message


def test_each_place_gets_its_own_credentials_only(tmp_path, registry):
    with Server(lambda asked: Reply(401, {"WWW-Authenticate": "Basic"})) as mirror:
        home = Server(lambda asked: Reply(401, {"WWW-Authenticate": "Basic"}))
        environment = {"UDOCKER_USERNAME": USER, "UDOCKER_PASSWORD": PASSWORD}
        with home:
            reader = client(tmp_path, rule(home.host, mirror.host), environment)
            with pytest.raises(AccessDenied):
                reader.head(Reference.parse(NAME))
    assert [asked.headers["Authorization"] for asked in mirror.asked] == [None]
    assert home.asked[1].headers["Authorization"].startswith("Basic ")


def test_a_mirror_gets_what_the_user_keeps_for_its_host(tmp_path):
    with Server(lambda asked: Reply(401, {"WWW-Authenticate": "Basic"})) as mirror:
        pair = base64.b64encode(b"me:word").decode()
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {mirror.host: {"auth": pair}}}))
        environment = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
        reader = client(tmp_path, rule("127.0.0.1:1", f"{mirror.host}/x"), environment)
        with pytest.raises(RegistryError):
            reader.head(Reference.parse(NAME))
    assert [asked.headers["Authorization"] for asked in mirror.asked] == [None, f"Basic {pair}"]


def test_tags_are_the_registrys_own(tmp_path, registry, proxies):
    mirror, home = proxies
    reader = client(tmp_path, rule(home.host, mirror.host))
    assert reader.tags(Reference.parse(NAME)) == ["1"]
    assert mirror.asked == []


SITE = """
unqualified-search-registries = ["{host}"]
[[registry]]
prefix = "*.mirrored.invalid"
location = "{host}/copies"
insecure = true
[[registry]]
prefix = "origin.invalid/org"
location = "gone.invalid/org"
[[registry.mirror]]
location = "{host}/no/such"
insecure = true
[[registry.mirror]]
location = "{host}/copies/org"
insecure = true
[[registry]]
location = "origin.invalid/org/blocked"
blocked = true
"""


@pytest.mark.parametrize(
    "name", ["origin.invalid/org/app:1", "a.b.mirrored.invalid/org/app:1", "x.mirrored.invalid/o:1"]
)
def test_skopeo_finds_by_the_same_file_what_we_find(tmp_path, registry, name):
    needs("skopeo")
    path = tmp_path / "registries.conf"
    path.write_text(SITE.format(host=registry.host))
    options = ["skopeo", f"--registries-conf={path}", "inspect", "--no-tags"]
    theirs = subprocess.run([*options, f"docker://{name}"], capture_output=True, text=True)
    reference = Reference.parse(name)
    settings = Settings("/", {"CONTAINERS_REGISTRIES_CONF": str(path)})
    reader = Client(reference.registry, settings, patience=QUICK)
    try:
        ours = str(reader.manifest(reference)[0].digest)
    except ImageNotFound:
        ours = ""
    assert ours == (json.loads(theirs.stdout)["Digest"] if theirs.stdout else ""), theirs.stderr
    assert bool(ours) == name.endswith("org/app:1")


# The command line


@pytest.fixture
def layout(tmp_path):
    layout = Layout(str(tmp_path / "layout"))
    add_image(layout, "app", [archive(file("etc/name", b"it\n"))])
    return layout


def configure(user, text):
    path = f"{user.home}/.config/containers/registries.conf"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as conf:
        conf.write(text)
    user.own(f"{user.home}/.config")


def test_an_image_of_a_mirror_has_the_name_that_was_asked_for(
    unprivileged, docker_registry, layout
):
    docker_registry.push(layout, "app", "mirrored/org/app:1")
    configure(unprivileged, rule("origin.invalid", f"{docker_registry.host}/mirrored"))
    unprivileged.udocker("pull", NAME)
    assert unprivileged.udocker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.startswith(
        NAME
    )
    hub = {"UDOCKER_MIRROR": f"http://{docker_registry.host}/mirrored"}
    done = unprivileged.udocker("pull", "org/app:1", env=hub)
    assert done.stdout.startswith("docker.io/org/app:1 ")
    unprivileged.udocker("run", "--dry-run", "org/app:1", "x")


@pytest.mark.parametrize("blob", ["config", "layers"])
def test_wrong_bytes_of_a_mirror_are_made_good_by_the_registry(
    unprivileged, docker_registry, layout, blob
):
    docker_registry.push(layout, "app", "twice/app:1")
    manifest = json.loads(layout.read(layout.manifests[0]))
    wrong = {"config": manifest["config"], "layers": manifest["layers"][0]}[blob]["digest"]
    with Proxy(docker_registry.host) as mirror, Proxy(docker_registry.host) as home:
        mirror.add(wrong, body(lambda data: bytes([data[0] ^ 1]) + data[1:]), times=9)
        configure(unprivileged, rule(home.host, mirror.host))
        done = unprivileged.udocker("pull", "origin.invalid/twice/app:1")
        assert f"{wrong}" in done.stderr and "now without mirrors" in done.stderr
        assert mirror.paths() and home.paths()
        home.add(wrong, body(lambda data: bytes([data[0] ^ 1]) + data[1:]), times=9)
        unprivileged.udocker("rmi", "origin.invalid/twice/app:1")
        done = unprivileged.udocker("pull", "origin.invalid/twice/app:1", check=False)
        assert done.returncode == 1 and done.stdout == ""


def test_an_image_that_is_here_costs_no_look_at_the_file(unprivileged, docker_registry, layout):
    docker_registry.push(layout, "app", "library/near:1")
    mirror = {"UDOCKER_MIRROR": f"http://{docker_registry.host}"}
    unprivileged.udocker("pull", "near:1", env=mirror)
    configure(unprivileged, f'unqualified-search-registries = ["{docker_registry.host}"]')
    words = ["-X", "importtime", "-m", "udocker", "run", "--dry-run", "near:1", "x"]
    done = unprivileged.run([unprivileged.python, *words])
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "udocker.commands.stores" in imported
    assert not imported & {"tomllib", "tomli", "requests", "udocker.registry.configuration"}


def test_short_names_are_searched_and_found_again(unprivileged, docker_registry, layout):
    docker_registry.push(layout, "app", "short/app:1")
    with Server(lambda asked: Reply(404)) as empty:
        hosts = f'["{empty.host}", "{docker_registry.host}"]'
        alias = f'[aliases]\nnick = "{docker_registry.host}/short/app"'
        configure(unprivileged, f"unqualified-search-registries = {hosts}\n{alias}")
        done = unprivileged.udocker("pull", "short/app:1")
        assert done.stdout.startswith(f"{docker_registry.host}/short/app:1 ")
        assert [asked.path for asked in empty.asked] == ["/v2/short/app/manifests/1"]
        unprivileged.udocker("run", "--dry-run", "short/app:1", "x")
        unprivileged.udocker("run", "--dry-run", "nick:1", "x")
        assert len(empty.asked) == 1
        done = unprivileged.udocker("pull", "no/such", check=False)
    assert done.returncode == 1
    assert empty.host in done.stderr and docker_registry.host in done.stderr


def test_a_broken_file_stops_a_pull_but_not_an_image_that_is_here(
    unprivileged, docker_registry, layout
):
    docker_registry.push(layout, "app", "org/here:1")
    name = f"{docker_registry.host}/org/here:1"
    unprivileged.udocker("pull", name)
    configure(unprivileged, "[[registry]\n")
    assert ".config/containers/registries.conf" in unprivileged.udocker("showconf").stdout
    unprivileged.udocker("run", "--dry-run", name, "x")
    done = unprivileged.udocker("pull", name, check=False)
    assert done.returncode == 2
    assert "registries.conf:1: is not TOML" in done.stderr
    assert "CONTAINERS_REGISTRIES_CONF" in done.stderr
