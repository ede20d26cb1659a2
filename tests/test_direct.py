"""Connections straight to servers: kept while they are whole, and closed when they are not."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from registries import Reply, Server
from transports import OK

from udocker.errors import RegistryError
from udocker.registry import transport as registry_transport
from udocker.registry.connection import Connection, Trust
from udocker.registry.patience import Patience

LONG = b"x" * 600_000
PIECES = (b"one", b"two" * 100_000, b"three")


class Counting(Server):
    """Counts its connections; answers /chunked in chunks, and closes after /last unannounced."""

    def __init__(self):
        self.ports, self.closed = [], threading.Event()
        super().__init__()
        close = self._server.shutdown_request
        self._server.shutdown_request = lambda request: (close(request), self.closed.set())

    def receive(self, handler):
        self.ports.append(handler.client_address[1])
        return super().receive(handler)

    def reply(self, asked):
        return Reply(204) if asked.path == "/empty" else Reply(body=LONG)

    def send(self, handler, reply):
        if handler.path == "/chunked":
            super().send(handler, Reply(200, {"Transfer-Encoding": "chunked", **NO_LENGTH}))
            for piece in (*PIECES, b""):
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        else:
            super().send(handler, reply)
            handler.close_connection |= handler.path == "/last"


NO_LENGTH = {"Content-Length": None}


def connection(server):
    return Connection(server.host, {}, Trust(), Patience(read_timeout_s=30))


def ask(connection, server, path, method="GET", data=None):
    return connection.exchange(method, server.url + path, {}, data)


def whole(connection, server, path, method="GET"):
    with ask(connection, server, path, method) as answer:
        return answer.read(1 << 20)


def test_a_connection_is_kept_after_every_kind_of_whole_answer():
    with Counting() as server:
        made = connection(server)
        assert whole(made, server, "/") == LONG
        assert whole(made, server, "/chunked") == b"".join(PIECES)
        assert whole(made, server, "/", "HEAD") == b""
        assert whole(made, server, "/empty") == b""
        assert whole(made, server, "/") == LONG
        made.reopen()
    assert len(server.ports) == 5
    assert len(set(server.ports)) == 1


@pytest.mark.parametrize("path", ["/", "/chunked"])
def test_an_answer_that_is_not_read_to_its_end_takes_its_connection_along(path):
    with Counting() as server:
        made = connection(server)
        with ask(made, server, path) as answer:
            assert next(answer.chunks())
        assert whole(made, server, "/") == LONG
        made.reopen()
    assert len(set(server.ports)) == 2


def test_a_connection_that_the_server_has_closed_is_not_used_again():
    with Counting() as server:
        made = connection(server)
        for _ in range(3):  # no attempt fails: nothing is tried twice here
            server.closed.clear()
            assert whole(made, server, "/last") == LONG
            assert server.closed.wait(60)
        made.reopen()
    assert len(set(server.ports)) == 3


def test_answers_at_the_same_time_have_connections_of_their_own():
    with Counting() as server:
        made = connection(server)
        with ask(made, server, "/") as one, ask(made, server, "/") as other:
            assert other.read(1 << 20) == one.read(1 << 20) == LONG
        assert whole(made, server, "/") == LONG
        made.reopen()
    assert len(set(server.ports)) == 2


class Refusing(Server):
    """Answers before it has read the body, and closes."""

    def receive(self, handler):
        handler.close_connection = True
        return b""

    def reply(self, asked):
        return Reply(413, body=b"too much")


class Endless:
    """A body of 64 MB."""

    def __len__(self):
        return 64 << 20

    def __iter__(self):
        yield from [bytes(1 << 20)] * 64


def test_an_answer_before_the_end_of_the_body_is_heard():
    with Refusing() as server, ask(connection(server), server, "/", "PUT", Endless()) as answer:
        assert (answer.status, answer.read(99)) == (413, b"too much")


class Announcing(Server):
    """Says before an answer what will be in it, `count` times."""

    count = 2

    def send(self, handler, reply):
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n" * self.count)
        super().send(handler, reply)


def test_answers_that_only_announce_another_one_are_passed_over():
    with Announcing(lambda asked: OK) as server:
        made = connection(server)
        for _ in range(2):  # on one connection
            with ask(made, server, "/") as answer:
                assert (answer.status, answer.read(99)) == (200, b"fine")
                assert "Link" not in answer.headers
        server.count = 99
        with pytest.raises(RegistryError, match="not HTTP"):
            ask(made, server, "/")
        made.reopen()


class Twice(Server):
    """Sends headers twice."""

    def send(self, handler, reply):
        handler.send_response(401)
        for value in ("Basic", 'Bearer realm="here"'):
            handler.send_header("WWW-Authenticate", value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


def test_headers_that_repeat_are_joined_and_have_names_in_any_case():
    with Twice() as server, ask(connection(server), server, "/") as answer:
        assert answer.headers["www-authenticate"] == 'Basic, Bearer realm="here"'
        assert answer.headers.get("X-None", "none") == "none"
        assert {"www-authenticate", "content-length"} <= set(answer.headers)
        assert len(answer.headers) == len(list(answer.headers))


def test_an_address_is_quoted_where_it_must_be_and_nowhere_else():
    with Server() as server:
        ask(connection(server), server, "/a b/%41?q=\u00e4&s=a+b%2F#part").close()
        ask(connection(server), server, "?q").close()
    assert server.paths() == ["/a%20b/%41?q=%C3%A4&s=a+b%2F", "/?q"]


def test_a_user_in_an_address_is_shown_to_its_server():
    with Server(lambda asked: OK) as server:
        assert registry_transport.get(f"http://al%40:p%3A@{server.host}/file", {}, 99) == b"fine"
    assert server.asked[0].headers["Authorization"] == "Basic YWxAOnA6"


def test_without_a_proxy_the_package_for_them_is_not_imported():
    program = """if True:
        import sys
        sys.path.insert(0, "tests")
        from transports import OK, body, transport
        from registries import Server
        with Server(lambda asked: OK) as server:
            print(body(transport(server.host)), "requests" in sys.modules, "urllib3" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "b'fine' False False\n", done.stderr
