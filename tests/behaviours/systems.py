"""The systems in which every engine is tried: three Debian releases, and musl with busybox."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import subprocess
import tarfile
from contextlib import contextmanager

from images import add_image
from registries import KIND, Layout, digest, needs
from unprivileged import remove_tree, scratch_directory

from udocker.host.probe import Host
from udocker.provision.sources import configured

RELEASES = ("bullseye", "bookworm", "trixie")
NAMES = (*RELEASES, "musl")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HELLO = r"""
#include <stdio.h>
int main(void) { puts("hello from musl"); return 0; }
"""
LEFT_OUT = ("./dev/*", "./var/cache/apt/*", "./var/log/*")


@contextmanager
def shared_layout(directory):
    """Give a directory for OCI layouts that all workers of a run share; the last removes it."""
    os.makedirs(directory, exist_ok=True)
    pointer = f"{directory}/systems"
    with open(f"{pointer}.users", "a") as users, open(f"{pointer}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        if not os.path.exists(pointer):
            os.symlink(scratch_directory(), pointer)
        fcntl.flock(lock, fcntl.LOCK_UN)
        path = os.path.realpath(pointer)
        try:
            yield path
        finally:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_tree(path)
                os.unlink(pointer)
            except BlockingIOError:  # another worker is not through yet
                pass


def layout_of(name, directory):
    """Return the OCI layout of a system, whose image has the tag `1`; made where it is not."""
    path = f"{directory}/{name}"
    with open(f"{path}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(f"{path}/index.json"):
            remove_tree(path)
            layer = _musl() if name == "musl" else _debian(name, directory)
            process = {"Env": [f"PATH={PATH}", "GREETING=hello"], "Cmd": ["/bin/sh"]}
            add_image(Layout(f"{path}.new"), f"{name}:1", [layer], compression="", **process)
            os.rename(f"{path}.new", path)
    return path


def install_libraries(user):
    """Install libfakechroot of all releases, from the mirror that this machine has configured."""
    mirror = configured(Host(), "amd64")[0].uri
    path = f"{user.home}/releases.sources"
    with open(path, "w") as file:
        file.write(f"Types: deb\nURIs: {mirror}\nSuites: {' '.join(RELEASES)}\nComponents: main\n")
        file.write("Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n")
    user.udocker("install", f"--sources={path}", "libfakechroot")


def derived(layout, directory, name, files, env):
    """Write an image into the OCI layout `directory`: that of `layout` with `files` over it.

    Files are bytes by path; a str is what a symbolic link says.
    """
    made = Layout(directory)
    manifest = _blob(layout, _document(layout, "index.json")["manifests"][0])
    config = _blob(layout, manifest["config"])
    for layer in manifest["layers"]:
        blob = f"blobs/{layer['digest'].replace(':', '/')}"
        _link_or_copy(f"{layout}/{blob}", f"{directory}/{blob}")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, content in files.items():
            link = content if isinstance(content, str) else ""
            kind = tarfile.SYMTYPE if link else tarfile.REGTYPE
            _add(tar, path, b"" if link else content, kind=kind, mode=0o755, link=link)
    over = stream.getvalue()
    config["rootfs"]["diff_ids"].append(digest(over))
    config["config"]["Env"] += env
    manifest["layers"].append(made.blob(over, f"{KIND}.layer.v1.tar"))
    manifest["config"] = made.blob(json.dumps(config).encode(), f"{KIND}.config.v1+json")
    made.add_document(name, manifest)


def _blob(layout, descriptor):
    return _document(layout, f"blobs/{descriptor['digest'].replace(':', '/')}")


def _document(layout, path):
    with open(f"{layout}/{path}", "rb") as file:
        return json.load(file)


def _link_or_copy(source, destination):
    try:
        os.link(source, destination)
    except OSError:  # another file system
        shutil.copyfile(source, destination)


def _debian(release, directory):
    """Return debootstrap's minimal system as a tar archive, with a few traps for engines."""
    needs("debootstrap")
    tree = f"{directory}/{release}.tree"
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=python3", release, tree],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    os.makedirs(f"{tree}/srv/real")
    os.symlink("/srv/real", f"{tree}/srv/link")
    left_out = [f"--exclude={pattern}" for pattern in LEFT_OUT]
    archive = subprocess.run(
        ["tar", "-C", tree, *left_out, "-c", "."], capture_output=True, check=True
    ).stdout
    remove_tree(tree)
    return archive


def _musl():
    """Return busybox (static), musl's loader and a program that needs it."""
    needs("busybox", "musl-gcc")
    stream = io.BytesIO()
    busybox = shutil.which("busybox")
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("bin", "dev", "etc", "lib", "proc", "root", "srv", "srv/real", "sys", "tmp"):
            _add(tar, name, kind=tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
        with open(busybox, "rb") as file:
            _add(tar, "bin/busybox", file.read(), mode=0o755)
        for applet in listed.stdout.split():
            if applet != "busybox":
                _add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
        accounts = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        _add(tar, "etc/passwd", accounts)
        _add(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        _add(tar, "srv/link", kind=tarfile.SYMTYPE, link="/srv/real")
        _add(tar, "bin/hello-musl", _compiled(HELLO), mode=0o755)
        loader, libc = _musl_libc()
        _add(tar, f"lib/{loader}", libc, mode=0o755)
    return stream.getvalue()


def _compiled(source):
    command = ["musl-gcc", "-O", "-x", "c", "-", "-o", "/dev/stdout"]
    target = scratch_directory()
    try:
        command[-1] = f"{target}/program"
        subprocess.run(command, input=source.encode(), check=True)
        with open(command[-1], "rb") as file:
            return file.read()
    finally:
        remove_tree(target)


def _musl_libc():
    """Return the name of musl's loader, which is its libc as well, and the file."""
    name = f"ld-musl-{os.uname().machine}.so.1"
    with open(f"/lib/{name}", "rb") as file:
        return name, file.read()


def _add(tar, name, data=b"", *, kind=tarfile.REGTYPE, mode=0o644, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.size = kind, mode, link, len(data)
    tar.addfile(member, io.BytesIO(data))
