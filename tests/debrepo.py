"""Debian repositories made small: real packages by dpkg-deb, signed by gpg, served on loopback."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import lzma
import os
import platform
import shutil
import subprocess
import threading

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "all")
SUITE = "test"
LIBRARY = "libudockertest.so.3"
LIBRARY_C = "int udockertest_version(void) { return 9; }\n"
PROGRAM_C = """
#include <stdio.h>
int udockertest_version(void);
int main(void) { printf("proot 5.%d.0\\n", udockertest_version()); return 0; }
"""


class Keys:
    """Somebody who signs: a secret key, and the keyring with which others verify."""

    def __init__(self, directory):
        self.home = directory
        os.mkdir(directory, 0o700)
        key = ["--quick-gen-key", f"{os.path.basename(directory)}@example.org", "ed25519", "sign"]
        self._gpg("--passphrase", "", *key, "never")
        self.keyring = f"{directory}.gpg"
        self._gpg("--output", self.keyring, "--export")
        self.armored = self._gpg("--armor", "--export").decode()

    def clearsigned(self, data):
        """Return `data` with a signature around it."""
        return self._gpg("--clear-sign", data=data)

    def detached(self, data):
        """Return a signature of `data`, armored."""
        return self._gpg("--armor", "--detach-sign", data=data)

    def fingerprint(self):
        """Return the fingerprint of the key, in hex."""
        listed = self._gpg("--with-colons", "--list-keys").decode().splitlines()
        return next(line.split(":")[9] for line in listed if line.startswith("fpr:"))

    def close(self):
        """Let the agent end, which gpg has started."""
        env = {**os.environ, "GNUPGHOME": self.home}
        subprocess.run(["gpgconf", "--kill", "all"], env=env, check=False)

    def _gpg(self, *words, data=b""):
        command = ["gpg", "--batch", "--quiet", "--homedir", self.home, *words]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout


class Repository:
    """A directory with packages, that `publish` makes a repository."""

    def __init__(self, path, keys):
        self.path, self.keys = path, keys
        os.makedirs(f"{path}/pool")
        self._stanzas = []

    def add(self, name, version, files, depends="", compression="xz"):
        """Make a package of `files`: paths, and bytes or (for a link) `-> target`."""
        tree = f"{self.path}/tree"
        for path, content in {**files, "DEBIAN/control": None}.items():
            os.makedirs(os.path.dirname(f"{tree}/{path}"), exist_ok=True)
            if isinstance(content, str):
                os.symlink(content.partition("-> ")[2], f"{tree}/{path}")
            elif content is not None:
                with open(f"{tree}/{path}", "wb") as file:
                    file.write(content)
                os.chmod(f"{tree}/{path}", 0o755)
        fields = f"Package: {name}\nVersion: {version}\nArchitecture: {ARCHITECTURE}\n"
        fields += "Maintainer: nobody <nobody@example.org>\nDescription: a test\n"
        fields += f"Depends: {depends}\n" if depends else ""
        with open(f"{tree}/DEBIAN/control", "w") as file:
            file.write(fields)
        deb = f"pool/{name}_{version.replace(':', '%3a')}_{ARCHITECTURE}.deb"
        build = ["dpkg-deb", f"-Z{compression}", "--root-owner-group", "--build", tree]
        subprocess.run([*build, f"{self.path}/{deb}"], capture_output=True, check=True)
        shutil.rmtree(tree)
        self.list(fields, deb)
        return f"{self.path}/{deb}"

    def list(self, fields, deb):
        """Put the package at `deb` into the list."""
        data = read(f"{self.path}/{deb}")
        sha256 = hashlib.sha256(data).hexdigest()
        fields += f"Filename: {deb}\nSize: {len(data)}\nSHA256: {sha256}\n"
        self._stanzas.append(fields)

    def publish(self, *, by_hash=False, fields="", suffixes=(".xz", ".gz"), clearsign=True):
        """Write the lists and the signed index."""
        base = f"{self.path}/dists/{SUITE}"
        directory = f"main/binary-{ARCHITECTURE}"
        shutil.rmtree(base, ignore_errors=True)
        text = "\n".join(self._stanzas).encode()
        lists = {"": text, ".xz": lzma.compress(text), ".gz": gzip.compress(text, mtime=0)}
        sums = ""
        for suffix in suffixes:
            data = lists[suffix]
            sha256 = hashlib.sha256(data).hexdigest()
            place = f"by-hash/SHA256/{sha256}" if by_hash else f"Packages{suffix}"
            write(f"{base}/{directory}/{place}", data)
            sums += f" {sha256} {len(data)} {directory}/Packages{suffix}\n"
        release = f"Origin: Tests\nCodename: {SUITE}\n{fields}"
        release += f"Acquire-By-Hash: {'yes' if by_hash else 'no'}\nSHA256:\n{sums}"
        if clearsign:
            write(f"{base}/InRelease", self.keys.clearsigned(release.encode()))
        else:
            write(f"{base}/Release", release.encode())
            write(f"{base}/Release.gpg", self.keys.detached(release.encode()))


class Server:
    """Serves a directory on loopback while it is entered; `url` is its address."""

    def __init__(self, directory):
        handler = functools.partial(_Quiet, directory=directory)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def compiled(directory):
    """Return a program that needs LIBRARY, and that library."""
    write(f"{directory}/library.c", LIBRARY_C.encode())
    write(f"{directory}/program.c", PROGRAM_C.encode())
    library, program = f"{directory}/{LIBRARY}", f"{directory}/program"
    shared = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-o", library]
    subprocess.run([*shared, f"{directory}/library.c"], check=True)
    subprocess.run(["gcc", "-o", program, f"{directory}/program.c", library], check=True)
    return read(program), read(library)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
