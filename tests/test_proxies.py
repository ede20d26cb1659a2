"""Requests go through the proxy that the environment names, or through none."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest
from registries import Reply, Server, Tls
from transports import OK, body, transport
from uploads import Tunnel

from udocker.errors import RegistryError, UdockerError
from udocker.registry.connection import Trust
from udocker.registry.patience import Patience
from udocker.registry.route import Route

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
    ({"https_proxy": "http://p:1", "no_proxy": "[2001:db8::1]"}, "https://[2001:db8::1]/", None),
    (
        {"https_proxy": "http://p:1", "no_proxy": "[2001:db8::1]:5"},
        "https://[2001:db8::1]:5/",
        None,
    ),
    (
        {"https_proxy": "http://p:1", "no_proxy": "[2001:db8::1]:5"},
        "https://[2001:db8::1]:6/",
        "http://p:1",
    ),
    ({"https_proxy": "http://p:1", "no_proxy": "quay.io."}, "https://quay.io/", None),
    ({"https_proxy": "http://p:1", "no_proxy": "10.1.2.3:443"}, "https://10.1.2.3/", None),
    ({"https_proxy": "http://p:1", "no_proxy": "10.1.2.3:80"}, "https://10.1.2.3/", "http://p:1"),
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


def test_what_tls_says_behind_a_proxy_is_told_as_it_is_without_one(tmp_path):
    tls = Tls.make(tmp_path, names="DNS:registry.invalid")

    def told(port, host, trust=None, **variables):
        with Tunnel(f"127.0.0.1:{port}") as proxy:
            via = {"https_proxy": f"http://{proxy.host}", **variables}
            patience = Patience(connect_timeout_s=60, read_timeout_s=60)
            client = transport(host, environment=via, patience=patience, trust=trust)
            try:
                return body(client), proxy.wanted
            except RegistryError as error:
                assert len(proxy.wanted) == 1  # to try again would not help
                return error.message, error.hint

    trusted = {"SSL_CERT_FILE": tls.certificate}
    with Server(lambda asked: OK, tls) as server, Server(lambda asked: OK) as clear:
        assert told(server.port, "registry.invalid", **trusted) == (
            b"fine",
            ["registry.invalid:443"],
        )
        message, hint = told(server.port, "registry.invalid")
        assert "its certificate is not trusted" in message and "SSL_CERT_FILE" in hint
        assert told(server.port, "registry.invalid", Trust(insecure=True))[0] == b"fine"
        message, _ = told(server.port, "other.invalid", **trusted)
        assert "its certificate is not trusted" in message and "match" in message
        message, hint = told(clear.port, "registry.invalid:5000")
        assert "TLS fails" in message and "--tls-verify=false" in hint


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
