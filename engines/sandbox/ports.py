"""Published ports: a proxy from the host's network to a container that has one of its own.

The listeners are opened on the host, before the container's network is entered, and keep to it;
what the proxy opens later is of the container's. One loop serves all connections. Nothing is
imported while it runs: the container's root has taken the place of the host's by then.
Source: network_namespaces(7), epoll(7), ip(7) IP_PKTINFO.
"""

from __future__ import annotations

import errno
import resource
import select
import socket
import struct
import sys
import time

from udocker.engines.sandbox.kernel import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

CHUNK_BYTES = 256 * 1024
DATAGRAM_BYTES = 65536
ROUNDS = 16
"""How much of one connection is passed on before others have their turn: rounds of a chunk."""
PEERS, SILENCE_S = 4096, 60
"""Senders of datagrams that are remembered for answers, and for how long after the last one."""
LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_NOW_OR_NEVER = struct.pack("ii", 1, 0)
"""SO_LINGER: closing breaks the connection, as it was broken on the other side."""
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50


class Port:
    """A port of the host, open, and the port of the container that it leads to."""

    def __init__(self, host_ip: str, host_port: int, port: int, protocol: str) -> None:
        """`host_ip` may be empty: all addresses; `host_port` 0: any free one."""
        self.port = port
        self.protocol = protocol
        self.socket = _listen(host_ip, host_port, protocol)
        if not host_port:
            number = self.socket.getsockname()[1]
            text = f"port {port}/{protocol} of the container is port {number} of this host"
            print(f"udocker: note: {text}", file=sys.stderr)


def _listen(host_ip: str, host_port: int, protocol: str) -> socket.socket:
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}.get(protocol)
    if kind is None:
        raise SandboxError(f"publish port {host_port}: {protocol} has no ports to publish")
    problem: OSError | None = None
    for family, address in _addresses(host_ip):
        listener = None
        try:
            listener = socket.socket(family, kind)
            _set_up(listener, both=not host_ip)
            listener.bind((address, host_port))
            if kind == socket.SOCK_STREAM:
                listener.listen(1024)
            listener.setblocking(False)
            return listener
        except OSError as error:
            problem = error
            if listener is not None:
                listener.close()
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                break
    where = f"{host_ip}:{host_port}" if host_ip else str(host_port)
    step = f"publish port {where}/{protocol} of this host"
    if problem and problem.errno == errno.EACCES:
        step += " (ports below net.ipv4.ip_unprivileged_port_start are root's)"
    raise SandboxError(step, problem.errno if problem else None) from problem


def _addresses(host_ip: str) -> tuple[tuple[int, str], ...]:
    if not host_ip:
        return ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0"))  # noqa: S104
    return ((socket.AF_INET6 if ":" in host_ip else socket.AF_INET, host_ip),)


def _set_up(listener: socket.socket, *, both: bool) -> None:
    """Let IPv6 and IPv4 come in; let datagrams say which address of the host they came to."""
    datagrams = listener.type == socket.SOCK_DGRAM
    if not datagrams:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        if datagrams:
            listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    elif datagrams:
        listener.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def serve(ports: Sequence[Port]) -> NoReturn:
    """Pass on what comes to the ports, in the network of this process, for ever."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop = _Loop()
    for port in ports:
        if port.protocol == "udp":
            _Datagrams(loop, port)
        else:
            _Door(loop, port)
    loop.run()


class _Loop:
    """Calls whoever waits for a socket, when something happens there; sleeps otherwise."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._actions: dict[int, Callable[[], None]] = {}
        self._events: dict[int, int] = {}
        self.timers: list[Callable[[], bool]] = []
        """Called now and then; they say whether they want to be called again."""
        self.freed: list[Callable[[], None]] = []
        """Called when a descriptor has been closed."""

    def wait_for(self, fd: int, events: int, action: Callable[[], None]) -> None:
        """Call `action` when one of the events is there; with none of them nobody waits.

        A socket without events is taken out: its end would be reported over and over.
        """
        before = self._events.get(fd, 0)
        if events == before:
            return
        if not events:
            self._epoll.unregister(fd)
            del self._events[fd], self._actions[fd]
            return
        change = self._epoll.modify if before else self._epoll.register
        change(fd, events)
        self._events[fd], self._actions[fd] = events, action

    def close(self, connection: socket.socket) -> None:
        """Close a socket; who had too many open may go on."""
        if connection.fileno() >= 0:
            self.wait_for(connection.fileno(), 0, _nothing)
            connection.close()
        waiting, self.freed = self.freed, []
        for action in waiting:
            action()

    def run(self) -> NoReturn:
        """Serve for ever."""
        while True:
            for fd, _ in self._epoll.poll(SILENCE_S / 4 if self.timers else -1):
                action = self._actions.get(fd)
                if action is not None:  # closed meanwhile, by the action of another one
                    action()
            self.timers = [timer for timer in self.timers if timer()]


def _nothing() -> None:
    pass


class _Door:
    """A listener: every connection that comes gets a partner in the container."""

    def __init__(self, loop: _Loop, port: Port) -> None:
        self._loop = loop
        self._port = port
        self._open()

    def _open(self) -> None:
        self._loop.wait_for(self._port.socket.fileno(), select.EPOLLIN, self._accept)

    def _accept(self) -> None:
        for _ in range(ROUNDS):
            try:
                outside, _address = self._port.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._close_for_a_while()
                    return
                continue  # the peer has gone already
            _Connection(self._loop, outside, self._port.port)

    def _close_for_a_while(self) -> None:
        """Accept again when something has been closed: trying at once would never rest."""
        self._loop.wait_for(self._port.socket.fileno(), 0, _nothing)
        self._loop.freed.append(self._open)


class _Connection:
    """A connection from outside and its partner in the container."""

    def __init__(self, loop: _Loop, outside: socket.socket, port: int) -> None:
        self._loop = loop
        self._outside = outside
        self._inside = outside
        self._port = port
        self._left = list(LOOPBACKS)
        self._ways: tuple[_Way, ...] = ()
        outside.setblocking(False)
        self._connect()

    def _connect(self) -> None:
        """Try the next address of the container's; break the connection when none is left."""
        while self._left:
            family, address = self._left.pop(0)
            try:
                self._inside = socket.socket(family, socket.SOCK_STREAM)
                self._inside.setblocking(False)
                result = self._inside.connect_ex((address, self._port))
            except OSError:  # no such family here, or too many open files
                continue
            if result in (0, errno.EINPROGRESS):
                self._loop.wait_for(self._inside.fileno(), select.EPOLLOUT, self._connected)
                return
            self._inside.close()
        self._break()

    def _connected(self) -> None:
        if self._inside.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._loop.close(self._inside)
            self._connect()
            return
        for end in (self._outside, self._inside):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        there, back = _Way(self._outside, self._inside), _Way(self._inside, self._outside)
        self._ways = (there, back)
        self._move()

    def _move(self) -> None:
        try:
            for way in self._ways:
                way.move()
        except OSError:
            self._break()
            return
        there, back = self._ways
        if there.done and back.done:
            self._loop.close(self._outside)
            self._loop.close(self._inside)
            return
        for end, from_it, to_it in (
            (self._outside, there, back),
            (self._inside, back, there),
        ):
            events = select.EPOLLIN if from_it.wants_more() else 0
            events |= select.EPOLLOUT if to_it.is_stuck() else 0
            self._loop.wait_for(end.fileno(), events, self._move)

    def _break(self) -> None:
        for end in {self._outside, self._inside}:
            if end.fileno() >= 0:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW_OR_NEVER)
            self._loop.close(end)


class _Way:
    """One direction of a connection; its end is passed on, and the other direction stays."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source = source
        self._sink = sink
        self._held = memoryview(b"")
        self.done = False

    def wants_more(self) -> bool:
        """Tell whether more may come from the source."""
        return not self.done and not self._held

    def is_stuck(self) -> bool:
        """Tell whether the sink is to be waited for."""
        return bool(self._held)

    def move(self) -> None:
        """Pass on what is there, up to a limit. Raises OSError when an end is broken."""
        for _ in range(0 if self.done else ROUNDS):
            try:
                if self._held:
                    self._held = self._held[self._sink.send(self._held) :]
                else:
                    self._held = memoryview(self._source.recv(CHUNK_BYTES))
                    if not self._held:
                        self._finish()
                        return
            except BlockingIOError:
                return

    def _finish(self) -> None:
        self.done = True
        self._sink.shutdown(socket.SHUT_WR)


class _Peer:
    """Who sends datagrams from outside: a socket in the container that speaks for it."""

    def __init__(
        self, address: object, ancillary: list[tuple[int, int, bytes]], inside: socket.socket
    ) -> None:
        self.address = address
        self.ancillary = ancillary
        """Which address of the host it spoke to: the answers come from there."""
        self.socket = inside
        self.last = 0.0


class _Datagrams:
    """A port for datagrams: every sender gets a socket of its own in the container."""

    def __init__(self, loop: _Loop, port: Port) -> None:
        self._loop = loop
        self._port = port
        self._outside = port.socket
        self._peers: dict[object, _Peer] = {}
        self._loopback = 0
        loop.wait_for(self._outside.fileno(), select.EPOLLIN, self._receive)

    def _receive(self) -> None:
        for _ in range(ROUNDS):
            try:
                data, ancillary, _, address = self._outside.recvmsg(DATAGRAM_BYTES, 256)
            except BlockingIOError:
                return
            except OSError:  # an answer of ours was refused
                continue
            kept = [item for item in ancillary if item[1] in (_IP_PKTINFO, _IPV6_PKTINFO)]
            peer = self._peers.pop(address, None) or self._new_peer(address, kept)
            if peer is not None:
                self._peers[address] = peer  # at the end: the first is the one longest silent
                peer.last = time.monotonic()
                self._deliver(peer, data)

    def _new_peer(self, address: object, ancillary: list[tuple[int, int, bytes]]) -> _Peer | None:
        while len(self._peers) >= PEERS:
            self._forget(next(iter(self._peers.values())))
        family, loopback = LOOPBACKS[self._loopback]
        try:
            inside = socket.socket(family, socket.SOCK_DGRAM)
            inside.setblocking(False)
            inside.connect((loopback, self._port.port))
        except OSError:  # no such family here, or too many open files
            return None
        peer = _Peer(address, ancillary, inside)
        self._loop.wait_for(peer.socket.fileno(), select.EPOLLIN, lambda: self._answer(peer))
        if self._forget_silent not in self._loop.timers:
            self._loop.timers.append(self._forget_silent)
        return peer

    def _deliver(self, peer: _Peer, data: bytes) -> None:
        try:
            peer.socket.send(data)
        except BlockingIOError:  # full: datagrams may be lost
            pass
        except OSError:
            self._refused(peer)

    def _answer(self, peer: _Peer) -> None:
        for _ in range(ROUNDS):
            try:
                data = peer.socket.recv(DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:
                self._refused(peer)
                return
            peer.last = time.monotonic()
            try:
                self._outside.sendmsg([data], peer.ancillary, 0, peer.address)  # type: ignore[arg-type]
            except OSError:  # full, or the peer is gone: datagrams may be lost
                pass

    def _refused(self, peer: _Peer) -> None:
        """Nobody listens on this loopback address: the next sender tries the other one."""
        self._loopback = 1 - self._loopback
        self._forget(peer)

    def _forget(self, peer: _Peer) -> None:
        self._peers.pop(peer.address, None)
        self._loop.close(peer.socket)

    def _forget_silent(self) -> bool:
        oldest = time.monotonic() - SILENCE_S
        for peer in list(self._peers.values()):
            if peer.last >= oldest:
                break
            self._forget(peer)
        return bool(self._peers)
