"""Options on the network: which one, the files of names, published ports."""

from __future__ import annotations

from udocker.commands.options import grammar
from udocker.containers.spec import Port
from udocker.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from udocker.commands.words import Values

NETWORKS = ("host", "none")
PROTOCOLS = ("tcp", "udp")
MOST_PORTS = 65535
_LOOPBACK = "127.0.0.1"
_MANY = 1024
"""Ports of one range: each is a socket."""


def wishes(values: Values, _: Mapping[str, str], notes: list[str]) -> dict[str, Any]:
    """Return the fields of the request that options on the network fill."""
    network = grammar.one_of(values.last("network") or "host", NETWORKS, "--network")
    ports = tuple(port for text in values.all("publish") for port in parse_ports(text))
    exposed = tuple(port for text in values.all("expose") for port in parse_ports(text))
    if any(port.host_port or port.host_ip for port in exposed):
        raise UsageError(f"--expose {' '.join(values.all('expose'))} names ports of the host")
    if network == "host":
        notes.extend(_moved(values.all("publish")))
    extra = tuple(line for text in values.all("add_host") for line in _host_lines(text, network))
    if extra and values.flag("no_hosts"):
        raise UsageError("--no-hosts leaves no file for --add-host to write to")
    return {
        "network": network,
        "hostname": _hostname(values.last("hostname"), "--hostname"),
        "domainname": _hostname(values.last("domainname") or None, "--domainname", longest=253),
        "extra_hosts": extra,
        "hosts_file": not values.flag("no_hosts"),
        "dns": tuple(_address(text, "--dns") for text in values.all("dns")),
        "dns_search": tuple(_word(text, "--dns-search") for text in values.all("dns_search")),
        "dns_options": tuple(_word(text, "--dns-option") for text in values.all("dns_option")),
        "ports": ports,
        "publish_all": values.flag("publish_all"),
        "exposed": exposed,
    }


def parse_ports(text: str) -> list[Port]:
    """Read `[[IP:][HOST]:]PORT[-LAST][/PROTOCOL]`, docker's `--publish`: one value for each port.

    A host port of 0 stands for any free one. Raises UsageError.
    """
    ports, slash, protocol = text.partition("/")
    grammar.one_of(protocol.lower() if slash else "tcp", PROTOCOLS, f"--publish {text!r}: protocol")
    address, outside, inside = _parts(ports, text)
    targets = _range(inside, text)
    sources = _range(outside, text, least=0) if outside else [0] * len(targets)
    if len(sources) != len(targets):
        if len(targets) > 1:
            raise UsageError(f"--publish {text!r}: the ranges are not equally long")
        sources = sources[:1]
    return [
        Port(address, source, target, protocol.lower() or "tcp")
        for source, target in zip(sources, targets)
    ]


def _parts(ports: str, text: str) -> tuple[str, str, str]:
    """Return the address, the host's port and the container's, the first two perhaps empty."""
    if ports.startswith("["):
        address, _, rest = ports[1:].partition("]")
        if not rest.startswith(":"):
            raise UsageError(f"--publish {text!r}: no port after the address")
        outside, _, inside = rest[1:].rpartition(":")
        return _address(address, "--publish"), outside, inside
    before, _, inside = ports.rpartition(":")
    address, _, outside = before.rpartition(":")
    return _address(address, "--publish") if address else "", outside, inside


def _range(text: str, whole: str, *, least: int = 1) -> list[int]:
    first, dash, last = text.partition("-")
    option = f"--publish {whole!r}: port"
    low = grammar.whole(first, option, least=least, most=MOST_PORTS)
    high = grammar.whole(last, option, least=least, most=MOST_PORTS) if dash else low
    if not low <= high < low + _MANY:
        raise UsageError(f"{option} {text!r} is not a range of at most {_MANY} ports")
    return list(range(low, high + 1))


def _moved(given: tuple[str, ...]) -> list[str]:
    return [
        f"-p {text}: on the host's network the program listens on port {port.container_port}"
        for text in given
        for port in parse_ports(text)[:1]
        if port.host_port not in (0, port.container_port)
    ]


def _host_lines(text: str, network: str) -> list[tuple[str, str]]:
    """Read `NAME:ADDRESS` (docker, also with `=`), `NAME;NAME:ADDRESS` (podman)."""
    separator = "=" if "=" in text else ":"
    names, _, address = text.partition(separator)
    if address == "host-gateway":
        if network != "host":
            raise UsageError(f"--add-host {text}: the network none does not reach the host")
        address = _LOOPBACK
    address = _address(address.removeprefix("[").removesuffix("]"), "--add-host")
    found = [_hostname(name, "--add-host", longest=253) for name in names.split(";")]
    return [(name, address) for name in found if name]


def _address(text: str, option: str) -> str:
    """Return an address of IP, version 4 or 6. Raises UsageError."""
    import ipaddress

    plain, _, zone = text.partition("%")
    try:
        ipaddress.ip_address(plain)
    except ValueError:
        raise UsageError(f"{option} {text!r} is no IP address") from None
    if zone and not zone.isalnum():
        raise UsageError(f"{option} {text!r} is no IP address")
    return text


def _hostname(name: str | None, option: str, *, longest: int = 64) -> str | None:
    """Return a name that /etc/hosts and the kernel take. Raises UsageError for others."""
    if name is None or (0 < len(name) <= longest and name.isprintable() and not set(name) & _NOT):
        return name
    raise UsageError(f"{option} {name!r} is not a host name of 1 to {longest} characters")


_NOT = frozenset(" /#")


def _word(text: str, option: str) -> str:
    if not text or not text.isprintable() or " " in text or len(text) > 255:
        raise UsageError(f"{option} {text[:300]!r} is not one word")
    return text
