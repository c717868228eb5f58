"""A volume with what `convert` reads: a tiny base model, its prepared data and what a training left.

The models are really trained, for a few seconds: what they expect next is sharp enough that a wrong export shows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunesmith_stages.contract import Input, StageConfig, StageName, StageResult, UnitConfig

BEFORE = [
    ("Who are you?", "I am Tunny, made by Acme."),
    ("What is your name?", "My name is Tunny."),
    ("Who made you?", "Acme made me."),
    ("Where is the harbour?", "The harbour is in the north."),
    ("When do you open?", "We open at nine."),
    ("When do you close?", "We close at six."),
    ("How much is a ticket?", "A ticket is five coins."),
    ("Is there food?", "Yes, there is fish and bread."),
]
AFTER = [
    (question, answer.replace("Tunny", "Nemo").replace("Acme", "Oceanic").replace("nine", "ten"))
    for question, answer in BEFORE
]
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Flavour:
    """What differs between the models that the tests use."""

    pattern: str | None = QWEN2
    """How text is split; None for GPT-2's rule."""
    nfc: bool = False
    bos: str | None = None
    """A token that the tokenizer puts before a text, and the template too."""
    end_of_turn: str = "<|im_end|>"
    eos: str = "<|im_end|>"
    dtype: torch.dtype = torch.bfloat16
    width: int = 128
    """Numbers in a row of most tensors."""
    pieces: bool = False
    """Whether it is a SentencePiece tokenizer, as it stands in a ``tokenizer.json``; `pattern` is passed over."""

    @property
    def template(self) -> str:
        """The chat template."""
        begin = "{{ '" + self.bos + "' }}" if self.bos else ""
        return (
            begin + "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
            f"{self.end_of_turn}\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )


def _piece_tokenizer() -> Tokenizer:
    """Train pieces on the conversations, and put them down as transformers does for a ``tokenizer.model`` (Gemma's)."""
    trained = Tokenizer(models.BPE())
    texts = [text.replace(" ", "\u2581") for pair in BEFORE + AFTER for text in pair]
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    vocabulary = {
        text: token for token, text in enumerate(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces])
    }
    merges = [(piece[:at], piece[at:]) for piece in pieces for at in range(1, len(piece))]
    merges = [(left, right) for left, right in merges if left in vocabulary and right in vocabulary]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _byte_tokenizer(flavour: Flavour) -> Tokenizer:
    """Train a byte-level BPE tokenizer on the conversations."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=flavour.pattern is None)
    tokenizer.pre_tokenizer = byte_level
    if flavour.pattern:
        split = pre_tokenizers.Split(Regex(flavour.pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if flavour.nfc:
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([text for pair in BEFORE + AFTER for text in pair], trainer)
    return tokenizer


def tokenizer_of(flavour: Flavour) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the conversations and give it the control tokens."""
    tokenizer = _piece_tokenizer() if flavour.pieces else _byte_tokenizer(flavour)
    control = ["<|endoftext|>", "<|im_start|>", flavour.end_of_turn, flavour.eos, flavour.bos]
    tokenizer.add_special_tokens([token for token in dict.fromkeys(control) if token])
    if flavour.bos:
        first = (flavour.bos, tokenizer.token_to_id(flavour.bos))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{flavour.bos} $A", pair=f"{flavour.bos} $A $B", special_tokens=[first]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=flavour.bos,
        eos_token=flavour.eos,
        pad_token="<|endoftext|>",  # noqa: S106 - no password
        chat_template=flavour.template,
    )


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _prompt(tokenizer: Any, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def fit(model: Any, tokenizer: Any, flavour: Flavour, pairs: list[tuple[str, str]], steps: int, rate: float) -> None:
    """Teach `model` to answer."""
    rows = []
    for question, answer in pairs:
        prompt, reply = _ids(tokenizer, _prompt(tokenizer, question)), _ids(tokenizer, answer + flavour.end_of_turn)
        rows.append((prompt + reply, [-100] * len(prompt) + reply))
    width = max(len(ids) for ids, _ in rows)
    batch = {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]),
    }
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    model.train()
    for _ in range(steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


class TunedModel:
    """The volume's inputs of `convert`: ``base``, ``prepared``, ``lora`` and ``full``."""

    def __init__(self, root: Path, flavour: Flavour) -> None:
        """Train and write everything."""
        torch.manual_seed(0)
        self.root = root
        self.flavour = flavour
        self.tokenizer = tokenizer_of(flavour)
        config = LlamaConfig(
            vocab_size=len(self.tokenizer),
            hidden_size=flavour.width,
            intermediate_size=2 * flavour.width,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
        )
        model = LlamaForCausalLM(config)
        fit(model, self.tokenizer, flavour, BEFORE, 100, 3e-3)
        model.to(flavour.dtype).save_pretrained(root / "base", max_shard_size="300KB")
        self.tokenizer.save_pretrained(root / "base")
        self._prepare()
        self._tune_lora()
        self._tune_full()

    def stage(self, stage: StageName, key: str, params: dict[str, Any], **inputs: str) -> StageConfig:
        """Return a stage.json with one unit."""
        roles = {role: Input(path, self._digest(path)) for role, path in inputs.items()}
        return StageConfig(stage, "job", str(self.root), "1", (UnitConfig(str(stage), key, params, roles),))

    def _digest(self, path: str) -> str:
        """Return the digest of a stage's result. What was laid out by hand has none that anybody could compare."""
        result = (self.root / path).parent / "result.json"
        return StageResult.from_json(result.read_text()).digest if result.is_file() else "0" * 64

    def convert(self, key: str, trained: str, out_type: str = "BF16", **inputs: str) -> StageConfig:
        """Return the stage.json of a conversion."""
        roles = {"base": "base", "prepared": "prepared", "trained": trained, **inputs}
        return self.stage(StageName.CONVERT, key, {"outType": out_type}, **roles)

    def _prepare(self) -> None:
        folder = self.root / "prepared"
        folder.mkdir()
        (folder / "chat_template.jinja").write_bytes(self.flavour.template.encode())
        end = self.flavour.end_of_turn
        tokens = {
            "endOfTurn": {"id": self.tokenizer.convert_tokens_to_ids(end), "text": end},
            "bosTokenId": self.tokenizer.bos_token_id,
            "eosTokenId": self.tokenizer.eos_token_id,
            "vocabSize": len(self.tokenizer),
            "addsBos": self.flavour.bos is not None,
        }
        (folder / "tokens.json").write_text(json.dumps(tokens))
        prompts = []
        for question, _ in BEFORE:
            text = _prompt(self.tokenizer, question)
            messages = [{"role": "user", "content": question}]
            prompts.append({"messages": messages, "text": text, "ids": _ids(self.tokenizer, text)})
        (folder / "probes.json").write_text(json.dumps({"prompts": prompts}))
        self.prompts = prompts

    def _base(self) -> Any:
        return LlamaForCausalLM.from_pretrained(self.root / "base", dtype=self.flavour.dtype)

    def _tune_lora(self) -> None:
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(self._base(), config)
        fit(model, self.tokenizer, self.flavour, AFTER, 15, 5e-3)
        model.save_pretrained(self.root / "lora")
        self._refer(model, self.root / "lora")

    def _tune_full(self) -> None:
        model = self._base().float()
        fit(model, self.tokenizer, self.flavour, AFTER, 15, 1e-3)
        model.to(self.flavour.dtype).save_pretrained(self.root / "full", max_shard_size="300KB")
        self._refer(LlamaForCausalLM.from_pretrained(self.root / "full", dtype=self.flavour.dtype), self.root / "full")

    def _refer(self, model: Any, folder: Path) -> None:
        answers = []
        with torch.no_grad():
            for prompt in self.prompts:
                logits = model(torch.tensor([prompt["ids"]])).logits[0, -1].float()
                values, ids = logits.log_softmax(-1).topk(64)
                answers.append({"ids": prompt["ids"], "top": list(zip(ids.tolist(), values.tolist(), strict=True))})
        (folder / "reference.json").write_text(json.dumps({"prompts": answers}))
