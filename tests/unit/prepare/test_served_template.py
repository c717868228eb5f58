from __future__ import annotations

import pytest

from support.builders import CHATML, messages
from support.templates import WITH_BLOCKS
from tunesmith_stages.chat_template import guarded
from tunesmith_stages.prepare.chat import ChatTemplate
from tunesmith_stages.prepare.served_template import with_choices, without_generation_tags

TAGS = {
    "a block": ("a{% generation %}b{% endgeneration %}c", "a{% if true %}b{% endif %}c"),
    "dashes and blanks": ("a {%- generation -%} b {%- endgeneration -%} c", "a{%- if true -%} b{%- endif -%} c"),
    "on lines of their own": ("{%  generation%}\nb\n{% endgeneration  %}\n", "{%  if true%}\nb\n{% endif  %}\n"),
    "the word elsewhere": (
        "generation {{ generation }} {# {% generation %} #}{% raw %}{% generation %}{% endraw %}\r\n\n",
        "generation {{ generation }} {# {% generation %} #}{% raw %}{% generation %}{% endraw %}\r\n\n",
    ),
    "the word in a text": ("{% set a = '{% generation %}' %}{{ a }}", "{% set a = '{% generation %}' %}{{ a }}"),
}


@pytest.mark.parametrize("name", TAGS)
def test_generation_tags(name: str) -> None:
    """Tags that some servers refuse become plain blocks, nothing else changes, and the same is rendered."""
    source, plain = TAGS[name]
    assert without_generation_tags(source) == plain
    assert ChatTemplate(plain, {}).render([]) == ChatTemplate(source, {}).render([])


def test_template_with_blocks_renders_the_same() -> None:
    """A whole template with blocks renders the same without them."""
    talk = messages("Hi", " Hello ", "Who?", "Tunny", system="Be kind.")
    plain = without_generation_tags(WITH_BLOCKS)
    assert "generation %}" not in plain
    for ask in (False, True):
        assert ChatTemplate(plain, {}).render(talk, ask=ask) == ChatTemplate(WITH_BLOCKS, {}).render(talk, ask=ask)


TEXTS = (
    "Be kind.",
    'it\'s "so" \\n',
    "a\nb\r\nc\td",
    "{{ x }} {% endif %} {# no #} %} }}",
    "你好 é 👩‍💻",
    "\\'",
    "\x0b ",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("start", ["", "\n", " ", "\n\n x", "- ", "{# c #}"])
def test_default_system_text(text: str, start: str) -> None:
    """Any text comes out as it is, for conversations that have no system message; all else stays to the letter."""
    template = start + CHATML
    served = ChatTemplate(guarded(with_choices(template, {"a": text, "b": True}, text)), {})
    own = ChatTemplate(template, {})
    system = {"role": "system", "content": text}
    talk = messages("Hi", "Hello")
    assert served.render(talk, ask=True) == own.render([system, *talk], ask=True)
    assert served.render([system, *talk]) == own.render([system, *talk])
    other = messages("Hi", "Hello", system="Other.")
    assert served.render(other) == own.render(other)


def test_nothing_chosen() -> None:
    """Without choices the template stays as it is, byte for byte."""
    assert with_choices(CHATML, {}, None) == CHATML


def test_choices_outdo_what_a_server_says() -> None:
    """What the job chose holds, whatever a request says."""
    served = ChatTemplate(
        with_choices("{{ enable_thinking }}", {"enable_thinking": False}, None), {"enable_thinking": "yes"}
    )
    assert served.render([]) == "False"
