"""The words that tests want to find, read from their source: what a comment mentions, or a test plays, is not wanted.

A word counts where it stands in a text of an `assert`, of an argument of a test (`parametrize`), or of what a loop with
an `assert` goes over, also where that is a table of the module. It does not as one of several that an `assert` allows,
nor in what only `make nightly` runs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_WORD = re.compile(r"\b[A-Z][A-Za-z0-9]+\b")
_LOOPS = (ast.For, ast.AsyncFor)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LISTS = (ast.Set, ast.Tuple, ast.List)


def asserted_words(path: Path) -> set[str]:
    """Return the words in CamelCase that the tests of a file want to find."""
    return words_asserted_in(path.read_text(encoding="utf-8"))


def words_asserted_in(source: str) -> set[str]:
    """Return the same of the source of a file."""
    tree = ast.parse(source)
    tables = dict(_tables(tree))
    left = list(_wanted(tree)) if not _is_nightly(tables.get("pytestmark")) else []
    words: set[str] = set()
    while left:
        for node in _parts(left.pop()):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.update(_WORD.findall(node.value))
            elif isinstance(node, ast.Name) and node.id in tables:
                left.append(tables.pop(node.id))
    return words


def _tables(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield what a module gives names to."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


def _wanted(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions that say what a test wants to find."""
    if isinstance(node, _DEFINITIONS):
        if any(_is_nightly(item) for item in node.decorator_list):
            return
        yield from node.decorator_list
    elif isinstance(node, ast.Assert):
        yield node.test
    elif isinstance(node, _LOOPS) and any(isinstance(item, ast.Assert) for item in ast.walk(node)):
        yield node.iter
    for child in ast.iter_child_nodes(node):
        yield from _wanted(child)


def _is_nightly(node: ast.expr | None) -> bool:
    parts = () if node is None else ast.walk(node)
    return any(isinstance(part, ast.Attribute) and part.attr == "nightly" for part in parts)


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield an expression and its parts, but for lists of which one is enough."""
    yield node
    passed_over: list[ast.AST] = []
    if isinstance(node, ast.Compare) and any(isinstance(item, ast.In) for item in node.ops):
        passed_over = [item for item in node.comparators if isinstance(item, _LISTS) and len(item.elts) > 1]
    for child in ast.iter_child_nodes(node):
        if child not in passed_over:
            yield from _parts(child)
