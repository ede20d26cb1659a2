"""A pip for a Python that may have none: its own, the one in ensurepip, one from the index.

The index is the one that the user's pip configuration names; this file knows none.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import html.parser
import os
import re
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from configparser import ConfigParser, Error
from typing import NamedTuple

MAX_PAGE_BYTES = 16 << 20
MAX_WHEEL_BYTES = 16 << 20
TIMEOUT_S = 30
WHEEL = re.compile(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl$")


class NoPip(Exception):
    """There is no pip and no place to take one from; the text says what was tried."""


class Wheel(NamedTuple):
    """A wheel of pip that an index offers. Tuples of them sort by version."""

    version: tuple[int, ...]
    url: str
    sha256: str


def pip_command(directory: str, find_links: str | None = None) -> list[str]:
    """Return the words that start pip under this Python; a fetched one is put in `directory`.

    Raises NoPip.
    """
    own = _starting_pip([])
    if subprocess.run([*own, "--version"], capture_output=True, check=False).returncode == 0:
        return own
    wheel = bundled_wheel([*ensurepip_directories(), *filter(None, [find_links])])
    if wheel is None:
        wheel = fetched_wheel(configured_indexes(os.environ), directory)
    # a wheel is a zip file, and pip runs from one
    return _starting_pip([wheel])


def _starting_pip(path: list[str]) -> list[str]:
    """Return what `-m pip` would be, with `path` first where modules are looked for.

    The current directory is not among these places: a file of the user's could be named as one.
    """
    program = f"import sys; sys.path[:1] = {path!r}; "
    if not _has_distutils():
        # Source: pip, _internal/locations/__init__.py, _should_use_sysconfig
        program += "import sysconfig; sysconfig._PIP_USE_SYSCONFIG = True; "
    program += "import runpy; runpy.run_module('pip', run_name='__main__', alter_sys=True)"
    return [sys.executable, "-c", program]


def _has_distutils() -> bool:
    """Tell whether distutils is whole, if pip wants it here; Debian 11 packs it by itself."""
    if sys.version_info >= (3, 10):
        return True
    try:
        import distutils.cmd  # noqa: F401
    except ImportError:
        return False
    return True


def ensurepip_directories() -> list[str]:
    """Return where the standard library keeps the wheel of pip (distributions move it)."""
    try:
        import ensurepip
    except ImportError:  # Debian packs it with python3-venv
        return []
    own = os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
    moved = getattr(ensurepip, "_WHEEL_PKG_DIR", None)
    return [path for path in (own, moved) if path]


def bundled_wheel(directories: Iterable[str]) -> str | None:
    """Return the newest wheel of pip in `directories`, None when there is none."""
    found = []
    for directory in directories:
        for path in glob.glob(os.path.join(glob.escape(directory), "pip-*.whl")):
            match = WHEEL.search(path)
            if match:
                found.append((_numbers(match[1]), os.path.abspath(path)))
    return max(found)[1] if found else None


def configured_indexes(environment: os._Environ[str] | dict[str, str]) -> list[str]:
    """Return the package indexes that pip's variables and files name, the main one first."""
    main = environment.get("PIP_INDEX_URL") or _configured(environment, "index-url")
    extra = environment.get("PIP_EXTRA_INDEX_URL") or _configured(environment, "extra-index-url")
    return f"{main} {extra}".split()


def fetched_wheel(indexes: Iterable[str], directory: str) -> str:
    """Return the path of pip's wheel, fetched from the first index that has one, and verified.

    Raises NoPip.
    """
    tried = []
    for index in indexes:
        try:
            offered = list(offered_wheels(f"{index.rstrip('/')}/pip/"))
            if offered:
                return _fetched(max(offered), directory)
            tried.append(f"{_public(index)}: no wheel of pip for this Python")
        except (OSError, ValueError) as error:
            tried.append(f"{_public(index)}: {error}")
    raise NoPip("; ".join(tried) or "no package index is configured")


def offered_wheels(page: str) -> Iterator[Wheel]:
    """Yield the wheels of pip that suit this Python and have a sha256. Source: PEP 503."""
    links = _Links()
    links.feed(_read(page, MAX_PAGE_BYTES).decode("utf-8", "replace"))
    for href, requires in links.found:
        url, _, fragment = urllib.parse.urljoin(page, href).partition("#")
        match = WHEEL.search(url)
        if match and fragment.startswith("sha256=") and _suits(requires):
            yield Wheel(_numbers(match[1]), url, fragment[len("sha256=") :])


class _Links(html.parser.HTMLParser):
    """Collects (href, data-requires-python) of every link of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            members = {name: value or "" for name, value in attrs}
            found = members.get("href", ""), members.get("data-requires-python", "")
            self.found.append(found)


def _suits(requires: str) -> bool:
    """Tell whether this Python is as new as `requires` says (pip excludes no newer ones)."""
    lowest = re.findall(r">=\s*(\d+(?:\.\d+)*)", requires)
    return all(_numbers(version) <= tuple(sys.version_info[:3]) for version in lowest)


def _fetched(wheel: Wheel, directory: str) -> str:
    data = _read(wheel.url, MAX_WHEEL_BYTES)
    if hashlib.sha256(data).hexdigest() != wheel.sha256:
        raise ValueError(f"{_public(wheel.url)} has not the sha256 that the index says")
    path = os.path.join(directory, wheel.url.rpartition("/")[2])
    with open(path, "wb") as file:
        file.write(data)
    return path


def _read(url: str, limit_bytes: int) -> bytes:
    cert = os.environ.get("PIP_CERT") or _configured(os.environ, "cert")
    context = ssl.create_default_context(cafile=cert or None)
    request = urllib.request.Request(_public(url))
    parts = urllib.parse.urlsplit(url)
    if parts.username:
        words = f"{parts.username}:{parts.password or ''}"
        secret = base64.b64encode(urllib.parse.unquote(words).encode()).decode()
        # not for the host that an answer may redirect to
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:
        data: bytes = answer.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise ValueError(f"{_public(url)} has more than {limit_bytes} bytes")
    return data


def _public(url: str) -> str:
    """Return a URL without the name and password that may stand before its host."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _configured(environment: os._Environ[str] | dict[str, str], key: str) -> str:
    """Return a key of pip's files, the last one that has it wins. Source: pip, Configuration."""
    home = environment.get("HOME", "")
    user = environment.get("XDG_CONFIG_HOME") or f"{home}/.config"
    system = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    paths = [f"{directory}/pip/pip.conf" for directory in reversed(system)]
    paths += ["/etc/pip.conf", f"{home}/.pip/pip.conf", f"{user}/pip/pip.conf"]
    paths += filter(None, [environment.get("PIP_CONFIG_FILE")])
    value = ""
    for path in paths:
        parser = ConfigParser(interpolation=None)
        try:
            parser.read(path, encoding="utf-8")
        except (Error, UnicodeDecodeError):
            continue
        for section in ("global", "install"):
            value = parser.get(section, key, fallback=value)
    return value


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
