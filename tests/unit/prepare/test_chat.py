from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from support.builders import CHATML, messages
from support.family_model import CALL, WEATHER
from support.templates import APPENDING, NO_END, THINKING, WITH_BLOCKS
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare import chat
from tunesmith_stages.prepare.chat import ChatTemplate
from tunesmith_stages.prepare.named_templates import NAMED, named_template
from tunesmith_stages.prepare.rendering import Renderer
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TokenizerMaker = Callable[..., "PreTrainedTokenizerFast"]

TEMPLATES = {
    **APPENDING,
    "thinking": THINKING,
    "no end": NO_END,
    "blocks": WITH_BLOCKS,
    "what it is given": "{{ messages | tojson }}{{ tools | tojson }}{{ bos_token }}|{{ eos_token }}|{{ documents }}"
    "{{ add_generation_prompt }}{{ messages[-1].get('reasoning_content') }}{{ messages[-1].name is defined }}",
    "loops and macros": "{% macro say(m) %}[{{ m.role }}]{{ m.content }}{% endmacro %}{% for m in messages %}"
    "{% if loop.index > 3 %}{% break %}{% endif %}{% set n = namespace(x=loop.index * 2) %}{{ say(m) * n.x }}\n"
    "  {% endfor %}\n{{ 2 ** 10 }}{{ dict(a=1) }}{{ [1, 2] * 2 }}{{ 'é' | tojson }}",
    **{f"{name}, ours": named_template(name, NAMED[name].tokens, thinking=None) for name in NAMED},
}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[Any] | None]] = {
    "one turn": (messages("Hi", "Hello"), None),
    "system, turns, blanks": (messages(" Hi\r\n", "  Hello ", "你好", "é\n", system=" Be kind. "), None),
    "thoughts": ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "hm"}], None),
    "nothing said of": ([{"role": "user", "content": "a", "name": None}, {"role": "assistant", "content": "b"}], None),
    "functions": (
        [
            *({"role": "user", "content": "How?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}),
            *(
                {"role": "tool", "content": "sun", "tool_call_id": "abcdefghi"},
                {"role": "assistant", "content": "Sun."},
            ),
        ],
        [WEATHER],
    ),
}


@pytest.mark.parametrize("talk", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_renders_as_transformers_does(tokenizer_with: TokenizerMaker, name: str, talk: str) -> None:
    """A template gives to the letter what apply_chat_template gives, or fails where that fails."""
    tokenizer = tokenizer_with(bos="<s>")
    conversation, tools = CONVERSATIONS[talk]
    compiled = ChatTemplate(TEMPLATES[name], tokenizer.special_tokens_map)
    for ask in (False, True):

        def theirs(ask: bool = ask) -> Any:
            return tokenizer.apply_chat_template(
                conversation,
                tools=tools,
                chat_template=TEMPLATES[name],
                tokenize=False,
                add_generation_prompt=ask,
            )

        def ours(ask: bool = ask) -> str:
            return compiled.render(conversation, tools, ask=ask)

        assert outcome(ours) == outcome(theirs)


def outcome(function: Callable[[], str]) -> str:
    """Return what a function returns, or what it raises."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - whatever a template can raise
        return f"{type(error).__name__}: {error}"


def test_blocks_are_where_transformers_finds_them(tokenizer_with: TokenizerMaker) -> None:
    """The places of ``{% generation %}`` blocks are those from which transformers makes its assistant mask."""
    tokenizer = tokenizer_with()
    talk = messages("Hi", "Hello", "Who?", "I am Tunny.")
    text, spans = ChatTemplate(WITH_BLOCKS, {}).render_marked(talk)
    assert [text[start:end] for start, end in spans] == ["Hello<|im_end|>", "I am Tunny.<|im_end|>"]
    theirs = tokenizer.apply_chat_template(
        talk, chat_template=WITH_BLOCKS, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = [token for token, mask in zip(theirs["input_ids"], theirs["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(marked) == "Hello<|im_end|>I am Tunny.<|im_end|>"


ENDLESS = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "writing in loops": "{% for a in range(99999) %}{% for b in range(9999) %}{{ messages }}{% endfor %}{% endfor %}",
    "a huge power": "{{ 10 ** (10 ** 10) }}",
    "a huge text": "{{ 'a' * 10000000000 }}",
    "a huge list": "{{ [0] * 10000000000 }}",
    "a text that doubles": "{% set n = namespace(x='a') %}{% for a in range(60)%}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a list that doubles": "{% set n = namespace(x=[0]) %}{% for a in range(60)%}{% set n.x = n.x + n.x %}{% endfor %}",
    "a wide number": "{{ '%9999999999d' % 1 }}",
    "a wide column": "{{ '{:>9999999999}'.format(messages | length) }}",
    "a text in the middle": "{{ messages[0].content | center(9999999999) }}",
    "what is the same each time": "{{ 'a' | center(9999999999) }}",
    "a text put in again and again": (
        "{% set n = namespace(x='a') %}{% for a in range(99) %}{% set n.x = n.x.replace('a', 'a' * 99) %}{% endfor %}"
    ),
    "a block that is kept": "{% set x %}{% for a in range(99999) %}{{ 'a' * 999999 }}{% endfor %}{% endset %}",
    "huge numbers": "{% set n = namespace(x=3) %}{% for a in range(99999) %}{% set n.x = n.x * n.x %}{% endfor %}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_template_that_never_ends(tokenizer_with: TokenizerMaker, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A template that would compute for ever or fill the memory ends with a clear error, soon and in little memory."""
    monkeypatch.setattr(chat, "SECONDS", 0.2)
    monkeypatch.setattr(chat, "LONGEST_TEXT", 1_000_000)
    monkeypatch.setattr(chat, "MEMORY", 64 * 1024 * 1024)
    template = CHATML + "{% if messages[0].content == 'a' %}" + ENDLESS[name] + "{% endif %}"
    renderer = Renderer(tokenizer_with(), template)
    assert renderer.render(messages("Hi", "Hello"))
    with pytest.raises(StageError) as caught:
        renderer.render(messages("a", "Hello"))
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "TemplateTakesTooMuch")
    assert renderer.render(messages("Hi", "Hello"))
