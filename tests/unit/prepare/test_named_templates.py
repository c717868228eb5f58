from __future__ import annotations

from typing import Any

import pytest

from support.builders import messages
from support.family_model import CALL, WEATHER
from tunesmith.api.finetunejob import TemplateName
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.chat import ChatTemplate
from tunesmith_stages.prepare.named_templates import _FOLDER, NAMED, named_template
from tunesmith_stages.program import StageError

TALK = messages("Hi ", " Hello", "Who?", "Tunny.", system="Be kind.")

TEXTS = {
    "default": "System: Be kind.\n\nUser: Hi \n\nAssistant:  Hello<eos>\n\nUser: Who?\n\nAssistant: Tunny.<eos>\n\n",
    "alpaca": "Be kind.\n\n### Instruction:\nHi \n\n### Response:\n Hello<eos>\n\n"
    "### Instruction:\nWho?\n\n### Response:\nTunny.<eos>\n\n",
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n"
    "<|im_start|>assistant\n Hello<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
    "<|im_start|>assistant\nTunny.<|im_end|>\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWho?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nTunny.<|eot_id|>",
    "gemma": "<bos><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
    "<start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\nTunny.<end_of_turn>\n",
    "mistral": "<s>[INST] Be kind.\n\nHi [/INST]  Hello</s>[INST] Who?[/INST] Tunny.</s>",
    "phi": "<|system|>\nBe kind.<|end|>\n<|user|>\nHi <|end|>\n<|assistant|>\n Hello<|end|>\n"
    "<|user|>\nWho?<|end|>\n<|assistant|>\nTunny.<|end|>\n",
    "deepseek": "<｜begin▁of▁sentence｜>Be kind.<｜User｜>Hi <｜Assistant｜> Hello<｜end▁of▁sentence｜>"
    "<｜User｜>Who?<｜Assistant｜>Tunny.<｜end▁of▁sentence｜>",
    "vicuna": "Be kind. USER: Hi  ASSISTANT:  Hello<eos>USER: Who? ASSISTANT: Tunny.<eos>",
    "zephyr": "<|system|>\nBe kind.<eos>\n<|user|>\nHi <eos>\n<|assistant|>\n Hello<eos>\n"
    "<|user|>\nWho?<eos>\n<|assistant|>\nTunny.<eos>\n",
}
TEXTS |= {"qwen": TEXTS["chatml"], "yi": TEXTS["chatml"]}


def compiled(name: str, thinking: bool | None = None) -> ChatTemplate:
    constants: dict[str, Any] = {"eos_token": "<eos>", "enable_thinking": thinking}
    return ChatTemplate(named_template(name, NAMED[name].tokens, thinking=thinking), constants)


@pytest.mark.parametrize("name", NAMED)
def test_text_of_a_conversation(name: str) -> None:
    """Each template writes its family's form, and asks for an answer with what an answer's turn begins with."""
    template = compiled(name)
    assert template.render(TALK) == TEXTS[name]
    asked = template.render(TALK[:-1], ask=True)
    assert TEXTS[name].startswith(asked)
    assert TEXTS[name].removeprefix(asked).strip().startswith("Tunny.")


def test_names_are_those_of_the_api() -> None:
    """What a job can name is there, each file belongs to a name, and each is in the package."""
    assert {str(name) for name in TemplateName} == {*NAMED}
    files = {path.name for path in _FOLDER.iterdir()}
    variants = {named.thinking for named in NAMED.values() if named.thinking}
    assert files == {f"{name}.jinja" for name in {*NAMED} | variants}


CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "How?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "sun", "tool_call_id": "abcdefghi"},
    {"role": "assistant", "content": "Sunny."},
]
ARGUMENTS = r'{"city": "Zürich \"HB\"", "days": 2}'
CALL_TEXTS = {
    "qwen": "<|im_start|>assistant\n<tool_call>\n"
    f'{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call><|im_end|>\n'
    "<|im_start|>user\n<tool_response>\nsun\n</tool_response><|im_end|>\n<|im_start|>assistant\nSunny.<|im_end|>\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n"
    f'{{"name": "weather", "parameters": {ARGUMENTS}}}<|eot_id|>'
    "<|start_header_id|>ipython<|end_header_id|>\n\nsun<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nSunny.<|eot_id|>",
    "mistral": f'[/INST][TOOL_CALLS] [{{"name": "weather", "arguments": {ARGUMENTS}, "id": "abcdefghi"}}]</s>'
    '[TOOL_RESULTS] {"content": "sun", "call_id": "abcdefghi"}[/TOOL_RESULTS] Sunny.</s>',
    "deepseek": "<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
    f"```json\n{ARGUMENTS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
    "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>sun<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"
    "<｜Assistant｜>Sunny.<｜end▁of▁sentence｜>",
}


@pytest.mark.parametrize("name", NAMED)
def test_functions(name: str) -> None:
    """A family with a form for functions writes description, call and result; the others do not read `tools`."""
    template = compiled(name)
    assert ("tools" in template.variables) == (name in CALL_TEXTS)
    if name in CALL_TEXTS:
        text = template.render(CALLS, [WEATHER])
        assert text.endswith(CALL_TEXTS[name])
        assert '"description": "Say how the weather is <in a city> & when."' in text


@pytest.mark.parametrize("thinking", [True, False])
def test_qwen_thinks_before_its_last_answer(thinking: bool) -> None:
    """Thoughts stand before the last answer alone; without thinking they are empty, and the prompt brings them."""
    thoughts = "<think>\nIt is me.\n</think>\n\n"
    talk = messages("Hi", f"{thoughts}Hello", "Who?", f"{thoughts}Tunny.")
    template = compiled("qwen", thinking)
    last = thoughts if thinking else "<think>\n\n</think>\n\n"
    assert template.render(talk) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
        f"<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n{last}Tunny.<|im_end|>\n"
    )
    assert template.render(talk[:-1], ask=True).endswith("assistant\n" if thinking else f"assistant\n{last}")


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name].tokens])
def test_tokens_that_are_missing_are_named(name: str) -> None:
    """A tokenizer of another family is refused with the tokens that it lacks: they would be text, and never stop."""
    first, *others = NAMED[name].tokens
    with pytest.raises(StageError) as caught:
        named_template(name, others, thinking=None)
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "TemplateTokensMissing")
    assert caught.value.message.endswith(f"{name!r}: {first}")


def test_name_of_no_template() -> None:
    """Another name than those is refused with all that there are."""
    with pytest.raises(StageError, match="'parrot'") as caught:
        named_template("parrot", (), thinking=None)
    assert caught.value.reason == "TemplateUnknown"
    assert caught.value.hint is not None
    assert all(name in caught.value.hint for name in NAMED)


@pytest.mark.parametrize("name", ["gemma", "mistral", "vicuna", "deepseek"])
def test_system_message_in_the_middle(name: str) -> None:
    """A template that has no place for it refuses such a conversation with a sentence."""
    talk = [*messages("Hi", "Hello"), {"role": "system", "content": "Be kind."}, *messages("Who?", "Tunny.")]
    with pytest.raises(Exception, match="in this template a system message can only come first"):
        compiled(name).render(talk)
