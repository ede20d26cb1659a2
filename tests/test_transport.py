"""Requests to a registry: with the right credentials, to the right server, as often as it takes."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from urllib.parse import parse_qs, urlsplit

import pytest
from registries import PASSWORD, USER, Reply, Server, Tls

from udocker.errors import AccessDenied, ImageNotFound, RegistryError, UdockerError, UsageError
from udocker.registry.auth import scope
from udocker.registry.connection import Trust
from udocker.registry.faults import Unavailable, limits_told, no_answer, refusal, seconds
from udocker.registry.patience import Pace, Patience
from udocker.registry.route import Route, is_loopback, shown
from udocker.registry.secret import Credentials
from udocker.registry.transport import Request, Transport
from udocker.values import replace

QUICK = Patience(
    attempts=3,
    first_delay_s=0.01,
    longest_delay_s=0.02,
    longest_retry_after_s=0.5,
    connect_timeout_s=2,
    read_timeout_s=1,
)
ASK = Request("GET", "/v2/a/thing", "a", "the thing")


def transport(host, credentials=None, environment=None, **options):
    def find(repository):
        return credentials

    options.setdefault("patience", QUICK)
    return Transport(host, environment or {}, find, **options)


def body(transport, request=ASK):
    return transport.fetch(request, 1 << 20).body


def in_turn(*replies):
    """Answer the first request with the first reply, ..., all further ones with the last."""
    left = list(replies)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


OK = Reply(body=b"fine")


# Trying again


@pytest.mark.parametrize("status", [408, 425, 429, 499, 500, 502, 503, 504, 522])
def test_a_failure_that_may_pass_is_tried_again(status):
    with Server(in_turn(Reply(status), Reply(status), OK)) as server:
        client = transport(server.host)
        assert body(client) == b"fine"
        assert client.requests == len(server.asked) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RegistryError), (403, AccessDenied), (404, ImageNotFound), (501, RegistryError)],
)
def test_a_final_answer_is_not_tried_again(status, kind):
    with Server(lambda asked: Reply(status)) as server:
        with pytest.raises(kind, match=str(status)):
            body(transport(server.host))
        assert len(server.paths()) == 1


def test_attempts_end_with_the_servers_own_words():
    said = {"errors": [{"code": "TOOMANYREQUESTS", "message": "slow\x1b[2J down"}]}
    with Server(lambda asked: Reply(429, body=json.dumps(said).encode())) as server:
        with pytest.raises(Unavailable, match=r"429 \(TOOMANYREQUESTS: slow \[2J down\)") as caught:
            body(transport(server.host))
        assert "udocker login" in caught.value.hint
        assert len(server.asked) == QUICK.attempts


def test_a_connection_that_is_cut_or_silent_is_tried_again():
    long = b"x" * 100_000
    replies = [
        Reply(body=long, cut_after=5),
        Reply(body=long, cut_after=0, stall_s=2),
        Reply(body=long),
    ]
    with Server(in_turn(*replies)) as server:
        assert body(transport(server.host)) == long


class Trickle(Server):
    """Sends a body of `count` parts with a pause before each."""

    part, count, pause_s = b"x", 400, 0.01

    def send(self, handler, reply):
        whole = self.part * self.count
        headers = {**reply.headers, "Content-Length": str(len(whole))}
        super().send(handler, Reply(reply.status, headers, b""))
        for _ in range(self.count):
            time.sleep(self.pause_s)
            handler.wfile.write(self.part)


SHORT = replace(QUICK, attempts=2, window_s=0.2, least_bytes_per_s=5000.0)


def test_a_connection_that_trickles_is_dead_and_a_slow_one_is_not():
    with Trickle() as server, pytest.raises(Unavailable, match="hardly anything"):
        body(transport(server.host, patience=SHORT))
    assert len(server.asked) == SHORT.attempts
    with Trickle() as slow:
        slow.part, slow.count = b"y" * 500, 60
        assert body(transport(slow.host, patience=SHORT)) == b"y" * 30_000
        assert len(slow.asked) == 1


def test_time_that_the_reader_takes_does_not_count():
    pace = Pace(SHORT)
    assert not pace.is_dead(0.1, 1)
    assert pace.is_dead(0.1, 1)
    assert not pace.is_dead(0.2, 9999)
    assert not pace.is_dead(0.1, 0)


def test_a_long_wait_is_told_with_its_reason(capsys):
    error = Unavailable("quay.io answers 429")
    QUICK.wait(1, error)
    assert capsys.readouterr().err == ""
    replace(QUICK, told_from_s=0).wait(1, error)
    assert capsys.readouterr().err == "udocker: note: quay.io answers 429; trying again in 0 s\n"


def test_the_limit_of_a_registry_is_told_with_its_refusal():
    limits = {
        "RateLimit-Limit": "100;w=21600",
        "RateLimit-Remaining": "0;w=21600",
        "Docker-RateLimit-Source": "192.0.2.7",
    }
    with Server(lambda asked: Reply(429, limits)) as server, pytest.raises(Unavailable) as caught:
        body(transport(server.host))
    assert "pulls left for 192.0.2.7: 0 of 100 in 6 hours" in caught.value.message


@pytest.mark.parametrize(
    ("limit", "left", "words"),
    [
        ("100;w=21600", "76;w=21600", "pulls left: 76 of 100 in 6 hours"),
        ("100", "", "pulls left: ? of 100"),
        ("", "3", "pulls left: 3 of ?"),
        ("100;w=\u0661", "x\x1b[2J", "pulls left: x [2J of 100"),
        ("", "", ""),
    ],
)
def test_headers_of_limits_become_a_sentence(limit, left, words):
    assert limits_told({"RateLimit-Limit": limit, "RateLimit-Remaining": left}) == words


def test_with_debug_every_request_is_told_without_its_query(capsys):
    def reply(asked):
        if "signature" in asked.path:
            return Reply(headers={"RateLimit-Limit": "100;w=21600"}, body=b"fine")
        return Reply(307, {"Location": "/b?signature=s3cret"})

    with Server(reply) as server:
        assert body(transport(server.host, Credentials(USER, "s3cret"), debug=True)) == b"fine"
    with pytest.raises(RegistryError):
        body(transport(server.host, debug=True))
    told = capsys.readouterr().err
    assert f"udocker: GET {server.url}/v2/a/thing: 307 (" in told
    assert f"udocker: GET {server.url}/b: 200 pulls left: ? of 100 in 6 hours (" in told
    assert "no answer: Connection refused" in told
    assert "s3cret" not in told


def test_a_connection_that_is_closed_without_an_answer_is_tried_again():
    def close_first(asked):
        if len(server.asked) < 2:
            raise ConnectionResetError
        return OK

    with Server(close_first) as server:
        assert body(transport(server.host)) == b"fine"


def test_nobody_listening_is_an_error_at_once():
    with Server() as server:
        pass
    client = transport(server.host)
    with pytest.raises(RegistryError, match="refused"):
        body(client)
    assert client.requests == 2  # http and https


def test_a_server_that_answered_and_is_gone_may_come_back():
    with Server(lambda asked: OK) as server:
        client = transport(server.host, patience=Patience(attempts=20, first_delay_s=0.02))
        assert body(client) == b"fine"
    returned = []

    def come_back():
        returned.append(Server(lambda asked: OK, port=server.port).__enter__())

    later = threading.Timer(0.2, come_back)
    later.start()
    try:
        assert body(client) == b"fine"
    finally:
        later.join()
        returned[0].__exit__()


def test_for_a_certificate_that_has_expired_no_authority_is_asked_for():
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.verify_message = "certificate has expired"
    error = no_answer("https://registry.invalid/v2/", cause)
    assert "certificate has expired" in error.message
    assert "clock" in error.hint


def test_an_error_that_the_caller_is_handling_is_not_taken_for_the_reason():
    with Server() as server:
        pass
    try:
        raise TimeoutError("another matter")
    except TimeoutError:
        with pytest.raises(RegistryError, match="Connection refused") as caught:
            body(transport(server.host))
    assert not isinstance(caught.value, Unavailable)


def test_retry_after_is_obeyed_within_bounds():
    for text, least_s in (("0", 0), ("9999", QUICK.longest_retry_after_s), (formatdate(0), 0)):
        with Server(in_turn(Reply(503, {"Retry-After": text}), OK)) as server:
            start = time.monotonic()
            assert body(transport(server.host)) == b"fine"
            assert least_s <= time.monotonic() - start < 60


def test_retry_after_is_seconds_or_a_date():
    assert seconds("120") == 120
    assert 50 < seconds(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert seconds("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    for text in ("", "soon", "-5", "\u0661", "Thu, 99 Jan 1970 00:00:00 GMT", "1e9"):
        assert seconds(text) is None


def test_an_answer_is_bounded():
    with (
        Server(lambda asked: Reply(body=b"x" * 1000)) as server,
        pytest.raises(RegistryError, match="more than 999 bytes"),
    ):
        transport(server.host).fetch(ASK, 999)


def test_only_identity_is_accepted_as_encoding_and_bytes_are_not_decoded():
    packed = Reply(body=b"not gzip at all", headers={"Content-Encoding": "gzip"})
    with Server(lambda asked: packed) as server:
        assert body(transport(server.host)) == packed.body
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


def test_connections_are_kept_and_reopened():
    with Server(lambda asked: OK) as server:
        client = transport(server.host)
        for _ in range(3):
            assert body(client) == b"fine"
        client.reopen()
        assert body(client) == b"fine"


# Redirects


def test_redirects_are_followed_and_only_the_registry_sees_credentials():
    seen = []

    def elsewhere(asked):
        seen.append(asked.headers["Authorization"])
        return OK

    def registry(asked):
        if asked.headers["Authorization"] is None:
            return Reply(401, {"WWW-Authenticate": "Basic"})
        if asked.path == "/v2/a/thing":
            return Reply(307, {"Location": "/v2/nearer"})
        seen.append(asked.headers["Authorization"])
        return Reply(302, {"Location": f"{storage.url}/blob?signature=s3cret"})

    with Server(elsewhere) as storage, Server(registry) as server:
        assert body(transport(server.host, Credentials("u", "p"))) == b"fine"
    assert seen == [Credentials("u", "p").basic, None]


@pytest.mark.parametrize("challenge", ["Basic", 'Bearer realm="{url}/token"'])
def test_a_server_elsewhere_cannot_ask_for_the_registrys_credentials(challenge):
    def ask_for_them(asked):
        return Reply(401, {"WWW-Authenticate": challenge.format(url=storage.url)})

    with Server(ask_for_them) as storage:
        move = Reply(307, {"Location": storage.url})
        with Server(lambda asked: move) as server, pytest.raises(Unavailable, match="401"):
            body(transport(server.host, Credentials("u", "p")))
    everything = storage.asked + server.asked
    assert all(asked.headers["Authorization"] is None for asked in everything)


def test_an_expired_address_of_a_redirect_is_asked_for_again():
    with Server(lambda asked: OK if "new" in asked.path else Reply(403)) as storage:
        moves = [Reply(307, {"Location": f"{storage.url}/{name}"}) for name in ("old", "new")]
        with Server(in_turn(*moves)) as server:
            assert body(transport(server.host)) == b"fine"


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "http://user:word@127.0.0.1/", "gopher://x", "http://[", "//h:99999/"],
)
def test_a_redirect_to_what_is_no_web_address_is_refused(location):
    with (
        Server(lambda asked: Reply(307, {"Location": location})) as server,
        pytest.raises(RegistryError) as caught,
    ):
        body(transport(server.host))
    assert "word" not in caught.value.message


def test_redirects_end():
    with (
        Server(lambda asked: Reply(307, {"Location": asked.path})) as server,
        pytest.raises(RegistryError, match="more than 10 redirects"),
    ):
        body(transport(server.host))


def test_signatures_of_addresses_are_not_shown():
    with Server() as nobody:
        pass
    move = Reply(307, {"Location": f"{nobody.url}/b?signature=s3cret"})
    with Server(lambda asked: move) as server, pytest.raises(RegistryError) as caught:
        body(transport(server.host))
    error = caught.value
    while error:
        assert "s3cret" not in str(error)
        error = error.__cause__


# TLS


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return Tls.make(tmp_path_factory.mktemp("tls"))


def test_on_loopback_a_server_of_tls_is_found_and_its_certificate_checked(tls):
    with Server(lambda asked: OK, tls) as server:
        trusting = transport(server.host, environment={"SSL_CERT_FILE": tls.certificate})
        assert body(trusting) == body(trusting) == b"fine"
        with pytest.raises(RegistryError, match="certificate is not trusted") as caught:
            body(transport(server.host))
    assert "SSL_CERT_FILE" in caught.value.hint


def test_insecure_means_that_certificates_are_not_checked(tls):
    with Server(lambda asked: OK, tls) as server:
        assert body(transport(server.host, trust=Trust(insecure=True))) == b"fine"


def test_a_redirect_from_https_to_http_is_refused(tls):
    environment = {"SSL_CERT_FILE": tls.certificate}
    with Server(lambda asked: OK) as clear:
        move = Reply(307, {"Location": clear.url})
        with Server(lambda asked: move, tls) as server:
            with pytest.raises(RegistryError, match="redirects to plain http"):
                body(transport(server.host, environment=environment))
            assert body(transport(server.host, trust=Trust(insecure=True))) == b"fine"


def test_certificates_that_do_not_exist_are_an_error():
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        body(transport("quay.invalid", environment={"SSL_CERT_FILE": "/nowhere.pem"}))


def test_elsewhere_than_on_loopback_clear_text_needs_insecure():
    with Server(lambda asked: OK) as proxy:
        # The proxy answers for every host over http, and refuses tunnels for https.
        proxy.reply = lambda asked: Reply(405) if asked.method == "CONNECT" else OK
        environment = {"http_proxy": proxy.url, "HTTPS_PROXY": proxy.url}
        client = transport("registry.invalid", environment=environment)
        with pytest.raises(RegistryError, match="Tunnel connection failed: 405"):
            body(client)
        assert not proxy.paths("GET")
        insecure = transport(
            "registry.invalid", environment=environment, trust=Trust(insecure=True)
        )
        assert body(insecure) == b"fine"
        assert proxy.paths("GET") == ["http://registry.invalid/v2/a/thing"]


# Tokens


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


# The way


PROXIES = [
    # variables, URL, proxy
    ({}, "https://quay.io/", None),
    ({"https_proxy": "http://p:1"}, "https://quay.io/", "http://p:1"),
    ({"HTTPS_PROXY": "http://p:1"}, "https://quay.io/", "http://p:1"),
    ({"https_proxy": "http://p:1"}, "http://quay.io/", None),
    ({"all_proxy": "socks5h://p:1"}, "https://quay.io/", "socks5h://p:1"),
    ({"https_proxy": "p:1"}, "https://quay.io/", "http://p:1"),
    ({"https_proxy": "http://p:1"}, "https://127.0.0.1:5000/", None),
    ({"https_proxy": "http://p:1"}, "https://[::1]:5000/", None),
    ({"https_proxy": "http://p:1", "no_proxy": "*"}, "https://quay.io/", None),
    ({"https_proxy": "http://p:1", "no_proxy": "x, quay.io"}, "https://quay.io/", None),
    ({"https_proxy": "http://p:1", "no_proxy": ".quay.io"}, "https://cdn.quay.io/", None),
    ({"https_proxy": "http://p:1", "no_proxy": "*.quay.io"}, "https://cdn.quay.io/", None),
    ({"https_proxy": "http://p:1", "NO_PROXY": "Quay.IO"}, "https://cdn.quay.io/", None),
    ({"https_proxy": "http://p:1", "no_proxy": "ay.io"}, "https://quay.io/", "http://p:1"),
    ({"https_proxy": "http://p:1", "no_proxy": "quay.io:443"}, "https://quay.io/", None),
    ({"https_proxy": "http://p:1", "no_proxy": "quay.io:80"}, "https://quay.io/", "http://p:1"),
    ({"https_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, "https://10.1.2.3/", None),
    ({"https_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, "https://11.1.1.1/", "http://p:1"),
    ({"https_proxy": "http://p:1", "no_proxy": "2001:db8::/32"}, "https://[2001:db8::1]/", None),
]


@pytest.mark.parametrize(("variables", "url", "proxy"), PROXIES)
def test_proxies_are_those_of_the_variables(variables, url, proxy):
    assert list(Route(variables).proxies(url).values()) == ([proxy] if proxy else [])


def test_a_proxy_that_cannot_be_used_is_an_error_with_a_hint():
    client = transport("quay.invalid", environment={"https_proxy": "gopher://127.0.0.1:1"})
    with pytest.raises(UdockerError) as caught:
        body(client)
    assert "proxies" in caught.value.hint


class SocksProxy:
    """A proxy for one connection of SOCKS 5 that leads wherever is asked for to `port`.

    Source: RFC 1928.
    """

    def __init__(self, port):
        self.port = port
        self.wanted = ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join(20)
        self._listener.close()

    def _serve(self):
        client, _ = self._listener.accept()
        with client, client.makefile("rb") as stream:
            stream.read(stream.read(2)[1])
            client.sendall(b"\5\0")
            kind = stream.read(4)[3]
            name = stream.read(4 if kind == 1 else stream.read(1)[0])
            self.wanted = f"{name.decode()}:{int.from_bytes(stream.read(2), 'big')}"
            client.sendall(b"\5\0\0\1" + bytes(6))
            with socket.create_connection(("127.0.0.1", self.port)) as server:
                while not (sent := stream.read1(65536)).endswith(b"\r\n\r\n"):
                    server.sendall(sent)
                server.sendall(sent)
                while answer := server.recv(65536):
                    client.sendall(answer)


def test_a_proxy_of_socks_looks_names_up_itself():
    answer = Reply(headers={"Connection": "close"}, body=b"fine")
    with Server(lambda asked: answer) as server, SocksProxy(server.port) as proxy:
        environment = {"ALL_PROXY": f"socks5h://{proxy.host}"}
        client = transport(
            "registry.invalid",
            environment=environment,
            base="http://registry.invalid",
            patience=Patience(),
        )
        assert body(client) == b"fine"
    assert proxy.wanted == "registry.invalid:80"


def test_without_the_package_for_socks_it_is_named():
    program = """if True:
        import sys
        sys.modules["socks"] = None
        from udocker.registry.transport import get
        from udocker.errors import RegistryError
        try:
            get("https://quay.invalid", {"all_proxy": "socks5://u:s3cret@127.0.0.1:9"}, 9)
        except RegistryError as error:
            print(error.message, error.hint)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "PySocks" in done.stdout and "udocker[socks]" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_a_proxy_that_fails_is_named_without_its_password():
    with Server(lambda asked: Reply(407)) as proxy:
        via = dict.fromkeys(("http_proxy", "https_proxy"), f"http://me:s3cret@{proxy.host}")
        client = transport("registry.invalid", environment=via)
        with pytest.raises(RegistryError, match="407") as caught:
            body(client)
        assert len(proxy.asked) == 1  # to try again would not help
        assert proxy.asked[0].headers["Proxy-Authorization"].startswith("Basic ")
        plain = transport("registry.invalid", base="http://registry.invalid", environment=via)
        with pytest.raises(RegistryError, match="the proxy answers 407") as caught:
            body(plain)
        assert "USER:PASSWORD" in caught.value.hint
        with pytest.raises(RegistryError, match="407") as caught:
            body(client)
    assert f"(through the proxy http://{proxy.host})" in caught.value.message
    assert "USER:PASSWORD" in caught.value.hint
    with pytest.raises(RegistryError, match="refused.*through the proxy") as caught:
        body(client)
    assert "s3cret" not in f"{caught.value.message} {caught.value.hint}"


def test_plain_http_where_tls_is_expected_is_understood():
    with Server(lambda asked: OK) as server:
        client = transport(server.host, base=f"https://{server.host}")
        with pytest.raises(RegistryError) as caught:
            body(client)
    assert "--tls-verify=false" in caught.value.hint


def test_an_address_of_ipv6_is_a_host():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        host = f"[::1]:{listener.getsockname()[1]}"

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")

        thread = threading.Thread(target=answer)
        thread.start()
        assert body(transport(host, environment={"http_proxy": "http://127.0.0.1:1"})) == b"fine"
        thread.join(20)


def test_loopback_is_known_by_name_or_address():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("localhost.org", "10.0.0.1", "::2", "", "127.0.0.1.org")))


def test_what_is_shown_of_an_address_has_no_secret():
    assert shown("https://user:word@h:1/p?query#f") == "https://h:1/p"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"errors":[{"code":"A","message":"b"},{"code":"C"}]}', "(A: b; C)"),
        (b'{"details":"unauthorized"}', "(unauthorized)"),
        (b'{"errors":"text","message":"m"}', "(m)"),
        (b"<html>", ""),
        (b"[]", ""),
        (b'{"errors":[5]}', ""),
        (b'{"message":"' + b"x" * 9999 + b'"}', "xxx...)"),
    ],
)
def test_an_errors_body_becomes_one_sentence(body, words):
    message = refusal("it", "host", 400, body, {}).message
    assert message.startswith("it: host answers 400")
    assert message.endswith(words)
    assert len(message) < 400


def test_patience_grows_up_to_its_bound():
    patience = Patience(first_delay_s=0.02, longest_delay_s=0.05)
    for failures, longest in ((1, 0.02), (2, 0.04), (9, 0.05), (5000, 0.05)):
        start = time.monotonic()
        patience.wait(failures, Unavailable("x"))
        assert longest / 2 <= time.monotonic() - start < longest + 2
