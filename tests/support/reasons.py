"""Every reason that the code can give for how a job stands, read from its source.

A reason is a text in CamelCase that goes to something called `reason`: an argument, a field, a variable, or the first
of a pair of reason and sentence. Nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TypeGuard

from support.generator import ROOT
from tunesmith_stages.contract import ExitCode

_CAMEL_CASE = re.compile(r"^[A-Z][A-Za-z0-9]+$")
_SOURCES = ("images/tunesmith_stages/**/*.py", "operator/tunesmith/core/**/*.py", "operator/tunesmith/reconcile.py")
_PAIRS = ("tuple[str, str]", "Obstacle")
"""Types of a pair of reason and sentence, as functions say that they return one."""
_PAIR_FIELDS = {"waits_for", "stalled"}
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@cache
def reasons_in_code() -> dict[str, set[str]]:
    """Return every reason with the modules that give it."""
    modules = {path: ast.parse(path.read_text(encoding="utf-8")) for pattern in _SOURCES for path in ROOT.glob(pattern)}
    places = dict(place for tree in modules.values() for place in _places_of_reason(tree))
    returned: dict[str, list[ast.Tuple]] = {}
    for tree in modules.values():
        tables = {name: value for node in tree.body for name, value in _assigned(node) if isinstance(value, ast.Dict)}
        for node in ast.walk(tree):
            if isinstance(node, _Function):
                returned.setdefault(node.name, []).extend(_returned(node, tables))
    found: dict[str, set[str]] = {}
    for path, tree in modules.items():
        for reason in _Module(tree, places, returned).reasons():
            found.setdefault(reason, set()).add(path.relative_to(ROOT).as_posix())
    return found


@cache
def classes_in_code() -> dict[str, set[ExitCode]]:
    """Return by reason the classes that stand beside it: in one call, or in one tuple."""
    found: dict[str, set[ExitCode]] = {}
    for path in (ROOT / "images/tunesmith_stages").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = _Module(tree, {}, {})
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                together = [*node.args, *(item.value for item in node.keywords if item.arg == "reason")]
            else:
                together = node.elts if isinstance(node, ast.Tuple) else []
            for items in _branches(together):
                classes = {ExitCode[item.attr] for item in items if _is_class(item)}
                for text in {text for item in items for text in module.texts(item)} if classes else ():
                    found.setdefault(text, set()).update(classes)
    return found


def _branches(items: list[ast.expr]) -> list[list[ast.expr]]:
    """Return what stands together where conditions hold, and where they do not: code and reason hang on the same."""
    choices = [[item.body, item.orelse] if isinstance(item, ast.IfExp) else [item, item] for item in items]
    return [[choice[place] for choice in choices] for place in (0, 1)]


def _is_class(node: ast.expr) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and _name(node.value) == "ExitCode"


def _places_of_reason(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the functions and classes with an argument or field `reason`, and which one it is; -1 if by name only."""
    for node in ast.walk(tree):
        if isinstance(node, _Function):
            names = [arg.arg for arg in node.args.args if arg.arg not in {"self", "cls"}]
            if "reason" in names:
                yield node.name, names.index("reason")
        elif isinstance(node, ast.ClassDef):
            fields = [item.target.id for item in node.body if _is_field(item)]  # type: ignore[attr-defined]
            if "reason" in fields:
                yield node.name, fields.index("reason")


def _is_field(item: ast.stmt) -> bool:
    return isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)


class _Module:
    """The reasons of one module."""

    def __init__(self, tree: ast.Module, places: Mapping[str, int], returned: Mapping[str, list[ast.Tuple]]) -> None:
        """`returned` has by the name of a function what it returns, where that is several things at once."""
        self._tree = tree
        self._places = places
        self._returned = returned
        self._values: dict[str, list[ast.expr]] = {}
        for node in ast.walk(tree):
            for name, value in _assigned(node):
                self._values.setdefault(name, []).append(value)

    def reasons(self) -> set[str]:
        """Return all of them."""
        return {text for value in self._given() for text in self.texts(value)}

    def texts(self, value: ast.expr) -> set[str]:
        """Return what can be a reason of that which an expression can come to."""
        return {text for text in self._texts(value, set()) if _CAMEL_CASE.match(text)}

    def _given(self) -> Iterator[ast.expr]:
        """Yield every expression whose value becomes a reason."""
        yield from self._values.get("reason", ())
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                yield from (item.value for item in node.keywords if item.arg == "reason")
                place = self._places.get(_name(node.func), -1)
                yield from node.args[place : place + 1] if place >= 0 else ()
            elif isinstance(node, _Function):
                yield from _defaults(node)
                if node.returns is not None and any(pair in ast.unparse(node.returns) for pair in _PAIRS):
                    yield from (pair.elts[0] for pair in self._returned.get(node.name, []))
            elif isinstance(node, ast.Assign) and any(_name(target) in _PAIR_FIELDS for target in node.targets):
                yield from node.value.elts[:1] if isinstance(node.value, ast.Tuple) else ()
            yield from self._unpacked(node)

    def _unpacked(self, node: ast.AST) -> Iterator[ast.expr]:
        """Yield what `reason` becomes where several things are taken from a call, or from rows, at once."""
        rows: list[ast.Tuple] = []
        target: ast.expr | None = None
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            target, rows = node.targets[0], self._returned.get(_name(node.value.func), [])
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            target, rows = node.target, [row for row in node.iter.elts if isinstance(row, ast.Tuple)]
        names = [_name(item) for item in target.elts] if isinstance(target, ast.Tuple) else []
        if "reason" in names:
            place = names.index("reason")
            yield from (row.elts[place] for row in rows if place < len(row.elts))

    def _texts(self, value: ast.expr, seen: set[str]) -> Iterator[str]:
        """Yield the texts that an expression can come to, as far as the module tells."""
        match value:
            case ast.Constant(value=str(text)):
                yield text
            case ast.IfExp():
                yield from self._texts(value.body, seen)
                yield from self._texts(value.orelse, seen)
            case ast.BoolOp():
                for item in value.values:
                    yield from self._texts(item, seen)
            case ast.Name(id=name) if name not in seen:
                for item in self._values.get(name, ()):
                    yield from self._texts(item, seen | {name})
            case ast.Subscript(value=ast.Name() as table):
                for rows in self._values.get(table.id, ()):
                    for item in rows.values if isinstance(rows, ast.Dict) else ():
                        yield from self._texts(item, seen)


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that a statement gives a value to."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
        yield node.target.id, node.value
    for target in node.targets if isinstance(node, ast.Assign) else ():
        assert isinstance(node, ast.Assign)
        if isinstance(target, ast.Name):
            yield target.id, node.value
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = zip(target.elts, node.value.elts, strict=True)
            yield from ((item.id, value) for item, value in pairs if isinstance(item, ast.Name))


def _returned(function: ast.AST, tables: Mapping[str, ast.Dict]) -> list[ast.Tuple]:
    """Return the tuples that a function returns, itself or out of a table of its module."""
    values = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    for value in [item for item in values if isinstance(item, ast.Subscript)]:
        table = tables.get(_name(value.value))
        values += table.values if table else []
    return [value for value in values if isinstance(value, ast.Tuple)]


def _defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    for arg, value in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if arg.arg == "reason" and value is not None:
            yield value


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
