"""Credentials are found, kept and forgotten where docker and podman have them."""

from __future__ import annotations

import base64
import json
import os

import pytest

from udocker.errors import AccessDenied, UdockerError, UsageError
from udocker.registry.credentials import find_credentials, forget_credentials, save_credentials
from udocker.registry.secret import Credentials
from udocker.values import replace


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
    home.write(".config/enroot/.credentials", "machine quay.io login enroot password word")
    found = [home.find()[0]]
    home.write(".dockercfg", auths(quay_io=".dockercfg")["auths"])
    found.append(home.find()[0])
    sources = [".docker/config.json", ".config/containers/auth.json", "run/containers/auth.json"]
    for name in sources:
        home.write(name, auths(quay_io=name))
        found.append(home.find()[0])
    assert found == ["enroot", ".dockercfg", *sources]
    home.write("named/config.json", auths(quay_io="named"))
    home.environment["DOCKER_CONFIG"] = f"{home.path}/named"
    assert home.find()[0] == "named"
    home.environment["REGISTRY_AUTH_FILE"] = home.write("own.json", auths(quay_io="own"))
    assert home.find()[0] == "own"
    for prefix in ("SINGULARITY_DOCKER", "APPTAINER_DOCKER", "UDOCKER"):
        home.environment.update({f"{prefix}_USERNAME": prefix, f"{prefix}_PASSWORD": "word"})
        assert home.find() == (prefix, "word", "")


def test_a_file_that_is_named_stands_alone(home):
    home.write(".docker/config.json", auths(quay_io="docker"))
    home.write(".config/enroot/.credentials", "machine quay.io login enroot password word")
    home.environment["REGISTRY_AUTH_FILE"] = "/dev/null"
    assert home.find() is None


def test_where_credentials_come_from_is_known(home):
    path = home.write(".docker/config.json", auths(quay_io="docker"))
    assert find_credentials("quay.io", "a", home.environment).origin == path
    home.environment.update(UDOCKER_USERNAME="u")
    assert find_credentials("quay.io", "a", home.environment).origin == "$UDOCKER_USERNAME"


ENROOT = """
# of the site
machine nvcr.io login $oauthtoken password key
machine quay.io
  login user password "word
machine auth.docker.io login hub password p machine gcr.io login g password $(gcloud token)
machine empty.io login
"""


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("nvcr.io", ("$oauthtoken", "key", "")),
        ("quay.io", ("user", '"word', "")),
        ("docker.io", ("hub", "p", "")),
        ("gcr.io", None),
        ("empty.io", None),
        ("ghcr.io", None),
    ],
)
def test_enroots_credentials_are_read(home, registry, expected):
    directory = os.path.dirname(home.write("e/.credentials", ENROOT))
    assert home.find(registry) is None
    home.environment["ENROOT_CONFIG_PATH"] = directory
    assert home.find(registry) == expected


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
    (["https://docker.io", "docker.io"], "docker.io", "org/x", "docker.io"),
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
        ({"auth": "dXNlcjpw\nYXNz\r\n"}, ("user", "pass", "")),
        ({"auth": "dXNlcjpw/w=="}, ("user", "p\udcff", "")),
        ({"username": "u", "password": "p"}, ("u", "p", "")),
        ({**auth("u", ""), "identitytoken": "refresh"}, ("u", "", "refresh")),
        (auth("<token>", "refresh"), ("", "", "refresh")),
        ({}, None),
    ],
)
def test_an_entry_holds_a_password_or_an_identity_token(home, entry, expected):
    home.write(".docker/config.json", {"auths": {"quay.io": entry}})
    assert home.find() == expected


def test_an_empty_entry_hides_no_other_that_means_the_same(home):
    full = {"https://index.docker.io/v1/": auth("user", "word")}
    home.write(".docker/config.json", {"auths": {"docker.io": {}, **full}})
    assert home.find("docker.io") == ("user", "word", "")


def test_bytes_that_are_no_text_are_sent_as_they_are():
    assert Credentials("user", "p\udcff").basic == "Basic dXNlcjpw/w=="


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
        '{"auths": {"quay.io": {"username": "u", "password": "c3VwZXI=\\ud800"}}}',
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


def test_a_registry_can_do_without_the_helper_of_all_others(home):
    home.helper("site", "exit 3")
    config = {"credsStore": "site", "credHelpers": {"quay.io": ""}, **auths(quay_io="user")}
    path = home.write(".docker/config.json", config)
    assert home.find()[0] == "user"
    assert save_credentials("quay.io", Credentials("new", "word"), home.environment) == path
    assert home.find()[0] == "new"


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
        assert replace(found, origin="") == credentials
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


PLACES = [
    # files that are there, variables, the file that is written
    ([], {}, ".docker/config.json"),
    ([".docker/config.json"], {}, ".docker/config.json"),
    ([".config/containers/auth.json"], {}, ".config/containers/auth.json"),
    (["run/containers/auth.json"], {}, "run/containers/auth.json"),
    ([".docker/config.json"], {"DOCKER_CONFIG": "d"}, "d/config.json"),
    ([".docker/config.json"], {"REGISTRY_AUTH_FILE": "r.json"}, "r.json"),
]


@pytest.mark.parametrize(("there", "variables", "written"), PLACES)
def test_credentials_are_saved_where_they_are_found_first(home, there, variables, written):
    home.environment["XDG_RUNTIME_DIR"] = f"{home.path}/run"
    for name in there:
        home.write(name, auths(quay_io="old"))
    home.environment.update({key: f"{home.path}/{name}" for key, name in variables.items()})
    path = save_credentials("quay.io", Credentials("new", "word"), home.environment)
    assert path == f"{home.path}/{written}"
    assert home.find() == ("new", "word", "")
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_file_of_the_session_is_not_chosen_for_what_is_new(home):
    home.environment["XDG_RUNTIME_DIR"] = f"{home.path}/run"
    home.write("run/containers/auth.json", auths(ghcr_io="other"))
    path = save_credentials("quay.io", Credentials("new", "word"), home.environment)
    assert path == f"{home.path}/.docker/config.json"


def test_credentials_may_be_for_a_part_of_a_registry(home):
    save_credentials("quay.io/org", Credentials("part", "word"), home.environment)
    save_credentials("quay.io", Credentials("whole", "word"), home.environment)
    assert home.find("quay.io", "org/app")[0] == "part"
    assert home.find("quay.io", "other/app")[0] == "whole"
    assert forget_credentials("quay.io/org", home.environment)
    assert home.find("quay.io", "org/app")[0] == "whole"


@pytest.mark.parametrize("kind", ["credHelpers", "credsStore"])
def test_a_helper_never_takes_credentials_for_a_part_as_those_for_the_whole(home, kind):
    home.helper("site", ANSWERS)
    config = {"credsStore": "site"} if kind == "credsStore" else {kind: {"quay.io": "site"}}
    path = home.write(".docker/config.json", config)
    part = Credentials("part", "word")
    assert save_credentials("quay.io/org", part, home.environment) == path
    assert home.find("quay.io", "org/app")[0] == "part"
    assert home.find("quay.io", "other/app")[0] == "at quay.io"
    home.helper("site", "exit 3")
    assert forget_credentials("quay.io/org", home.environment) == (path,)


KEEPER = """
import json, os, sys
kept = os.path.expanduser("~/kept.json")
held = json.load(open(kept)) if os.path.exists(kept) else {}
verb, text = sys.argv[1], sys.stdin.read()
if verb == "store":
    held[json.loads(text)["ServerURL"]] = json.loads(text)
elif text.strip() not in held:
    print("credentials not found in native keychain")
    sys.exit(1)
elif verb == "get":
    print(json.dumps(held[text.strip()]))
else:
    del held[text.strip()]
json.dump(held, open(kept, "w"))
"""


@pytest.mark.parametrize("registry", ["quay.io", "docker.io"])
@pytest.mark.parametrize("kind", ["credHelpers", "credsStore"])
def test_a_helper_keeps_what_is_saved_until_it_is_forgotten(home, registry, kind):
    home.write("keeper.py", KEEPER)
    home.helper("keeper", f'exec python3 "{home.path}/keeper.py" "$@"')
    config = {"credsStore": "keeper"} if kind == "credsStore" else {kind: {registry: "keeper"}}
    path = home.write(".docker/config.json", config)
    for credentials in (Credentials("user", "s3cret"), Credentials("", "", "s3cret")):
        where = save_credentials(registry, credentials, home.environment)
        assert where == "docker-credential-keeper"
        found = find_credentials(registry, "a", home.environment)
        assert replace(found, origin="") == credentials
    with open(path) as file:
        assert "s3cret" not in file.read()
    assert forget_credentials(registry, home.environment) == (path,)
    assert home.find(registry) is None
    assert forget_credentials(registry, home.environment) == ()
    save_credentials(registry, Credentials("user", "s3cret"), home.environment)
    assert forget_credentials(None, home.environment) == (path,)
    assert home.find(registry) is None


def test_a_helper_that_lies_in_the_current_directory_is_not_run(home, monkeypatch):
    home.helper("near", ANSWERS)
    home.write(".docker/config.json", {"credHelpers": {"quay.io": "near"}})
    assert home.find()[0] == "at quay.io"
    monkeypatch.chdir(f"{home.path}/bin")
    home.environment["PATH"] = ".::/usr/bin:/bin"
    with pytest.raises(AccessDenied, match="is not installed"):
        home.find()


def test_a_missing_helper_of_the_registrys_own_is_an_error_for_login_too(home):
    home.write(".docker/config.json", {"credHelpers": {"quay.io": "none"}})
    with pytest.raises(AccessDenied, match="is not installed"):
        save_credentials("quay.io", Credentials("user", "word"), home.environment)


def test_a_file_from_another_machine_with_its_store_keeps_credentials_itself(home):
    path = home.write(".docker/config.json", {"credsStore": "desktop", "auths": {"quay.io": {}}})
    assert save_credentials("quay.io", Credentials("user", "word"), home.environment) == path
    assert home.find() == ("user", "word", "")
    assert forget_credentials("quay.io", home.environment) == (path,)


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
