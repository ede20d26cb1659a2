"""The loopback registry answers as the distribution API says, also to clients that are not ours."""

from __future__ import annotations

import http.client
import json
import os
import subprocess

import pytest
from registries import KIND, Layout, digest, needs

from udocker.registry.loopback import LoopbackRegistry

LAYER = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    layout = Layout(str(tmp_path_factory.mktemp("layout")))
    image = layout.add("quay.io/org/app:one", [LAYER])
    for number in range(12):
        layout.add(f"docker.io/library/many:t{number:02}", [b"%d" % number])
    index = {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.index.v1+json",
        "manifests": [{**image, "platform": {"os": "linux", "architecture": "amd64"}}],
    }
    layout.add_document("both", index)
    return layout


@pytest.fixture(scope="module")
def host(layout):
    with LoopbackRegistry(layout.directory) as host:
        yield host


def ask(host, path, method="GET", **headers):
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def blob_path(data):
    return f"/v2/org/app/blobs/{digest(data)}"


def test_it_says_that_it_speaks_version_2(host):
    status, headers, _ = ask(host, "/v2/")
    assert (status, headers["Docker-Distribution-API-Version"]) == (200, "registry/2.0")


@pytest.mark.parametrize("name", ["one", "by digest", "both"])
def test_a_manifest_is_found_by_tag_and_by_digest(host, layout, name):
    entry = layout.manifests[-1] if name == "both" else layout.manifests[0]
    path = f"/v2/org/app/manifests/{entry['digest'] if name == 'by digest' else name}"
    status, headers, body = ask(host, path, Accept=f"text/html, {entry['mediaType']};q=0.5")
    assert (status, body) == (200, layout.read(entry))
    assert headers["Content-Type"] == entry["mediaType"]
    assert headers["Docker-Content-Digest"] == entry["digest"]
    assert headers["ETag"] == f'"{entry["digest"]}"'
    head = ask(host, path, "HEAD")
    assert (head[0], head[2]) == (200, b"")
    assert head[1]["Content-Length"] == str(len(body))


RANGES = [
    # Range, status, Content-Range, bytes
    (None, 200, None, LAYER),
    ("bytes=0-", 206, f"bytes 0-{len(LAYER) - 1}/{len(LAYER)}", LAYER),
    ("bytes=10-19", 206, f"bytes 10-19/{len(LAYER)}", LAYER[10:20]),
    (f"bytes=100-{10**17}", 206, f"bytes 100-{len(LAYER) - 1}/{len(LAYER)}", LAYER[100:]),
    ("bytes=-5", 206, f"bytes {len(LAYER) - 5}-{len(LAYER) - 1}/{len(LAYER)}", LAYER[-5:]),
    (f"bytes=-{10**17}", 206, f"bytes 0-{len(LAYER) - 1}/{len(LAYER)}", LAYER),
    (f"bytes={len(LAYER)}-", 416, f"bytes */{len(LAYER)}", None),
    (f"bytes={'9' * 99}-", 416, f"bytes */{len(LAYER)}", None),
    ("bytes=-0", 416, f"bytes */{len(LAYER)}", None),
    ("bytes=9-3", 200, None, LAYER),
    ("bytes=1-2,5-6", 200, None, LAYER),
    ("bytes=x-", 200, None, LAYER),
    ("lines=1-2", 200, None, LAYER),
]


@pytest.mark.parametrize(("asked", "status", "content_range", "data"), RANGES)
def test_a_blob_is_sent_whole_or_in_the_range_asked_for(host, asked, status, content_range, data):
    headers = {"Range": asked} if asked else {}
    answer = ask(host, blob_path(LAYER), **headers)
    assert (answer[0], answer[1]["Content-Range"]) == (status, content_range)
    assert data is None or answer[2] == data
    head = ask(host, blob_path(LAYER), "HEAD", **headers)
    assert (head[0], head[1]["Content-Length"]) == (status, answer[1]["Content-Length"])


REFUSED = [
    ("GET", "/v2/org/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
    ("GET", f"/v2/org/app/manifests/{digest(b'?')}", 404, "MANIFEST_UNKNOWN"),
    ("GET", f"/v2/org/app/manifests/{digest(LAYER)}", 404, "MANIFEST_UNKNOWN"),
    ("GET", "/v2/org/app/manifests/a:b", 400, "DIGEST_INVALID"),
    ("GET", f"/v2/org/app/blobs/{digest(b'?')}", 404, "BLOB_UNKNOWN"),
    ("GET", "/v2/org/app/blobs/sha256:../../index.json", 404, "UNSUPPORTED"),
    ("GET", "/v2/org/app/blobs/sha256:..%2f..%2findex.json", 400, "DIGEST_INVALID"),
    ("GET", "/v2/../../etc/manifests/passwd", 400, "NAME_INVALID"),
    ("GET", "/v2/UPPER/manifests/one", 400, "NAME_INVALID"),
    ("GET", "/v2/a:b/manifests/one", 400, "NAME_INVALID"),
    ("GET", "/v2/org/app/tags/other", 404, "UNSUPPORTED"),
    ("GET", "/etc/passwd", 404, "UNSUPPORTED"),
    ("GET", "/v2/org/app/tags/list?n=x", 400, "PAGINATION_NUMBER_INVALID"),
    ("PUT", "/v2/org/app/manifests/one", 405, "UNSUPPORTED"),
    ("POST", "/v2/org/app/blobs/uploads/", 405, "UNSUPPORTED"),
    ("PATCH", "/v2/org/app/blobs/uploads/1", 405, "UNSUPPORTED"),
    ("DELETE", "/v2/org/app/manifests/one", 405, "UNSUPPORTED"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), REFUSED)
def test_what_it_does_not_have_is_refused_with_a_code(host, method, path, status, code):
    answer = ask(host, path, method)
    assert (answer[0], json.loads(answer[2])["errors"][0]["code"]) == (status, code)


def test_a_type_that_the_client_does_not_accept_is_not_sent(host):
    answer = ask(host, "/v2/org/app/manifests/one", Accept="application/vnd.docker.any+json")
    assert answer[0] == 404
    assert ask(host, "/v2/org/app/manifests/one", Accept="*/*")[0] == 200


def test_a_repository_without_images_is_not_known(tmp_path):
    layout = Layout(str(tmp_path))
    layout.add("localhost/known:tag", [])
    with LoopbackRegistry(layout.directory) as host:
        answer = ask(host, "/v2/unknown/tags/list")
        assert json.loads(answer[2])["errors"][0]["code"] == "NAME_UNKNOWN"
        layout.add("localhost/unknown:tag", [])
        assert json.loads(ask(host, "/v2/unknown/tags/list")[2])["tags"] == ["tag"]


def test_tags_come_in_pages_that_are_linked(host):
    path, tags, pages = "/v2/library/many/tags/list?n=5", [], 0
    while path:
        _, headers, body = ask(host, path)
        tags += json.loads(body)["tags"]
        path = headers["Link"] and headers["Link"].partition(">")[0][1:]
        pages += 1
    assert (pages, tags) == (3, ["both", *(f"t{number:02}" for number in range(12))])


def test_a_broken_layout_is_an_error_of_the_server(tmp_path):
    with LoopbackRegistry(str(tmp_path)) as host:
        answer = ask(host, "/v2/a/manifests/b")
    assert answer[0] == 500
    assert str(tmp_path) in json.loads(answer[2])["errors"][0]["message"]


def test_nobody_listens_after_stop(layout):
    registry = LoopbackRegistry(layout.directory)
    host = registry.start()
    registry.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(host, "/v2/")
    registry.stop()


def test_skopeo_inspects_and_copies_from_it(host, layout, tmp_path):
    needs("skopeo")
    source = f"docker://{host}/org/app:one"
    inspected = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", source], capture_output=True, check=True
    )
    assert json.loads(inspected.stdout)["Digest"] == layout.manifests[0]["digest"]
    copy = ["skopeo", "--insecure-policy", "copy", "--preserve-digests", "--src-tls-verify=false"]
    subprocess.run([*copy, source, f"oci:{tmp_path}/copy:one"], check=True)
    algorithm, _, name = digest(LAYER).partition(":")
    assert os.path.getsize(tmp_path / "copy/blobs" / algorithm / name) == len(LAYER)
