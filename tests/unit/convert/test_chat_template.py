from __future__ import annotations

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunesmith_stages.chat_template import GUARD, guarded

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "ChatML": CHATML,
    "begins with a block that strips": "{%- for message in messages %}\n{{- message.content }}\n{%- endfor %}",
    "begins with text": "Conversation:\n{% for message in messages %}{{ message.content }}\n{% endfor %}",
    "begins with a line break": "\n{% for message in messages %}{{ message.content }}\n{% endfor %}",
    "begins with two line breaks": "\n\n{% for message in messages %}{{ message.content }}{% endfor %}",
    "begins with blanks before a block": "   {% for message in messages %}\n  {{ message.content }}\n   {% endfor %}",
    "begins with blanks before text": "  \t Hello\n{{ messages[0].content }}",
    "begins with a carriage return": "\r\n{{ messages[0].content }}",
    "begins with a comment": "{#- ours -#}\n  {{ messages[0].content }}",
    "is empty": "",
    "is only blanks": " \n ",
}
MESSAGES = [{"role": "user", "content": "  Hi\n"}, {"role": "assistant", "content": "Hello there."}]


def render(template: str) -> str:
    """Render as transformers does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=MESSAGES, add_generation_prompt=True)


def distance(left: str, right: str) -> int:
    """Return the Levenshtein distance."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@pytest.mark.parametrize("name", TEMPLATES)
def test_guard_renders_to_nothing(name: str) -> None:
    """A guarded template renders exactly what the template renders, blanks at its start included."""
    assert render(guarded(TEMPLATES[name])) == render(TEMPLATES[name])


@pytest.mark.parametrize("name", TEMPLATES)
def test_guarding_twice_is_guarding_once(name: str) -> None:
    """A template that went through an export before is not given a second comment."""
    once = guarded(TEMPLATES[name])
    assert guarded(once) == once
    assert once.endswith(TEMPLATES[name])


@pytest.mark.parametrize("change", ["", "x" * 60, CHATML])
def test_guarded_template_resembles_no_well_known_one(change: str) -> None:
    """Ollama attaches its own template below a distance of 100: ours stays above with room to spare."""
    assert distance(CHATML + change, CHATML) >= len(change)
    assert distance(guarded(CHATML + change), CHATML) >= 200


def test_guard_holds_no_word_by_which_servers_guess_abilities() -> None:
    """Servers look for words such as `tools` in a template to see what a model can do."""
    for word in ("tool", "think", "reason", "system", "image", "<", "{", "}", "#"):
        assert word not in GUARD.lower()
