"""A way to a registry that brings little: python3 benchslow.py PORT UPSTREAM MB/S MS

Every connection to 127.0.0.1:PORT goes on to UPSTREAM; what comes back is held to so many
megabytes a second on each of them, and the first byte of every answer comes so late. Ends with
its standard input.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

PIECE_BYTES = 64 << 10
AHEAD_S = 0.02
"""Of its rate; more would be a burst that a way has no room for."""


class Connection:
    """One connection of a client, and ours for it to the registry."""

    def __init__(self, client: socket.socket, upstream: tuple[str, int], rate: float, late: float):
        self._client = client
        self._server = socket.create_connection(upstream)
        for end in (self._client, self._server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # else the kernel takes megabytes from the registry, and gives them, at any speed
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * PIECE_BYTES)
        self._rate, self._late = rate, late
        self._asked = threading.Event()
        for work in (self._ask, self._answer):
            threading.Thread(target=work, daemon=True).start()

    def _ask(self) -> None:
        try:
            while data := self._client.recv(PIECE_BYTES):
                self._asked.set()
                self._server.sendall(data)
        except OSError:
            pass
        self._end()

    def _answer(self) -> None:
        free_s = 0.0
        try:
            while data := self._server.recv(PIECE_BYTES):
                if self._asked.is_set():
                    self._asked.clear()
                    time.sleep(self._late)
                now = time.monotonic()
                free_s = max(free_s, now - AHEAD_S) + len(data) / self._rate
                if free_s > now:
                    time.sleep(free_s - now)
                self._client.sendall(data)
        except OSError:
            pass
        self._end()

    def _end(self) -> None:
        for end in (self._client, self._server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def main() -> None:
    """Pass connections on until standard input ends."""
    port, upstream, rate, late = sys.argv[1:]
    host, _, upstream_port = upstream.rpartition(":")
    listener = socket.create_server(("127.0.0.1", int(port)))

    def accept() -> None:
        while True:
            client = listener.accept()[0]
            Connection(client, (host, int(upstream_port)), float(rate) * 1e6, float(late) / 1e3)

    threading.Thread(target=accept, daemon=True).start()
    while os.read(0, 1):
        pass


if __name__ == "__main__":
    main()
