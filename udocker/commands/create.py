"""`udocker create`: a container of an image, to be run later."""

from __future__ import annotations

from udocker import console
from udocker.commands import runoptions, words
from udocker.commands.stores import Stores
from udocker.errors import UsageError
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.settings import Settings


def main(given: list[str], settings: Settings) -> int:
    """Make the container that the words describe and print its id."""
    values, options, rest = words.parse(given, runoptions.OPTIONS)
    if not rest:
        raise UsageError("no image was named", hint="udocker create --help")
    request = runoptions.make_request(values, rest[1:], settings.environment)
    stores = Stores(settings)
    kept = replace(request, remove=False)
    container = stores.plan_container(rest[0], kept, options, rest[1:])
    stores.containers.add(container, request.name)
    console.put(container.id)
    return 0
