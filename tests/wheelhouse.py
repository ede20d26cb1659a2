"""Wheels without a network: what is installed, packed again as it came."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import re
import threading
import zipfile
from importlib.metadata import distributions

NOT_OF_THE_WHEEL = ("INSTALLER", "REQUESTED", "direct_url.json")


def write_wheels(names, paths, directory):
    """Write a wheel of each distribution in `names` that is installed, and of all they need."""
    installed = {canonical(found.metadata["Name"]): found for found in distributions(path=paths)}
    pending, done = [canonical(name) for name in names], set()
    while pending:
        name = pending.pop()
        if name in installed and name not in done:
            done.add(name)
            write_wheel(installed[name], directory)
            pending += [canonical(need) for need in installed[name].requires or [] if plain(need)]


def write_wheel(found, directory):
    """Pack the files of an installed distribution as the wheel that they were installed from."""
    stem = f"{found.metadata['Name'].replace('-', '_')}-{found.version}"
    with zipfile.ZipFile(os.path.join(directory, f"{stem}-{_tag(found)}.whl"), "w") as wheel:
        for file in found.files:
            inside = ".." not in file.parts and file.suffix != ".pyc"
            if inside and file.name not in NOT_OF_THE_WHEEL:
                wheel.write(found.locate_file(file), str(file))


def canonical(requirement):
    """Return the name in a requirement as indexes write it. Source: PEP 503."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def plain(requirement):
    """Tell whether a requirement is of the distribution itself and not of one of its extras."""
    return "extra" not in requirement.partition(";")[2]


def _tag(found):
    lines = found.read_text("WHEEL").splitlines()
    tags = [line.partition(":")[2].strip().split("-") for line in lines if line.startswith("Tag:")]
    return "-".join(".".join(dict.fromkeys(part)) for part in zip(*tags))


class Index:
    """A package index on loopback that serves the wheels of a directory. Source: PEP 503.

    With `user` (`name:password`) it wants that one (Basic), for its pages and for its files.
    """

    def __init__(self, directory, user=None):
        secret = user and f"Basic {base64.b64encode(user.encode()).decode()}"
        handler = type("Handler", (_Handler,), {"wheels": directory, "secret": secret})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.secret and self.headers["Authorization"] != self.secret:
            self.send_error(401)
            return
        kind, _, name = self.path.strip("/").partition("/")
        body = self._page(name) if kind == "simple" else self._file(name)
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Type", "text/html" if kind == "simple" else "application/zip")
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def _page(self, name):
        links = [
            f'<a href="/wheels/{file}#sha256={hashlib.sha256(self._file(file)).hexdigest()}"'
            f' data-requires-python="&gt;=3.6">{file}</a>'
            for file in os.listdir(self.wheels)
            if canonical(file.partition("-")[0]) == name
        ]
        return "".join(links).encode() if links else None

    def _file(self, name):
        with open(os.path.join(self.wheels, os.path.basename(name)), "rb") as file:
            return file.read()

    def log_message(self, *_):
        """Say nothing: the output of a test is the test's."""
