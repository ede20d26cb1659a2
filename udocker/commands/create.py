"""`udocker create`: a container of an image, to be run later."""

from __future__ import annotations

from udocker import console
from udocker.commands import runoptions
from udocker.commands.run import check_cidfile, remove_named, write_cidfile
from udocker.commands.stores import Stores
from udocker.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.settings import Settings


ARGUMENTS = "[OPTIONS] IMAGE [PROGRAM ARG...]"


def main(given: list[str], settings: Settings) -> int:
    """Make the container that the words describe and print its id."""
    values, _, rest = runoptions.parse(given)
    target, args = runoptions.split_target(values, rest)
    stores = Stores(runoptions.pull_settings(values, settings))
    runoptions.settle(values, stores)
    request = runoptions.make_request(values, args, settings.environment)
    for note in request.notes if not settings.quiet else ():
        console.warn(note)
    check_cidfile(request)
    if request.replace:
        remove_named(stores, request.name)
    kept = replace(request, remove=False)
    container = stores.plan_container(target, kept, runoptions.kept_words(values), args)
    stores.containers.add(container, request.name)
    write_cidfile(request, container)
    console.put(container.id)
    return 0
