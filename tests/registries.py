"""Builders: registries on loopback, true ones and ones with faults, and images to put there."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import secrets
import shutil
import ssl
import subprocess
import threading
import time
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

KIND = "application/vnd.oci.image"
REF_NAME = "org.opencontainers.image.ref.name"
USER, PASSWORD = "alice", "correct horse: battery"


def needs(*programs):
    """Skip the test where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")


# Images


@dataclass
class Layout:
    """An OCI image layout in a directory; `add` writes an image of opaque layers into it."""

    directory: str
    manifests: list = field(default_factory=list)

    def __post_init__(self):
        os.makedirs(f"{self.directory}/blobs/sha256", exist_ok=True)
        self._write("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        self._write_index()

    def add(self, name, layers):
        """Write an image and return its manifest's descriptor."""
        config = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{KIND}.manifest.v1+json",
            "config": self.blob(json.dumps(config).encode(), f"{KIND}.config.v1+json"),
            "layers": [self.blob(layer, f"{KIND}.layer.v1.tar") for layer in layers],
        }
        return self.add_document(name, manifest)

    def add_document(self, name, document):
        entry = self.blob(json.dumps(document).encode(), document["mediaType"])
        self.manifests.append({**entry, "annotations": {REF_NAME: name}})
        self._write_index()
        return entry

    def name(self, entry, names):
        """Give an image further names."""
        self.manifests += [{**entry, "annotations": {REF_NAME: name}} for name in names]
        self._write_index()

    def blob(self, data, media_type):
        self._write(f"blobs/sha256/{hashlib.sha256(data).hexdigest()}", data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def read(self, descriptor):
        with open(f"{self.directory}/blobs/{descriptor['digest'].replace(':', '/')}", "rb") as file:
            return file.read()

    def layers(self, descriptor):
        return json.loads(self.read(descriptor))["layers"]

    def _write_index(self):
        index = {"schemaVersion": 2, "manifests": self.manifests}
        self._write("index.json", json.dumps(index).encode())

    def _write(self, name, data):
        with open(f"{self.directory}/{name}", "wb") as file:
            file.write(data)


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


# Servers of a few lines


@dataclass
class Asked:
    """A request that a server has seen."""

    method: str
    path: str
    headers: object
    body: bytes


@dataclass
class Reply:
    """An answer; `cut_after` bytes of the body the connection breaks or, with `stall_s`, stops."""

    status: int = 200
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    stall_s: float = 0


class Server:
    """An HTTP server at a free port of 127.0.0.1, or `port`, that answers with `reply(asked)`."""

    def __init__(self, reply=None, tls=None, port=0):
        self.asked = []
        self.reply = reply or self.reply
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler_class())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            if tls.clients:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(tls.clients)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reply(self, asked):
        return Reply()

    def paths(self, method="GET"):
        return [asked.path for asked in self.asked if asked.method == method]

    def _handler_class(self):
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            timeout = 20

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def answer(self):
                asked = Asked(self.command, self.path, self.headers, owner.receive(self))
                owner.asked.append(asked)
                owner.send(self, owner.reply(asked))

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_CONNECT = answer

            def log_message(self, *_):
                pass

        return Handler

    def receive(self, handler):
        """Return the body of a request; an OSError breaks the connection."""
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))

    def send(self, handler, reply):
        handler.send_response(reply.status)
        headers = {"Content-Length": str(len(reply.body)), **reply.headers}
        for name, value in headers.items():
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        body = b"" if handler.command == "HEAD" else reply.body
        handler.wfile.write(body[: reply.cut_after])
        if reply.cut_after is not None:
            time.sleep(reply.stall_s)
            handler.close_connection = True


class Proxy(Server):
    """Stands before a registry and alters what passes: `faults` are (part of a path, change).

    A change takes the asked and the true reply and returns another one; it is used up by one
    request unless it is added with `times`.
    """

    def __init__(self, upstream):
        super().__init__()
        self._upstream = upstream
        self.faults = []

    def add(self, path, change, times=1):
        self.faults += [(path, change)] * times

    def reply(self, asked):
        reply = self._fetch(asked)
        for fault in self.faults:
            if fault[0] in asked.path:
                self.faults.remove(fault)
                return fault[1](asked, reply)
        return reply

    def _fetch(self, asked, without=("host", "connection")):
        connection = http.client.HTTPConnection(self._upstream, timeout=20)
        headers = {k: v for k, v in asked.headers.items() if k.lower() not in without}
        connection.request(asked.method, asked.path, asked.body or None, headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return Reply(answer.status, dict(answer.getheaders()), body)

    # Changes

    def cut(self, after, stall_s=0):
        return lambda asked, reply: replace(reply, cut_after=after, stall_s=stall_s)

    def whole(self, asked, reply):
        """Send everything, as a server does that does not know ranges."""
        return self._fetch(asked, without=("host", "connection", "range"))


def status(code, headers=None, body=b""):
    """A change: another status instead of the answer."""
    return lambda asked, reply: Reply(code, headers or {}, body)


def headers(**changed):
    """A change: headers replaced (`_` stands for `-`), or left out with None."""

    def change(asked, reply):
        new = {name.replace("_", "-").lower(): value for name, value in changed.items()}
        old = {name: value for name, value in reply.headers.items() if name.lower() not in new}
        return replace(reply, headers={**old, **new})

    return change


def body(function):
    """A change: the body that `function` makes of the true one."""

    def change(asked, reply):
        rest = {k: v for k, v in reply.headers.items() if k.lower() != "content-length"}
        return replace(reply, body=function(reply.body), headers=rest)

    return change


# Real registries


@dataclass
class Tls:
    """A key and a certificate for 127.0.0.1 that signs itself.

    `clients`: a server lets in who shows a certificate that is in this file.
    """

    key: str
    certificate: str
    clients: str = ""

    @staticmethod
    def make(directory, names="IP:127.0.0.1,DNS:localhost"):
        needs("openssl")
        tls = Tls(f"{directory}/key.pem", f"{directory}/certificate.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
            + ["-subj", "/CN=udocker test", "-addext", f"subjectAltName={names}"]
            + ["-keyout", tls.key, "-out", tls.certificate],
            check=True,
            capture_output=True,
        )
        return tls

    def sign(self, data):
        """Return the RS256 signature of `data`."""
        command = ["openssl", "dgst", "-sha256", "-sign", self.key]
        return subprocess.run(command, input=data, check=True, capture_output=True).stdout

    def x5c(self):
        with open(self.certificate) as file:
            return ["".join(file.read().split("-----")[2].split())]


class TokenServer(Server):
    """A token server: signed tokens for USER, and for everybody where `anonymous`.

    Source: distribution, docs/spec/auth/token.md, jwt.md and oauth.md.
    """

    service = "tests"
    refresh_token = "an-identity-token"

    def __init__(self, tls, *, anonymous=True, life_s=300, key="token"):
        super().__init__()
        self.tls, self.anonymous, self.life_s, self.key = tls, anonymous, life_s, key

    def reply(self, asked):
        query = parse_qs(urlsplit(asked.path).query)
        if asked.method == "POST":
            query = parse_qs(asked.body.decode())
            allowed = query.get("refresh_token") == [self.refresh_token]
            known = allowed and query.get("grant_type") == ["refresh_token"]
        else:
            basic = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
            sent = asked.headers.get("Authorization")
            known, allowed = sent == basic, sent == basic or (sent is None and self.anonymous)
        if not allowed:
            errors = {"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}
            return Reply(401, {}, json.dumps(errors).encode())
        scopes = " ".join(query.get("scope", [])).split()
        answer = {self.key: self._token(scopes, known), "expires_in": self.life_s}
        return Reply(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _token(self, scopes, known):
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": self.tls.x5c()}
        claims = {
            "iss": "issuer",
            "sub": USER if known else "",
            "aud": self.service,
            "exp": now + max(int(self.life_s), 1),
            "nbf": now - 60,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": [self._access(scope, known) for scope in scopes],
        }
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (head, claims))
        return b".".join((signed, _base64url(self.tls.sign(signed)))).decode()

    @staticmethod
    def _access(scope, known):
        kind, name, actions = scope.split(":")
        granted = [a for a in actions.split(",") if known or a == "pull"]
        return {"type": kind, "name": name, "actions": granted}


def _base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class DockerRegistry:
    """A docker-registry at a free port of 127.0.0.1, `host` while it runs.

    `passwords`: wants USER with PASSWORD (Basic). `tokens`: wants tokens of that TokenServer.
    `tls`: speaks https with that certificate.
    """

    def __init__(self, directory, *, passwords=False, tokens=None, tls=None):
        needs("docker-registry")
        self._directory = str(directory)
        os.makedirs(self._directory, exist_ok=True)
        self._tls = tls
        self._config = {
            "version": "0.1",
            "log": {"formatter": "json"},
            "storage": {"filesystem": {"rootdirectory": f"{self._directory}/storage"}},
            "http": {"addr": "127.0.0.1:0"},
        }
        if tls:
            self._config["http"]["tls"] = {"certificate": tls.certificate, "key": tls.key}
            if tls.clients:
                self._config["http"]["tls"]["clientcas"] = [tls.clients]
        if passwords:
            self._config["auth"] = {"htpasswd": {"realm": "tests", "path": self._htpasswd()}}
        if tokens:
            self._config["auth"] = {
                "token": {
                    "realm": f"{tokens.url}/token",
                    "service": tokens.service,
                    "issuer": "issuer",
                    "rootcertbundle": tokens.tls.certificate,
                }
            }

    def start(self):
        """Start it and return its host."""
        path = f"{self._directory}/config.yml"
        with open(path, "w") as file:
            json.dump(self._config, file)  # JSON is YAML
        environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
        self._process = subprocess.Popen(
            ["docker-registry", "serve", path],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for line in self._process.stderr:
            if "listening on" in line:
                self.host = json.loads(line)["msg"].split("listening on ")[1].split(",")[0]
                break
        else:
            raise AssertionError("docker-registry does not start")
        self._reader = threading.Thread(target=self._process.stderr.read)
        self._reader.start()
        return self.host

    def stop(self):
        self._process.terminate()
        self._process.wait(20)
        self._reader.join()
        self._process.stderr.close()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def push(self, layout, name, repository_and_tag, certificates=None):
        """Copy the image `name` of a layout into the registry, with skopeo.

        `certificates` is a directory with those of the client.
        """
        needs("skopeo")
        options = ["--insecure-policy", "copy", "--preserve-digests", "--dest-tls-verify=false"]
        if "auth" in self._config:
            options += ["--dest-creds", f"{USER}:{PASSWORD}"]
        if certificates:
            options.append(f"--dest-cert-dir={certificates}")
        target = f"docker://{self.host}/{repository_and_tag}"
        source = f"oci:{layout.directory}:{name}"
        subprocess.run(["skopeo", *options, source, target], check=True, capture_output=True)

    def _htpasswd(self):
        needs("htpasswd")
        path = f"{self._directory}/htpasswd"
        command = ["htpasswd", "-nbB", "-C", "4", USER, PASSWORD]
        line = subprocess.run(command, check=True, capture_output=True).stdout
        with open(path, "wb") as file:
            file.write(line.strip() + b"\n")
        return path
