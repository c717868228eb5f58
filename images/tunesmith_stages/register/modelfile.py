"""Writes a Modelfile: the text from which ``ollama create`` makes the same model by hand. Pure.

The rules of quoting are those of Ollama's ``parser/parser.go`` (0.34): a value runs to the end of its line unless it
begins with a quotation mark, then to the next line that ends with one. The parser drops characters that do not
print, such as the joiners inside composed emoji or a Chinese text's wide blanks; the API keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def modelfile(
    source: str, parameters: Mapping[str, Any], *, system: str | None = None, license_text: str | None = None
) -> str:
    """Return the text of a Modelfile.

    Args:
        source: the GGUF file, relative to the folder of the Modelfile.
        parameters: Ollama's names, with values of the right JSON type; a list gives a line for each item.
        system: the system prompt, if any.
        license_text: the license, if any.

    Raises:
        ValueError: a text cannot be written in a Modelfile.
    """
    lines = [f"FROM {source}"]
    for name, value in sorted(parameters.items()):
        values = value if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {_value(item)}" for item in values]
    if system:
        lines.append(f"SYSTEM {_quoted(system)}")
    if license_text:
        lines.append(f"LICENSE {_quoted(license_text)}")
    return "\n".join(lines) + "\n"


def dropped(value: Any) -> list[str]:
    """Return the characters of a text, or of a list of texts, that do not arrive by way of a Modelfile, each once.

    Go's ``strconv.IsPrint``, which the parser asks, and Python's ``isprintable`` go by the same Unicode categories.
    """
    text = "".join(map(str, value)) if isinstance(value, list) else str(value)
    return [character for character in dict.fromkeys(text) if not character.isprintable() and character not in "\t\r\n"]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    plain = text == text.strip() and not text.startswith('"') and not any(newline in text for newline in "\r\n")
    return text if plain else _quoted(text)


def _quoted(text: str) -> str:
    for line in text.replace("\r", "\n").split("\n"):
        if line.rstrip().endswith('"""'):
            raise ValueError(f'a line of a text for a Modelfile must not end with """, got {line!r}')
    return f'"""{text}"""'
