"""A registry that takes uploads as the specification says, and can be cut in the middle of one.

docker's registry gives up an upload whose connection broke, so that going on where it broke off
can only be tried with another one.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from urllib.parse import parse_qs, urlsplit

from registries import Reply, Server

_UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/(\w*)$")
_BLOB = re.compile(r"/v2/(.+)/blobs/(sha\d+:\w+)$")
_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)$")


class UploadServer(Server):
    """`blobs` by (repository, digest), `manifests` by (repository, name).

    `cuts`: after so many bytes of each next PATCH the connection breaks; what came is kept.
    `largest`: a larger body is refused with 413. `least`: so large have pieces to be, it says.
    `vague`: what an upload has is told to who asks for that only. `whole`: Locations are whole
    addresses, with a query of their own.
    """

    def __init__(self, *, largest=None, least=0, whole=False):
        super().__init__()
        self.blobs, self.manifests, self.uploads = {}, {}, {}
        self.cuts = []
        self.largest, self.least, self.whole = largest, least, whole
        self.forgetful = 0
        """So many uploads are forgotten when their state is asked for."""
        self.vague = self.knows_subjects = False
        self.expired = False
        """The next upload is not known any more when it ends."""
        self.stall_s = 0
        """How long a PATCH waits until it is read."""
        self.lost_answers = 0
        """So many blobs get their name without an answer."""

    def receive(self, handler):
        length = int(handler.headers.get("Content-Length", 0))
        if self.largest and length > self.largest:
            handler.close_connection = True
            while length > 0:
                length -= len(handler.rfile.read(min(length, 1 << 16)))
            return None
        if handler.command == "PATCH" and self.stall_s:
            time.sleep(self.stall_s)
        if handler.command == "PATCH" and self.cuts:
            body = handler.rfile.read(min(self.cuts.pop(0), length))
            _, upload = _UPLOAD.match(urlsplit(handler.path).path).groups()
            self.uploads[upload] += body
            raise OSError("cut")
        return handler.rfile.read(length)

    def reply(self, asked):
        address = urlsplit(asked.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if asked.body is None:
            return Reply(413)
        if found := _UPLOAD.match(address.path):
            return getattr(self, asked.method.lower())(asked, query, *found.groups())
        if found := _BLOB.match(address.path):
            data = self.blobs.get(found.groups())
            return Reply(404) if data is None else Reply(200, {}, data)
        found = _MANIFEST.match(address.path)
        return self._manifest(asked, *found.groups()) if found else Reply(404)

    def post(self, asked, query, repository, _):
        if "mount" in query:
            data = self.blobs.get((query["from"], query["mount"]))
            if data is not None:
                self.blobs[repository, query["mount"]] = data
                return Reply(201, {"Location": "/"})
        name = f"u{len(self.uploads)}"
        self.uploads[name] = b""
        return self._taken(repository, name)

    def patch(self, asked, query, repository, name):
        has = len(self.uploads[name])
        sent = asked.headers.get("Content-Range")
        if sent and int(sent.partition("-")[0]) != has:
            return Reply(416)
        self.uploads[name] += asked.body
        return self._taken(repository, name)

    def put(self, asked, query, repository, name):
        if name not in self.uploads or self.expired:
            self.expired = False
            return Reply(404)
        data = self.uploads.pop(name) + asked.body
        algorithm, _, wanted = query["digest"].partition(":")
        if hashlib.new(algorithm, data).hexdigest() != wanted:
            return Reply(400, {}, b'{"errors":[{"code":"DIGEST_INVALID"}]}')
        self.blobs[repository, query["digest"]] = data
        if self.lost_answers:
            self.lost_answers -= 1
            return Reply(201, {"Content-Length": "5"}, cut_after=0)
        return Reply(201, {"Docker-Content-Digest": query["digest"]})

    def get(self, asked, query, repository, name):
        if self.forgetful:
            self.forgetful -= 1
            del self.uploads[name]
        return self._taken(repository, name, 204) if name in self.uploads else Reply(404)

    def _taken(self, repository, name, status=202):
        place = f"/v2/{repository}/blobs/uploads/{name}"
        if self.whole:
            place = f"{self.url}{place}?state=a%20b"
        headers = {"Location": place, "OCI-Chunk-Min-Length": str(self.least)}
        headers["Range"] = f"0-{max(0, len(self.uploads[name]) - 1)}"
        if self.vague and status == 202:
            headers["Range"] = "0-0"
        return Reply(status, headers)

    def _manifest(self, asked, repository, name):
        if asked.method == "PUT":
            kind = asked.headers["Content-Type"]
            found = f"sha256:{hashlib.sha256(asked.body).hexdigest()}"
            self.manifests[repository, name] = self.manifests[repository, found] = asked.body, kind
            headers = {"Docker-Content-Digest": found}
            if self.knows_subjects and (about := json.loads(asked.body).get("subject")):
                headers["OCI-Subject"] = about["digest"]
            return Reply(201, headers)
        data, kind = self.manifests.get((repository, name), (None, None))
        return Reply(404) if data is None else Reply(200, {"Content-Type": kind}, data)


class Wire:
    """Passes bytes on to a server. `cuts`: after so many bytes that a client sent on one
    connection it breaks, each number for one connection that gets as far."""

    def __init__(self, host):
        name, _, port = host.partition(":")
        self._upstream = name, int(port)
        self.cuts = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._open = set()

    def __enter__(self):
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        for end in list(self._open):
            _shut(end)

    def _accept(self):
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self._greet(client)
            server = socket.create_connection(self._upstream)
            self._open |= {client, server}
            for ends in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _greet(self, client):
        """Do nothing; a proxy is told here where to."""

    def _pass_on(self, source, sink, counted):
        passed = 0
        try:
            while data := source.recv(1 << 16):
                passed += len(data)
                if counted and self.cuts and passed > self.cuts[0]:
                    self.cuts.pop(0)
                    break
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                _shut(end)
                self._open.discard(end)


class Tunnel(Wire):
    """A proxy for `CONNECT` that leads wherever is asked for to one server; `wanted` tells what."""

    def __init__(self, host):
        super().__init__(host)
        self.wanted = []

    def _greet(self, client):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        self.wanted.append(head.split()[1].decode())
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")


def _shut(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    end.close()
