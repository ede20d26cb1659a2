"""The same for several containers: one that fails does not keep the others from their turn."""

from __future__ import annotations

from udocker import console
from udocker.errors import UdockerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def each(names: Iterable[str], action: Callable[[str], None]) -> int:
    """Do `action` with every name and print those where it succeeded; return 1 if one failed."""
    code = 0
    for name in names:
        try:
            action(name)
        except UdockerError as error:
            console.say_error(error)
            code = 1
        else:
            console.put(name)
    return code
