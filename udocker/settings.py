"""What the user wants everywhere: flags, then environment, then files, then defaults.

The only reader of the process environment. Files are `key = value` lines; a `[section]` line
and lines that begin with `#` or `;` say nothing. No file of the current directory is ever read.
"""

from __future__ import annotations

import os

from udocker.errors import UsageError
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SYSTEM_FILE = "/etc/udocker.conf"


@dataclass(frozen=True)
class Settings:
    """Every setting, typed. Paths are absolute; `environment` is the caller's, unchanged."""

    directory: str
    """Where images, trees and containers lie (`UDOCKER_DIR`)."""
    environment: Mapping[str, str]
    registry: str = ""
    """Where names without a host are looked up (`UDOCKER_REGISTRY`); empty: where the user's own
    registries.conf says, or else docker.io."""
    mirrors: str = ""
    """Mirrors of Docker Hub, asked first: hosts or URLs, with spaces between them."""
    cert_dir: str = ""
    """Certificates for registries, in place of those in a `certs.d`."""
    site_stores: tuple[str, ...] = ()
    """Stores of others, searched after the user's own and only read (`UDOCKER_SITE_STORES`)."""
    insecure: bool = False
    """Speak http, and https without checking certificates, to every registry."""
    foreign_layers: bool = False
    """Layers that a registry need not keep are fetched from wherever the image says."""
    jobs: int = 0
    """Layers pulled at the same time; 0: as many as there are processors, 2 to 6."""
    max_expansion: int = 250
    """How many times as large as its compressed form a layer may be, beyond its first GiB; 0: as
    large as it wants (`UDOCKER_MAX_EXPANSION`)."""
    engine: str = ""
    """The engine to run with; empty: the first one without an obstacle."""
    gpu: str = ""
    """The GPUs that runs have which say nothing of them, as `--gpu` takes them (`UDOCKER_GPU`);
    empty: none. `auto` where images that ask for GPUs shall have them."""
    policy: str = ""
    """The file that says which images may come in; empty: containers-policy.json(5) decides."""
    quiet: bool = False
    debug: bool = False


_KEYS = {
    "directory": str,
    "site_stores": tuple,
    "registry": str,
    "mirrors": str,
    "cert_dir": str,
    "insecure": bool,
    "foreign_layers": bool,
    "jobs": int,
    "max_expansion": int,
    "engine": str,
    "gpu": str,
    "policy": str,
    "quiet": bool,
    "debug": bool,
}
_VARIABLES = {
    "directory": "UDOCKER_DIR",
    "site_stores": "UDOCKER_SITE_STORES",
    "registry": "UDOCKER_REGISTRY",
    "mirrors": "UDOCKER_MIRROR",
    "cert_dir": "UDOCKER_CERT_DIR",
    "insecure": "UDOCKER_INSECURE",
    "foreign_layers": "UDOCKER_FOREIGN_LAYERS",
    "jobs": "UDOCKER_JOBS",
    "max_expansion": "UDOCKER_MAX_EXPANSION",
    "engine": "UDOCKER_DEFAULT_EXECUTION_MODE",
    "gpu": "UDOCKER_GPU",
    "policy": "UDOCKER_POLICY",
    "quiet": "UDOCKER_QUIET",
    "debug": "UDOCKER_DEBUG",
}


def load(flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings in force. `flags` hold what the command line gave, None: not given;
    `config` is a file that has to be there.

    Raises UsageError for a value of the wrong kind, naming where it stands.
    """
    home = home_directory(environment)
    chosen: dict[str, Any] = {}
    for path in _files(flags, environment, home):
        chosen.update(_read_file(path, needed=path == flags.get("config")))
    for key, variable in _VARIABLES.items():
        text = environment.get(variable)
        if text:
            chosen[key] = _typed(key, text, f"${variable}")
    given = {key: value for key, value in flags.items() if key in _KEYS and value is not None}
    chosen.update(given)
    directory = _in_home(str(chosen.pop("directory", "") or "~/.udocker"), home)
    if ":" in directory or "," in directory or "\\" in directory:
        raise UsageError(
            f"the directory {directory!r} holds ':', ',' or '\\', which overlay mounts cannot name",
            hint="set UDOCKER_DIR to another one",
        )
    return Settings(directory=directory, environment=_callers(environment), **chosen)


def origins(
    flags: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return where each setting in force comes from: a flag, a variable, a file, or `default`."""
    home = home_directory(environment)
    found = dict.fromkeys(_KEYS, "default")
    for path in _files(flags, environment, home):
        found.update(dict.fromkeys(_read_file(path), path))
    given = ((key, name) for key, name in _VARIABLES.items() if environment.get(name))
    found.update((key, f"${name}") for key, name in given)
    told = (key for key, value in flags.items() if key in _KEYS and value is not None)
    found.update(dict.fromkeys(told, "command line"))
    return found


def _files(flags: Mapping[str, Any], environment: Mapping[str, str], home: str) -> tuple[str, ...]:
    """Return the files of settings; of two that say something the later one counts."""
    usual = environment.get("UDOCKER_DIR") or (home and "~/.udocker")
    own = (f"{_in_home(usual, home)}/udocker.conf",) if usual else ()
    named = (flags["config"],) if flags.get("config") else ()
    return (SYSTEM_FILE, *own, *named)


EXECUTABLES = {
    "proot": "UDOCKER_USE_PROOT_EXECUTABLE",
    "runc": "UDOCKER_USE_RUNC_EXECUTABLE",
    "crun": "UDOCKER_USE_RUNC_EXECUTABLE",
    "apptainer": "UDOCKER_USE_SINGULARITY_EXECUTABLE",
    "singularity": "UDOCKER_USE_SINGULARITY_EXECUTABLE",
    "libfakechroot": "UDOCKER_FAKECHROOT_SO",
}
"""The variables of udocker 1.3 that name the program of an engine."""


def named_executable(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return what the caller's variable says is the program `name`; empty: nothing.

    Where two programs share a variable (runc and crun), its file name tells which one it means.
    """
    variable = EXECUTABLES.get(name, "")
    value = environment.get(variable, "") if variable else ""
    sharing = [other for other, shared in EXECUTABLES.items() if shared == variable]
    meant = [other for other in sharing if os.path.basename(value).startswith(other)]
    return value if name in (meant or sharing) else ""


def search_path(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the absolute directories of PATH: no program is taken from the current one."""
    places = environment.get("PATH", os.defpath).split(os.pathsep)
    return tuple(place for place in places if place.startswith("/"))


def _callers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment as it was before Python set LC_CTYPE in it (PEP 538)."""
    own = dict(environment)
    if own.get("LC_CTYPE") == "C.UTF-8" and not ("LANG" in own or "LC_ALL" in own):
        del own["LC_CTYPE"]
    return own


def _in_home(path: str, home: str) -> str:
    """Return `path` made absolute, a `~` that begins it replaced by `home`. Raises UsageError."""
    if path[:2] not in ("~", "~/"):
        try:
            return os.path.abspath(path)
        except FileNotFoundError:
            raise UsageError(f"no directory {path}: the current directory is gone") from None
    if not home:
        raise UsageError("this user has no home directory", hint="set HOME or UDOCKER_DIR")
    return os.path.abspath(home + path[1:])


def home_directory(environment: Mapping[str, str]) -> str:
    """Return the user's home: $HOME, or else what the account has; empty: none."""
    return environment.get("HOME") or _passwd_home()


def _passwd_home() -> str:
    """Return the home directory that the account has, empty for an account that is unknown."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def _read_file(path: str, *, needed: bool = False) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read(1 << 20).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        absent = (FileNotFoundError, NotADirectoryError, PermissionError)
        if isinstance(error, absent) and not needed:
            return {}
        raise UsageError(f"cannot read the settings in {path}: {error}") from error
    values: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line[0] in "#;[":
            continue
        key, equals, text = line.partition("=")
        key, where = key.strip(), f"{path}:{number}"
        if not equals:
            raise UsageError(f"{where}: {line!r} is not `key = value`")
        if key in _KEYS:
            values[key] = _typed(key, text.strip().strip("\"'"), where)
    return values


def _places(text: str, where: str) -> tuple[str, ...]:
    """Return the directories of a list parted by `:`."""
    places = [place for place in text.split(":") if place]
    for place in places:
        if not place.startswith("/") or "," in place or "\\" in place:
            raise UsageError(
                f"{where}: {place!r} is not an absolute path without ',' and '\\'",
                hint="directories are parted by ':'",
            )
    return tuple(os.path.normpath(place) for place in places)


_TRUTH = {"1": True, "true": True, "yes": True, "on": True}
_TRUTH.update({"0": False, "false": False, "no": False, "off": False})


def _typed(key: str, text: str, where: str) -> Any:
    kind = _KEYS[key]
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise UsageError(f"{where}: {key} is {text!r}, not true or false")
        return _TRUTH[text.lower()]
    if kind is tuple:
        return _places(text, where)
    if kind is int:
        if not text.isdigit():
            raise UsageError(f"{where}: {key} is {text!r}, not a number")
        return int(text)
    return text
