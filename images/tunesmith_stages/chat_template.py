"""The chat template as it goes into a GGUF: the one trained with, behind a comment that keeps Ollama's hands off it.

At ``create`` Ollama compares a GGUF's Jinja template with a list of well-known ones. Where the Levenshtein distance is
below 100 it attaches a Go template of its own, which renders some conversations differently (consecutive user turns
are merged, the default system text is left out). A long comment at the start moves the text out of that range and
renders to nothing. Used by `convert`, which writes the text, and by whoever checks that it arrived unchanged.
"""

from __future__ import annotations

GUARD = (
    " Exported by Tunesmith. Whoever serves this file should render conversations with exactly the Jinja text below,"
    " since the weights were trained on what it renders. Some servers replace a template that resembles a well-known"
    " one by their own approximation of it, and the approximation differs in corner cases: turns get joined, blanks"
    " get trimmed, defaults get lost. This comment renders to nothing; it only keeps the text from resembling any. "
)
"""Between the comment's marks. Longer than 300 characters so that the distance stays above 100 even where many of
its letters happen to line up with the well-known template's; free of words by which servers guess abilities."""


def guarded(template: str) -> str:
    """Return `template` behind the guard comment; a guarded template is returned as it is.

    It renders exactly as `template` does, in Jinja as transformers sets it up (``trim_blocks``, ``lstrip_blocks``) and
    in llama.cpp's own engine. ``-#}`` would eat blanks at the template's start, so one that begins with blanks gets a
    comment on a line of its own instead, whose line break ``trim_blocks`` removes.
    """
    if GUARD in template[: len(GUARD) + 4]:
        return template
    if template[:1].isspace():
        return "{#" + GUARD + "#}\n" + template
    return "{#-" + GUARD + "-#}" + template
