from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from support.builders import CHATML, messages
from support.templates import APPENDING, THINKING
from tunesmith_stages.prepare.chat import ChatTemplate
from tunesmith_stages.prepare.conversations import Conversation
from tunesmith_stages.prepare.named_templates import NAMED, named_template
from tunesmith_stages.prepare.pattern import learn_pattern
from tunesmith_stages.prepare.rendering import Renderer
from tunesmith_stages.prepare.sample import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TokenizerMaker = Callable[..., "PreTrainedTokenizerFast"]

TEMPLATES = {**APPENDING, **{name: named_template(name, NAMED[name].tokens, thinking=None) for name in NAMED}}
CONVERSATIONS = {
    "two turns": messages("Hi", "Hello", "Who?", "Tunny"),
    "system": messages("Hi", "Hello", "Who?", "Tunny", system="Be kind."),
    "blanks": messages(" Hi\n", "  Hello ", "", "\tTunny\r\n", "你好", "é", system=" Be kind.\n"),
    "many": messages(*(f"words of {number}" for number in range(40))),
    "words of the template": messages("user", "assistant", "\n", "im_end", "a", "a"),
}


def long_way(renderer: Renderer, conversation: Conversation) -> list[Rendered]:
    """Return the samples as they are without a pattern."""
    pattern, renderer._pattern = renderer._pattern, None
    try:
        return renderer.samples(conversation)
    finally:
        renderer._pattern = pattern


@pytest.mark.parametrize("name", TEMPLATES)
def test_same_turns_as_the_long_way(tokenizer_with: TokenizerMaker, name: str) -> None:
    """Where a template has a pattern, it gives the very turns that rendering up to each of them gives."""
    renderer = Renderer(tokenizer_with(eos="</s>"), "{% set eos_token = '</s>' %}\n" + TEMPLATES[name])
    assert renderer._pattern is not None
    for talk in CONVERSATIONS.values():
        for ignored in (frozenset[int](), frozenset({len(talk) - 3})):
            conversation = Conversation("row", talk, ignored=ignored)
            if name == "INST" and talk[0]["role"] == "system":
                continue  # which it refuses
            expected = long_way(renderer, conversation)
            assert renderer._pattern.places(talk, expected[0].text)
            assert renderer.samples(conversation) == expected


WITHOUT = {
    "rewrites earlier turns": THINKING,
    "other words between some turns": CHATML.replace(
        "{{ '<|im_start|>'", "{{ loop.index0 if loop.index0 else '' }}{{ '<|im_start|>'"
    ),
    "changes words": CHATML.replace("message.content", "message.content | upper"),
    "asks otherwise": CHATML.replace("assistant\n", "bot\n"),
    "fails": "{{ raise_exception('no') }}",
    "leaves words out": "{{ messages[0].content }}",
}


@pytest.mark.parametrize("name", WITHOUT)
def test_templates_without_a_pattern(name: str) -> None:
    """A template that does anything else than to write fixed texts between the messages has no pattern."""
    assert learn_pattern(ChatTemplate(WITHOUT[name], {})) is None


ODD = {
    "thoughts": messages("Hi", "<think>\n\n</think>\n\nHello", "Who?", "Tunny"),
    "two users": [{"role": "user", "content": "Hi"}, *messages("Hi", "Hello", "Who?", "Tunny")],
    "system in the middle": [*messages("Hi", "Hello"), {"role": "system", "content": "b"}, *messages("Who?", "Tunny")],
    "a name": [{"role": "user", "content": "Hi", "name": "Ann"}, *messages("Hi", "Hello", "Who?", "Tunny")[1:]],
}


@pytest.mark.parametrize("name", ODD)
def test_conversations_without_a_pattern(name: str) -> None:
    """A conversation that is not of the plain kind goes the long way, even if it would fit."""
    template = ChatTemplate(CHATML, {})
    pattern = learn_pattern(template)
    assert pattern is not None
    assert pattern.places(ODD[name], template.render(ODD[name])) is None


def test_text_that_does_not_follow_the_pattern(tokenizer_with: TokenizerMaker) -> None:
    """A template that does as the pattern says until it meets certain words is found out."""
    template = CHATML.replace(
        "message.content +", "(message.content if loop.last else message.content | replace('x', 'y')) +"
    )
    renderer = Renderer(tokenizer_with(), template)
    assert renderer._pattern is not None
    plain = renderer.samples(Conversation("row", messages("Hi", "Hello", "Who?", "Tunny")))
    assert [sample.per_turn for sample in plain] == [False]
    odd = renderer.samples(Conversation("row", messages("Hi", "ax", "Who?", "Tunny")))
    assert [sample.per_turn for sample in odd] == [True, True]
