"""Where the image of a name can be had: mirrors in their order, then its registry itself."""

from __future__ import annotations

from udocker.errors import InvalidReference, RegistryError, UsageError
from udocker.reference import HUB, Reference, is_registry
from udocker.registry.configuration import BY_DIGEST, BY_TAG, Mirror, Registries, Rule
from udocker.registry.route import harmless
from udocker.values import dataclass, replace


@dataclass(frozen=True)
class Endpoint:
    """A place to ask for an image."""

    reference: Reference
    """What the image is called there."""
    insecure: bool = False
    is_mirror: bool = False


def endpoints(reference: Reference, registries: Registries) -> tuple[Endpoint, ...]:
    """Return the places where an image can be had, to be asked in this order.

    The last one is the registry that its name tells, or where that has moved to. Raises
    RegistryError for a registry that is blocked, UsageError for a location that cannot be.
    """
    rule = registries.rule(str(reference))
    if rule is None:
        return (Endpoint(reference),)
    if rule.blocked:
        raise _blocked(str(reference), rule)
    rest = str(reference)[rule.matched(str(reference)) :]
    mirrors = [
        Endpoint(_moved(mirror.location, rest, rule), mirror.insecure, is_mirror=True)
        for mirror in rule.mirrors
        if _serves(mirror, reference)
    ]
    itself = _moved(rule.location, rest, rule) if rule.location else reference
    return (*mirrors, Endpoint(itself, rule.insecure))


def own(registry: str, registries: Registries) -> Endpoint:
    """Return the place of a registry as a whole; its `repository` is empty."""
    rule = registries.rule(f"{registry}/") or Rule(registry, "")
    if rule.blocked:
        raise _blocked(registry, rule)
    host = rule.location if rule.location and "/" not in rule.location else registry
    return Endpoint(Reference(host, "", None, None), rule.insecure)


def _blocked(name: str, rule: Rule) -> RegistryError:
    return RegistryError(
        f"{name}: {rule.prefix} is a blocked registry", hint=f"{rule.origin} says so"
    )


def with_mirrors(registries: Registries, mirrors: str) -> Registries:
    """Return `registries` with further mirrors of Docker Hub, to be asked first.

    They are written `host[:port][/path]`, or as URLs, with spaces or commas between them; one
    that begins with http:// is spoken to in clear text. Source: dockerd(8), `registry-mirrors`.
    """
    words = mirrors.replace(",", " ").split()
    if not words:
        return registries
    added = tuple(
        Mirror(word.partition("://")[2].rstrip("/") or word, word.startswith("http://"))
        for word in words
    )
    known = next((r for r in registries.rules if r.prefix == HUB), Rule(HUB, ""))
    rule = replace(known, mirrors=(*added, *known.mirrors), origin="the setting `mirrors`")
    return registries.overridden(Registries((rule,)))


def _serves(mirror: Mirror, reference: Reference) -> bool:
    if mirror.serves == BY_DIGEST:
        return reference.digest is not None
    return mirror.serves != BY_TAG or reference.digest is None


def _moved(location: str, rest: str, rule: Rule) -> Reference:
    """Return the reference that begins with `location` in place of the rule's prefix."""
    try:
        if not is_registry(location.partition("/")[0]):
            raise InvalidReference("it begins with no host")
        return Reference.parse(location + rest)
    except InvalidReference as error:
        raise UsageError(
            f"{rule.origin}: location {harmless(location)!r} of {rule.prefix}: {error.message}",
            hint="write host[:port][/path], the host with a dot, a port or as localhost",
        ) from None
