"""Challenges are read by their grammar; credentials are found where docker and podman put them."""

from __future__ import annotations

import base64
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udocker.errors import AccessDenied, RegistryError, UdockerError, UsageError
from udocker.registry.auth import DEFAULT_TOKEN_LIFE_S, Challenge, Token, parse_challenges
from udocker.registry.credentials import (
    Credentials,
    find_credentials,
    forget_credentials,
    save_credentials,
)

CHALLENGES = [
    ("", ()),
    ("Basic", (("basic", ()),)),
    ('Basic realm="a b"', (("basic", (("realm", "a b"),)),)),
    (
        'Bearer realm="https://r/t",service="s",scope="repository:a:pull,push"',
        (
            (
                "bearer",
                (("realm", "https://r/t"), ("service", "s"), ("scope", "repository:a:pull,push")),
            ),
        ),
    ),
    (
        'BEARER Realm = x , SCOPE="a"',
        (("bearer", (("realm", "x"), ("scope", "a"))),),
    ),
    (
        'Negotiate, Basic realm="x", charset="UTF-8", Bearer realm="y"',
        (
            ("negotiate", ()),
            ("basic", (("realm", "x"), ("charset", "UTF-8"))),
            ("bearer", (("realm", "y"),)),
        ),
    ),
    ('Negotiate YWJj==, Basic realm="x"', (("negotiate", ()), ("basic", (("realm", "x"),)))),
    (r'Basic realm="say \"hi\", \\ you"', (("basic", (("realm", r'say "hi", \ you'),)),)),
    (' , ,Basic  realm="", ,', (("basic", (("realm", ""),)),)),
    ('realm="nobody\'s"', ()),
    ('Bearer realm="never ends', (("bearer", ()),)),
    ('@@@, Basic realm="x"', (("basic", (("realm", "x"),)),)),
]


@pytest.mark.parametrize(("header", "expected"), CHALLENGES)
def test_a_challenge_is_read_by_its_grammar(header, expected):
    assert parse_challenges(header) == tuple(Challenge(*fields) for fields in expected)


def test_scopes_may_be_words_or_parameters():
    challenge = parse_challenges('Bearer scope="a b", scope="c", scope="a"')[0]
    assert challenge.scopes == ("a", "b", "c")
    assert challenge.parameter("realm") == ""


WORDS = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,9}", fullmatch=True)


@given(st.text() | st.text("Basic realm=\"\\, ='x", max_size=60))
def test_any_header_is_read_without_failure(header):
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()


PARAMETERS = st.tuples(WORDS, st.text('ab, ="\\', max_size=9))


@given(st.lists(st.tuples(WORDS, st.lists(PARAMETERS, max_size=3)), max_size=3))
def test_what_is_written_by_the_grammar_reads_back(challenges):
    written = ", ".join(
        f"{scheme} " + ", ".join(f'{key}="{_escaped(value)}"' for key, value in parameters)
        for scheme, parameters in challenges
    )
    assert parse_challenges(written) == tuple(
        Challenge(scheme.lower(), tuple((key.lower(), value) for key, value in parameters))
        for scheme, parameters in challenges
    )


def _escaped(text):
    return text.replace("\\", "\\\\").replace('"', '\\"')


@pytest.mark.parametrize(
    ("answer", "secret", "life_s"),
    [
        ({"token": "t", "expires_in": 300}, "t", 300),
        ({"access_token": "t"}, "t", DEFAULT_TOKEN_LIFE_S),
        ({"token": "", "access_token": "b"}, "b", DEFAULT_TOKEN_LIFE_S),
        ({"token": "t", "expires_in": -5}, "t", DEFAULT_TOKEN_LIFE_S),
        ({"token": "t", "expires_in": "soon"}, "t", DEFAULT_TOKEN_LIFE_S),
        ({"token": "t", "expires_in": True}, "t", DEFAULT_TOKEN_LIFE_S),
        ({"token": "t", "expires_in": 1e300}, "t", 86400),
    ],
)
def test_a_token_answer_is_read(answer, secret, life_s):
    token = Token.from_json(json.dumps(answer).encode())
    assert (token.secret, token.life_s) == (secret, life_s)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\r\\nb: c"}', b"\xff", b'{"token":NaN}'],
)
def test_an_answer_without_a_token_is_refused(answer):
    with pytest.raises(RegistryError):
        Token.from_json(answer)


def test_no_secret_stands_in_a_repr():
    values = [Credentials("user", "s3cret", "s3cret"), Token("s3cret", 60)]
    assert not any("s3cret" in f"{value!r} {value}" for value in values)


class Home:
    """A home directory with files of credentials and helpers; `find` looks there."""

    def __init__(self, path):
        self.path = str(path)
        os.makedirs(f"{self.path}/bin")
        self.environment = {"HOME": self.path, "PATH": f"{self.path}/bin:/usr/bin:/bin"}

    def write(self, name, value):
        path = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(value if isinstance(value, str) else json.dumps(value))
        return path

    def helper(self, name, script):
        os.chmod(self.write(f"bin/docker-credential-{name}", f"#!/bin/sh\n{script}\n"), 0o755)

    def find(self, registry="quay.io", repository="org/app"):
        found = find_credentials(registry, repository, self.environment)
        return (found.username, found.password, found.identity_token) if found else None


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def auth(username, password="secret"):
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def auths(**by_registry):
    return {"auths": {key.replace("_", "."): auth(user) for key, user in by_registry.items()}}


def test_the_sources_are_asked_in_their_order(home):
    home.environment["XDG_RUNTIME_DIR"] = f"{home.path}/run"
    home.environment["REGISTRY_AUTH_FILE"] = f"{home.path}/own.json"
    found = []
    sources = [".config/containers/auth.json", "run/containers/auth.json"]
    for name in [*sources, ".docker/config.json", "own.json"]:
        home.write(name, auths(quay_io=name))
        found.append(home.find()[0])
    home.environment.update(UDOCKER_USERNAME="variable", UDOCKER_PASSWORD="word")
    assert found == [*sources, ".docker/config.json", "own.json"]
    assert home.find() == ("variable", "word", "")


def test_docker_config_and_xdg_config_home_move_the_files(home):
    home.write("d/config.json", auths(quay_io="docker"))
    home.write("x/containers/auth.json", auths(ghcr_io="podman"))
    home.environment.update(DOCKER_CONFIG=f"{home.path}/d", XDG_CONFIG_HOME=f"{home.path}/x")
    assert (home.find()[0], home.find("ghcr.io")[0]) == ("docker", "podman")


KEYS = [
    # keys of auths, registry, repository, the key that is used
    (["quay.io"], "quay.io", "org/app", "quay.io"),
    (["quay.io", "quay.io/org", "quay.io/org/app"], "quay.io", "org/app", "quay.io/org/app"),
    (["quay.io", "quay.io/org", "quay.io/other"], "quay.io", "org/app", "quay.io/org"),
    (["quay.io/or", "quay.io.evil"], "quay.io", "org/app", None),
    (["https://quay.io"], "quay.io", "org/app", "https://quay.io"),
    (["https://quay.io/v2/"], "quay.io", "org/app", "https://quay.io/v2/"),
    (["https://quay.io/org"], "quay.io", "other/app", None),
    (["https://index.docker.io/v1/"], "docker.io", "library/x", "https://index.docker.io/v1/"),
    (["index.docker.io"], "docker.io", "library/x", "index.docker.io"),
    (["docker.io", "https://index.docker.io/v1/"], "docker.io", "library/x", "docker.io"),
    (["docker.io/org"], "docker.io", "org/x", "docker.io/org"),
    (["localhost"], "localhost:5000", "x", None),
    (["localhost:5000"], "localhost:5000", "x", "localhost:5000"),
]


@pytest.mark.parametrize(("keys", "registry", "repository", "used"), KEYS)
def test_the_most_specific_key_is_used(home, keys, registry, repository, used):
    home.write(".docker/config.json", {"auths": {key: auth("user", key) for key in keys}})
    assert home.find(registry, repository) == (("user", used, "") if used else None)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("user", "a:b"), ("user", "a:b", "")),
        (auth("user", "padded\0\0"), ("user", "padded", "")),
        (auth("$oauthtoken", "key"), ("$oauthtoken", "key", "")),
        ({"username": "u", "password": "p"}, ("u", "p", "")),
        ({**auth("u", ""), "identitytoken": "refresh"}, ("u", "", "refresh")),
        (auth("<token>", "refresh"), ("", "", "refresh")),
        ({}, None),
    ],
)
def test_an_entry_holds_a_password_or_an_identity_token(home, entry, expected):
    home.write(".docker/config.json", {"auths": {"quay.io": entry}})
    assert home.find() == expected


@pytest.mark.parametrize("content", ["", "{}", '{"auths": null}', '{"auths": {}}'])
def test_an_empty_file_knows_nothing(home, content):
    home.write(".docker/config.json", content)
    assert home.find() is None


@pytest.mark.parametrize(
    "content",
    [
        '{"auths": {"quay.io": {"auth": "c3VwZXI=',
        '{"auths": ["c3VwZXI="]}',
        '["c3VwZXI="]',
        '{"auths": {"quay.io": {"auth": "c3VwZXI="}}}',
        '{"auths": {"quay.io": {"auth": "c3Vw\u00e9"}}}',
        '{"auths": {"quay.io": {"auth": 5}}}',
        '{"auths": {"quay.io": "c3VwZXI="}}',
        '{"auths": {"quay.io": {"username": "u", "password": ["c3VwZXI="]}}}',
        '{"auths": {}, "credHelpers": {"quay.io": "../helper"}}',
        '{"auths": {}, "credHelpers": {"quay.io": 5}}',
    ],
)
def test_a_broken_file_is_an_error_that_names_it_and_no_secret(home, content):
    path = home.write(".docker/config.json", content)
    with pytest.raises(UdockerError) as caught:
        home.find()
    assert path in caught.value.message or "credential helper" in caught.value.message
    assert "c3V" not in caught.value.message.replace("../helper", "")
    assert "super" not in caught.value.message


def test_a_file_that_cannot_be_read_is_an_error(home):
    os.makedirs(f"{home.path}/.docker/config.json")
    with pytest.raises(UsageError, match="directory"):
        home.find()


ANSWERS = """read server; echo "{\\"Username\\": \\"at $server\\", \\"Secret\\": \\"$1\\"}" """


def test_a_credential_helper_is_asked_for_its_registry(home):
    home.helper("site", ANSWERS)
    helpers = {"quay.io": "site", "https://index.docker.io/v1/": "site"}
    home.write(".docker/config.json", {"credHelpers": helpers})
    assert home.find() == ("at quay.io", "get", "")
    assert home.find("docker.io") == ("at https://index.docker.io/v1/", "get", "")
    assert home.find("ghcr.io") is None


def test_a_store_of_credentials_is_asked_for_every_registry(home):
    home.helper("store", ANSWERS)
    config = {"credsStore": "store", "auths": {"quay.io": {}, **auths(ghcr_io="file")["auths"]}}
    home.write(".docker/config.json", config)
    assert home.find("quay.io")[0] == "at quay.io"
    assert home.find("ghcr.io")[0] == "file"


def test_a_helper_can_hold_an_identity_token(home):
    home.helper("site", """echo '{"Username": "<token>", "Secret": "refresh"}'""")
    home.write(".docker/config.json", {"credHelpers": {"quay.io": "site"}})
    assert home.find() == ("", "", "refresh")


def test_a_helper_without_these_credentials_knows_nothing(home):
    home.helper("site", "echo credentials not found in native keychain; exit 1")
    home.write(".docker/config.json", {"credHelpers": {"quay.io": "site"}, "credsStore": "site"})
    assert home.find() is None
    assert home.find("ghcr.io") is None


@pytest.mark.parametrize("script", ["echo s3cret; exit 3", "echo s3cret", "echo '[\"s3cret\"]'"])
def test_a_helper_that_fails_is_an_error_without_its_output(home, script):
    home.helper("site", script)
    home.write(".docker/config.json", {"credHelpers": {"quay.io": "site"}})
    with pytest.raises(AccessDenied, match="docker-credential-site") as caught:
        home.find()
    assert "s3cret" not in f"{caught.value.message} {caught.value.hint}"


def test_a_missing_helper_is_an_error_only_where_it_is_the_registrys_own(home):
    home.write(".docker/config.json", {"credHelpers": {"quay.io": "none"}, "credsStore": "none"})
    with pytest.raises(AccessDenied, match="is not installed"):
        home.find()
    assert home.find("ghcr.io") is None


@pytest.mark.parametrize("registry", ["quay.io", "docker.io", "localhost:5000"])
def test_what_is_saved_is_found_until_it_is_forgotten(home, registry):
    before = {"auths": auths(ghcr_io="other")["auths"], "psFormat": "x", "n": [1, {"a": True}]}
    path = home.write(".docker/config.json", before)
    for credentials in (Credentials("user", "a:b"), Credentials("", "", "refresh")):
        assert save_credentials(registry, credentials, home.environment) == path
        found = find_credentials(registry, "org/app", home.environment)
        assert found == credentials
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert forget_credentials(registry, home.environment) == (path,)
    assert forget_credentials(registry, home.environment) == ()
    with open(path) as file:
        assert json.load(file) == before
    assert os.listdir(os.path.dirname(path)) == ["config.json"]


def test_the_credentials_for_all_registries_can_be_forgotten_at_once(home):
    path = home.write(".docker/config.json", {"auths": auths(quay_io="a")["auths"], "n": 1})
    assert forget_credentials(None, home.environment) == (path,)
    with open(path) as file:
        assert json.load(file) == {"auths": {}, "n": 1}
    assert forget_credentials(None, home.environment) == ()


def test_credentials_are_saved_where_nothing_was_before_and_through_a_link(home):
    path = save_credentials("quay.io", Credentials("user", "word"), home.environment)
    assert home.find() == ("user", "word", "")
    os.rename(path, f"{home.path}/real.json")
    os.symlink("../real.json", path)
    save_credentials("quay.io", Credentials("user", "new"), home.environment)
    assert os.path.islink(path)
    assert home.find() == ("user", "new", "")


def test_credentials_are_not_saved_beside_a_helper_that_would_hide_them(home):
    home.write(".docker/config.json", {"credHelpers": {"quay.io": "site"}})
    with pytest.raises(UsageError, match="credential helper"):
        save_credentials("quay.io", Credentials("user", "word"), home.environment)


def test_credentials_that_cannot_be_saved_are_an_error(home):
    home.write("file", "")
    home.environment["REGISTRY_AUTH_FILE"] = f"{home.path}/file/below"
    with pytest.raises(UsageError, match="cannot be written"):
        save_credentials("quay.io", Credentials("user", "s3cret"), home.environment)
    with pytest.raises(UsageError, match="no place"):
        save_credentials("quay.io", Credentials("user", "s3cret"), {})


def test_the_process_environment_is_not_asked(home, tmp_path):
    os.environ["REGISTRY_AUTH_FILE"] = home.write("file.json", auths(quay_io="user"))
    try:
        assert home.find() is None
    finally:
        del os.environ["REGISTRY_AUTH_FILE"]
