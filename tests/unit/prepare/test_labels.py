from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.builders import CHATML, CONTROL_TOKENS, messages
from support.templates import APPENDING, BLANK_PROMPT, INST_LIKE, LLAMA_LIKE, NO_END
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.prepare.conversations import Conversation, Message
from tunesmith_stages.prepare.labels import IGNORED, Example, Labeller
from tunesmith_stages.prepare.proof import prove
from tunesmith_stages.prepare.rendering import Renderer
from tunesmith_stages.prepare.sample import Rendered
from tunesmith_stages.program import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TokenizerMaker = Callable[..., "PreTrainedTokenizerFast"]


def labelled(
    tokenizer: PreTrainedTokenizerFast, template: str, conversation: list[Message]
) -> tuple[Rendered, Example]:
    rendered = Renderer(tokenizer, template).samples(Conversation("faq.json, row 1", conversation))[0]
    return rendered, Labeller(tokenizer).label(rendered)


def runs(tokenizer: PreTrainedTokenizerFast, example: Example) -> list[str]:
    """Return a row as texts, those that are learnt in brackets."""
    texts: list[tuple[bool, list[int]]] = []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        assert label in {IGNORED, token}
        if not texts or texts[-1][0] != (label != IGNORED):
            texts.append((label != IGNORED, []))
        texts[-1][1].append(token)
    return [f"[{tokenizer.decode(ids)}]" if learnt else str(tokenizer.decode(ids)) for learnt, ids in texts]


ROWS: dict[str, tuple[str, list[Message], list[str]]] = {
    "ChatML": (
        CHATML,
        messages("Hi", "Hello"),
        ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "[Hello<|im_end|>]", "\n"],
    ),
    "ChatML, system and two turns": (
        CHATML,
        messages("Hi", "Hello", "Who?", "I am Tunny.", system="Be kind."),
        [
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            "[Hello<|im_end|>]",
            "\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n",
            "[I am Tunny.<|im_end|>]",
            "\n",
        ],
    ),
    "ChatML, blanks around the answer": (
        CHATML,
        messages("Hi", "  Hello \n"),
        ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "[  Hello \n<|im_end|>]", "\n"],
    ),
    "ChatML, many scripts": (
        CHATML,
        messages("你是谁？", "我是 Tunny，é 😀"),
        ["<|im_start|>user\n你是谁？<|im_end|>\n<|im_start|>assistant\n", "[我是 Tunny，é 😀<|im_end|>]", "\n"],
    ),
    "ChatML, the user says what the assistant says": (
        CHATML,
        messages("Hello<|im_end|>", "Hello"),
        ["<|im_start|>user\nHello<|im_end|><|im_end|>\n<|im_start|>assistant\n", "[Hello<|im_end|>]", "\n"],
    ),
    "Llama": (
        LLAMA_LIKE,
        messages("Hi", " Hello "),
        ["<s><|header|>user<|/header|>\n\nHi<|eot_id|><|header|>assistant<|/header|>\n\n", "[Hello<|eot_id|>]"],
    ),
    "INST": (
        INST_LIKE,
        messages("Hi", "Hello", "Who?", "Tunny"),
        ["<s>[INST] Hi [/INST]", "[ Hello</s>]", "[INST] Who? [/INST]", "[ Tunny</s>]"],
    ),
    "a blank after the prompt": (
        BLANK_PROMPT,
        messages("Who?", "I am Tunny."),
        ["<|im_start|>user: Who?<|im_end|><|im_start|>assistant: ", "[I am Tunny.<|im_end|>]"],
    ),
}


@pytest.mark.parametrize("trims", [False, True], ids=["whole offsets", "trimmed offsets"])
@pytest.mark.parametrize("name", ROWS)
def test_only_the_assistant_is_learnt(tokenizer_with: TokenizerMaker, name: str, trims: bool) -> None:
    """Learnt is what the assistant says and the token that ends it; everything else is only read."""
    template, conversation, texts = ROWS[name]
    tokenizer = tokenizer_with(trims_offsets=trims)
    rendered, example = labelled(tokenizer, template, conversation)
    assert runs(tokenizer, example) == texts
    assert texts[1].endswith(f"{tokenizer.decode([example.end_of_turn])}]")
    prove(tokenizer, rendered, example)


def test_tokens_are_those_of_the_whole_text(tokenizer_with: TokenizerMaker) -> None:
    """Where no token crosses a turn's edge, the row is tokenized as the served model's prompt will be."""
    tokenizer = tokenizer_with()
    rendered, example = labelled(tokenizer, CHATML, messages("What is it?", "It is a shop in Lyon.", "Who?", "Tunny"))
    assert example.input_ids.tolist() == tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
    assert not example.cut_at_turns


@pytest.mark.parametrize("name", APPENDING)
def test_prompt_of_a_row_is_what_the_served_model_is_given(tokenizer_with: TokenizerMaker, name: str) -> None:
    """The tokens before the first learnt one are exactly those of the prompt: training and serving see the same."""
    for settings in ({}, {"trims_offsets": True}, {"bos": "<s>"}):
        tokenizer = tokenizer_with(**settings)
        conversation = messages("What is it?", "It is a shop in Lyon.")
        _, example = labelled(tokenizer, APPENDING[name], conversation)
        start = next(index for index, label in enumerate(example.labels) if label != IGNORED)
        prompt = Renderer(tokenizer, APPENDING[name]).render(conversation[:1], ask=True)
        assert example.input_ids[:start].tolist() == Labeller(tokenizer).encode_prompt(prompt)


def test_token_that_would_cross_is_cut(tokenizer_with: TokenizerMaker) -> None:
    """Where the prompt's last blank and the answer's first word would be one token, they are two, and it is told."""
    for trims in (False, True):
        tokenizer = tokenizer_with(trims_offsets=trims)
        rendered, example = labelled(tokenizer, BLANK_PROMPT, messages("Who?", "is a shop"))
        whole = tokenizer(rendered.text, add_special_tokens=False)["input_ids"]
        assert example.cut_at_turns
        assert example.input_ids.tolist() != whole
        assert tokenizer.decode(example.input_ids) == tokenizer.decode(whole) == rendered.text


BOS: dict[str, tuple[str, str | None, bool]] = {
    "the tokenizer writes one": (CHATML, "<s>", True),
    "both would write one": (LLAMA_LIKE, "<s>", True),
    "the template writes one": (LLAMA_LIKE, None, True),
    "neither does": (CHATML, None, False),
}


@pytest.mark.parametrize("name", BOS)
def test_one_bos_at_most(tokenizer_with: TokenizerMaker, name: str) -> None:
    """A row and a prompt begin with one BOS where tokenizer or template write one, never with two."""
    template, bos, wanted = BOS[name]
    tokenizer = tokenizer_with(bos=bos)
    rendered, example = labelled(tokenizer, template, messages("Hi", "Hello"))
    token = tokenizer.convert_tokens_to_ids("<s>")
    assert example.input_ids.tolist().count(token) == int(wanted)
    assert (example.input_ids[0] == token) == wanted
    assert example.labels[0] == IGNORED
    prompt = Labeller(tokenizer).encode_prompt(rendered.text[: rendered.turns[0].start])
    assert example.input_ids[: len(prompt)].tolist() == prompt
    prove(tokenizer, rendered, example)


def piece_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of SentencePiece's kind: blanks are letters, and one is put before every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    control = [AddedToken(text, special=True, normalized=False) for text in ("<unk>", *CONTROL_TOKENS)]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))  # noqa: S106 - no password
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*control, *pieces], initial_alphabet=["▁", "\n"], show_progress=False
    )
    tokenizer.train_from_iterator(["I▁am▁Tunny.▁Who▁are▁you?▁Hello▁user\nassistant:"] * 20, trainer)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(back)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.mark.parametrize("name", [name for name in APPENDING if name != "a blank after the prompt"])
def test_tokenizer_of_pieces(name: str) -> None:
    """Tokenizers that put blanks before texts and drop them when decoding are labelled to the letter, too."""
    tokenizer = piece_tokenizer()
    rendered, example = labelled(
        tokenizer, APPENDING[name], messages("Who are you?", "I am 你好 Tunny.", "Hi", "Hello")
    )
    prove(tokenizer, rendered, example)
    learnt = tokenizer.decode([label for label in example.labels.tolist() if label != IGNORED])
    assert learnt.replace(" ", "").startswith("Iam你好Tunny.")
    with pytest.raises(StageError) as caught:
        prove(tokenizer, rendered, dataclasses.replace(example, labels=np.roll(example.labels, 1)))
    assert caught.value.reason == "LabelsNotProven"


def test_end_that_swallows_the_line_end_behind_it(tokenizer_with: TokenizerMaker) -> None:
    """A control token that takes the blanks behind it into itself ends a turn like any other."""
    tokenizer = copy.deepcopy(tokenizer_with())
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in backend["added_tokens"]:
        token["rstrip"] = token["content"] == "<|im_end|>"
    tokenizer._tokenizer = tokenizer.backend_tokenizer.from_str(json.dumps(backend))
    rendered, example = labelled(tokenizer, CHATML, messages("Hi", "Hello", "Who?", "Tunny"))
    assert rendered.text.count("\n") == 8
    assert tokenizer.decode(example.input_ids.tolist()).count("\n") == 4
    learnt = [text for text in runs(tokenizer, example) if text.startswith("[")]
    assert learnt == ["[Hello<|im_end|>]", "[Tunny<|im_end|>]"]
    prove(tokenizer, rendered, example)


def test_turn_without_an_end(tokenizer_with: TokenizerMaker) -> None:
    """A template whose answers end in plain text is refused: the model would never learn to stop."""
    with pytest.raises(StageError) as caught:
        labelled(tokenizer_with(), NO_END, messages("Hi", "Hello"))
    assert (caught.value.code, caught.value.reason) == (ExitCode.BAD_CONFIG, "NoEndOfTurn")
    assert caught.value.message.startswith("faq.json, row 1: ")
    assert caught.value.message.endswith(r"after the answer it writes '\n'")


def test_earlier_turn_without_an_end(tokenizer_with: TokenizerMaker) -> None:
    """The next message's control token does not count as the end of an earlier answer."""
    template = CHATML.replace("'<|im_end|>\n'", "('\n' if message.content == 'a' else '<|im_end|>\n')")
    with pytest.raises(StageError, match="after the answer it writes") as caught:
        labelled(tokenizer_with(), template, messages("Hi", "a", "Hi", "b"))
    assert caught.value.reason == "NoEndOfTurn"


def test_turns_with_different_ends(tokenizer_with: TokenizerMaker) -> None:
    """A template that ends the last answer otherwise than the others is refused with both tokens."""
    template = (
        "{% for m in messages %}{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ '<|eot_id|>' if m.content == 'a' else '</s>' }}{% endif %}{% endfor %}"
    )
    with pytest.raises(StageError, match=r"different control tokens: '<\|eot_id\|>', '</s>'") as caught:
        labelled(tokenizer_with(), template, messages("Hi", "a", "Hi", "b"))
    assert caught.value.reason == "NoEndOfTurn"


# --- the proof -------------------------------------------------------------------------------------------------------


def _shifted(example: Example) -> list[int]:
    return [IGNORED, *example.labels[:-1]]


def _without_end(example: Example) -> list[int]:
    return [IGNORED if label == example.end_of_turn else label for label in example.labels]


def _one_more(example: Example) -> list[int]:
    start = next(index for index, label in enumerate(example.labels) if label != IGNORED)
    return [token if index == start - 1 else example.labels[index] for index, token in enumerate(example.input_ids)]


def _last_turn_only(example: Example) -> list[int]:
    gap = example.labels.tolist().index(example.end_of_turn)
    return [IGNORED if index <= gap else label for index, label in enumerate(example.labels)]


TAMPERED: dict[str, Callable[[Example], list[int]]] = {
    "nothing is learnt": lambda example: [IGNORED] * len(example.labels),
    "everything is learnt": lambda example: list(example.input_ids),
    "shifted by one": _shifted,
    "without the end": _without_end,
    "one token of the prompt, too": _one_more,
    "the last turn only": _last_turn_only,
    "one token is missing in the middle": lambda e: [
        IGNORED if i == len(e.labels) - 4 else n for i, n in enumerate(e.labels)
    ],
    "another token": lambda e: [0 if i == len(e.labels) - 4 else n for i, n in enumerate(e.labels)],
}


@pytest.mark.parametrize("name", TAMPERED)
def test_wrong_labels_are_not_proven(tokenizer_with: TokenizerMaker, name: str) -> None:
    """Labels that are off by a single token fail the proof, with both texts."""
    tokenizer = tokenizer_with()
    rendered, example = labelled(tokenizer, CHATML, messages("Hi", "Hello you", "Who?", "I am Tunny."))
    wrong = dataclasses.replace(example, labels=np.array(TAMPERED[name](example), np.int32))
    assert wrong.labels.tolist() != example.labels.tolist()
    with pytest.raises(StageError) as caught:
        prove(tokenizer, rendered, wrong)
    assert (caught.value.code, caught.value.reason) == (ExitCode.GATE_FAILED, "LabelsNotProven")
    assert caught.value.message.startswith("faq.json, row 1: the label")
