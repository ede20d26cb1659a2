"""Pulling from real registries, and from ones that fail, as a user without privileges."""

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from dataclasses import replace

import pytest
from images import COMPRESSIONS, HERE, add_image, add_index
from registries import (
    KIND,
    PASSWORD,
    USER,
    DockerRegistry,
    Layout,
    Proxy,
    Reply,
    Server,
    Tls,
    TokenServer,
    body,
    needs,
    status,
)
from tarballs import archive, device, file, folder, hard_link, symlink

from udocker.registry.loopback import LoopbackRegistry

BASE = archive(folder("etc"), file("etc/name", b"base\n"), file("etc/gone", b"x"), folder("srv"))
TOP = archive(file("etc/name", b"top\n"), file("etc/.wh.gone"), hard_link("etc/same", "etc/name"))
NOISE = random.Random(1).randbytes(5 << 20)
LARGE = archive(file("large", NOISE), symlink("link", "large"))
LITTLE = archive(file("large", NOISE[: 3 << 20]))
"""What the process that was started brings itself."""


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "layout"))


@pytest.fixture
def registry(tmp_path):
    with DockerRegistry(tmp_path / "registry") as registry:
        yield registry


def push(registry, layout, name="img:1", layers=(BASE, TOP), **how):
    entry = add_image(layout, name, layers, **how)
    registry.push(layout, name, name)
    return entry


def tree_of(user, name):
    return user.udocker("inspect", "-p", name).stdout.strip()


def leftovers(user):
    return os.listdir(f"{user.udocker_dir}/partial")


def test_a_pulled_image_is_merged_verified_and_ready(unprivileged, registry, layout):
    push(registry, layout)
    done = unprivileged.udocker("pull", f"{registry.host}/img:1")
    assert done.stdout.startswith(f"{registry.host}/img:1 ")
    tree = tree_of(unprivileged, f"{registry.host}/img:1")
    assert sorted(os.listdir(f"{tree}/etc")) == ["name", "same"]
    with open(f"{tree}/etc/same") as same:
        assert same.read() == "top\n"
    assert leftovers(unprivileged) == []


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_layers_may_be_compressed_in_any_way(unprivileged, registry, layout, compression):
    push(registry, layout, compression=compression)
    unprivileged.udocker("pull", f"{registry.host}/img:1")
    assert os.path.exists(f"{tree_of(unprivileged, f'{registry.host}/img:1')}/etc/same")


def test_docker_schema_2_is_read_like_oci(unprivileged, registry, layout, tmp_path):
    add_image(layout, "img:1", [BASE, TOP])
    needs("skopeo")
    copy = ["skopeo", "--insecure-policy", "copy", "--format", "v2s2", "--dest-tls-verify=false"]
    target = f"docker://{registry.host}/img:1"
    subprocess.run([*copy, f"oci:{layout.directory}:img:1", target], check=True)
    unprivileged.udocker("pull", f"{registry.host}/img:1")
    assert os.path.exists(f"{tree_of(unprivileged, f'{registry.host}/img:1')}/etc/same")


def test_the_store_is_an_image_layout_that_skopeo_reads(unprivileged, registry, layout):
    needs("skopeo")
    entry = push(registry, layout)
    unprivileged.udocker("pull", f"{registry.host}/img:1")
    source = f"oci:{unprivileged.udocker_dir}/images:{registry.host}/img:1"
    seen = subprocess.run(["skopeo", "inspect", source], check=True, capture_output=True).stdout
    assert json.loads(seen)["Digest"] == entry["digest"]
    copy = f"oci:{unprivileged.home}/copy"
    subprocess.run(["skopeo", "--insecure-policy", "copy", source, copy], check=True)


def test_a_second_pull_is_one_request(unprivileged, registry, layout):
    push(registry, layout)
    with Proxy(registry.host) as proxy:
        unprivileged.udocker("pull", f"{proxy.host}/img:1")
        proxy.asked.clear()
        done = unprivileged.udocker("pull", f"{proxy.host}/img:1")
        assert [asked.method for asked in proxy.asked] == ["HEAD"]
        assert "up to date" in done.stderr
        digest = json.loads(unprivileged.udocker("inspect", f"{proxy.host}/img:1").stdout)
        assert digest["rootfs"]["type"] == "layers"
        proxy.asked.clear()
        unprivileged.udocker("run", "--dry-run", f"{proxy.host}/img:1", "x")
        assert proxy.asked == []


def test_a_name_that_has_moved_on_is_pulled_again(unprivileged, registry, layout):
    push(registry, layout)
    unprivileged.udocker("pull", f"{registry.host}/img:1")
    add_image(layout, "img:2", [BASE, LARGE])
    registry.push(layout, "img:2", "img:1")
    unprivileged.udocker("pull", f"{registry.host}/img:1")
    assert os.path.exists(f"{tree_of(unprivileged, f'{registry.host}/img:1')}/large")


def test_the_image_for_this_platform_or_the_one_asked_for_is_taken(unprivileged, registry, layout):
    add_index(layout, "multi:1", {"amd64": [BASE], "arm64": [TOP], "s390x": [LARGE]})
    needs("skopeo")
    copy = ["skopeo", "--insecure-policy", "copy", "--all", "--dest-tls-verify=false"]
    target = f"docker://{registry.host}/multi:1"
    subprocess.run([*copy, f"oci:{layout.directory}:multi:1", target], check=True)
    name = f"{registry.host}/multi:1"
    unprivileged.udocker("pull", "--platform=linux/s390x", name)
    assert os.path.exists(f"{tree_of(unprivileged, name)}/large")
    unprivileged.udocker("pull", name)
    assert not os.path.exists(f"{tree_of(unprivileged, name)}/large")
    done = unprivileged.udocker("pull", "--platform=linux/riscv64", name, check=False)
    assert done.returncode == 1
    assert "it offers linux/amd64, linux/arm64/v8, linux/s390x" in done.stderr


def test_an_image_is_pulled_by_digest_and_then_needs_no_registry(unprivileged, registry, layout):
    entry = push(registry, layout)
    name = f"{registry.host}/img@{entry['digest']}"
    unprivileged.udocker("pull", name)
    registry.stop()
    unprivileged.udocker("pull", name)
    registry.start()


def test_basic_and_token_credentials_are_used_and_their_lack_is_said(
    unprivileged, layout, tmp_path
):
    tls = Tls.make(tmp_path)
    add_image(layout, "img:1", [BASE])
    with DockerRegistry(tmp_path / "basic", passwords=True) as basic:
        basic.push(layout, "img:1", "img:1")
        done = unprivileged.udocker("pull", f"{basic.host}/img:1", check=False)
        assert done.returncode == 1
        assert "udocker login" in done.stderr
        environment = {"UDOCKER_USERNAME": USER, "UDOCKER_PASSWORD": PASSWORD}
        unprivileged.udocker("pull", f"{basic.host}/img:1", env=environment)
        login = ["login", "-u", USER, "--password-stdin", basic.host]
        assert unprivileged.udocker(*login, input="wrong", check=False).returncode == 1
        assert not os.path.exists(f"{unprivileged.home}/.docker")
        unprivileged.udocker(*login, input=PASSWORD)
        unprivileged.udocker("pull", f"{basic.host}/img:1")
        unprivileged.udocker("logout", basic.host)
        assert unprivileged.udocker("pull", f"{basic.host}/img:1", check=False).returncode == 1
    with TokenServer(tls) as tokens, DockerRegistry(tmp_path / "token", tokens=tokens) as token:
        token.push(layout, "img:1", "img:1")
        unprivileged.udocker("pull", f"{token.host}/img:1")


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("/blobs/", Proxy.cut),
        ("/blobs/", status(503, {"Retry-After": "0"})),
        ("/manifests/", status(429, {"Retry-After": "0"})),
        ("/blobs/", status(500)),
    ],
    ids=["cut", "503", "429", "500"],
)
def test_a_registry_that_stumbles_is_asked_again(unprivileged, registry, layout, path, change):
    push(registry, layout, layers=(BASE, LARGE), compression="")
    with Proxy(registry.host) as proxy:
        proxy.add(path, change(proxy, 100_000) if change is Proxy.cut else change, times=2)
        unprivileged.udocker("pull", f"{proxy.host}/img:1")
        assert proxy.faults == []
    assert os.path.exists(f"{tree_of(unprivileged, f'{proxy.host}/img:1')}/large")


@pytest.mark.parametrize(
    "wrong", [lambda data: b"\0" + data[1:], lambda data: data[:-1], lambda data: data + b"\0"]
)
def test_wrong_bytes_get_no_name(unprivileged, registry, layout, wrong):
    push(registry, layout, layers=(LARGE,))
    with Proxy(registry.host) as proxy:
        proxy.add("/blobs/", body(wrong), times=1000)
        done = unprivileged.udocker("pull", f"{proxy.host}/img:1", check=False)
        assert done.returncode == 1
    assert unprivileged.udocker("images", "-q").stdout == ""
    assert os.listdir(f"{unprivileged.udocker_dir}/trees") == []
    for name in os.listdir(f"{unprivileged.udocker_dir}/images/blobs/sha256"):
        with open(f"{unprivileged.udocker_dir}/images/blobs/sha256/{name}", "rb") as blob:
            assert hashlib.sha256(blob.read()).hexdigest() == name


def test_a_layer_that_is_not_what_the_config_says_is_refused(unprivileged, registry, layout):
    entry = add_image(layout, "good:1", [BASE])
    document = json.loads(layout.read(entry))
    document["layers"] = [
        layout.blob(COMPRESSIONS["+gzip"](TOP), document["layers"][0]["mediaType"])
    ]
    layout.add_document("bad:1", document)
    registry.push(layout, "bad:1", "bad:1")
    done = unprivileged.udocker("pull", f"{registry.host}/bad:1", check=False)
    assert done.returncode == 1
    assert "unpacks to" in done.stderr
    assert os.listdir(f"{unprivileged.udocker_dir}/trees") == []
    registry.push(layout, "good:1", "good:1")
    unprivileged.udocker("pull", f"{registry.host}/good:1")
    done = unprivileged.udocker("pull", f"{registry.host}/bad:1", check=False)
    assert (done.returncode, "unpacks to" in done.stderr) == (1, True)
    document["layers"] = [layout.blob(b"no tar", document["layers"][0]["mediaType"])]
    layout.add_document("bad:2", document)
    registry.push(layout, "bad:2", "bad:2")
    done = unprivileged.udocker("pull", f"{registry.host}/bad:2", check=False)
    assert (done.returncode, "unpacks to" in done.stderr) == (1, True)
    assert "bad" not in unprivileged.udocker("images").stdout


def test_a_hostile_layer_writes_nothing_outside(unprivileged, registry, layout):
    victim = f"{unprivileged.home}/victim"
    os.mkdir(victim)
    unprivileged.own(victim)
    first = archive(symlink("x", victim), symlink("y", "../../../../.." + victim))
    second = archive(file("x/a", b"1"), file("y/b", b"2"), file("../../c", b"3"))
    push(registry, layout, layers=(first, second))
    unprivileged.udocker("pull", f"{registry.host}/img:1")
    assert os.listdir(victim) == []
    tree = tree_of(unprivileged, f"{registry.host}/img:1")
    assert os.path.exists(f"{tree}/c")
    assert os.path.exists(f"{tree}{victim}/a")


def test_device_nodes_are_left_out_with_a_note(unprivileged, registry, layout):
    push(registry, layout, layers=(archive(folder("dev"), device("dev/a"), device("dev/b")),))
    done = unprivileged.udocker("pull", f"{registry.host}/img:1")
    assert "left out" in done.stderr
    assert "(2)" in done.stderr
    assert os.listdir(f"{tree_of(unprivileged, f'{registry.host}/img:1')}/dev") == []


def test_owners_of_symbolic_links_are_told_to_nobody_but_who_looks_for_faults(
    unprivileged, registry, layout
):
    push(registry, layout, layers=(archive(symlink("l", "x", owner=(1000, 100))),))
    name = f"{registry.host}/img:1"
    assert "left out" not in unprivileged.udocker("pull", name).stderr
    unprivileged.udocker("rmi", name)
    assert "symbolic link (1)" in unprivileged.udocker("-D", "pull", name).stderr


@pytest.mark.parametrize("large", [LARGE, LITTLE], ids=["workers", "here"])
def test_a_killed_pull_is_continued_where_it_was(unprivileged, registry, layout, large):
    entry = push(registry, layout, layers=(BASE, large), compression="")
    large = layout.layers(entry)[1]["digest"]
    with Proxy(registry.host) as proxy:
        proxy.add(f"/blobs/{large}", proxy.cut(2 << 20, stall_s=60))
        name = f"{proxy.host}/img:1"
        command = [unprivileged.python, "-m", "udocker", "pull", name]
        pull = unprivileged.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: collected(unprivileged) >= 1 << 20)
        pull.send_signal(signal.SIGKILL)
        pull.wait(20)
        proxy.asked.clear()
        unprivileged.udocker("pull", name)
        ranges = [asked.headers.get("Range") for asked in proxy.asked if large in asked.path]
        assert len(ranges) == 1
        assert int(ranges[0][len("bytes=") : -1]) >= 1 << 20
    assert os.path.exists(f"{tree_of(unprivileged, name)}/large")
    assert leftovers(unprivileged) == []


def collected(user):
    directory = f"{user.udocker_dir}/partial"
    try:
        return max(
            os.stat(f"{directory}/{n}").st_size
            for n in os.listdir(directory)
            if n.startswith("sha256-")
        )
    except (OSError, ValueError):
        return 0


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("what was waited for did not come")


def test_a_pull_that_is_interrupted_waits_for_nobody(unprivileged, registry, layout):
    push(registry, layout, layers=(LITTLE,), compression="")
    with Proxy(registry.host) as proxy:
        proxy.add("/blobs/", proxy.whole)  # the config
        proxy.add("/blobs/", proxy.cut(2 << 20, stall_s=300))
        command = [unprivileged.python, "-m", "udocker", "pull", f"{proxy.host}/img:1"]
        pull = unprivileged.popen(command, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: collected(unprivileged) >= 1 << 20)
        pull.send_signal(signal.SIGINT)
        said = pull.communicate(timeout=60)[1]
    assert pull.returncode == 130
    assert said.endswith("udocker: interrupted\n") and "Traceback" not in said
    assert [name[:7] for name in leftovers(unprivileged)] == ["sha256-"]


def test_a_process_keeps_its_connection_from_layer_to_layer(unprivileged, registry, layout):
    large = [archive(file(f"large{number}", NOISE)) for number in range(3)]
    many = [archive(file(f"small{number}", b"x")) for number in range(9)]
    push(registry, layout, layers=(*large, *many), compression="")
    push(registry, layout, name="few:1", layers=(BASE, TOP, LITTLE))
    with Counting(registry.host) as proxy:
        unprivileged.udocker("pull", "--jobs", "2", f"{proxy.host}/img:1")
        assert len(proxy.ports) <= 3  # two workers and who started them
        proxy.ports.clear()
        unprivileged.udocker("pull", f"{proxy.host}/few:1")
        assert len(proxy.ports) == 1


class Counting(Proxy):
    """Remembers who asks."""

    def __init__(self, upstream):
        self.ports = set()
        super().__init__(upstream)

    def receive(self, handler):
        self.ports.add(handler.client_address[1])
        return super().receive(handler)


def test_two_pulls_at_once_do_not_hurt_each_other(unprivileged, registry, layout):
    push(registry, layout, layers=(BASE, LARGE))
    command = [unprivileged.python, "-m", "udocker", "pull", f"{registry.host}/img:1"]
    pulls = [unprivileged.popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [pull.wait(60) for pull in pulls] == [0, 0, 0]
    assert not [n for n in os.listdir(f"{unprivileged.udocker_dir}/locks") if "tree" in n]
    assert os.path.exists(f"{tree_of(unprivileged, f'{registry.host}/img:1')}/large")
    assert leftovers(unprivileged) == []


def test_a_full_disk_is_said_and_the_next_pull_works(unprivileged, registry, layout):
    push(registry, layout, layers=(BASE, LARGE), compression="")
    small = f"{unprivileged.home}/small"
    os.mkdir(small)
    pull = f"{unprivileged.python} -m udocker pull {registry.host}/img:1"
    script = f"mount -t tmpfs -o size=2m t {small} && {pull}; echo $?"
    inside = ["unshare", "-Urm", "sh", "-c", script]
    unprivileged.own(small)
    done = unprivileged.run(inside, env={"UDOCKER_DIR": f"{small}/store"})
    assert done.stdout.strip() == "1"
    assert f"too much for tmpfs on {small}" in done.stderr
    assert "UDOCKER_DIR" in done.stderr


def test_what_goes_wrong_is_one_sentence(unprivileged, registry):
    for name in (f"{registry.host}/no/such:1", "127.0.0.1:1/x", "UPPER/case"):
        done = unprivileged.udocker("pull", name, check=False)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith("udocker: ")
        assert "Traceback" not in done.stderr


def test_quiet_says_only_the_digest(unprivileged, registry, layout):
    entry = push(registry, layout)
    done = unprivileged.udocker("pull", "-q", f"{registry.host}/img:1")
    assert (done.stdout, done.stderr) == (f"{entry['digest']}\n", "")


def test_without_a_terminal_there_is_a_line_for_each_layer(unprivileged, registry, layout):
    entry = push(registry, layout)
    done = unprivileged.udocker("pull", f"{registry.host}/img:1")
    for layer in layout.layers(entry):
        assert f"{layer['digest'][7:19]}: done" in done.stderr
    assert "\r" not in done.stderr


def test_an_image_named_by_sha512_throughout_is_pulled(unprivileged, layout):
    def blob(data, kind):
        name = hashlib.sha512(data).hexdigest()
        os.makedirs(f"{layout.directory}/blobs/sha512", exist_ok=True)
        with open(f"{layout.directory}/blobs/sha512/{name}", "wb") as file:
            file.write(data)
        return {"mediaType": f"{KIND}.{kind}", "digest": f"sha512:{name}", "size": len(data)}

    layers = [blob(BASE, "layer.v1.tar")]
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
    config = {"architecture": HERE, "os": "linux", "rootfs": rootfs}
    manifest = {"schemaVersion": 2, "mediaType": f"{KIND}.manifest.v1+json", "layers": layers}
    manifest["config"] = blob(json.dumps(config).encode(), "config.v1+json")
    entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    layout.name(entry, ["one"])
    with LoopbackRegistry(layout.directory) as host:
        for name in (f"{host}/img:one", f"{host}/img@{entry['digest']}"):
            unprivileged.udocker("pull", name)
            assert os.path.exists(f"{tree_of(unprivileged, name)}/etc/name")
            assert json.loads(unprivileged.udocker("inspect", name).stdout) == config


def test_a_hostile_layer_that_comes_slowly_is_refused_with_the_reason(unprivileged, layout):
    add_image(layout, "img:1", [archive(file("a/.wh..")) + NOISE], compression="")
    manifest = layout.read(layout.manifests[0])

    def reply(asked):
        if "/manifests/" in asked.path:
            return Reply(headers={"Content-Type": f"{KIND}.manifest.v1+json"}, body=manifest)
        return Reply(body=layout.read({"digest": asked.path.rpartition("/")[2]}))

    with SlowServer(reply) as server:
        done = unprivileged.udocker("pull", f"{server.host}/img:1", check=False)
    assert done.returncode == 1
    assert "is a whiteout of nothing" in done.stderr


class SlowServer(Server):
    """Sends large bodies in parts, with pauses between them."""

    def send(self, handler, reply):
        body, part = reply.body, 1 << 18
        headers = {"Content-Length": str(len(body)), **reply.headers}
        super().send(handler, replace(reply, headers=headers, body=body[:part]))
        for start in range(part, len(body), part):
            time.sleep(0.03)
            handler.wfile.write(body[start : start + part])
