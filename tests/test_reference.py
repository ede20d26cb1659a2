"""Names are read as docker reads them; whatever else comes is refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import udocker
from udocker.errors import InvalidReference
from udocker.oci import Digest
from udocker.reference import Reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"

READ = [
    # text, registry, repository, tag, digest, familiar
    ("ubuntu", "docker.io", "library/ubuntu", "latest", None, "ubuntu:latest"),
    ("ubuntu:24.04", "docker.io", "library/ubuntu", "24.04", None, "ubuntu:24.04"),
    ("org/app", "docker.io", "org/app", "latest", None, "org/app:latest"),
    ("docker.io/ubuntu", "docker.io", "library/ubuntu", "latest", None, "ubuntu:latest"),
    ("index.docker.io/ubuntu", "docker.io", "library/ubuntu", "latest", None, "ubuntu:latest"),
    ("docker.io/a/b:c", "docker.io", "a/b", "c", None, "a/b:c"),
    ("docker://quay.io/a/b", "quay.io", "a/b", "latest", None, "quay.io/a/b:latest"),
    ("localhost/a", "localhost", "a", "latest", None, "localhost/a:latest"),
    ("localhost:5000/a:b", "localhost:5000", "a", "b", None, "localhost:5000/a:b"),
    ("localhost:5000", "docker.io", "library/localhost", "5000", None, "localhost:5000"),
    ("[::1]:5000/a", "[::1]:5000", "a", "latest", None, "[::1]:5000/a:latest"),
    ("[2001:db8::1]/a", "[2001:db8::1]", "a", "latest", None, "[2001:db8::1]/a:latest"),
    ("127.0.0.1:5000/a", "127.0.0.1:5000", "a", "latest", None, "127.0.0.1:5000/a:latest"),
    ("Host/a", "Host", "a", "latest", None, "Host/a:latest"),
    ("a.b-c.d/e", "a.b-c.d", "e", "latest", None, "a.b-c.d/e:latest"),
    ("a__b/c--d.e_f", "docker.io", "a__b/c--d.e_f", "latest", None, "a__b/c--d.e_f:latest"),
    (f"a@{DIGEST}", "docker.io", "library/a", None, DIGEST, f"a@{DIGEST}"),
    (f"a:b@{DIGEST}", "docker.io", "library/a", "b", DIGEST, f"a:b@{DIGEST}"),
    (f"ghcr.io/a/b@{DIGEST}", "ghcr.io", "a/b", None, DIGEST, f"ghcr.io/a/b@{DIGEST}"),
    ("a:" + "t" * 128, "docker.io", "library/a", "t" * 128, None, "a:" + "t" * 128),
    ("a:_T.9-", "docker.io", "library/a", "_T.9-", None, "a:_T.9-"),
    ("library/a/b", "docker.io", "library/a/b", "latest", None, "library/a/b:latest"),
    ("docker.io/a.b/c", "docker.io", "a.b/c", "latest", None, "docker.io/a.b/c:latest"),
    ("a" * 63, "docker.io", "library/" + "a" * 63, "latest", None, "a" * 63 + ":latest"),
    (HEX + ":v1", "docker.io", "library/" + HEX, "v1", None, HEX + ":v1"),
]


@pytest.mark.parametrize(("text", "registry", "repository", "tag", "digest", "familiar"), READ)
def test_names_are_read_as_docker_reads_them(text, registry, repository, tag, digest, familiar):
    reference = Reference.parse(text)
    assert reference.registry == registry
    assert reference.repository == repository
    assert reference.tag == tag
    assert reference.digest == (Digest.parse(digest) if digest else None)
    assert reference.familiar == familiar
    assert Reference.parse(reference.familiar) == reference
    assert Reference.parse(str(reference)) == reference


# Names of distribution/reference's own tests, as docker writes them out whole.
ACCEPTED = {
    "test_com": "docker.io/library/test_com:latest",
    "test.com:tag": "docker.io/library/test.com:tag",
    "test.com:5000": "docker.io/library/test.com:5000",
    "test.com/repo:tag": "test.com/repo:tag",
    "test:5000/repo": "test:5000/repo:latest",
    "test:5000/repo:tag": "test:5000/repo:tag",
    f"test:5000/repo@{DIGEST}": f"test:5000/repo@{DIGEST}",
    f"test:5000/repo:tag@{DIGEST}": f"test:5000/repo:tag@{DIGEST}",
    "lowercase:Uppercase": "docker.io/library/lowercase:Uppercase",
    "a/" * 127 + "a:tag": "docker.io/" + "a/" * 127 + "a:tag",
    "sub-dom1.foo.com/bar/baz/quux": "sub-dom1.foo.com/bar/baz/quux:latest",
    "b.gcr.io/test.example.com/my-app:test.example.com": (
        "b.gcr.io/test.example.com/my-app:test.example.com"
    ),
    "xn--n3h.com/myimage:xn--n3h.com": "xn--n3h.com/myimage:xn--n3h.com",
    f"xn--7o8h.com/m:t@sha512:{HEX}{HEX}": f"xn--7o8h.com/m:t@sha512:{HEX}{HEX}",
    "foo_bar.com:8080": "docker.io/library/foo_bar.com:8080",
    "foo/foo_bar.com:8080": "docker.io/foo/foo_bar.com:8080",
    "192.168.1.1": "docker.io/library/192.168.1.1:latest",
    "192.168.1.1:5000": "docker.io/library/192.168.1.1:5000",
    "192.168.1.1/repo": "192.168.1.1/repo:latest",
    "192.168.1.1:5000/repo:5050": "192.168.1.1:5000/repo:5050",
    "[2001:db8:1:2:3:4:5:6]/repo:tag": "[2001:db8:1:2:3:4:5:6]/repo:tag",
    "[2001:db8::]:5000/repo": "[2001:db8::]:5000/repo:latest",
    "[fc00::1]:5000/docker/docker": "[fc00::1]:5000/docker/docker:latest",
    "index.docker.io/library/debian": "docker.io/library/debian:latest",
    "index.docker.io/docker/docker": "docker.io/docker/docker:latest",
    f"docker.io/{HEX}": f"docker.io/library/{HEX}:latest",
    "docker---rules/d__o__c": "docker.io/docker---rules/d__o__c:latest",
    "Uppercase/lowercase": "Uppercase/lowercase:latest",
    "localhost": "docker.io/library/localhost:latest",
    "localhost/a/b": "localhost/a/b:latest",
}


@pytest.mark.parametrize(("text", "whole"), ACCEPTED.items())
def test_what_docker_accepts_is_accepted(text, whole):
    assert str(Reference.parse(text)) == whole


NOT_ACCEPTED = [
    *(":justtag", f"@{DIGEST}", "Uppercase:tag", "test:5000/Uppercase/lowercase:tag"),
    *(f"repo@{DIGEST[:40]}", f"valid@invaliddigest:{HEX}", "a/" * 128 + "a:tag"),
    *("aa/asdf$$^/aa", "[2001:db8::1]", "[2001:db8::1]:5000", "[2001:db8::1]:tag"),
    *("[fe80::1%eth0]:5000/repo", "[2001:db8:3:4::192.0.2.33]:5000/debian"),
    *("fc00::1:5000/debian", "https://github.com/docker/docker", "docker/Docker", "-docker"),
    *("-docker/docker", "-docker.io/docker/docker", "docker///docker", "docker.io/docker/Docker"),
    *("docker.io/docker///docker", HEX, "_docker/_docker", "____/____", "dock___er/docker"),
    *("docker-/docker", "docker_/docker", "d..ocker/docker", "d._ocker", "docker/", "/docker"),
    *("a:b:c", "a:b/c:d:e", f"a@{DIGEST}@{DIGEST}", "a?b=c", "a#b", "a:b?c", "a:b#c"),
    *(f"a@{DIGEST}?b", f"a@{DIGEST}#b", "docker://docker://a", "a\\b", "a%2fb", "\x00", "a\n"),
]


@pytest.mark.parametrize("text", NOT_ACCEPTED)
def test_what_docker_refuses_is_refused(text):
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert caught.value.message.startswith("image name ")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("https://hub.docker.com/_/ubuntu", "did you mean ubuntu?"),
        ("https://hub.docker.com/r/org/app/tags?page=1", "did you mean org/app?"),
        ("https://quay.io/org/app/", "did you mean quay.io/org/app?"),
        ("Ubuntu:24.04", "did you mean ubuntu:24.04?"),
        ("quay.io/Org/App", "did you mean quay.io/org/app?"),
        ("oci:/srv/layout:tag", "udocker load"),
        ("docker-archive:image.tar", "udocker load"),
        ("dir:./x", "udocker load"),
        ("nvcr.io#nvidia/cuda:12", "did you mean nvcr.io/nvidia/cuda:12?"),
        ("docker://$oauthtoken@nvcr.io#nvidia/cuda", "udocker login nvcr.io"),
        ("me:s3cret@quay.io/a", "udocker login quay.io, and then write quay.io/a"),
        ("docker://me:s3c/r@et@quay.io:5/a:1", "udocker login quay.io:5, and then"),
        ("https://me:s3cret@quay.io/a", "did you mean quay.io/a?"),
    ],
)
def test_what_was_meant_is_guessed(text, hint):
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert hint in caught.value.hint
    assert "s3c" not in caught.value.message + caught.value.hint


def test_a_name_may_look_like_a_kind_of_file():
    assert str(Reference.parse("oci:1")) == "docker.io/library/oci:1"


REFUSED = [
    ("", "empty"),
    ("docker://", "empty"),
    (HEX, "image id"),
    ("https://hub.docker.com/_/ubuntu", "URL"),
    ("Ubuntu", "lower case"),
    ("quay.io/a/B:tag", "lower case"),
    ("a//b", "empty"),
    ("/a", "empty"),
    ("a/", "empty"),
    ("a:", "tag behind ':' is empty"),
    ("a:.b", "'.' cannot begin a tag"),
    ("a:b c", "' ' cannot stand in a tag"),
    ("a:" + "t" * 129, "longer than 128"),
    ("a:b:c", "':'"),
    ("a b", "' '"),
    (" a", "' '"),
    ("a\n", "'\\n'"),
    ("a..b", "'..' in 'a..b'"),
    ("a___b", "'___'"),
    ("a._b", "'._'"),
    ("-a", "begins or ends"),
    ("a_", "begins or ends"),
    ("../../etc/passwd", "host name"),
    ("a/../b", "begins or ends"),
    ("a?b", "'?'"),
    ("a#b", "'#'"),
    ("\u00e9", "'\u00e9'"),
    ("\u0661", "'\u0661'"),
    ("host:port/a", "not a port"),
    ("host:/a", "not a port"),
    ("host:0/a", "not a port"),
    ("host:65536/a", "not a port"),
    ("-host.x/a", "host name"),
    ("a..b/c", "host name"),
    ("[::1/a", "host name"),
    ("[]:1/a", "host name"),
    ("[::g]:1/a", "host name"),
    ("[::1]x/a", "host name"),
    ("user@host/a", "no user"),
    ("a#b/c", "enroot"),
    ("a@", "digest"),
    ("a@sha256:12", "not 64 lower-case hex digits"),
    (f"a@sha256:{HEX.upper()}", "not 64 lower-case hex digits"),
    (f"a@md5:{HEX}", "algorithms"),
    (f"a@{DIGEST}:tag", "not 64 lower-case hex digits"),
    ("x" * 256, "longer than 255"),
    ("/".join(["x" * 50] * 6), "longer than 255"),
    (".".join(["x" * 50] * 6) + "/a", "longer than 255"),
]


@pytest.mark.parametrize(("text", "problem"), REFUSED)
def test_a_wrong_name_is_refused_with_the_reason(text, problem):
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert problem in caught.value.message
    assert caught.value.hint


def test_upper_case_is_answered_with_the_name_that_was_meant():
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("quay.io/Org/App")
    assert "org/app" in caught.value.hint


def test_names_without_a_registry_belong_to_the_default_one():
    assert str(Reference.parse("a/b:c", "quay.io")) == "quay.io/a/b:c"
    assert str(Reference.parse("a", "localhost:5000")) == "localhost:5000/a:latest"
    assert str(Reference.parse("docker.io/a", "quay.io")) == "docker.io/library/a:latest"
    assert str(Reference.parse("a", "index.docker.io")) == "docker.io/library/a:latest"


@pytest.mark.parametrize("registry", ["quay", "", "https://quay.io", "quay.io/a"])
def test_a_default_registry_must_be_a_host(registry):
    with pytest.raises(InvalidReference):
        Reference.parse("a/b", registry)


def test_only_docker_hub_has_another_host_for_its_api():
    assert Reference.parse("ubuntu").api_host == "registry-1.docker.io"
    assert Reference.parse("quay.io/a/b").api_host == "quay.io"
    assert Reference.parse("[::1]:5000/a").name == "[::1]:5000/a"


def test_reading_names_imports_nothing_heavy():
    top = os.path.dirname(os.path.dirname(udocker.__file__))
    code = f"""if True:
        import sys
        sys.path.insert(0, {top!r})
        from udocker.reference import Reference
        Reference.parse("a/b:c")
        heavy = ("re", "typing", "json", "requests", "dataclasses")
        print([name for name in heavy if name in sys.modules])
    """
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(st.text() | st.text("aA0.:/@[]_-sh256", max_size=90))
def test_any_text_is_a_name_or_an_invalid_reference(text):
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference


COMPONENTS = st.from_regex(r"[a-z0-9]{1,9}((\.|_|__|-{1,3})[a-z0-9]{1,9}){0,3}", fullmatch=True)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True)
REGISTRIES = st.sampled_from(["docker.io", "quay.io", "localhost", "[::1]:80", "A.b-c:5000"])


@given(
    REGISTRIES,
    st.lists(COMPONENTS, min_size=1, max_size=5),
    st.none() | TAGS,
    st.none() | st.just(Digest.parse(DIGEST)),
)
def test_every_name_of_the_grammar_reads_back_as_itself(registry, components, tag, digest):
    if tag is None and digest is None:
        tag = "latest"
    repository = "/".join(components)
    if registry == "docker.io" and len(components) == 1:
        repository = f"library/{repository}"
    reference = Reference(registry, repository, tag, digest)
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
