"""What a name without a host can mean: the user's alias for it, or registries to be searched.

Source: containers-registries.conf(5), "Short-name aliases". See `configuration` for whose files
count.
"""

from __future__ import annotations

from udocker.errors import InvalidReference, UsageError
from udocker.reference import HUB, Reference, registry_of
from udocker.registry import configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.registry.configuration import Registries
    from udocker.settings import Settings

_NOBODY = "nobody.invalid"


def meanings(name: str, settings: Settings) -> tuple[Reference, ...]:
    """Return what an image's name can mean, in the order in which it is to be tried.

    One where the name has a host. Else the setting `registry` decides, then an alias, then the
    registries that are searched, then docker.io. Raises InvalidReference, UsageError for a
    broken registries.conf and for a name that `short-name-mode = "enforcing"` leaves open.
    """
    if settings.registry:
        return (Reference.parse(name, registry_of(settings.registry)),)
    hub = Reference.parse(name)
    if Reference.parse(name, _NOBODY).registry != _NOBODY:
        return (hub,)
    registries = configuration.load(settings.environment)
    alias = _alias(name, registries)
    if alias:
        return (alias,)
    found = tuple(Reference.parse(name, registry) for registry in registries.search)
    if len(found) > 1 and registries.short_name_mode == "enforcing":
        raise UsageError(
            f"{name} may be an image of {', '.join(registries.search)}, "
            "and registries.conf wants one to be named (short-name-mode is enforcing)",
            hint=f"write one of: {' '.join(map(str, found))}",
        )
    return found or (hub,)


def _alias(name: str, registries: Registries) -> Reference | None:
    """Return what an alias makes of a name; its tag and digest stay."""
    rest, at, digest = name.partition("@")
    path, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    full = registries.alias(path + slash + last)
    if not full:
        return None
    try:
        return Reference.parse(full + colon + tag + at + digest, HUB)
    except InvalidReference as error:
        raise UsageError(f"the alias of {name} in registries.conf: {error.message}") from None
