"""Whom TLS trusts, and who it says that we are: files of docker and podman for each registry.

Source: containers-certs.d(5); docker's "Verify repository client with certificates".
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping

from udocker.errors import UsageError
from udocker.reference import registry_at

SYSTEM_DIRECTORIES = ("/etc/containers/certs.d", "/etc/docker/certs.d")
_FILE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_MAX_FILES = 1000


def context(
    host: str,
    environment: Mapping[str, str],
    *,
    directory: str = "",
    insecure: bool = False,
) -> ssl.SSLContext:
    """Return how to speak TLS with a registry at `host`, which has its port if one is given.

    Trusted are the authorities of $SSL_CERT_FILE, or else the system's (those of the package
    certifi where it has none), and the `*.crt` of the registry's directory; its pairs of `*.cert`
    and `*.key` are shown to the server. `directory` is used in place of the registry's own one.
    Raises UsageError for a file that is missing or broken.
    """
    made = _base(environment)
    made.set_alpn_protocols(["http/1.1"])
    if insecure:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    for path in _files(directory or registry_directory(host, environment), needed=bool(directory)):
        if path.endswith(".crt"):
            _load(made.load_verify_locations, path)
        elif path.endswith(".cert"):
            _load_pair(made, path)
        elif path.endswith(".key") and not os.path.exists(path[: -len("key")] + "cert"):
            raise UsageError(f"{path} has no certificate beside it ({_pair(path, 'cert')})")
    return made


def registry_directory(host: str, environment: Mapping[str, str]) -> str:
    """Return the directory with the certificates of a registry; empty: it has none.

    The first one that is there counts: the user's own before the system's. Docker Hub's is called
    as users call it, or as the host is that speaks for it.
    """
    home = environment.get("HOME", "")
    config = environment.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    own = [f"{config}/containers/certs.d"] if config else []
    docker = [f"{home}/.docker/certs.d"] if home else []
    names = dict.fromkeys((registry_at(host), host))
    for parent in (*own, *docker, *SYSTEM_DIRECTORIES):
        for name in names:
            if os.path.isdir(f"{parent}/{name}"):
                return f"{parent}/{name}"
    return ""


def _base(environment: Mapping[str, str]) -> ssl.SSLContext:
    for name in _FILE_VARIABLES:
        path = environment.get(name)
        if path and not os.path.exists(path):
            raise UsageError(f"${name} names {path}, which does not exist")
        if path:
            return _only(path)
    made = ssl.create_default_context()
    # From Python 3.13 on certificates without key identifiers are refused, which the own ones
    # of many sites do not have; no other client of registries is as strict.
    made.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    if not made.cert_store_stats()["x509_ca"]:
        _trust_package(made)
    return made


def _trust_package(made: ssl.SSLContext) -> None:
    """Trust the authorities of the package certifi, which `requests` comes with."""
    try:
        import certifi
    except ImportError:  # as packed by a distribution, whose own authorities count
        return
    made.load_verify_locations(certifi.where())


def _only(path: str) -> ssl.SSLContext:
    """Return what trusts the authorities in a file, or in a directory of hashed names, alone."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if os.path.isdir(path):
        made.load_verify_locations(capath=path)
    else:
        _load(made.load_verify_locations, path)
    return made


def _files(directory: str, *, needed: bool) -> tuple[str, ...]:
    if not directory:
        return ()
    try:
        names = sorted(os.listdir(directory))[:_MAX_FILES]
    except OSError as error:
        # Not every site lets everybody look into /etc/docker.
        if isinstance(error, PermissionError) and not needed:
            return ()
        raise UsageError(f"certificates in {directory}: {error.strerror}") from error
    return tuple(f"{directory}/{name}" for name in names)


def _load_pair(made: ssl.SSLContext, path: str) -> None:
    key = _pair(path, "key")
    if not os.path.exists(key):
        raise UsageError(f"{path} has no key beside it ({key})")
    # A password for the key is never asked for in the middle of a pull: it must have none.
    _load(lambda _: made.load_cert_chain(path, key, password=""), path)


def _pair(path: str, ending: str) -> str:
    return f"{path.rpartition('.')[0]}.{ending}"


def _load(load: Callable[[str], object], path: str) -> None:
    try:
        load(path)
    except ssl.SSLError as error:
        why = "not a certificate in PEM, or its key is none, or has a password"
        if error.reason == "KEY_VALUES_MISMATCH":
            why = "the key beside it is another one's"
        raise UsageError(f"certificates: {path}: {why}") from None
    except OSError as error:
        raise UsageError(f"certificates: {path}: {error.strerror}") from None
