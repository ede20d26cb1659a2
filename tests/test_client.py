"""The client reads real registries, and through what goes wrong on the way to them."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace

import pytest
import registries
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
    digest,
    status,
)

from udocker.errors import (
    AccessDenied,
    ImageNotFound,
    IntegrityError,
    InvalidDocument,
    RegistryError,
)
from udocker.oci import Descriptor, Digest, Manifest
from udocker.reference import Reference
from udocker.registry.client import Client
from udocker.registry.loopback import LoopbackRegistry
from udocker.registry.patience import Patience
from udocker.registry.secret import Credentials
from udocker.settings import Settings

QUICK = Patience(attempts=3, first_delay_s=0.01, longest_delay_s=0.02, read_timeout_s=1)
SMALL, LARGE = b"a small layer", random.Random(1).randbytes(5 << 20)
IMAGE = "localhost/org/app:one"


def client(host, environment=None, **options):
    options.setdefault("patience", QUICK)
    return Client(host, Settings("/nowhere", environment or {}), **options)


def named(host, rest="org/app:one"):
    return Reference.parse(f"{host}/{rest}")


def pull(reader, reference):
    """Read a whole image and return its layers' bytes."""
    descriptor, data = reader.manifest(reference)
    manifest = Manifest.from_bytes(data, descriptor.media_type)
    blobs = [b"".join(reader.blob(reference, layer)) for layer in manifest.layers]
    for layer, blob in zip(manifest.layers, blobs):
        assert digest(blob) == str(layer.digest)
    return blobs


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    layout = Layout(str(tmp_path_factory.mktemp("layout")))
    layout.add(IMAGE, [SMALL, LARGE])
    return layout


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return Tls.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def registry(layout, tmp_path_factory):
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as registry:
        registry.push(layout, IMAGE, "org/app:one")
        yield registry


@pytest.fixture
def proxy(registry):
    with Proxy(registry.host) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def image(layout):
    return layout.manifests[0]


@pytest.fixture(scope="module")
def large(layout, image):
    return Descriptor.from_json(layout.layers(image)[1])


# Real registries


def test_an_image_is_read_as_it_was_pushed(registry, image):
    reader = client(registry.host)
    descriptor, data = reader.manifest(named(registry.host))
    assert str(descriptor.digest) == digest(data) == image["digest"]
    assert (descriptor.media_type, descriptor.size_bytes) == (image["mediaType"], image["size"])
    assert pull(reader, named(registry.host)) == [SMALL, LARGE]


def test_the_digest_of_a_name_costs_one_request(registry, image):
    reader = client(registry.host)
    assert str(reader.head(named(registry.host))) == image["digest"]
    assert reader.requests == 1


def test_an_image_is_read_by_its_digest(registry, image):
    pinned = named(registry.host, f"org/app:other@{image['digest']}")
    reader = client(registry.host)
    assert str(reader.head(pinned)) == image["digest"]
    assert pull(reader, pinned) == [SMALL, LARGE]


def test_the_manifest_that_an_index_names_is_read_by_its_digest(registry, image):
    wanted = Digest.parse(image["digest"])
    descriptor, _ = client(registry.host).manifest(named(registry.host, "org/app:none"), wanted)
    assert descriptor.digest == wanted


def test_a_web_page_is_told_as_what_it_is():
    page = Reply(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>")
    with Server(lambda asked: page) as server:
        reader = client(server.host)
        for ask in (reader.manifest, reader.tags):
            with pytest.raises(InvalidDocument, match="a web page") as caught:
                ask(named(server.host))
            assert "login" in caught.value.hint


def test_what_is_not_there_is_not_found(registry):
    reader = client(registry.host)
    for ask in (reader.head, reader.manifest, lambda r: reader.tags(named(registry.host, "no"))):
        with pytest.raises(ImageNotFound, match="404"):
            ask(named(registry.host, "org/app:none"))
    missing = Descriptor("x", Digest.of(b"?"), 1)
    with pytest.raises(RegistryError, match="BLOB_UNKNOWN"):
        list(reader.blob(named(registry.host), missing))
    foreign = replace_urls(missing)
    with pytest.raises(RegistryError, match="foreign layer"):
        list(reader.blob(named(registry.host), foreign))


def replace_urls(descriptor):
    return Descriptor(
        descriptor.media_type, descriptor.digest, descriptor.size_bytes, urls=("https://x",)
    )


def test_tags_are_listed(registry, layout):
    for number in range(3):
        registry.push(layout, IMAGE, f"org/many:t{number}")
    assert client(registry.host).tags(named(registry.host, "org/many")) == ["t0", "t1", "t2"]


def test_a_list_of_tags_is_followed_to_its_end(tmp_path):
    layout, tags = Layout(str(tmp_path)), [f"t{number:04}" for number in range(1001)]
    layout.name(layout.add("first", []), tags)
    with LoopbackRegistry(layout.directory) as host:
        reader = client(host, patience=Patience())  # it takes long to list so many, if not alone
        assert reader.tags(named(host, "any")) == ["first", *tags]
        assert reader.requests == 2


def test_a_registry_with_passwords_wants_them(layout, tmp_path):
    with DockerRegistry(tmp_path, passwords=True) as registry:
        registry.push(layout, IMAGE, "org/app:one")
        reference = named(registry.host)
        for environment in ({}, {"UDOCKER_USERNAME": USER, "UDOCKER_PASSWORD": "wrong"}):
            with pytest.raises(AccessDenied) as caught:
                client(registry.host, environment).manifest(reference)
            assert "udocker login" in caught.value.hint
        environment = {"UDOCKER_USERNAME": USER, "UDOCKER_PASSWORD": PASSWORD}
        assert pull(client(registry.host, environment), reference) == [SMALL, LARGE]
        given = client(registry.host, credentials=Credentials(USER, PASSWORD))
        given.login()
        before = given.requests
        given.head(reference)
        given.head(reference)
        assert given.requests - before == 3  # one was refused for want of credentials
        with pytest.raises(AccessDenied):
            client(registry.host, credentials=Credentials(USER, "wrong")).login()


@pytest.mark.parametrize("key", ["token", "access_token"])
def test_a_registry_with_tokens_is_read_anonymously(layout, tls, tmp_path, key):
    with TokenServer(tls, key=key) as tokens, DockerRegistry(tmp_path, tokens=tokens) as registry:
        registry.push(layout, IMAGE, "org/app:one")
        reader = client(registry.host)
        del tokens.asked[:]
        assert pull(reader, named(registry.host)) == [SMALL, LARGE]
        assert len(tokens.asked) == 1
        assert reader.requests == 5


def test_a_private_registry_with_tokens_wants_credentials(layout, tls, tmp_path):
    tokens = TokenServer(tls, anonymous=False)
    with tokens, DockerRegistry(tmp_path, tokens=tokens) as registry:
        registry.push(layout, IMAGE, "org/app:one")
        reference = named(registry.host)
        with pytest.raises(AccessDenied, match="who are you"):
            client(registry.host).head(reference)
        for credentials in (
            Credentials(USER, PASSWORD),
            Credentials("", identity_token=tokens.refresh_token),
        ):
            reader = client(registry.host, credentials=credentials)
            reader.login()
            assert pull(reader, reference) == [SMALL, LARGE]


def test_a_token_that_ends_in_the_middle_of_a_pull_is_renewed(layout, tls, tmp_path, large):
    tokens = TokenServer(tls, life_s=1)
    with tokens, DockerRegistry(tmp_path, tokens=tokens) as registry:
        registry.push(layout, IMAGE, "org/app:one")
        with Proxy(registry.host) as proxy:
            proxy.add("/blobs/", proxy.cut(2 << 20, stall_s=1.2))
            reader = client(proxy.host)
            reader.head(named(proxy.host))
            assert b"".join(reader.blob(named(proxy.host), large)) == LARGE


def test_a_registry_of_https_is_read(layout, tls, tmp_path):
    with DockerRegistry(tmp_path, tls=tls) as registry:
        registry.push(layout, IMAGE, "org/app:one")
        reader = client(registry.host, {"SSL_CERT_FILE": tls.certificate})
        assert pull(reader, named(registry.host)) == [SMALL, LARGE]


def test_a_forked_process_goes_on_with_its_own_connections(layout, tls, tmp_path, large):
    with TokenServer(tls) as tokens, DockerRegistry(tmp_path, tokens=tokens) as registry:
        registry.push(layout, IMAGE, "org/app:one")
        reader, reference = client(registry.host), named(registry.host)
        reader.head(reference)
        del tokens.asked[:]
        child = os.fork()
        if child == 0:
            same = False
            try:
                reader.reopen()
                same = b"".join(reader.blob(reference, large)) == LARGE
            finally:
                os._exit(0 if same else 1)
        assert b"".join(reader.blob(reference, large)) == LARGE
        assert os.waitpid(child, 0)[1] == 0
        assert tokens.asked == []


# Blobs on a bad way


def cuts(proxy):
    for after in (3 << 20, 1 << 20):
        proxy.add("/blobs/", proxy.cut(after))


def stalls(proxy):
    proxy.add("/blobs/", proxy.cut(2 << 20, stall_s=1.5))


def ignores_ranges(proxy):
    proxy.add("/blobs/", proxy.cut(2 << 20))
    proxy.add("/blobs/", lambda asked, reply: proxy.whole(asked, reply), times=9)


def another_range(proxy):
    def confused(asked, reply):
        whole = proxy.whole(asked, reply)
        span = f"bytes 0-{len(LARGE) - 1}/{len(LARGE)}"
        return replace(whole, status=206, headers={**whole.headers, "Content-Range": span})

    proxy.add("/blobs/", proxy.cut(2 << 20))
    proxy.add("/blobs/", confused)


def range_of_another_size(proxy):
    proxy.add("/blobs/", proxy.cut(2 << 20))
    proxy.add("/blobs/", registries.headers(Content_Range="bytes 2097152-9999999/10000000"))


def unnamed_range(proxy):
    def unnamed(asked, reply):
        return replace(proxy.whole(asked, reply), status=206)

    proxy.add("/blobs/", proxy.cut(2 << 20))
    proxy.add("/blobs/", unnamed)


def range_not_satisfiable(proxy):
    proxy.add("/blobs/", proxy.cut(2 << 20))
    proxy.add("/blobs/", status(416))


def range_refused(proxy):
    proxy.add("/blobs/", proxy.cut(2 << 20))
    proxy.add("/blobs/", status(400))


def all_of_it_as_a_range(proxy):
    def change(asked, reply):
        whole = f"bytes 0-{len(reply.body) - 1}/{len(reply.body)}"
        return replace(reply, status=206, headers={**reply.headers, "Content-Range": whole})

    proxy.add("/blobs/", change)


def busy(proxy):
    proxy.add("/blobs/", status(503, {"Retry-After": "0"}))
    proxy.add("/blobs/", status(429))


def ends_early(proxy):
    proxy.add("/blobs/", registries.body(lambda data: data[: 2 << 20]))


def resets(proxy):
    proxy.add("/blobs/", proxy.cut(0), times=2)


WAYS = [
    cuts,
    stalls,
    ignores_ranges,
    another_range,
    range_of_another_size,
    unnamed_range,
    range_not_satisfiable,
    range_refused,
    all_of_it_as_a_range,
    busy,
    ends_early,
    resets,
]


@pytest.mark.parametrize("way", WAYS)
def test_a_blob_arrives_whole(proxy, large, way):
    way(proxy)
    assert b"".join(client(proxy.host).blob(named(proxy.host), large)) == LARGE


@pytest.mark.parametrize("offset", [1, 1 << 20, len(LARGE) - 1, len(LARGE)])
def test_a_blob_goes_on_where_an_earlier_pull_got_to(proxy, large, offset):
    reader = client(proxy.host)
    assert b"".join(reader.blob(named(proxy.host), large, offset)) == LARGE[offset:]
    assert [asked.headers["Range"] for asked in proxy.asked] == (
        [f"bytes={offset}-"] if offset < len(LARGE) else []
    )


def test_a_resumed_blob_asks_for_what_is_missing_only(proxy, large):
    proxy.add("/blobs/", proxy.cut(3 << 20))
    b"".join(client(proxy.host).blob(named(proxy.host), large))
    assert [asked.headers["Range"] for asked in proxy.asked] == [None, f"bytes={3 << 20}-"]


def test_a_blob_of_more_bytes_than_announced_is_refused_as_soon_as_seen(proxy, large):
    proxy.add("/blobs/", registries.body(lambda data: data + b"!"))
    received = 0
    with pytest.raises(IntegrityError, match="more than its"):
        for chunk in client(proxy.host).blob(named(proxy.host), large):
            received += len(chunk)
    assert received == 0  # the announced length told


def test_more_bytes_are_refused_where_no_length_is_announced(large):
    endless = Reply(headers={"Content-Length": None, "Connection": "close"}, body=LARGE + b"!")
    received = 0
    with Server(lambda asked: endless) as server, pytest.raises(IntegrityError, match="more than"):
        for chunk in client(server.host).blob(named(server.host), large):
            received += len(chunk)
    assert received <= len(LARGE)


def test_attempts_without_progress_end(proxy, large):
    proxy.add("/blobs/", proxy.cut(1000), times=99)
    reader = client(proxy.host)
    with pytest.raises(RegistryError, match="breaks off|cut"):
        list(reader.blob(named(proxy.host), large))
    assert len(proxy.asked) == QUICK.attempts


def test_a_blob_that_is_too_short_is_an_error(proxy, large):
    proxy.add("/blobs/", registries.body(lambda data: data[:10]), times=99)
    with pytest.raises(RegistryError):
        list(client(proxy.host).blob(named(proxy.host), large))


def test_a_reader_may_stop_in_the_middle(proxy, large):
    reader = client(proxy.host)
    chunks = reader.blob(named(proxy.host), large)
    next(chunks)
    chunks.close()
    assert reader.head(named(proxy.host))


# Manifests that are not what they should be


def test_a_manifest_is_tried_again_when_it_is_cut(proxy, image):
    proxy.add("/manifests/", proxy.cut(10))
    assert str(client(proxy.host).manifest(named(proxy.host))[0].digest) == image["digest"]


def flipped(data):
    return data.replace(b"5", b"6")


@pytest.mark.parametrize("tag_or_digest", ["tag", "digest"])
def test_wrong_bytes_are_refused(proxy, image, tag_or_digest):
    rest = "org/app:one" if tag_or_digest == "tag" else f"org/app@{image['digest']}"
    proxy.add("/manifests/", registries.body(flipped))
    with pytest.raises(IntegrityError, match="instead of"):
        client(proxy.host).manifest(named(proxy.host, rest))


def test_a_pinned_manifest_is_verified_without_the_servers_word(proxy, image):
    def lie(asked, reply):
        changed = registries.headers(Docker_Content_Digest=None)(asked, reply)
        return registries.body(flipped)(asked, changed)

    proxy.add("/manifests/", lie, times=2)
    with pytest.raises(IntegrityError):
        client(proxy.host).manifest(named(proxy.host, f"org/app@{image['digest']}"))
    with pytest.raises(IntegrityError):
        client(proxy.host).manifest(named(proxy.host), Digest.parse(image["digest"]))


def test_the_digest_is_computed_where_the_server_states_none(proxy, image):
    proxy.add("/manifests/", registries.headers(Docker_Content_Digest=None), times=2)
    reader = client(proxy.host)
    assert reader.head(named(proxy.host)) is None
    assert str(reader.manifest(named(proxy.host))[0].digest) == image["digest"]


def test_another_digest_than_the_pinned_one_is_refused(proxy, image):
    other = digest(b"other")
    proxy.add("/manifests/", registries.headers(Docker_Content_Digest=other), times=2)
    pinned = named(proxy.host, f"org/app@{image['digest']}")
    for ask in (client(proxy.host).head, client(proxy.host).manifest):
        with pytest.raises(IntegrityError):
            ask(pinned)


def test_a_stated_digest_of_an_unknown_kind_says_nothing(proxy, image):
    other = f"blake3:{'0' * 64}"
    proxy.add("/manifests/", registries.headers(Docker_Content_Digest=other), times=2)
    reader = client(proxy.host)
    assert reader.head(named(proxy.host)) is None
    assert str(reader.manifest(named(proxy.host))[0].digest) == image["digest"]


def test_a_stated_digest_must_be_one(proxy):
    proxy.add("/manifests/", registries.headers(Docker_Content_Digest="sha256:12"), times=2)
    for ask in (client(proxy.host).head, client(proxy.host).manifest):
        with pytest.raises(RegistryError, match="states no digest"):
            ask(named(proxy.host))


INDEX, MANIFEST = f"{KIND}.index.v1+json", f"{KIND}.manifest.v1+json"
OLD = "application/vnd.docker.distribution.manifest.v1+prettyjws"


def document(**members):
    return json.dumps(members).encode()


READ = [
    # Content-Type, document, pinned, media type
    (MANIFEST, document(mediaType=MANIFEST), False, MANIFEST),
    (f"{MANIFEST}; charset=utf-8", document(mediaType=MANIFEST), False, MANIFEST),
    (MANIFEST.upper(), document(), False, MANIFEST),
    (MANIFEST, document(), False, MANIFEST),
    ("application/json", document(mediaType=INDEX), False, INDEX),
    (None, document(mediaType=INDEX), False, INDEX),
    (MANIFEST, document(mediaType=INDEX), True, INDEX),
    (None, document(config={}, layers=[]), False, MANIFEST),
    ("text/plain", document(manifests=[]), False, INDEX),
    (INDEX, document(config={}, layers=[]), False, INDEX),
]
REFUSED = [
    (MANIFEST, document(mediaType=INDEX), False, "came as"),
    ("text/plain", b"<html>", False, "not JSON"),
    (MANIFEST, b"\xff", False, "not JSON"),
    (MANIFEST, b"[" * 99999, False, "not JSON"),
    (MANIFEST, b"[]", False, "not a JSON object"),
    ("text/plain", document(), False, "neither an image nor an index"),
    (MANIFEST, document(mediaType="text/html"), True, "neither an image nor an index"),
    (OLD, document(), False, "schema 1"),
    ("application/json", document(schemaVersion=1), False, "schema 1"),
    (OLD, document(schemaVersion=1), True, "schema 1"),
]


def read_document(content_type, data, *, pinned):
    reply = Reply(headers={"Content-Type": content_type}, body=data)
    with Server(lambda asked: reply) as server:
        rest = f"a@{digest(data)}" if pinned else "a:b"
        return client(server.host).manifest(named(server.host, rest))


@pytest.mark.parametrize(("content_type", "data", "pinned", "media_type"), READ)
def test_a_documents_type_is_found(content_type, data, pinned, media_type):
    descriptor, read = read_document(content_type, data, pinned=pinned)
    assert (descriptor.media_type, read) == (media_type, data)


@pytest.mark.parametrize(("content_type", "data", "pinned", "problem"), REFUSED)
def test_what_is_no_manifest_is_refused_with_the_reason(content_type, data, pinned, problem):
    with pytest.raises(InvalidDocument, match=problem):
        read_document(content_type, data, pinned=pinned)


def test_schema_1_is_called_so_though_its_digest_is_that_of_what_is_signed():
    data = document(schemaVersion=1, signatures=[{"header": {}}])
    headers = {"Content-Type": OLD, "Docker-Content-Digest": digest(b"the payload")}
    with Server(lambda asked: Reply(headers=headers, body=data)) as server:
        for rest in ("a:b", f"a@{digest(b'the payload')}"):
            with pytest.raises(InvalidDocument, match="schema 1") as caught:
                client(server.host).manifest(named(server.host, rest))
            assert "skopeo copy" in caught.value.hint


def test_a_manifest_is_bounded():
    huge = Reply(headers={"Content-Length": None, "Connection": "close"}, body=b" " * (17 << 20))
    with Server(lambda asked: huge) as server, pytest.raises(RegistryError, match="more than"):
        client(server.host).manifest(named(server.host))


@pytest.mark.parametrize("code", [405, 501])
def test_a_registry_that_does_not_know_head_tells_no_digest(code):
    with Server(lambda asked: Reply(code)) as server:
        assert client(server.host).head(named(server.host)) is None


def test_a_sha512_digest_is_verified():
    data = document(mediaType=MANIFEST)
    name = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce"
    wrong = f"sha512:{name}{name}"
    with Server(lambda asked: Reply(body=data)) as server, pytest.raises(IntegrityError):
        client(server.host).manifest(named(server.host, f"a@{wrong}"))


# Lists of tags that are not what they should be


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"tags": 5}', b'{"tags": ["a b"]}', b'{"tags": ["\\u001b[2J"]}']
)
def test_what_is_no_list_of_tags_is_refused(data):
    with (
        Server(lambda asked: Reply(body=data)) as server,
        pytest.raises(RegistryError, match="tags is not one"),
    ):
        client(server.host).tags(named(server.host))


def test_a_repository_may_have_no_tags():
    with Server(lambda asked: Reply(body=b'{"name": "a", "tags": null}')) as server:
        assert client(server.host).tags(named(server.host)) == []


def test_a_list_of_tags_ends():
    page = document(tags=["t"] * 20_000)

    def longer(asked):
        link = f'<{asked.path}>; rel="first", <{asked.path}x>; rel="next"'
        return Reply(headers={"Link": link}, body=page)

    with Server(longer) as server:
        with pytest.raises(RegistryError, match="does not end"):
            client(server.host).tags(named(server.host))
        assert len(server.asked) < 20


def test_a_list_of_tags_does_not_go_on_elsewhere():
    link = {"Link": '<http://192.0.2.1/v2/org/app/tags/list?last=t>; rel="next"'}

    def pages(asked):
        return replace(Reply(body=document(tags=["t"])), headers={} if "?" in asked.path else link)

    with Server(pages) as server:
        assert client(server.host).tags(named(server.host)) == ["t", "t"]
        assert server.paths() == ["/v2/org/app/tags/list", "/v2/org/app/tags/list?last=t"]
