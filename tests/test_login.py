"""`udocker login` and `logout`, and that no secret is ever told."""

from __future__ import annotations

import base64
import json
import os

import pytest
from images import add_image
from registries import (
    PASSWORD,
    USER,
    DockerRegistry,
    Layout,
    Reply,
    Server,
    Tls,
    TokenServer,
    needs,
)
from tarballs import archive, file

from udocker.commands.reaching import account
from udocker.errors import UsageError


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    layout = Layout(str(tmp_path_factory.mktemp("layout")))
    add_image(layout, "app", [archive(file("etc/name", b"it\n"))])
    return layout


@pytest.fixture(scope="module")
def guarded(layout, tmp_path_factory):
    """A registry that wants a password."""
    with DockerRegistry(tmp_path_factory.mktemp("guarded"), passwords=True) as registry:
        registry.push(layout, "app", "org/app:1")
        yield registry


def log_in(user, host, *options, password=PASSWORD, **how):
    words = ["login", "-u", USER, "--password-stdin", *options, host]
    return user.udocker(*words, input=f"{password}\n", **how)


def config(user):
    return f"{user.home}/.docker/config.json"


def test_who_has_logged_in_can_pull_until_logging_out(unprivileged, guarded):
    host, image = guarded.host, f"{guarded.host}/org/app:1"
    refused = unprivileged.udocker("pull", image, check=False)
    assert refused.returncode == 1
    assert f"udocker login {host}" in refused.stderr
    wrong = log_in(unprivileged, host, password="wrong", check=False)
    assert wrong.returncode == 1 and not os.path.exists(config(unprivileged))
    done = log_in(unprivileged, host)
    assert config(unprivileged) in done.stderr
    assert os.stat(config(unprivileged)).st_mode & 0o777 == 0o600
    unprivileged.udocker("pull", image)
    assert unprivileged.udocker("login", "--get-login", host).stdout == f"{USER}\n"
    assert "removed" in unprivileged.udocker("logout", host).stderr
    assert "not logged in" in unprivileged.udocker("logout", host).stderr
    assert unprivileged.udocker("login", "--get-login", host, check=False).returncode == 1


def test_credentials_may_lie_in_a_file_of_ones_own(unprivileged, guarded):
    path = f"{unprivileged.home}/own.json"
    log_in(unprivileged, guarded.host, "--authfile", path)
    assert not os.path.exists(config(unprivileged))
    image = f"{guarded.host}/org/app:1"
    variables = {"UDOCKER_USERNAME": USER, "UDOCKER_PASSWORD": "wrong"}
    unprivileged.udocker("pull", "--authfile", path, image, env=variables)
    unprivileged.udocker("pull", image, env={"REGISTRY_AUTH_FILE": path})
    unprivileged.udocker("logout", "--all", "--authfile", path)
    with open(path) as file:
        assert json.load(file) == {"auths": {}}


def test_credentials_that_have_become_wrong_are_named_with_their_place(unprivileged, guarded):
    pair = base64.b64encode(f"{USER}:old".encode()).decode()
    os.mkdir(f"{unprivileged.home}/.docker")
    with open(config(unprivileged), "w") as file:
        json.dump({"auths": {guarded.host: {"auth": pair}}}, file)
    unprivileged.own(f"{unprivileged.home}/.docker")
    done = unprivileged.udocker("pull", f"{guarded.host}/org/app:1", check=False)
    assert done.returncode == 1
    assert config(unprivileged) in done.stderr and "udocker logout" in done.stderr


def test_files_where_the_user_may_not_look_are_passed_over(unprivileged, guarded):
    runtime = f"{unprivileged.home}/other"
    os.makedirs(f"{runtime}/containers")
    unprivileged.own(runtime)
    os.chmod(runtime, 0)
    done = unprivileged.udocker(
        "pull", f"{guarded.host}/org/app:1", env={"XDG_RUNTIME_DIR": runtime}, check=False
    )
    assert "wants a user and a password" in done.stderr
    done = unprivileged.udocker("pull", "--authfile=/none", "localhost:1/a", check=False)
    assert done.returncode == 2 and "no file /none" in done.stderr


def test_what_skopeo_keeps_we_use_and_the_other_way_round(unprivileged, guarded):
    needs("skopeo")
    image, home = f"docker://{guarded.host}/org/app:1", {"HOME": unprivileged.home}
    login = ["skopeo", "login", "--tls-verify=false", "-u", USER, "--password-stdin"]
    theirs = f"{unprivileged.home}/theirs.json"
    unprivileged.run([*login, "--authfile", theirs, guarded.host], input=PASSWORD, env=home)
    unprivileged.udocker("pull", image, env={"REGISTRY_AUTH_FILE": theirs})
    log_in(unprivileged, guarded.host)
    # without it skopeo looks in /run/containers, which root's podman closes to others
    runtime = {"XDG_RUNTIME_DIR": f"{unprivileged.home}/runtime"}
    unprivileged.run(["skopeo", "inspect", "--tls-verify=false", image], env={**home, **runtime})


def test_without_a_terminal_nothing_is_asked(unprivileged, guarded):
    for words in (["-u", USER], ["-p", PASSWORD]):
        done = unprivileged.udocker("login", *words, guarded.host, check=False)
        assert done.returncode == 2
        assert "--password-stdin" in done.stderr
    done = log_in(unprivileged, guarded.host, password="", check=False)
    assert done.returncode == 2
    done = log_in(unprivileged, guarded.host, "-p", PASSWORD, check=False)
    assert done.returncode == 2 and "exclude each other" in done.stderr


def test_a_password_may_be_any_bytes(unprivileged):
    def guarded(asked):
        return Reply(
            200 if "Authorization" in asked.headers else 401, {"WWW-Authenticate": "Basic"}
        )

    with Server(guarded) as server:
        words = ["-m", "udocker", "login", "-u", "me", "--password-stdin", server.host]
        unprivileged.run([unprivileged.python, *words], input=b"\xe4\xff\n", text=False)
        assert server.asked[-1].headers["Authorization"] == "Basic bWU65P8="
        variables = {b"UDOCKER_USERNAME": b"me", b"UDOCKER_PASSWORD": b"\xe4"}
        unprivileged.udocker("search", server.host + "/x", env=variables, check=False)
        assert server.asked[-1].headers["Authorization"] == "Basic bWU65A=="


def test_a_registry_may_be_named_by_a_url_and_a_path(unprivileged, guarded):
    log_in(unprivileged, f"http://{guarded.host}/v2/")
    log_in(unprivileged, f"{guarded.host}/org")
    with open(config(unprivileged)) as file:
        assert list(json.load(file)["auths"]) == [guarded.host, f"{guarded.host}/org"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "docker.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("quay.io", "quay.io"),
        ("https://quay.io/org/app", "quay.io/org/app"),
    ],
)
def test_what_credentials_are_for(text, key):
    assert account(text) == key


@pytest.mark.parametrize("text", ["quay", "quay.io/UPPER", "a..b", "host.x/a?b"])
def test_what_credentials_cannot_be_for(text):
    with pytest.raises(UsageError):
        account(text)


SECRETS = ("s3cret-word", "s3cret-token", "s3cret-proxy", "s3cret-signature")


def test_a_login_is_to_a_registry_and_tried_where_it_wants_one(unprivileged):
    answers = {
        "is no registry": Reply(404),
        "is no registry: it has": Reply(200, {"Content-Type": "text/html; charset=x"}, b"<html>"),
    }
    for problem, answer in answers.items():
        with Server(lambda asked, answer=answer: answer) as server:
            done = log_in(unprivileged, server.host, check=False)
        assert done.returncode == 1 and problem in done.stderr
        assert not os.path.exists(config(unprivileged))
    quays = Reply(200, {"Content-Type": "text/html; charset=utf-8"}, b"true")
    with Server(lambda asked: quays) as server:
        done = log_in(unprivileged, server.host)
    assert "the password could not be tried" in done.stderr and "logged in" in done.stderr


class Leaky(Server):
    """A registry that repeats what it is sent, and that sends its readers to signed addresses."""

    def reply(self, asked):
        sent = asked.headers["Authorization"] or ""
        if asked.path.startswith("/token"):
            if "wrong" in asked.path:
                body = json.dumps({"details": f"{sent} (me, s3cret-word) is wrong"}).encode()
                return Reply(401, {}, body)
            return Reply(body=b'{"token": "s3cret-token"}')
        if not sent.startswith("Bearer "):
            service = "wrong" if "wrong" in asked.path else "s"
            where = f"{self.url}/token?account=s3cret-signature"
            challenge = f'Bearer realm="{where}",service="{service}"'
            return Reply(401, {"WWW-Authenticate": challenge})
        if "signature" not in asked.path:
            return Reply(307, {"Location": f"{asked.path}?signature=s3cret-signature"})
        broken = "broken" in asked.path and len(self.paths()) < 6
        told = f"{sent.rpartition(' ')[2]} is not for that, s3cret-word neither"
        body = json.dumps({"errors": [{"code": "NONE", "message": told}]}).encode()
        return Reply(500 if broken else 404, {}, body)


WORDS = [
    ["pull", "{host}/org/app:1"],
    ["pull", "{host}/org/broken:1"],
    ["pull", "{host}/org/wrong:1"],
    ["pull", "--httpproxy=http://me:s3cret-proxy@127.0.0.1:1", "registry.invalid/a"],
    ["pull", "--httpproxy=socks5h://me:s3cret-proxy@127.0.0.1:1", "registry.invalid/a"],
    ["search", "--registry={host}", "app"],
    ["search", "--list-tags", "{host}/org/app"],
    ["search", "--index=http://me:s3cret-word@{host}", "app"],
    ["search", "--index=http://me:s3cret-word@127.0.0.1:1", "app"],
    ["pull", "http://me:s3cret-word@{host}/org/app:1"],
    ["import", "http://me:s3cret-word@{host}/file.tar?s3cret-signature", "app:1"],
    ["login", "-u", "me", "--password-stdin", "{host}"],
    ["logout", "{host}"],
    ["showconf"],
]


@pytest.mark.parametrize("words", WORDS)
def test_no_secret_is_told_even_with_debug(unprivileged, words):
    pair = base64.b64encode(b"me:s3cret-word").decode()
    os.mkdir(f"{unprivileged.home}/.docker")
    with Leaky() as server:
        with open(config(unprivileged), "w") as file:
            json.dump({"auths": {server.host: {"auth": pair}}}, file)
        unprivileged.own(f"{unprivileged.home}/.docker")
        filled = [word.format(host=server.host) for word in words]
        given = "s3cret-word\n" if words[0] == "login" else None
        done = unprivileged.udocker("--debug", *filled, check=False, input=given)
    told = done.stdout + done.stderr
    assert not [secret for secret in (*SECRETS, pair) if secret in told]
    assert words[0] in ("logout", "showconf") or " ms)" in told or "me:" in str(words)
    assert "NONE" not in told or "*** is not for that, *** neither" in told


def test_passwords_are_in_no_command_line_of_a_helper(unprivileged, guarded):
    script = '#!/bin/sh\necho "$@" >>"$HOME/words"\ncat >>"$HOME/kept"\n'
    os.makedirs(f"{unprivileged.home}/bin")
    os.mkdir(f"{unprivileged.home}/.docker")
    path = f"{unprivileged.home}/bin/docker-credential-site"
    with open(path, "w") as helper, open(config(unprivileged), "w") as file:
        helper.write(script)
        json.dump({"credsStore": "site"}, file)
    os.chmod(path, 0o755)
    unprivileged.own(unprivileged.home)
    search = f"{unprivileged.home}/bin:{os.environ['PATH']}"
    log_in(unprivileged, guarded.host, env={"PATH": search})
    with open(f"{unprivileged.home}/words") as words, open(f"{unprivileged.home}/kept") as kept:
        assert words.read() == "store\n"
        assert json.loads(kept.read())["Secret"] == PASSWORD


def test_a_token_server_that_refuses_is_told_with_its_words(unprivileged, tmp_path, layout):
    tokens = TokenServer(Tls.make(tmp_path), anonymous=False)
    with tokens, DockerRegistry(tmp_path / "registry", tokens=tokens) as registry:
        done = log_in(unprivileged, registry.host, password="wrong", check=False)
        assert done.returncode == 1
        assert "who are you?" in done.stderr
        log_in(unprivileged, registry.host)
