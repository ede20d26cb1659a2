"""Blobs and manifests reach a registry whole, whatever happens on the way."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from registries import digest
from uploads import UploadServer, Wire

from udocker.errors import IntegrityError, RegistryError
from udocker.oci import OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor, Digest
from udocker.reference import Reference
from udocker.registry import upload
from udocker.registry.client import Client
from udocker.registry.transport import Answer, Patience
from udocker.registry.upload import Repository
from udocker.settings import Settings

QUICK = Patience(attempts=4, first_delay_s=0.01, longest_delay_s=0.02, read_timeout_s=5)
SMALL, LARGE = b"a small layer", random.Random(1).randbytes(5 << 20)


def blob(data, algorithm="sha256"):
    return Descriptor(OCI_LAYER, Digest.of(data, algorithm), len(data))


def reader(data):
    def read(offset):
        for start in range(offset, len(data), 100_000):
            yield data[start : start + 100_000]

    return read


def repository(server, name="org/app", patience=QUICK):
    reference = Reference.parse(f"{server.host}/{name}:one")
    client = Client(reference.registry, Settings("/nowhere", {}), patience=patience)
    return Repository(client.transport, reference)


def send(target, data, begun=None):
    target.send(blob(data), reader(data), (begun if begun is not None else []).append)


@pytest.fixture
def server():
    with UploadServer() as server:
        yield server


@pytest.mark.parametrize("whole", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("data", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_a_blob_arrives_under_its_digest(data, whole):
    with UploadServer(whole=whole) as server:
        target = repository(server)
        assert not target.has(blob(data))
        send(target, data)
        assert server.blobs == {("org/app", digest(data)): data}
        assert target.has(blob(data))
        if whole:
            assert "state=a%20b&digest=" in server.paths("PUT")[0]


def test_a_blob_of_another_algorithm_arrives_as_well(server):
    wanted = blob(LARGE, "sha512")
    repository(server).send(wanted, reader(LARGE), lambda _: None)
    assert ("org/app", str(wanted.digest)) in server.blobs


def test_a_small_blob_is_two_requests_and_a_large_one_three(server):
    target = repository(server)
    send(target, SMALL)
    assert [asked.method for asked in server.asked] == ["POST", "PUT"]
    server.asked.clear()
    send(target, LARGE)
    assert [asked.method for asked in server.asked] == ["POST", "PATCH", "PUT"]


def test_a_cut_upload_goes_on_where_it_broke_off(server):
    server.cuts = [3_000_000, 1_500_000]
    begun = []
    send(repository(server), LARGE, begun)
    assert server.blobs["org/app", digest(LARGE)] == LARGE
    assert begun == [0, 3_000_000, 4_500_000]


def test_a_registry_that_says_little_of_an_upload_is_believed_what_it_takes(server, monkeypatch):
    monkeypatch.setattr(upload, "PIECE_BYTES", 2 << 20)
    server.vague, server.cuts = True, [0, 0]
    send(repository(server), LARGE)
    assert server.blobs["org/app", digest(LARGE)] == LARGE


def test_a_registry_may_leave_out_where_it_goes_on_and_end_with_200(server):
    answer = server.reply

    def brief(asked):
        reply = answer(asked)
        headers = {} if asked.method == "PATCH" else reply.headers
        status = 200 if asked.method == "PUT" else reply.status
        return replace(reply, headers=headers, status=status)

    server.reply = brief
    send(repository(server), LARGE)
    assert server.blobs == {("org/app", digest(LARGE)): LARGE}


def test_an_upload_that_the_registry_forgets_begins_anew(server):
    server.cuts, server.forgetful = [3_000_000], 1
    begun = []
    send(repository(server), LARGE, begun)
    assert server.blobs["org/app", digest(LARGE)] == LARGE
    assert begun == [0, 0]


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_an_upload_that_has_expired_when_it_ends_is_sent_again(server, data):
    server.expired = True
    send(repository(server), data)
    assert server.blobs["org/app", digest(data)] == data


def test_a_registry_may_be_slow_to_take_what_is_sent(server):
    server.stall_s = 0.5
    patience = Patience(attempts=1, connect_timeout_s=0.1, read_timeout_s=20)
    send(repository(server, patience=patience), random.Random(2).randbytes(24 << 20))


@pytest.mark.parametrize("place", [None, "", "ftp://x/y", "http://[", "http://u:p@x/y", "http://"])
def test_a_place_that_is_none_is_an_error(server, place):
    answer = server.reply
    server.reply = lambda asked: replace(answer(asked), headers={"Location": place})
    with pytest.raises(RegistryError):
        send(repository(server, patience=Patience(attempts=1)), LARGE)


@pytest.mark.parametrize(
    ("came", "location", "leads_to"),
    [
        ("https://h:5/v2/x", "http://h/y", "https://h:5/y"),
        ("https://h/v2/x", "/y?a=b", "https://h/y?a=b"),
        ("https://h/v2/x", "y", "https://h/v2/y"),
        ("http://h:5/v2/x", "http://h:5/y", "http://h:5/y"),
        ("https://h/v2/x", "https://other/y", "https://other/y"),
    ],
)
def test_an_upload_goes_on_by_https_where_it_began_so(server, came, location, leads_to):
    transport = repository(server).transport
    assert transport.address(Answer({"Location": location}, b"", 202, came)) == leads_to
    with pytest.raises(RegistryError, match="plain http"):
        transport.address(Answer({"Location": "http://other/y"}, b"", 202, "https://h/x"))


def test_progress_earns_more_attempts(server):
    server.cuts = [1 << 20] * 4
    begun = []
    send(repository(server, patience=Patience(attempts=2, first_delay_s=0.01)), LARGE, begun)
    assert len(begun) == 5


def test_without_progress_the_attempts_end(server):
    server.cuts = [0] * 99
    with pytest.raises(RegistryError, match="no answer"):
        send(repository(server), LARGE)
    assert len(server.cuts) == 99 - QUICK.attempts


def test_pieces_are_sent_where_a_whole_blob_does_not_get_through(server, monkeypatch):
    monkeypatch.setattr(upload, "PIECE_BYTES", 2 << 20)
    server.cuts = [10, 10]
    send(repository(server), LARGE)
    assert server.blobs["org/app", digest(LARGE)] == LARGE
    ranges = [a.headers["Content-Range"] for a in server.asked if a.method == "PATCH"]
    assert ranges[-2:] == ["2097172-4194323", "4194324-5242879"]


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_a_lost_answer_does_not_send_a_blob_again(server, data):
    server.lost_answers = 1
    begun = []
    send(repository(server), data, begun)
    assert len([path for path in server.paths("PUT") if "digest=" in path]) == 1
    assert len(begun) == (data is LARGE)


def test_smaller_pieces_are_sent_where_requests_are_limited():
    with UploadServer(largest=1 << 20) as server:
        send(repository(server), LARGE)
        assert server.blobs["org/app", digest(LARGE)] == LARGE
    with UploadServer(largest=1000) as server, pytest.raises(RegistryError, match="413") as caught:
        send(repository(server), LARGE)
    assert "client_max_body_size" in caught.value.hint


def test_pieces_are_as_large_as_the_registry_wants_them():
    with UploadServer(largest=3 << 20, least=2 << 20) as server:
        send(repository(server), LARGE)
        sizes = [len(a.body) for a in server.asked if a.method == "PATCH" and a.body]
        assert sizes == [2 << 20, 2 << 20, 1 << 20]


def test_a_wrong_digest_is_the_registrys_to_find(server):
    wrong = Descriptor(OCI_LAYER, Digest.of(b"x"), len(SMALL))
    with pytest.raises(RegistryError, match="DIGEST_INVALID"):
        repository(server).send(wrong, reader(SMALL), lambda _: None)


def test_a_source_that_ends_early_is_an_error_and_not_tried_again(server):
    wanted = Descriptor(OCI_LAYER, Digest.of(LARGE), len(LARGE) + 7)
    with pytest.raises(IntegrityError, match="ends 7 bytes before"):
        repository(server).send(wanted, reader(LARGE), lambda _: None)


def test_a_blob_of_another_repository_is_shared(server):
    server.blobs["org/base", digest(LARGE)] = LARGE
    target = repository(server)
    assert target.mount(blob(LARGE), ["org/none", "org/base"])
    assert server.blobs["org/app", digest(LARGE)] == LARGE
    assert server.paths("PATCH") == []


def test_an_upload_begun_instead_of_sharing_is_used(server):
    target = repository(server)
    assert not target.mount(blob(LARGE), ["org/none"])
    send(target, LARGE)
    assert len(server.uploads) == 0
    assert len(server.paths("POST")) == 1


def test_a_manifest_is_put_as_it_is_and_its_digest_compared(server):
    data = b'{"schemaVersion":2}'
    target = repository(server)
    target.put_manifest(Descriptor(OCI_MANIFEST, Digest.of(data), len(data)), data, "one")
    assert server.manifests["org/app", "one"] == (data, OCI_MANIFEST)
    answer = server.reply
    server.reply = lambda asked: _with_digest(answer(asked), digest(b"other"))
    with pytest.raises(IntegrityError, match="took it for"):
        target.put_manifest(Descriptor(OCI_MANIFEST, Digest.of(data), len(data)), data, "one")


def about(subject, kind):
    config = blob(b"{}")
    members = {"schemaVersion": 2, "artifactType": kind, "annotations": {"a": "b"}}
    members.update(config=config.to_json(), layers=[], subject=subject.to_json())
    data = json.dumps(members).encode()
    return Descriptor(OCI_MANIFEST, Digest.of(data), len(data)), data


def test_what_is_about_an_image_is_listed_where_the_registry_does_not_do_so(server):
    target, image = repository(server), blob(b"an image")
    tag = f"sha256-{image.digest.hex}"
    made = [about(image, kind) for kind in ("a/signature", "a/list")]
    for manifest, data in (*made, made[0]):
        target.put_manifest(manifest, data, str(manifest.digest))
    data, kind = server.manifests["org/app", tag]
    assert kind == OCI_INDEX
    listed = json.loads(data)["manifests"]
    assert [entry["digest"] for entry in listed] == [str(manifest.digest) for manifest, _ in made]
    assert [entry["artifactType"] for entry in listed] == ["a/signature", "a/list"]
    assert listed[0]["annotations"] == {"a": "b"}
    reference = Reference.parse(f"{server.host}/org/app:one")
    found = Client(server.host, Settings("/nowhere", {})).referrers(reference, image.digest)
    assert [referrer.artifact_type for referrer in found] == ["a/signature", "a/list"]


def test_a_registry_that_knows_what_things_are_about_gets_no_list(server):
    server.knows_subjects = True
    manifest, data = about(blob(b"an image"), "a/signature")
    repository(server).put_manifest(manifest, data, "one")
    assert server.paths("PUT") == ["/v2/org/app/manifests/one"]


def _with_digest(reply, text):
    reply.headers["Docker-Content-Digest"] = text
    return reply


def test_no_credentials_go_to_another_host_that_a_registry_names(server):
    with UploadServer() as other:
        first = server.reply

        def elsewhere(asked):
            reply = first(asked)
            if asked.method == "POST":
                other.uploads["u0"] = b""
                reply.headers["Location"] = f"{other.url}/v2/org/app/blobs/uploads/u0"
            return reply

        server.reply = elsewhere
        target = repository(server)
        target.transport._authorizer.header = lambda _: "Basic secret"
        send(target, SMALL)
        assert other.blobs["org/app", digest(SMALL)] == SMALL
        assert [a.headers.get("Authorization") for a in other.asked] == [None]
        assert server.asked[0].headers["Authorization"] == "Basic secret"


def test_dockers_registry_takes_what_was_cut(docker_registry):
    data = random.Random(7).randbytes(6 << 20)
    with Wire(docker_registry.host) as wire:
        target = repository(wire, "cut/app")
        wire.cuts = [2_000_000, 5_000_000]
        send(target, data)
        assert wire.cuts == []
        assert target.has(blob(data))


def test_dockers_registry_takes_pieces_and_sha512(docker_registry, monkeypatch):
    monkeypatch.setattr(upload, "PIECE_BYTES", 1 << 20)
    data = random.Random(8).randbytes(5 << 20)
    with Wire(docker_registry.host) as wire:
        target = repository(wire, "pieces/app")
        wire.cuts = [300_000, 300_000]
        target.send(blob(data, "sha512"), reader(data), lambda _: None)
        assert target.has(blob(data, "sha512"))
