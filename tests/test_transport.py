"""Requests to a registry: with the right credentials, to the right server, as often as it takes."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
import time
from email.utils import formatdate

import pytest
from registries import USER, Reply, Server, Tls
from transports import ASK, OK, QUICK, body, in_turn, transport

from udocker.errors import AccessDenied, ImageNotFound, RegistryError, UsageError
from udocker.registry.connection import Trust
from udocker.registry.faults import Unavailable, limits_told, no_answer, refusal, seconds
from udocker.registry.patience import Pace, Patience
from udocker.registry.route import is_loopback, shown
from udocker.registry.secret import Credentials
from udocker.registry.transport import get
from udocker.values import replace


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


def test_a_connection_that_is_cut_or_silent_is_tried_again(capsys):
    long = b"x" * 100_000
    replies = [
        Reply(body=long, cut_after=5),
        Reply(body=long, cut_after=0, stall_s=2),
        Reply(body=long),
    ]
    with Server(in_turn(*replies)) as server:
        assert body(transport(server.host)) == long
    assert "it takes too long; trying again" in capsys.readouterr().err  # as if nothing went on


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


@pytest.mark.parametrize(
    "says", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\0\0\x12\4\0\0\0\0\0", b"HTTP/1.1 ?"]
)
def test_who_does_not_speak_http_is_not_asked_again(says):
    with Saying(says) as server:
        client = transport(server.host, base=f"http://{server.host}", patience=Patience())
        with pytest.raises(RegistryError, match="what it says is not HTTP") as caught:
            body(client)
    assert client.requests == 1
    assert "no registry" in caught.value.hint


class Saying(Server):
    """Says the same to everybody."""

    def __init__(self, says):
        super().__init__()
        self._says = says

    def send(self, handler, reply):
        handler.wfile.write(self._says)
        handler.close_connection = True


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


def test_only_identity_is_accepted_as_encoding_and_files_are_not_decoded():
    packed = Reply(body=gzip.compress(b"a file"), headers={"Content-Encoding": "gzip"})
    with Server(lambda asked: packed) as server:
        assert get(f"{server.url}/list.gz", {}, 99) == packed.body
        with transport(server.host).open(ASK) as answer:
            assert answer.read(99) == packed.body
    assert server.asked[0].headers["Accept-Encoding"] == "identity"


def test_a_document_that_a_server_compresses_unasked_is_read():
    def answered(data, status=200, encoding="gzip"):
        reply = Reply(status, {"Content-Encoding": encoding}, data)
        with Server(lambda asked: reply) as server:
            return body(transport(server.host), replace(ASK, accepted=(200, 204)))

    fine = gzip.compress(b"fine", mtime=0)
    assert answered(fine) == answered(fine, encoding="X-GZip") == b"fine"
    assert answered(b"plain after all") == b"plain after all"
    assert answered(fine, encoding="br") == fine
    assert answered(b"", 204) == b""
    with pytest.raises(RegistryError, match="broken gzip"):
        answered(fine[:9] + b"\xff" * 9)
    with pytest.raises(RegistryError, match="more than"):
        answered(gzip.compress(bytes(2 << 20)))
    with pytest.raises(RegistryError, match="all is lost"):
        answered(gzip.compress(b'{"message": "all is lost"}'), 418)


def test_connections_are_kept_and_reopened():
    with Server(lambda asked: OK) as server:
        client = transport(server.host)
        for _ in range(3):
            assert body(client) == b"fine"
        client.reopen()
        assert body(client) == b"fine"


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


@pytest.mark.parametrize(
    "location",
    ["http://h:99999/x?sig=s3cret", "http://u:s3cret@[/x", "http://u:s3cret@h:x/y?s3cret"],
)
def test_a_redirect_to_what_is_no_address_shows_no_secret(location):
    moved = Reply(307, {"Location": location})
    with Server(lambda _: moved) as server, pytest.raises(RegistryError, match="addr") as caught:
        body(transport(server.host))
    assert "s3cret" not in str(caught.value)


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
        assert longest / 2 <= time.monotonic() - start < longest + 30
