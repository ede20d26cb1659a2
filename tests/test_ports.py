"""Published ports of a container without a network: what is sent comes out on the other side."""

import contextlib
import os
import select
import socket
import struct
import threading
import time

import pytest

SERVER = """
import socket, sys, threading
family, kind = int(sys.argv[1]), sys.argv[2]
address = "127.0.0.1" if family == socket.AF_INET else "::1"
def echo(connection):
    with connection:
        total = []
        while data := connection.recv(1 << 20):
            if kind == "tcp":
                connection.sendall(data)
            else:
                total.append(data)
        if total:  # only at the end of what came: a half-closed connection is needed
            connection.sendall(b"".join(total)[::-1])
def listen():
    if kind == "udp":
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((address, 80))
        return server
    return socket.create_server((address, 80), family=family, backlog=500)
if kind == "none":
    print("ready", flush=True)
    sys.stdin.read()
server = listen()
print("ready", flush=True)
while kind == "udp":
    data, peer = server.recvfrom(65536)
    server.sendto(data[::-1], peer)
while True:
    threading.Thread(target=echo, args=server.accept()[:1], daemon=True).start()
"""
WHERE = "import os, sys; print(sys.base_prefix, os.path.realpath(sys.executable), sep='\\n')"


class Served:
    """A server in a container with a network of its own."""

    def __init__(self, user, kind, family, publish):
        self.ports = []
        prefix, python = user.run([user.python, "-c", WHERE]).stdout.split("\n")[:2]
        tree = f"{user.home}/tree"
        os.makedirs(tree, exist_ok=True)
        user.own(tree)
        words = [word for one in publish for word in ("--publish", *one)]
        for path in ("/usr", "/lib", "/lib64", prefix):
            words += ["--ro-bind", path, path] if os.path.isdir(path) else []
        words += ["--memory-overlay", tree, "--", python, "-c", SERVER, str(int(family)), kind]
        script = f"{user.checkout}/udocker/engines/sandbox"
        pipes = {"stdin": -1, "stdout": -1, "stderr": -1, "text": True}
        command = [user.python, "-I", "-S", script, "--network", "none", *words]
        self.process = user.popen(command, **pipes)
        for one in publish:
            self.ports.append(int(one[1]) or int(self.process.stderr.readline().split()[9]))
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()

    def end(self):
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()


@pytest.fixture
def serve(unprivileged):
    """A function that starts a server in a container, by default on a free port of 127.0.0.1."""
    with contextlib.ExitStack() as ends:

        def start(kind, *publish, family=socket.AF_INET):
            protocol = "udp" if kind == "udp" else "tcp"
            given = publish or [("127.0.0.1", "0", "80", protocol)]
            served = Served(unprivileged, kind, family, given)
            ends.callback(served.end)
            return served

        yield start


def connect(port, address="127.0.0.1"):
    return socket.create_connection((address, port), timeout=30)


def receive_all(connection):
    parts = []
    while data := connection.recv(1 << 20):
        parts.append(data)
    return b"".join(parts)


def test_a_connection_from_the_host_reaches_the_program(serve):
    with connect(serve("tcp").ports[0]) as client:
        for text in (b"hello", b"again"):
            client.sendall(text)
            assert client.recv(100) == text


def test_a_program_that_listens_to_ipv6_only_is_reached(serve):
    with connect(serve("tcp", family=socket.AF_INET6).ports[0]) as client:
        client.sendall(b"six")
        assert client.recv(100) == b"six"


def test_without_an_address_both_ipv4_and_ipv6_come_in(serve):
    port = serve("tcp", ("", "0", "80", "tcp")).ports[0]
    for address in ("127.0.0.1", "::1"):
        with connect(port, address) as client:
            client.sendall(b"x")
            assert client.recv(100) == b"x"


def test_one_direction_may_end_before_the_other(serve):
    with connect(serve("collect").ports[0]) as client:
        client.sendall(b"abc")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"cba"


def test_a_hundred_megabytes_come_back_whole(serve):
    port = serve("tcp").ports[0]
    block = os.urandom(1 << 20)
    with connect(port) as client:

        def send():
            for _ in range(100):
                client.sendall(block)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        count = 0
        pending = b""
        while data := client.recv(1 << 20):
            pending += data
            while len(pending) >= len(block):
                assert pending[: len(block)] == block
                pending = pending[len(block) :]
                count += 1
        sender.join()
    assert (count, pending) == (100, b"")


def test_a_receiver_that_is_slow_stops_the_sender_and_loses_nothing(serve):
    data = os.urandom(1 << 20) * 20
    with connect(serve("collect").ports[0]) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.3)
        assert receive_all(client) == data[::-1]


@pytest.mark.parametrize("chunks", range(1, 18))
def test_an_end_after_any_number_of_chunks_is_passed_on(serve, chunks):
    with connect(serve("collect").ports[0]) as client:
        for _ in range(chunks):
            client.sendall(b"x")
            time.sleep(0.002)
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"x" * chunks


def test_three_hundred_connections_are_open_at_once(serve):
    port = serve("tcp").ports[0]
    clients = [connect(port) for _ in range(300)]
    try:
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
        assert [client.recv(10) for client in clients] == [b"%d" % n for n in range(300)]
    finally:
        for client in clients:
            client.close()


def test_a_connection_that_breaks_breaks_on_the_other_side(serve):
    served = serve("none")
    # it may break so early that connect(2) says so
    with pytest.raises(ConnectionResetError), connect(served.ports[0]) as client:
        client.recv(1)
    served.process.stdin.close()  # now it listens
    assert served.process.stdout.readline() == "ready\n"
    with connect(served.ports[0]) as client:
        client.sendall(b"late")
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == b"etal"


def test_datagrams_come_back_to_everyone_who_sent_some(serve):
    port = serve("udp", ("", "0", "80", "udp")).ports[0]
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        senders = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(10)]
        for number, sender in enumerate(senders):
            sender.settimeout(30)
            sender.connect((address, port))
            sender.send(b"from %d" % number)
        for number, sender in enumerate(senders):
            assert sender.recv(100) == b"from %d"[::-1].replace(b"d%", b"%d" % number)
            sender.close()


def test_an_answer_to_a_datagram_comes_from_the_address_that_was_spoken_to(serve):
    port = serve("udp", ("", "0", "80", "udp")).ports[0]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(30)
        sender.connect(("127.0.0.9", port))
        sender.send(b"ab")
        assert sender.recv(100) == b"ba"


def test_several_ports_are_published_together(serve):
    one = ("127.0.0.1", "0", "80", "tcp")
    for port in serve("tcp", one, one).ports:
        with connect(port) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"


def test_a_port_that_is_taken_is_named(unprivileged):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        script = f"{unprivileged.checkout}/udocker/engines/sandbox"
        words = ["--network", "none", "--publish", "127.0.0.1", str(port), "80", "tcp"]
        command = [unprivileged.python, "-I", "-S", script, *words, "--flat", "/", "--", "true"]
        done = unprivileged.run(command, check=False)
    assert done.returncode == 125
    assert f"publish port 127.0.0.1:{port}/tcp" in done.stderr
    assert "in use" in done.stderr


def test_nothing_listens_any_more_when_the_container_has_ended(serve):
    for kill in (True, False):
        served = serve("none")
        if kill:
            served.process.kill()
        else:
            served.process.terminate()
        served.process.wait(30)
        for _ in range(100):
            with contextlib.suppress(ConnectionResetError), socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", served.ports[0])):
                    break
            time.sleep(0.02)
        else:
            raise AssertionError("somebody listens")


def test_the_proxy_rests_when_nothing_comes(serve, unprivileged):
    """Also with a client that has gone while the program has not read to the end."""
    served = serve("tcp")
    clients = [connect(served.ports[0]) for _ in range(3)]
    clients[0].shutdown(socket.SHUT_WR)
    clients[1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    clients[1].close()
    children = f"/proc/{served.process.pid}/task/{served.process.pid}/children"
    with open(children) as file:
        proxy = int(file.read().split()[0])
    before = cpu_ticks(proxy)
    select.select([], [], [], 0.5)
    assert cpu_ticks(proxy) - before <= 2
    for client in clients:
        client.close()


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
