"""A machine and an environment of which is noted what was asked.

What follows from the answers can be kept with them: where the same questions still have the same
answers (`Host.still_says`) it holds, whoever has asked them and why.
"""

from __future__ import annotations

from collections.abc import Mapping

from udocker.host.probe import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    from udocker.host.probe import Asked

    Answer = TypeVar("Answer")


class Witness(Host):
    """The machine `host`, and what was asked of it."""

    def __init__(self, host: Host) -> None:
        super().__init__(host.root)
        self._facts = host._facts
        self._answers: dict[tuple[str, str], object] = {}

    @property
    def asked(self) -> Asked:
        """Every question with its first answer."""
        return [[question, path, said] for (question, path), said in self._answers.items()]

    def text(self, absolute: str, limit_bytes: int = 1 << 20) -> str:
        """Return what `Host.text` does."""
        return self._said("text", absolute, super().text(absolute, limit_bytes))

    def exists(self, absolute: str) -> bool:
        """Return what `Host.exists` does."""
        return self._said("exists", absolute, super().exists(absolute))

    def names(self, absolute: str) -> list[str]:
        """Return what `Host.names` does."""
        return self._said("names", absolute, super().names(absolute))

    def is_directory(self, absolute: str) -> bool:
        """Return what `Host.is_directory` does."""
        return self._said("is_directory", absolute, super().is_directory(absolute))

    def state(self, absolute: str) -> list[int]:
        """Return what `Host.state` does."""
        return self._said("state", absolute, super().state(absolute))

    def access(self, absolute: str) -> list[int]:
        """Return what `Host.access` does."""
        return self._said("access", absolute, super().access(absolute))

    def _said(self, question: str, absolute: str, answer: Answer) -> Answer:
        self._answers.setdefault((question, absolute), answer)
        return answer


class Variables(Mapping[str, str]):
    """An environment, and which of its variables were asked for."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.asked: dict[str, str | None] = {}
        """Their values; None: it is not set."""

    def __getitem__(self, name: str) -> str:
        self.asked[name] = self._environment.get(name)
        return self._environment[name]

    def __iter__(self) -> Iterator[str]:
        """Whoever wants all has asked for each; one that comes later is not among them."""
        self.asked.update(self._environment)
        return iter(self._environment)

    def __len__(self) -> int:
        return len(self._environment)
