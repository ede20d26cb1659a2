"""An image of this machine's own Python, so that nothing has to be fetched.

Files lie in it at the paths that they have here, with every symbolic link on the way.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import sysconfig
import tarfile

from udocker.errors import UdockerError
from udocker.host import ldcache, loader
from udocker.host.root import Root

NAME = "host/python:1"
PROGRAMS = ("sh", "cat", "env", "ls", "true")
FOLDERS = ("dev", "etc", "proc", "run", "sys", "tmp", "root")
LEFT_OUT = ("test", "tests", "site-packages", "dist-packages", "idlelib", "config-", "__pyc")
GRAPHICAL = ("tkinter", "_tkinter", "turtle")
OF_GLIBC = ("libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1", "libutil.so.1")
"""Empty where they are not old, but binaries need them by name."""
OF_THE_DRIVER = ("libcuda.so", "libnvidia-", "libnv")
OF_PYTORCH = ("torch", "numpy", "nvidia", "triton")
_HOST = Root("/")


def python():
    """Return the path of the interpreter below any virtual environment."""
    return os.path.realpath(sys.executable)


def build(path, beside=""):
    """Write the image's files into the tar archive `path`; return the words for `udocker import`.

    What PyTorch, if it is in the directory `beside`, needs from elsewhere is in it too.
    """
    more = list(_libraries(beside)) if beside else []
    programs = [python(), *filter(None, map(_program, PROGRAMS))]
    stdlib = sysconfig.get_path("stdlib")
    modules = list(_standard_library(stdlib))
    roots = [*programs, *(file for file in modules if file.endswith(".so"))]
    needed = dict.fromkeys(file for root in (*roots, *more) for file in _needs(root))
    needed.update(dict.fromkeys(_glibc(needed)))
    with tarfile.open(path, "w") as tar:
        tree = _Tree(tar)
        for folder in FOLDERS:
            tree.directory(f"/{folder}")
        for file in ("/bin/sh", *programs, *modules, *needed):
            if not beside or not file.startswith(f"{beside}/"):
                tree.add(file)
        tree.text("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        tree.text("/etc/group", b"root:x:0:\n")
        tree.text(ldcache.PATH, _loader_cache(set(needed)))
    search = ":".join(dict.fromkeys([*map(os.path.dirname, programs), "/usr/bin", "/bin"]))
    return ["import", "--quiet", "--change", f"ENV PATH={search}", path, NAME]


def _program(name):
    return shutil.which(name, path="/usr/bin:/bin")


def _standard_library(directory):
    for place, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith((*LEFT_OUT, *GRAPHICAL))]
        for name in files:
            if name.endswith((".py", ".so")) and not name.startswith(GRAPHICAL):
                yield os.path.join(place, name)


def _libraries(directory):
    for package in filter(lambda name: name.startswith(OF_PYTORCH), os.listdir(directory)):
        for place, _, files in os.walk(os.path.join(directory, package)):
            yield from (os.path.join(place, name) for name in files if ".so" in name)


def _needs(path):
    """Return what the binary `path` needs beside itself; nothing where something is missing."""
    try:
        files = loader.closure([path], _HOST)
    except UdockerError:  # an extension of Python whose library nobody installed
        return []
    return [file for file in files if not os.path.basename(file).startswith(OF_THE_DRIVER)]


def _glibc(files):
    place = next(os.path.dirname(file) for file in files if file.endswith("/libc.so.6"))
    return [f"{place}/{name}" for name in OF_GLIBC if os.path.exists(f"{place}/{name}")]


def _loader_cache(files):
    try:
        known = ldcache.parse(_HOST.read(ldcache.PATH, ldcache.MAX_BYTES))
    except (OSError, ValueError):
        known = ldcache.LdCache()
    entries = tuple(entry for entry in known.entries if entry.path in files)
    return ldcache.serialize(ldcache.LdCache(entries, known.hwcaps))


class _Tree:
    """Adds files of this machine to an archive, each once, directories and links before them."""

    def __init__(self, tar):
        self._tar = tar
        self._done = {"/"}

    def add(self, path):
        """Add the file, directory or link at `path`, and where a link leads to."""
        if path in self._done:
            return
        self._done.add(path)
        parent, name = os.path.split(path)
        self.add(parent)
        real = os.path.realpath(parent)
        if real != parent:
            self.add(os.path.join(real, name))
        elif os.path.islink(path):
            self._tar.add(path, path[1:])
            self.add(os.path.normpath(os.path.join(parent, os.readlink(path))))
        elif os.path.isdir(path):
            self._member(path, tarfile.DIRTYPE)
        else:
            with open(path, "rb") as file:
                self._member(path, tarfile.REGTYPE, file.read())

    def directory(self, path):
        """Add an empty directory where this machine has one with something in it."""
        if path not in self._done:
            self._done.add(path)
            self._member(path, tarfile.DIRTYPE)

    def text(self, path, data):
        """Add a file that is made for the image."""
        self._member(path, tarfile.REGTYPE, data)

    def _member(self, path, kind, data=b""):
        member = tarfile.TarInfo(path[1:])
        member.type, member.mode, member.size = kind, 0o755, len(data)
        self._tar.addfile(member, io.BytesIO(data))
