"""What `--gpu` came to in an earlier start, for a start that would find the same.

To find it anew imports twenty modules and reads five files, 5 ms. The answer is kept with all
that was asked for it: of the machine, of the job's environment, and the states of those parts of
the image that decide. A start that gets the same answers takes it as it is.
"""

from __future__ import annotations

from udocker import fastjson
from udocker.containers.spec import Bind, ContainerEdits, DeviceNode, Symlink
from udocker.errors import StoreError
from udocker.nvidia import cache
from udocker.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from udocker.host.probe import Host
    from udocker.host.root import Root
    from udocker.host.witness import Variables, Witness

    Answer = tuple[ContainerEdits, tuple[str, ...]]
    """What a container gets, and notes for the user."""

_FORMAT = 1


@dataclass(frozen=True)
class Question:
    """What is wanted, of what, for whom."""

    words: tuple[object, ...]
    """What was asked for, and what the engine can do: texts and the like."""
    program_env: tuple[tuple[str, str], ...]
    environment: Mapping[str, str]
    """The job's."""
    image: Root
    directory: str
    """Where answers are kept."""

    def name(self, host: Host) -> str:
        """Return the name of the file in which the answer is kept, one for all environments."""
        place = (self.image.origin, self.image.path, host.boot_id, host.root)
        return f"gpu-{cache.digest(_FORMAT, self.words, place)}.answer"


def recall(host: Host, question: Question) -> Answer | None:
    """Return the answer that was kept, if it holds."""
    kept = cache.load(question.directory, question.name(host))
    try:
        program, variables, states, asked, edits, notes = kept
        if (
            program != cache.digest(question.program_env)
            or any(question.environment.get(name) != value for name, value in variables.items())
            or cache.states(question.image, states) != states
            or not host.still_says(asked)
        ):
            return None
        found = _edits(edits)
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    own = f"{question.directory}/"
    there = all(cache.is_kept(bind.source) for bind in found.binds if bind.source.startswith(own))
    return (found, tuple(notes)) if there else None


def keep(
    host: Witness,
    variables: Variables,
    question: Question,
    watched: Mapping[str, list[list[int]]],
    found: Answer,
) -> None:
    """Keep an answer which follows from what was asked, and from states of the image."""
    edits, notes = found
    kept = [
        cache.digest(question.program_env),
        variables.asked,
        watched,
        host.asked,
        _lists(edits),
        notes,
    ]
    try:
        data = fastjson.dumps(kept).encode()
        cache.save(question.directory, question.name(host), data, sync=False)
    except StoreError:
        pass  # only the next start is slower


def _lists(edits: ContainerEdits) -> list[Any]:
    return [
        edits.env,
        [[node.source, node.destination] for node in edits.device_nodes],
        [[bind.source, bind.destination, bind.readonly] for bind in edits.binds],
        [[link.path, link.target] for link in edits.symlinks],
        edits.library_dirs,
        edits.fallback_library_dirs,
        edits.additional_gids,
    ]


def _edits(lists: list[Any]) -> ContainerEdits:
    env, nodes, binds, links, *rest = lists
    return ContainerEdits(
        tuple((name, value) for name, value in env),
        tuple(DeviceNode(*words) for words in nodes),
        tuple(Bind(*words) for words in binds),
        tuple(Symlink(*words) for words in links),
        *map(tuple, rest),
    )
