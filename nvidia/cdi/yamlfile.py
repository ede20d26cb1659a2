"""YAML as far as it says what JSON can say: PyYAML composes, and nothing of it constructs objects.

Source: YAML 1.1, whose core types `sigs.k8s.io/yaml`, which CDI's own reader uses, gives to JSON.
"""

from __future__ import annotations

import yaml

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOST_VALUES = 200_000
_DEEPEST = 32
_TAG = "tag:yaml.org,2002:"
_TRUE = ("yes", "true", "on", "y")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast where PyYAML was built with libyaml."""


def loads(data: bytes) -> Any:
    """Return the JSON value that a YAML document says.

    Raises ValueError for what is not YAML, more than one document, keys that are given twice or
    are no strings, tags, and values that aliases make very many.
    """
    try:
        loader = _LOADER(data)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {_place(error)}") from error
    except (RecursionError, UnicodeDecodeError) as error:
        raise ValueError("not YAML, or nested too deeply") from error
    return None if node is None else _Values().of(node, 0)


def dumps(value: Any) -> str:
    """Return a JSON value as YAML, in the order of its keys."""
    text: str = yaml.safe_dump(value, sort_keys=False, default_flow_style=False, width=100)
    return text


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or "it cannot be read"
    return f"{what} in line {mark.line + 1}" if mark else str(what)


class _Values:
    """Turns nodes into values and counts them: an alias is a node that is met again."""

    def __init__(self) -> None:
        self._left = _MOST_VALUES

    def of(self, node: yaml.Node, depth: int) -> Any:
        """Return the value of a node."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"line {node.start_mark.line + 1}: aliases make too many values")
        if depth > _DEEPEST:  # so an alias within what it names ends here, too
            raise ValueError(f"line {node.start_mark.line + 1}: nested too deeply")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._object(node, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.of(inner, depth + 1) for inner in node.value]
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        raise ValueError(f"line {node.start_mark.line + 1}: the tag {node.tag[:60]!r} is not known")

    def _object(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ValueError(f"line {key_node.start_mark.line + 1}: a key is not a string")
            key = key_node.value
            if key in made:
                line = key_node.start_mark.line + 1
                raise ValueError(f"line {line}: the key {key[:40]!r} is given twice")
            made[key] = self.of(value_node, depth + 1)
        return made


def _scalar(node: yaml.ScalarNode) -> Any:
    """Return null, a boolean or an integer; all else is text, as its writer wrote it."""
    kind = node.tag[len(_TAG) :] if node.tag.startswith(_TAG) else node.tag
    text: str = node.value
    if kind == "str" and not node.style and text.startswith("0o"):
        kind = "int"
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in _TRUE
    if kind == "int":
        return _integer(text)
    if kind in ("str", "float", "timestamp", "value", "merge"):
        return text
    raise ValueError(f"line {node.start_mark.line + 1}: the tag {node.tag[:60]!r} is not known")


def _integer(text: str) -> int | str:
    """Return an integer as Go reads one (`0o17` too); text of YAML 1.1's other form (`1:30`)."""
    digits = text.lstrip("+-")
    base = 10
    if digits.startswith(("0x", "0b", "0o")):
        base = 0
    elif digits.startswith("0") and len(digits) > 1:
        base = 8
    if len(digits) > 20 or ":" in digits:
        return text
    try:
        return int(text, base)
    except ValueError:
        return text
