"""The file that `quantize` starts from, and what can be made of it."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith_stages.chat_template import guarded
from tunesmith_stages.contract import ExitCode
from tunesmith_stages.gguf_file import TEMPLATE, GgufFile, read_gguf
from tunesmith_stages.program import StageError, Work
from tunesmith_stages.quantization_types import QUANTIZATION_TYPES


@dataclass(frozen=True)
class Source:
    """The file that is quantized."""

    gguf: GgufFile
    is_base: bool
    """Whether it is a base model that came as a GGUF: nothing was trained then."""

    @property
    def new_template(self) -> str | None:
        """The chat template that the result must have; None if it may keep the one that it has."""
        template = str(self.gguf.metadata.get(TEMPLATE, ""))
        return guarded(template) if self.is_base and guarded(template) != template else None


def source_of(work: Work) -> Source:
    """Read the head of the file that is to be quantized.

    Raises:
        StageError: a base model that came as a GGUF is damaged, or has no chat template.
    """
    if "converted" in work.unit.inputs:
        return Source(read_gguf(work.input("converted") / "model.gguf"), is_base=False)
    try:
        gguf = read_gguf(work.input("base") / "model.gguf")
    except (OSError, ValueError) as error:
        raise StageError(ExitCode.BAD_DATA, f"the base model: {error}", reason="DamagedModelFile") from error
    if gguf.is_cut:
        raise StageError(
            ExitCode.BAD_DATA,
            f"the base model: {gguf.path.name} is cut short: it has {gguf.size:,} bytes and speaks of more",
            reason="DamagedModelFile",
            hint="Copy or download the whole file again.",
        )
    if not gguf.metadata.get(TEMPLATE):
        raise StageError(
            ExitCode.BAD_CONFIG,
            "the GGUF that is the base has no chat template, so that nobody could talk with it",
            reason="GgufWithoutTemplate",
            hint="Use the GGUF of the model that was tuned for conversations (often called Instruct or Chat).",
        )
    return Source(gguf, is_base=True)


def require_possible(source: Source, kind: str, *, imatrix: bool) -> None:
    """Check that a file of the type `kind` can be made of `source`, with or without an importance matrix.

    Raises:
        StageError: it cannot, or nothing would be won.
    """
    gguf, wanted = source.gguf, QUANTIZATION_TYPES[kind]
    if not wanted.is_served:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"Ollama takes no model of the type {kind}",
            reason="QuantizationNotServed",
            hint="Choose another type: IQ2_XXS and IQ1_M are as small.",
        )
    if source.is_base and (imatrix or wanted.needs_imatrix):
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"an importance matrix for {kind} is computed from the data of a training, and a GGUF is not trained",
            reason="ImatrixNeedsData",
            hint="Choose a type that needs none, and `export.importanceMatrix: Auto`.",
        )
    if wanted.needs_imatrix and not imatrix:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"{kind} cannot be made without an importance matrix",
            reason="ImatrixNeeded",
            hint="Choose another type, or allow it: `export.importanceMatrix: Auto`.",
        )
    if kind == "MXFP4_MOE" and not gguf.own("expert_count"):
        raise StageError(
            ExitCode.BAD_CONFIG,
            "MXFP4_MOE changes the experts of a mixture of experts alone, and this model has none",
            reason="QuantizationDoesNotFit",
            hint="Choose Q8_0, which is what all the rest would become, or IQ4_NL, which is about as small.",
        )
    once_more = gguf.type_name == "Q8_0" and not source.is_base and wanted.block > 1
    if gguf.is_quantized and not once_more and not _stays_mixed(source):
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"the model is {gguf.type_name}; it cannot become {kind}: what a quantization leaves out does not come "
            "back, and one of another adds its own loss to it",
            reason="AlreadyQuantized",
            hint=f"Use the model in F16, BF16 or F32, or ask for {gguf.type_name} in `export.quantizations`.",
        )


def _stays_mixed(source: Source) -> bool:
    """Say whether quantized tensors are as the converter left them: some models are trained with them (MXFP4)."""
    return not source.is_base and source.gguf.type_name in {"F16", "BF16", "F32"}
