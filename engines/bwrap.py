"""bwrap."""

from __future__ import annotations

from udocker.engines.external import ExternalEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host


class BwrapEngine(ExternalEngine):
    """bwrap."""

    name = "bwrap"
    mode = "B1"

    def obstacle(self, host: Host) -> str | None:
        """Return why bwrap cannot run here."""
        return "not built yet"
