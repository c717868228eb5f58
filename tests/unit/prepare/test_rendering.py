from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from support.builders import CHATML, messages
from support.templates import APPENDING, EMPTY_THOUGHTS_IN_PROMPT, INST_LIKE, LLAMA_LIKE, NO_END, THINKING
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.conversations import Conversation, Message
from tunesmith_stages.prepare.rendering import Renderer
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TokenizerMaker = Callable[..., "PreTrainedTokenizerFast"]
Located = list[tuple[str, str]]


@pytest.fixture
def locate(tokenizer_with: TokenizerMaker) -> Callable[[str, list[Message]], Located]:
    """Return a function that gives, of each turn of the assistant, its words and what the template writes after."""

    def function(template: str, conversation: list[Message]) -> Located:
        found = Renderer(tokenizer_with(), template).samples(Conversation("faq.json, row 1", conversation))[0]
        return [(found.text[t.start : t.content_end], found.text[t.content_end : t.end]) for t in found.turns]

    return function


GOOD: dict[str, tuple[str, list[Message], Located]] = {
    "ChatML": (CHATML, messages("Hi", "Hello"), [("Hello", "<|im_end|>\n")]),
    "ChatML, three turns": (
        CHATML,
        messages("Hi", "Hello", "Who?", "Tunny", "Hi", "Hello"),
        [("Hello", "<|im_end|>\n"), ("Tunny", "<|im_end|>\n"), ("Hello", "<|im_end|>\n")],
    ),
    "ChatML, system": (CHATML, messages("Hi", "Hello", system="Be kind."), [("Hello", "<|im_end|>\n")]),
    "ChatML, the answer is in the question": (CHATML, messages("Say a", "a"), [("a", "<|im_end|>\n")]),
    "ChatML, blanks and lines": (CHATML, messages("Hi", " Hello\n\nyou "), [(" Hello\n\nyou", " <|im_end|>\n")]),
    "ChatML, a control token in the answer": (
        CHATML,
        messages("Hi", "a <|im_end|> b"),
        [("a <|im_end|> b", "<|im_end|>\n")],
    ),
    "ChatML, two answers in a row": (
        CHATML,
        [*messages("Hi", "Hello"), {"role": "assistant", "content": "again"}],
        [("Hello", "<|im_end|>\n"), ("again", "<|im_end|>\n")],
    ),
    "ChatML, words of the template": (
        CHATML,
        messages("Hi", "im_end", "Hi", "|", "Hi", "e"),
        [("im_end", "<|im_end|>\n"), ("|", "<|im_end|>\n"), ("e", "<|im_end|>\n")],
    ),
    "Llama": (
        LLAMA_LIKE,
        messages("Hi", "  Hello ", "Who?", "Tunny", system="Be kind."),
        [("Hello", "<|eot_id|>"), ("Tunny", "<|eot_id|>")],
    ),
    "INST": (INST_LIKE, messages("Hi", "Hello", "Who?", "Tunny"), [(" Hello", "</s>"), (" Tunny", "</s>")]),
    "thoughts before one answer": (
        THINKING,
        messages("Hi", "Hello"),
        [("<think>\n\n</think>\n\nHello", "<|im_end|>\n")],
    ),
    "thoughts before an answer that they hold": (
        THINKING,
        messages("Hi", "think"),
        [("<think>\n\n</think>\n\nthink", "<|im_end|>\n")],
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_assistants_part_is_found(locate: Callable[[str, list[Message]], Located], name: str) -> None:
    """Each turn begins where the model begins to write, and its words end where the template goes on."""
    template, conversation, turns = GOOD[name]
    assert locate(template, conversation) == turns


@pytest.mark.parametrize("name", APPENDING)
def test_turns_make_up_the_text(tokenizer_with: TokenizerMaker, name: str) -> None:
    """The prompt that a turn answers is the beginning of the text up to that turn, for every family of templates."""
    conversation = messages("Hi", "Hello", "What?", "It is a shop.")
    renderer = Renderer(tokenizer_with(), APPENDING[name])
    found = renderer.samples(Conversation("row", conversation))[0]
    for turn, index in zip(found.turns, (1, 3), strict=True):
        assert found.text[: turn.start] == renderer.render(conversation[:index], ask=True)
    assert found.turns[-1].end == len(found.text)


def failing(text: str) -> str:
    return "{{ messages[0].content }}" + text


BAD: dict[str, tuple[str, ExitCode, str, str]] = {
    "a block that is not closed": (
        "{% for m in messages %}\n{{ m.content }}",
        ExitCode.BAD_CONFIG,
        "BadTemplate",
        "the chat template is not Jinja: ",
    ),
    "a bad expression": ("ok\n{{ messages[ }}", ExitCode.BAD_CONFIG, "BadTemplate", "(line 2 of the template)"),
    "an unknown filter": (failing("{{ 1 | no_such }}"), ExitCode.BAD_CONFIG, "BadTemplate", "no_such"),
    "out of the sandbox by classes": (
        failing("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        ExitCode.BAD_CONFIG,
        "UnsafeTemplate",
        "'__class__'",
    ),
    "out of the sandbox by globals": (
        failing("{{ raise_exception.__globals__['os'].system('true') }}"),
        ExitCode.BAD_CONFIG,
        "UnsafeTemplate",
        "'__globals__'",
    ),
    "out of the sandbox by a filter": (
        failing("{{ (''|attr('__class__')).__mro__ }}"),
        ExitCode.BAD_CONFIG,
        "UnsafeTemplate",
        "__class__",
    ),
    "changing the conversation": (
        failing("{{ messages.append({}) }}"),
        ExitCode.BAD_CONFIG,
        "UnsafeTemplate",
        "append",
    ),
    "reading a file": (
        failing("{% include '/etc/passwd' %}"),
        ExitCode.BAD_DATA,
        "TemplateRefusesRow",
        "the chat template fails on a conversation of user, assistant: ",
    ),
    "refusing": (
        "{{ raise_exception('Roles must alternate!') }}",
        ExitCode.BAD_DATA,
        "TemplateRefusesRow",
        "of user, assistant: Roles must alternate!",
    ),
    "an unknown variable": (failing("{{ no_such.x }}"), ExitCode.BAD_DATA, "TemplateRefusesRow", "fails on"),
    "an index too high": (failing("{{ messages[9].content }}"), ExitCode.BAD_DATA, "TemplateRefusesRow", "fails on"),
    "a number and a text": (failing("{{ 1 + 'a' }}"), ExitCode.BAD_DATA, "TemplateRefusesRow", "fails on"),
    "dividing by nothing": (failing("{{ 1 / 0 }}"), ExitCode.BAD_DATA, "TemplateRefusesRow", "division by zero"),
    "counting too far": (
        failing("{% for i in range(10000000) %}{% endfor %}"),
        ExitCode.BAD_DATA,
        "TemplateRefusesRow",
        "Range too big",
    ),
    "calling itself for ever": (
        failing("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}"),
        ExitCode.BAD_DATA,
        "TemplateRefusesRow",
        "recursion",
    ),
    "another prompt than the turn's beginning": (
        CHATML.replace("assistant\n", "bot\n"),
        ExitCode.BAD_CONFIG,
        "TemplateNotSeparable",
        "it writes message 2 differently when an answer is asked for",
    ),
    "thoughts that only the prompt opens": (
        EMPTY_THOUGHTS_IN_PROMPT.replace("</think>\n", ""),
        ExitCode.BAD_CONFIG,
        "TemplateNotSeparable",
        "it writes message 2 differently when an answer is asked for",
    ),
    "changing the words": (
        CHATML.replace("message.content", "message.content | upper"),
        ExitCode.BAD_CONFIG,
        "TemplateNotSeparable",
        "the words of message 2 are not in what it writes",
    ),
    "leaving the answers out": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
        ExitCode.BAD_CONFIG,
        "TemplateNotSeparable",
        "the words of message 2 are not in what it writes",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_template(locate: Callable[[str, list[Message]], Located], name: str) -> None:
    """A template that cannot be used says why and on which row; it never runs anything outside its sandbox."""
    template, code, reason, words = BAD[name]
    with pytest.raises(StageError) as caught:
        locate(template, messages("Hi", "Hello"))
    assert (caught.value.code, caught.value.reason) == (code, reason)
    blames_a_row = not caught.value.message.startswith("the chat template is not Jinja: ")
    assert caught.value.message.startswith("faq.json, row 1: ") is blames_a_row
    assert words in caught.value.message
    assert len(caught.value.message) < 1000


def test_row_that_the_template_refuses(locate: Callable[[str, list[Message]], Located]) -> None:
    """A template that takes no system message says so of the row that has one."""
    with pytest.raises(StageError, match=r"row 1: .* of system, user, assistant: Only user and assistant"):
        locate(INST_LIKE, messages("Hi", "Hello", system="Be kind."))


def test_template_without_an_end_can_be_rendered(locate: Callable[[str, list[Message]], Located]) -> None:
    """Whether a turn has an end-of-turn token is for the labels to say, not for the text."""
    assert locate(NO_END, messages("Hi", "Hello")) == [("Hello", "\n")]


@pytest.mark.parametrize("words", ["Hello", "a", "think"])
def test_empty_thoughts_of_the_prompt_alone(tokenizer_with: TokenizerMaker, words: str) -> None:
    """Where only the prompt brings empty thoughts, each answer is learnt behind the prompt as it is served."""
    renderer = Renderer(tokenizer_with(), EMPTY_THOUGHTS_IN_PROMPT)
    talk = messages("Hi", words, "Who?", words)
    samples = renderer.samples(Conversation("row", talk))
    for sample, index in zip(samples, (1, 3), strict=True):
        (turn,) = sample.turns
        assert sample.per_turn
        assert sample.text[: turn.start] == renderer.render(talk[:index], ask=True)
        assert sample.text[turn.start :] == f"{words}<|im_end|>\n"
        assert sample.text[turn.start : turn.content_end] == words
    (single,) = renderer.samples(Conversation("row", talk[:2]))
    assert not single.per_turn
    assert single.text == renderer.render(talk[:1], ask=True) + f"{words}<|im_end|>\n"
