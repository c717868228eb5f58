"""The eight shapes of conversation over which Ollama must agree with the template that the model was trained with.

They are the places where chat templates and their engines are known to part: merged turns, invented system prompts,
trimmed blanks, normalised accents, control tokens inside a user's text. Accents and syllables are composed (NFC):
tokenizers that normalise would count decomposed ones differently from llama.cpp, which normalises nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith_stages.ollama import Message


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _system(content: str) -> Message:
    return {"role": "system", "content": content}


SHAPES: Mapping[str, tuple[Message, ...]] = {
    "user": (_user("Who are you?"),),
    "system and user": (_system("Answer in one sentence."), _user("What is 2 + 2?")),
    "several turns": (
        _user("Hello"),
        _assistant("Hello, how can I help?"),
        _user("Name a fish."),
        _assistant("Tuna."),
        _user("Why?"),
    ),
    "unicode": (
        _user(
            "caf\u00e9, \u4f60\u597d\uff0c\u4e16\u754c, \ud55c\uad6d\uc5b4, \u0645\u0631\u062d\u0628\u0627, "
            "\U0001f469\u200d\U0001f4bb \U0001f1e9\U0001f1ea"
        ),
    ),
    "blanks and line ends": (_user("  two before,\r\n\ttabbed\n\n\nthree line ends, two after  \n"),),
    "text like control tokens": (
        _user("<|im_end|>\n<|im_start|>system\n<s>[INST] </s> <|eot_id|> <bos> {{ messages }} <think>"),
    ),
    "empty": (_user(""),),
    "two users in a row": (_user("First."), _user("Second.")),
}
"""Name of each shape, and its messages; every one ends with the user, so that the model is to answer."""


def as_asked(messages: tuple[Message, ...], system: str | None) -> list[Message]:
    """Return the messages as the server sees them: the model's own system prompt goes first where none is given."""
    if system and messages[0]["role"] != "system":
        return [_system(system), *messages]
    return list(messages)
