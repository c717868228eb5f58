"""Reads a YAML file that holds one object, with the line of every field, and refuses what would be read in two ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tunesmith.api.kube_yaml import KubeLoader
from tunesmith.api.problems import InvalidFileError, Path, Problem, dotted

MAX_BYTES = 1_048_576
"""Largest YAML file that is read; the API server takes no larger object either."""


@dataclass(frozen=True)
class YamlFile:
    """The one object of a file, and those beside it."""

    data: Any
    """Plain data."""
    lines: Mapping[Path, int]
    """Line of every field, from 1."""
    beside: Sequence[Any] = ()
    """Plain data of the other objects."""


def read_yaml(text: str, what: str, fields: str, beside: Sequence[str] = ()) -> YamlFile:
    """Return the one object that a YAML text holds.

    Args:
        text: the file.
        what: what it must hold, with its article: `a FineTuneJob`.
        fields: what that is a mapping with, for people.
        beside: kinds of objects that may stand in the file besides.

    Raises:
        InvalidFileError: it is not YAML, or holds none or several objects.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InvalidFileError([Problem(f"the file is larger than {MAX_BYTES} bytes")])
    nodes = _compose(text)
    if not nodes:
        raise InvalidFileError([Problem(f"the file is empty: it must hold {what}")])
    others = [node for node in nodes if _kind_of(node) in beside] if len(nodes) > 1 else []
    wanted = [node for node in nodes if node not in others]
    if len(wanted) != 1:
        second = nodes[1].start_mark.line + 1
        but = f" (objects of the kind {' or '.join(beside)} may stand beside it)" if beside else ""
        message = f"the file must hold {what} and nothing else, it holds {len(nodes)} documents{but}"
        raise InvalidFileError([Problem(message, line=second)])
    (node,) = wanted
    if not isinstance(node, yaml.MappingNode):
        message = f"the file must hold {what}: a mapping with {fields}"
        raise InvalidFileError([Problem(message, line=node.start_mark.line + 1)])
    for each in nodes:
        _refuse_repeats(each, ())
    return YamlFile(_construct(node), dict(_lines(node, ())), tuple(map(_construct, others)))


def _compose(text: str) -> list[yaml.Node]:
    """Return the documents of a text that are not empty."""
    try:
        loader = KubeLoader(text)
        nodes = []
        while loader.check_node():
            node = loader.get_node()
            if node is not None and not _is_empty(node):
                nodes.append(node)
    except yaml.YAMLError as error:
        raise _not_yaml(error, text) from None
    except RecursionError:
        raise InvalidFileError([Problem("the file is nested too deeply")]) from None
    return nodes


def _not_yaml(error: yaml.YAMLError, text: str) -> InvalidFileError:
    """Return the error in words, with its line."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return InvalidFileError(
            [Problem(f"not YAML: the character {text[error.position]!r} is not allowed", line=line)]
        )
    if not isinstance(error, yaml.MarkedYAMLError):
        return InvalidFileError([Problem(f"not YAML: {error}")])
    mark = error.problem_mark or error.context_mark
    what = error.problem or error.context or "it cannot be read"
    if "'\\t'" in what:
        what = "a line is indented with a tab; YAML takes blanks only"
    return InvalidFileError([Problem(f"not YAML: {what}", line=mark.line + 1 if mark else 0)])


def _kind_of(node: yaml.Node) -> str:
    """Return the `kind` of an object; empty if it has none."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((str(value.value) for key, value in pairs if key.value == "kind"), "")


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _refuse_repeats(node: yaml.Node, path: Path) -> None:
    """Refuse aliases, which can grow without bound, and keys that occur twice, of which the last would win silently."""
    seen_nodes: set[int] = set()
    stack: list[tuple[yaml.Node, Path]] = [(node, path)]
    while stack:
        current, where = stack.pop()
        line = current.start_mark.line + 1
        if id(current) in seen_nodes:
            raise InvalidFileError([Problem("must be written out: YAML aliases are not taken", dotted(where), line)])
        seen_nodes.add(id(current))
        if isinstance(current, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in current.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                    what = f", not {key.value}: put it in quotes" if isinstance(key, yaml.ScalarNode) else ""
                    raise InvalidFileError(
                        [Problem(f"must have names as keys{what}", dotted(where), key.start_mark.line + 1)]
                    )
                if key.value in keys:
                    place = dotted((*where, key.value))
                    raise InvalidFileError([Problem("is there twice", place, key.start_mark.line + 1)])
                keys.add(key.value)
                stack.append((value, (*where, key.value)))
        elif isinstance(current, yaml.SequenceNode):
            stack.extend((item, (*where, index)) for index, item in enumerate(current.value))


def _construct(node: yaml.Node) -> Any:
    try:
        return KubeLoader("").construct_document(node)
    except yaml.YAMLError as error:
        raise _not_yaml(error, "") from None
    except ValueError as error:  # a number that is none, such as 0x_
        raise InvalidFileError([Problem(f"not YAML: {error}")]) from None


def _lines(node: yaml.Node, path: Path) -> Iterator[tuple[Path, int]]:
    """Yield the line of every field of a document, the key's line where there is a key."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, key.value)
            yield below, key.start_mark.line + 1
            yield from _lines(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            below = (*path, index)
            yield below, item.start_mark.line + 1
            yield from _lines(item, below)
