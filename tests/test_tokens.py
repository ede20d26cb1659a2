"""Tokens of registries: fetched where the registry says, kept, renewed, sent nowhere else."""

from __future__ import annotations

import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from registries import PASSWORD, USER, Reply, Server, Tls
from transports import ASK, OK, body, transport

from udocker.errors import AccessDenied, RegistryError
from udocker.registry.auth import scope
from udocker.registry.secret import Credentials
from udocker.values import replace


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return Tls.make(tmp_path_factory.mktemp("tls"))


class Guarded(Server):
    """A registry that wants the newest token of its token server, which counts them."""

    def __init__(self, scopes=("repository:a:pull",), tls=None, **answer):
        super().__init__(tls=tls)
        self.realm, self.scopes, self.extra = f"{self.url}/token", scopes, answer
        self.given = 0

    def reply(self, asked):
        if asked.path.startswith("/token"):
            self.given += 1
            token = {"token": f"t{self.given}", **self.extra}
            return Reply(body=json.dumps(token).encode())
        if asked.headers["Authorization"] == f"Bearer t{self.given}":
            return OK
        challenge = f'Bearer realm="{self.realm}",service="s,t"'
        challenge += "".join(f',scope="{scope}"' for scope in self.scopes)
        return Reply(401, {"WWW-Authenticate": challenge})


def test_a_token_is_fetched_once_and_used_until_it_ends():
    with Guarded(expires_in=300) as server:
        client = transport(server.host)
        for _ in range(3):
            assert body(client) == b"fine"
        assert client.requests == 5
        client.reopen()
        assert body(client) == b"fine"
    assert server.paths()[1] == "/token?service=s%2Ct&scope=repository%3Aa%3Apull"


def test_a_token_is_renewed_before_it_ends():
    with Guarded(expires_in=0.5) as server:
        client = transport(server.host)
        assert body(client) == b"fine"
        time.sleep(0.5)
        assert body(client) == b"fine"
        refused = [asked for asked in server.asked if asked.headers["Authorization"] is None]
        assert (server.given, len(refused)) == (2, 3)  # no 401 in between


def test_a_token_that_is_refused_is_renewed():
    with Guarded() as server:
        client = transport(server.host)
        assert body(client) == b"fine"
        server.given += 1
        assert body(client) == b"fine"


def test_every_scope_is_asked_for_and_credentials_go_to_the_token_server_only():
    credentials = Credentials(USER, PASSWORD)
    with Guarded(scopes=("repository:a:pull", "x y")) as server:
        assert body(transport(server.host, credentials)) == b"fine"
    sent = [asked.headers["Authorization"] for asked in server.asked]
    assert sent == [None, credentials.basic, "Bearer t1"]
    assert server.paths()[1].endswith("scope=repository%3Aa%3Apull&scope=x&scope=y")


def test_without_a_scope_the_repository_is_asked_for():
    with Guarded(scopes=()) as server:
        assert body(transport(server.host)) == b"fine"
    assert "scope=repository%3Aa%3Apull" in server.paths()[1]


def test_an_identity_token_is_posted():
    with Guarded() as server:
        assert body(transport(server.host, Credentials("", "", "refresh me"))) == b"fine"
    posted = server.asked[1]
    assert (posted.method, posted.path) == ("POST", "/token")
    assert b"grant_type=refresh_token" in posted.body
    assert b"refresh_token=refresh+me" in posted.body
    assert posted.headers["Authorization"] is None


class Particular(Server):
    """A registry whose tokens are their scopes, and which wants `needed` whatever it said."""

    needed = "repository:a:pull,push"

    def reply(self, asked):
        if asked.path.startswith("/token"):
            scopes = " ".join(parse_qs(urlsplit(asked.path).query)["scope"])
            return Reply(body=json.dumps({"token": scopes.replace(" ", "+")}).encode())
        sent = asked.headers["Authorization"]
        if sent is None:
            return Reply(401, self.challenge("repository:a:pull"))
        if self.needed in sent:
            return OK
        return Reply(403, self.challenge(self.needed, ',error="insufficient_scope"'))

    def challenge(self, scope, more=""):
        return {"WWW-Authenticate": f'Bearer realm="{self.url}/token",scope="{scope}"{more}'}


def test_a_token_of_too_narrow_a_scope_is_replaced_once():
    with Particular() as server:
        client = transport(server.host)
        assert body(client) == b"fine"
        assert len(server.paths()) == 5
        assert body(client) == b"fine"
        assert len(server.paths()) == 6
        server.needed = "repository:other:pull"
        assert body(client) == b"fine"
        server.needed = "never"
        server.challenge = lambda scope, more="": Particular.challenge(server, "x", more)
        with pytest.raises(AccessDenied):
            body(client)


def test_what_a_hub_hides_is_asked_for_once_with_a_token():
    def reply(asked):
        if asked.path.startswith("/token"):
            return Reply(body=b'{"token": "t"}')
        error = ',error="insufficient_scope"' if asked.headers["Authorization"] else ""
        where = f'Bearer realm="{hub.url}/token",service="s",scope="repository:a:pull"'
        return Reply(401, {"WWW-Authenticate": where + error})

    with Server(reply) as hub, pytest.raises(AccessDenied, match="401"):
        body(transport(hub.host))
    assert len(hub.asked) == 3


def test_a_request_names_scopes_of_its_own():
    with Particular() as server:
        client = transport(server.host)
        wide = replace(ASK, access="pull,push", scopes=(scope("b", "pull"),))
        assert body(client, wide) == b"fine"
        assert server.paths()[1].endswith(
            "scope=repository%3Aa%3Apull%2Cpush&scope=repository%3Ab%3Apull"
        )
        assert body(client, wide) == b"fine"
        assert len(server.paths()) == 4


@pytest.mark.parametrize("missing", [404, 405])
@pytest.mark.parametrize(
    ("credentials", "methods", "sent"),
    [
        (Credentials(USER, PASSWORD), ["GET", "POST"], b"grant_type=password&username=alice"),
        (Credentials(USER, PASSWORD, "refresh"), ["POST", "GET"], b""),
    ],
)
def test_a_token_server_is_asked_in_the_way_that_it_knows(missing, credentials, methods, sent):
    with Guarded() as server:
        answer = server.reply

        def reply(asked):
            if asked.path.startswith("/token") and asked.method == methods[0]:
                return Reply(missing)
            return answer(asked)

        server.reply = reply
        assert body(transport(server.host, credentials)) == b"fine"
        tokens = [asked for asked in server.asked if asked.path.startswith("/token")]
    assert [asked.method for asked in tokens] == methods
    assert sent in tokens[1].body
    assert PASSWORD not in tokens[1].path


def test_a_token_of_the_registry_is_used_as_it_is():
    with Guarded() as server:
        server.given = 7
        assert body(transport(server.host, Credentials("", registry_token="t7"))) == b"fine"
        assert server.given == 7


@pytest.mark.parametrize("realm", ["http://192.0.2.1/token", "ftp://127.0.0.1/", "", "http://["])
def test_a_token_server_in_clear_text_elsewhere_is_refused(realm):
    with Guarded() as server:
        server.realm = realm
        with pytest.raises(RegistryError):
            body(transport(server.host, Credentials(USER, PASSWORD)))
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    "credentials", [Credentials(USER, "s3cret"), Credentials("", "", "s3cret")]
)
def test_credentials_that_have_ended_are_told_as_such(credentials):
    def refuse(asked):
        if "/token" not in asked.path:
            return Reply(401, {"WWW-Authenticate": f'Bearer realm="{server.url}/token"'})
        error = {"error": "invalid_grant", "error_description": "it has expired: s3cret"}
        return Reply(400, {}, json.dumps(error).encode())

    mine = replace(credentials, origin="a file")
    with Server(refuse) as server, pytest.raises(AccessDenied, match="invalid_grant") as caught:
        body(transport(server.host, mine))
    assert "it has expired: ***" in caught.value.message
    assert "the credentials of a file did not do" in caught.value.hint


@pytest.mark.parametrize("realm", ["/token", "https:///token", "token server"])
def test_a_token_server_has_to_have_an_address(realm):
    with Guarded() as server:
        server.realm = realm
        with pytest.raises(RegistryError, match=f"names a token server that is none: '{realm}'"):
            body(transport(server.host))


def test_where_no_token_server_is_named_a_password_will_do():
    def guarded(asked):
        challenge = {"WWW-Authenticate": 'Bearer service="s", Basic realm="r"'}
        return OK if asked.headers.get("Authorization") else Reply(401, challenge)

    with Server(guarded) as server:
        assert body(transport(server.host, Credentials(USER, PASSWORD))) == b"fine"


def test_a_registry_of_tls_cannot_send_credentials_to_clear_text(tls):
    environment = {"SSL_CERT_FILE": tls.certificate}
    with Server(lambda asked: OK) as clear, Guarded(tls=tls) as server:
        server.realm = f"{clear.url}/token"
        with pytest.raises(RegistryError, match="does not speak https"):
            body(transport(server.host, Credentials(USER, PASSWORD), environment))
        assert not clear.asked


@pytest.mark.parametrize(
    ("challenge", "credentials"),
    [
        ("Basic", None),
        ("Basic", Credentials(USER, "wrong")),
        ("Basic", Credentials("", "", "identity")),
        ("Negotiate", Credentials(USER, PASSWORD)),
        ("", Credentials(USER, PASSWORD)),
        ('Bearer realm="{url}/token"', Credentials(USER, "s3cret")),
    ],
)
def test_without_the_right_credentials_access_is_denied(challenge, credentials):
    def refuse(asked):
        return Reply(401, {"WWW-Authenticate": challenge.format(url=server.url)})

    with Server(refuse) as server:
        with pytest.raises(AccessDenied, match="the thing") as caught:
            body(transport(server.host, credentials))
        assert len(server.asked) <= 2
    assert f"udocker login {server.host}" in caught.value.hint
    assert "s3cret" not in caught.value.message
