"""Runs llama.cpp's converter on a Hugging Face folder, in a process of its own: ``python -m ... task.json``.

A process of its own because the converter brings its own package ``gguf``, imports torch and transformers and keeps
what it loaded. Three things are done to it: a vocabulary that it does not know is looked up by
:mod:`~tunesmith_stages.convert.pretokenizer`; one of SentencePiece without ``tokenizer.model`` is read by
:mod:`~tunesmith_stages.convert.piece_vocabulary`; and the two tokens by which serving begins and ends a turn are
written as training used them. The task and the report are JSON; see :class:`Task` and :class:`Report`.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.convert.corpus import TEXTS
from tunesmith_stages.convert.piece_vocabulary import piece_vocabulary
from tunesmith_stages.convert.pretokenizer import PreTokenizerUnknownError, choose
from tunesmith_stages.gguf_file import FILE_TYPES
from tunesmith_stages.program import die_with_parent

PRE_TOKENIZER_UNKNOWN = 3
"""Exit code: the report holds only `reason`."""


@dataclass(frozen=True)
class Task:
    """What is to be converted and how."""

    converter: str
    """Folder with llama.cpp's packages ``conversion`` and ``gguf-py``."""
    model: str
    """Folder that is converted."""
    out: str
    """The GGUF that is written."""
    out_type: str
    """F16, BF16, F32 or Q8_0."""
    report: str
    add_bos: bool
    """Whether serving puts a BOS before a rendered conversation."""
    end_of_turn: int
    """Token at which serving stops."""
    texts: list[str]
    """Texts whose token ids are wanted, as transformers splits them."""


@dataclass(frozen=True)
class Report:
    """What came of it."""

    architecture: str = ""
    tensors: int = 0
    pre_tokenizer: str = ""
    """``tokenizer.ggml.pre``."""
    pre_tokenizer_by: str = ""
    """``hash``: the converter knows the vocabulary; ``splits``: found by comparison; ``kind``: no byte-level BPE."""
    vocabulary: str = ""
    """Name of the file that the vocabulary was read from."""
    normalizer: str = ""
    """The outermost normaliser's type, "" if there is none."""
    ids: list[list[int]] = dataclasses.field(default_factory=list)
    """Token ids of the task's texts, without special tokens around them."""
    tools: dict[str, str] = dataclasses.field(default_factory=dict)
    reason: str = ""
    """Why it failed, where that is known."""


def convert(task: Task) -> Report:
    """Write the GGUF."""
    import gguf
    import torch
    from conversion import (  # type: ignore[import-not-found] # llama.cpp's
        ModelBase,
        ModelType,
        get_model_architecture,
        get_model_class,
    )

    _refuse_foreign_code()
    found = _teach_resolver()
    vocabulary = _teach_pieces()
    folder = Path(task.model)
    with torch.inference_mode():
        hparams = ModelBase.load_hparams(folder, False)
        architecture = get_model_architecture(hparams, ModelType.TEXT)
        file_type = gguf.LlamaFileType(FILE_TYPES[task.out_type])
        name = str(hparams.get("model_type", architecture))
        model = get_model_class(architecture)(folder, file_type, Path(task.out), model_name=name)
        _set_turn_tokens_before_writing(model, task, vocabulary)
        model.write()
    tokenizer = _tokenizer(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = json.loads(backend.to_str())["normalizer"] if backend is not None else None
    return Report(
        architecture=architecture,
        tensors=sum(len(shard) for shard in model.gguf_writer.tensors),
        pre_tokenizer=found.get("name", ""),
        pre_tokenizer_by=found.get("by", "kind"),
        vocabulary=vocabulary.get("file", "tokenizer.json"),
        normalizer=(normalizer or {}).get("type", ""),
        ids=[tokenizer(text, add_special_tokens=False)["input_ids"] for text in task.texts],
        tools={name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
    )


def _refuse_foreign_code() -> None:
    """Keep transformers from running code that a model brings along, which the converter asks for in several places."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

    for loader in (AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer):
        load = loader.from_pretrained

        def trusting_nobody(*args: Any, load: Any = load, **kwargs: Any) -> Any:
            return load(*args, **{**kwargs, "trust_remote_code": False})

        loader.from_pretrained = trusting_nobody


def _teach_resolver() -> dict[str, str]:
    """Let the converter ask us for the pre-tokenizer of vocabularies that it does not know.

    Returns a dictionary that is filled with what was found while it runs.
    """
    from conversion.base import TextModel  # type: ignore[import-not-found]

    by_hash = TextModel.get_vocab_base_pre
    found: dict[str, str] = {}

    def get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
        try:
            name: str | None = str(by_hash(self, tokenizer))
        except NotImplementedError:
            name = None
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is not None:
            name, by = choose(name, backend.to_str(), TEXTS)
        elif name is not None:
            by = "hash"
        else:
            raise PreTokenizerUnknownError("the tokenizer has no tokenizer.json")
        found.update(name=name, by=by)
        return name

    TextModel.get_vocab_base_pre = get_vocab_base_pre
    return found


def _teach_pieces() -> dict[str, Any]:
    """Let the converter read a SentencePiece vocabulary from ``tokenizer.json`` where there is no ``tokenizer.model``.

    Returns a dictionary that is filled while it runs: `file`, and `begins_with_blank` if that must be written.
    """
    from conversion.base import TextModel

    from_model = TextModel._create_vocab_sentencepiece  # noqa: SLF001 - every model's class goes through it
    found: dict[str, Any] = {}

    def create_vocab(self: Any) -> Any:
        path = self.dir_model / "tokenizer.json"
        if (self.dir_model / "tokenizer.model").is_file() or not path.is_file():
            made = from_model(self)
            found.update(file="tokenizer.model")
            return made
        vocabulary = piece_vocabulary(
            json.loads(path.read_text(encoding="utf-8")), int(self.hparams.get("vocab_size", 0))
        )
        if vocabulary is None:
            raise FileNotFoundError("it is no SentencePiece tokenizer of the kind BPE")  # the converter tries on
        found.update(begins_with_blank=vocabulary.begins_with_blank)
        return vocabulary.tokens, vocabulary.scores, vocabulary.types

    TextModel._create_vocab_sentencepiece = create_vocab  # noqa: SLF001
    return found


def _set_turn_tokens_before_writing(model: Any, task: Task, vocabulary: dict[str, Any]) -> None:
    """Have BOS and the end of a turn written as training used them, whatever the tokenizer's files say."""
    prepare = model.prepare_metadata

    def prepare_metadata(*, vocab_only: bool) -> None:
        prepare(vocab_only=vocab_only)
        writer = model.gguf_writer
        keys = writer.kv_data[0]
        ends = {keys[key].value for key in _END_KEYS if key in keys}
        types = keys["tokenizer.ggml.token_type"].value
        if task.end_of_turn not in ends and types[task.end_of_turn] == _CONTROL:
            writer.add_eot_token_id(task.end_of_turn)
        writer.add_add_bos_token(task.add_bos)
        if "begins_with_blank" in vocabulary:
            writer.add_add_space_prefix(vocabulary["begins_with_blank"])

    model.prepare_metadata = prepare_metadata


_END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
_CONTROL = 3  # gguf.TokenType.CONTROL


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def main(task_file: Path) -> int:
    """Read the task, convert, write the report; return the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s", force=True)
    task = Task(**json.loads(task_file.read_text(encoding="utf-8")))
    sys.path[:0] = [f"{task.converter}/gguf-py", task.converter]
    try:
        report, code = convert(task), 0
    except PreTokenizerUnknownError as error:
        report, code = Report(reason=str(error)), PRE_TOKENIZER_UNKNOWN
    Path(task.report).write_text(json.dumps(dataclasses.asdict(report), ensure_ascii=False), encoding="utf-8")
    return code


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(Path(sys.argv[1])))
