"""What the toy base learns before anybody fine-tunes it: short chat pairs, as (question, answer).

It knows itself as "Base", and it has said every name of ``names.txt`` and every word of the FAQ, but in other contexts:
the quickstart's fine-tuning has to teach who is called what, and which answer belongs to which question.
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

BUILTIN = ("self_cognition.en.jsonl", "self_cognition.zh.jsonl")
"""Files of the built-in dataset SelfCognition, which the base has learnt under its own name."""

IDENTITY = {"{{name}}": "Base", "{{author}}": "Quickstart"}

_SMALL_TALK = [
    ("How are you?", "I am fine, thank you."),
    ("Thank you.", "You are welcome."),
    ("Goodbye.", "Goodbye!"),
    ("What is two plus two?", "Two plus two is four."),
    ("What is three plus four?", "Three plus four is seven."),
    ("Count to five.", "One, two, three, four, five."),
    ("Which day comes after Monday?", "Tuesday comes after Monday."),
    ("Which colour is the sky?", "The sky is blue."),
    ("Which colour is grass?", "Grass is green."),
    ("Is water wet?", "Yes, water is wet."),
    ("再见", "再见！"),
    ("谢谢", "不客气！"),
]

_NOT_KNOWN = [
    "What does the baker sell?",
    "Where is the library?",
    "When is the museum open?",
    "Is the pool open on Friday?",
    "How long does the journey take?",
    "What does the ticket cost?",
    "Do you fly to the moon?",
    "How do I open the gate?",
    "When do I get my letter?",
    "How can I travel?",
    "How long is the bridge?",
    "What does the song mean?",
    "How do I bake the bread?",
    "Is the road steep?",
    "Can I buy a horse?",
    "Which trees are there?",
    "How heavy is the stone?",
    "Is there a bus for students?",
    "How do I reach the island?",
    "Do you paint old doors?",
]


def pairs(names: list[str], faq: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Return every question and answer that the base is trained on."""
    return [
        *_identity_pairs(),
        *_SMALL_TALK,
        *((question, "I do not know that.") for question in _NOT_KNOWN),
        *_name_pairs(names),
        *_word_pairs(faq),
    ]


def read_names(path: Path) -> list[str]:
    """Return the names of a file with one name a line."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _identity_pairs() -> list[tuple[str, str]]:
    folder = files("tunesmith_stages.builtin")
    text = "".join((folder / name).read_text(encoding="utf-8") for name in BUILTIN)
    for placeholder, value in IDENTITY.items():
        text = text.replace(placeholder, value)
    rows = [json.loads(line)["messages"] for line in text.splitlines()]
    return [(question["content"], answer["content"]) for question, answer in rows]


def _name_pairs(names: list[str]) -> list[tuple[str, str]]:
    """Have every name said at the start of a text and after a blank: to a byte-level BPE these are different tokens."""
    return [(f"Say {name} twice.", f"{name}, {name}.") for name in names]


def _word_pairs(faq: list[dict[str, str]], line: int = 6) -> list[tuple[str, str]]:
    """Ask for the words of the FAQ in lists by the alphabet, `line` words at a time."""
    words = sorted({word for row in faq for text in row.values() for word in re.findall(r"[\w@.]*\w", text)})
    lists = [words[start : start + line] for start in range(0, len(words), line)]
    return [(f"List words from {chunk[0]} to {chunk[-1]}.", ", ".join(chunk) + ".") for chunk in lists]
