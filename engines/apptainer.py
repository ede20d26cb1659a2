"""proot."""

from __future__ import annotations

from udocker.engines.external import ExternalEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from udocker.host.probe import Host


class ApptainerEngine(ExternalEngine):
    """proot."""

    name = "apptainer"
    mode = "S1"

    def obstacle(self, host: Host) -> str | None:
        """Return why proot cannot run here."""
        return "not built yet"


class SingularityEngine(ApptainerEngine):
    """singularity."""

    name = "singularity"
