"""Reads FineTuneJobs from YAML, strictly, and says what is wrong in words for the person who wrote it.

Called by the command line. Every problem names the file, the line, the field, the value, what is allowed and, where a
name looks misspelt, what was probably meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tunesmith.api.finetunejob import BROKEN_RULE, FineTuneJob
from tunesmith.api.kube_yaml import KubeLoader

MAX_BYTES = 1_048_576
"""Largest YAML file that is read; the API server takes no larger object either."""

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a FineTuneJob."""

    message: str
    """What is wrong, what is allowed, what was probably meant."""
    field: str = ""
    """Path of the field, such as ``spec.datasets[0].columns``."""
    line: int = 0
    """Line in the file, from 1; 0 where there is none."""

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        what = f"`{self.field}` " if self.field else ""
        return f"{where}{what}{self.message}"


class InvalidJobError(ValueError):
    """A file that holds no valid FineTuneJob.

    Attributes:
        problems: everything that is wrong with it, in the order of the file.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def parse_job(text: str) -> FineTuneJob:
    """Return the one FineTuneJob that a YAML text holds.

    Raises:
        InvalidJobError: it holds none, several, or one with problems.
    """
    if len(text.encode()) > MAX_BYTES:
        raise InvalidJobError([Problem(f"the file is larger than {MAX_BYTES} bytes")])
    node = _compose(text)
    data = _construct(node)
    lines = dict(_lines(node, ()))
    try:
        return FineTuneJob.model_validate(data)
    except ValidationError as error:
        details = error.errors()
        broken = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
        # A list whose items are all invalid is not also too short.
        found = [_problem(d, lines) for d in details if not (d["type"] == "too_short" and d["loc"] in broken)]
        raise InvalidJobError(sorted(found, key=lambda problem: problem.line)) from None


# --- YAML ------------------------------------------------------------------------------------------------------------


def _compose(text: str) -> yaml.Node:
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
        raise InvalidJobError([Problem("the file is nested too deeply")]) from None
    if not nodes:
        raise InvalidJobError([Problem("the file is empty: it must hold a FineTuneJob")])
    if len(nodes) > 1:
        second = nodes[1].start_mark.line + 1
        raise InvalidJobError([Problem(f"a file must hold one FineTuneJob, this holds {len(nodes)}", line=second)])
    if not isinstance(nodes[0], yaml.MappingNode):
        message = "the file must hold a FineTuneJob: a mapping with apiVersion, kind, metadata and spec"
        raise InvalidJobError([Problem(message, line=nodes[0].start_mark.line + 1)])
    _refuse_repeats(nodes[0], ())
    return nodes[0]


def _not_yaml(error: yaml.YAMLError, text: str) -> InvalidJobError:
    """Return the error in words, with its line."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return InvalidJobError([Problem(f"not YAML: the character {text[error.position]!r} is not allowed", line=line)])
    if not isinstance(error, yaml.MarkedYAMLError):
        return InvalidJobError([Problem(f"not YAML: {error}")])
    mark = error.problem_mark or error.context_mark
    what = error.problem or error.context or "it cannot be read"
    if "'\\t'" in what:
        what = "a line is indented with a tab; YAML takes blanks only"
    return InvalidJobError([Problem(f"not YAML: {what}", line=mark.line + 1 if mark else 0)])


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
            raise InvalidJobError([Problem("must be written out: YAML aliases are not taken", _dotted(where), line)])
        seen_nodes.add(id(current))
        if isinstance(current, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in current.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                    what = f", not {key.value}: put it in quotes" if isinstance(key, yaml.ScalarNode) else ""
                    raise InvalidJobError(
                        [Problem(f"must have names as keys{what}", _dotted(where), key.start_mark.line + 1)]
                    )
                if key.value in keys:
                    place = _dotted((*where, key.value))
                    raise InvalidJobError([Problem("is there twice", place, key.start_mark.line + 1)])
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
        raise InvalidJobError([Problem(f"not YAML: {error}")]) from None


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


# --- problems in words -----------------------------------------------------------------------------------------------


def _problem(detail: ErrorDetails, lines: Mapping[Path, int]) -> Problem:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    if detail["type"] == BROKEN_RULE:
        path += tuple(detail["ctx"]["field"])
    line = next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), 1)
    return Problem(_sentence(detail, path), _dotted(path), line)


def _sentence(detail: ErrorDetails, path: Path) -> str:
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _fields_at(path[:-1])
        listed = "; the fields here are " + ", ".join(known)
        return f"is not a field here{_suggestion(str(path[-1]), known) or listed}"
    if kind == BROKEN_RULE:
        return str(context["message"])
    if kind == "missing":
        return "must be given"
    if kind in {"literal_error", "enum"}:
        allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        one_of = "one of " if len(allowed) > 1 else ""
        return f"must be {one_of}{', '.join(allowed)}, got {_shown(given)}{_suggestion(str(given), allowed)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"must be {_pattern_in_words(str(context['pattern']))}, got {_shown(given)}"
    said = next((words.format(**context) for start, words in _IN_WORDS if kind.startswith(start)), None)
    if said is not None:
        return f"must {said}, got {_shown(given)}"
    return f"{detail['msg'][0].lower()}{detail['msg'][1:]}, got {_shown(given)}"


_IN_WORDS = (
    ("model_", "be a mapping of fields"),
    ("dict_type", "be a mapping of names to texts"),
    ("tuple_type", "be a list"),
    ("list_type", "be a list"),
    ("string_type", "be a text; put numbers, true and false in quotes to make texts of them"),
    ("string_unicode", "be a text of whole Unicode characters"),
    ("string_too_short", "not be empty"),
    ("string_too_long", "have at most {max_length} characters"),
    ("int_", "be a whole number without quotes"),
    ("bool_", "be true or false, without quotes"),
    ("greater_than_equal", "be {ge} or more"),
    ("less_than_equal", "be {le} or less"),
    ("too_short", "have at least {min_length} item(s)"),
    ("too_long", "have at most {max_length} items"),
)
"""What is demanded, by the beginning of the type of pydantic's error."""


def _shown(value: object) -> str:
    """Return a value as people wrote it, cut where it is long."""
    words = {None: "nothing", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(value) if isinstance(value, str) else len(text)} long)"


_PATTERNS_IN_WORDS = (
    (r"^0(\.", 'a decimal in quotes, from "0" to below "1"'),
    (r"^-?[0-9]", 'a decimal in quotes, such as "0.5" or "-1"'),
    (r"^[0-9]", 'a decimal in quotes, such as "0.05" or "1e-5", not below 0'),
    (r"^[a-z0-9]([a-z0-9-]", "lower-case letters, digits and hyphens, with a letter or digit at both ends"),
    (r"^[A-Za-z0-9_.]{1,128}$", "a module's name: letters, digits, '.' and '_'"),
    (r"^[A-Za-z_]", "a name of letters, digits and '_'"),
)  # fmt: skip


def _pattern_in_words(pattern: str) -> str:
    return next(
        (words for start, words in _PATTERNS_IN_WORDS if pattern.startswith(start)), f"text of the form {pattern}"
    )


def _suggestion(given: str, known: Sequence[str]) -> str:
    folded = {name.lower().replace("_", ""): name for name in known}
    close = difflib.get_close_matches(given.lower().replace("_", ""), folded, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{folded[close[0]]}`?"
    return ""


def _fields_at(path: Path) -> list[str]:
    """Return the names of the fields that an object of the API has, by the object's path."""
    model: type[BaseModel] = FineTuneJob
    for part in path:
        if isinstance(part, int):
            continue
        annotation = next(
            (info.annotation for name, info in model.model_fields.items() if (info.alias or name) == part), None
        )
        found = _model_in(annotation)
        if found is None:
            return []
        model = found
    return [info.alias or name for name, info in model.model_fields.items()]


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for item in get_args(annotation) if (found := _model_in(item)) is not None), None)


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
