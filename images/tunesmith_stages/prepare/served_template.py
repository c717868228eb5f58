"""Makes the chat template that is trained with and served: what the job chooses is written into the text itself.

A server knows nothing of a job. So its default system message and whether the model is to think stand as statements
before the template, and the ``{% generation %}`` tags, which only training reads, become plain blocks.
"""

from __future__ import annotations

from collections.abc import Mapping

import jinja2

_LEXER = jinja2.Environment(keep_trailing_newline=True)  # noqa: S701 - nothing is rendered with it
_PLAIN_BLOCK = {"generation": "if true", "endgeneration": "endif"}


def without_generation_tags(source: str) -> str:
    """Return a template with each ``{% generation %}`` block as a plain one, which renders the same.

    Some servers refuse the tag. Dashes and line ends around it stay, and so does what they trim.

    Raises:
        jinja2.TemplateSyntaxError: it is no Jinja.
    """
    parts: list[str] = []
    opened = found = False
    for _, kind, text in _LEXER.lex(source):
        is_tag = opened and kind == "name" and text in _PLAIN_BLOCK
        parts.append(_PLAIN_BLOCK[text] if is_tag else text)
        found = found or is_tag
        if kind != "whitespace":
            opened = kind == "block_begin"
    return "".join(parts) if found else source


def with_choices(source: str, variables: Mapping[str, str | bool], default_system: str | None) -> str:
    """Return a template behind statements that set `variables`, and give a conversation the system message it lacks.

    Each statement is a line of its own: its line end is not rendered (``trim_blocks``), and what follows is untouched.
    """
    lines = [f"{{%- set {name} = {_literal(value)} %}}\n" for name, value in variables.items()]
    if default_system:
        message = f"{{'role': 'system', 'content': {_literal(default_system)}}}"
        lines += [
            "{%- if not messages or messages[0]['role'] != 'system' %}\n",
            f"{{%- set messages = [{message}] + messages %}}\n",
            "{%- endif %}\n",
        ]
    return "".join(lines) + source


def _literal(value: str | bool) -> str:
    """Return a value as both Jinja and llama.cpp's engine read it: only escapes that both know."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{text}'"
