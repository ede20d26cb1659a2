"""fakechroot."""

from __future__ import annotations

from udocker.engines.external import ExternalEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host


class FakechrootEngine(ExternalEngine):
    """fakechroot."""

    name = "fakechroot"
    mode = "F3"

    def obstacle(self, host: Host) -> str | None:
        """Return why fakechroot cannot run here."""
        return "not built yet"
