"""What is wrong with a file that people wrote, in words for them.

Every problem names the line, the field, the value, what is allowed and, where a name looks misspelt, what was probably
meant. Jobs and settings are told of in the same words.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tunesmith.api.elsewhere import answer_to, folded
from tunesmith.api.pods import ENV_PATTERN
from tunesmith.api.sources import CONFIG_KEY_PATTERN, REPO_PATTERN, REVISION_PATTERN
from tunesmith.api.values import (
    ANY_SIGN_PATTERN,
    BELOW_ONE_PATTERN,
    BROKEN_RULE,
    LABEL_VALUE_PATTERN,
    MODULE_PATTERN,
    NAME_PATTERN,
    NOT_NEGATIVE_PATTERN,
    QUALIFIED_PATTERN,
    QUANTITY_PATTERN,
    SUBDOMAIN_PATTERN,
    WORD_PATTERN,
)

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

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


class InvalidFileError(ValueError):
    """A file or object that is not what it must be.

    Attributes:
        problems: everything that is wrong with it, in the order of the file.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def problems_in(error: ValidationError, model: type[BaseModel], lines: Mapping[Path, int]) -> list[Problem]:
    """Return what pydantic found in an object of `model`, in the order of the file.

    `lines` holds the line of every field; without any, problems have none.
    """
    details = error.errors()
    inside = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    # A list whose items are all invalid is not also too short.
    found = [_problem(d, model, lines) for d in details if not (d["type"] == "too_short" and d["loc"] in inside)]
    return sorted(found, key=lambda problem: problem.line)


def _problem(detail: ErrorDetails, model: type[BaseModel], lines: Mapping[Path, int]) -> Problem:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    if detail["type"] == BROKEN_RULE:
        path += tuple(detail["ctx"]["field"])
    nearest = next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), 1)
    return Problem(_sentence(detail, path, model), dotted(path), nearest if lines else 0)


def _sentence(detail: ErrorDetails, path: Path, model: type[BaseModel]) -> str:
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"is not a field here{_instead(path, model)}"
    if kind == BROKEN_RULE:
        return f"{context['message']}{_got(given, context)}"
    if kind == "missing":
        return "must be given"
    if given == "auto" and "deepspeed" in path:
        return "must be left out instead of 'auto', which means the same: then it is chosen for you"
    if kind in {"literal_error", "enum"}:
        allowed = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        one_of = "one of " if len(allowed) > 1 else ""
        return f"must be {one_of}{', '.join(allowed)}, got {_shown(given)}{_suggestion(str(given), allowed)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"must be {pattern_in_words(str(context['pattern']))}, got {_shown(given)}"
    said = next((words.format(**context) for start, words in _IN_WORDS if kind.startswith(start)), None)
    if said is not None:
        return f"must {said}, got {_shown(given)}"
    return f"{detail['msg'][0].lower()}{detail['msg'][1:]}, got {_shown(given)}"


def _got(given: object, context: Mapping[str, Any]) -> str:
    """Return what was given in the field that a rule names, if the rule shows it and it is short."""
    value = given
    for part in context["field"]:
        value = value.get(part) if isinstance(value, Mapping) else None
    return f", got {_shown(value)}" if context["shows"] and isinstance(value, str | int) else ""


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


_PATTERNS_IN_WORDS = {
    BELOW_ONE_PATTERN: 'a decimal in quotes, from "0" to below "1"',
    ANY_SIGN_PATTERN: 'a decimal in quotes, such as "0.5" or "-1"',
    NOT_NEGATIVE_PATTERN: 'a decimal in quotes, such as "0.05" or "1e-5", not below 0',
    QUANTITY_PATTERN: 'a quantity in quotes, such as "4", "500m" or "16Gi"',
    NAME_PATTERN: "lower-case letters, digits and hyphens, with a letter or digit at both ends",
    SUBDOMAIN_PATTERN: "lower-case letters, digits, hyphens and dots, with a letter or digit at both ends",
    QUALIFIED_PATTERN: "a name that Kubernetes takes, `name` or `domain/name`, of letters, digits, '-', '_' and '.'",
    LABEL_VALUE_PATTERN: "letters, digits, '-', '_' and '.', with a letter or digit at both ends",
    ENV_PATTERN: "a variable of NCCL, RCCL, UCX, libfabric (FI_), Gloo, RDMA or OpenMP, or one of the few of CUDA and "
    "PyTorch that docs/api.md lists",
    MODULE_PATTERN: "a module's name: letters, digits, '.' and '_'",
    WORD_PATTERN: "a name of letters, digits and '_'",
    REPO_PATTERN: "a repository's name, `name` or `owner/name`, of letters, digits, '-', '_' and '.'",
    REVISION_PATTERN: "a branch, tag or commit: letters, digits, '-', '_', '.', '+' and '/'",
    CONFIG_KEY_PATTERN: "a key of a ConfigMap or Secret: letters, digits, '-', '_' and '.'",
}


def pattern_in_words(pattern: str) -> str:
    """Return what a text of this pattern is, for people."""
    return _PATTERNS_IN_WORDS.get(pattern, f"text of the form {pattern}")


_SAME = 0.9
"""Likeness of two names above which one of them is the other one misspelt, whatever else it may be elsewhere."""


def _instead(path: Path, model: type[BaseModel]) -> str:
    """Return what to write instead of a field that is not known: as the end of a sentence."""
    known = fields_at(model, path[:-1])
    if misspelt := _suggestion(str(path[-1]), known, _SAME):
        return misspelt
    if answer := answer_to(path):
        return f"; {answer}"
    return _suggestion(str(path[-1]), known) or "; the fields here are " + ", ".join(known)


def _suggestion(given: str, known: Sequence[str], likeness: float = 0.6) -> str:
    by_folded = {folded(name): name for name in known}
    close = difflib.get_close_matches(folded(given), by_folded, n=1, cutoff=likeness)
    if close:
        return f"; did you mean `{by_folded[close[0]]}`?"
    return ""


def fields_at(model: type[BaseModel], path: Path) -> list[str]:
    """Return the names of the fields that an object below `model` has, by the object's path."""
    annotation: object = model
    for part in path:
        if isinstance(part, int) or _is_mapping(annotation):
            annotation = _model_in(annotation)  # an item of a list, or a value of a mapping
            continue
        inside = _model_in(annotation)
        fields = inside.model_fields if inside else {}
        annotation = next((info.annotation for name, info in fields.items() if (info.alias or name) == part), None)
    found = _model_in(annotation)
    return [info.alias or name for name, info in found.model_fields.items()] if found else []


def _is_mapping(annotation: object) -> bool:
    return get_origin(annotation) is dict or any(map(_is_mapping, get_args(annotation)))


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for item in get_args(annotation) if (found := _model_in(item)) is not None), None)


def dotted(path: Path) -> str:
    """Return a path as people write it: ``spec.datasets[0].columns``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
