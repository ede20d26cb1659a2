"""The way to a server: its addresses as text, and the proxies of the user.

Source for the variables: curl(1), "Environment"; Python's `requests`, "Proxies".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, urljoin, urlsplit

from udocker.errors import RegistryError

_DEFAULT_PORTS = {"http": 80, "https": 443}


def bases(host: str, *, insecure: bool) -> tuple[str, ...]:
    """Return the beginnings of URLs under which a registry may answer, the likeliest first."""
    if is_loopback(split(f"https://{host}").hostname or ""):
        return f"http://{host}", f"https://{host}"
    return (f"https://{host}", f"http://{host}") if insecure else (f"https://{host}",)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split(url: str) -> SplitResult:
    """Take a URL apart. Raises RegistryError for one that cannot be."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        raise RegistryError(f"{harmless(url)!r} is not the address of a server") from None
    return parts


def join(url: str, location: str) -> str:
    """Return the URL that `location`, found at `url`, means. Raises RegistryError for none."""
    try:
        return urljoin(url, location)
    except ValueError:
        raise RegistryError(f"{shown(url)} leads to {harmless(location)!r}, no address") from None


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port: who is asked, and who may see credentials."""
    parts = split(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)


def shown(url: str) -> str:
    """Return what of a URL may be printed: no user, and no query, which can hold signatures."""
    parts = split(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def harmless(text: str) -> str:
    """Return what may be printed of a text that is no URL, and may yet hold what one can hold."""
    return text.partition("?")[0].rpartition("@")[2][:100]


class Route:
    """Proxies by the variables of `environment`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._exceptions = tuple(self._variable("no_proxy").replace(",", " ").split())

    def proxies(self, url: str) -> dict[str, str]:
        """Return what `requests` takes as the proxies for one URL."""
        scheme, host, port = origin(url)
        if is_loopback(host) or any(_matches(e, host, port) for e in self._exceptions):
            return {}
        proxy = self._variable(f"{scheme}_proxy") or self._variable("all_proxy")
        if proxy and "://" not in proxy:  # as curl reads it
            proxy = f"http://{proxy}"
        return {scheme: proxy} if proxy else {}

    def _variable(self, name: str) -> str:
        return self._environment.get(name) or self._environment.get(name.upper(), "")


def _matches(exception: str, host: str, port: int | None) -> bool:
    """Tell whether an entry of `no_proxy` covers a host: name, suffix, address, network or `*`."""
    if exception == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(exception, strict=False)
    except ValueError:
        pass
    name, colon, digits = exception.rpartition(":")
    if colon and digits.isdecimal() and not exception.endswith("]"):
        if int(digits) != port:
            return False
        exception = name
    suffix = exception.strip("[]").lower().lstrip("*").strip(".")
    return bool(suffix) and (host == suffix or host.endswith("." + suffix))
