"""What a training and what follows it will take: GPU memory, disk, computation. Pure, but for nothing.

Rough on purpose: only what is clearly too little is refused (:data:`CLEARLY`). Sources:

- states: Rajbhandari et al., 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", section 3
  (https://arxiv.org/abs/1910.02054): for each trained parameter 2 bytes of weight, 2 of gradient, and 12 for AdamW's
  master weight and two moments in float32, shared out from stage 1, 2 or 3 on. DeepSpeed's own estimate
  (``estimate_zero3_model_states_mem_needs``) has 18 instead of 16 and 4 bytes for each parameter of the largest tensor,
  which is gathered whole.
- activations: counted as in Korthikanti et al., 2022, "Reducing Activation Recomputation in Large Transformer Models",
  section 4 (https://arxiv.org/abs/2205.05198), for a block with RMSNorm (computed in float32), grouped queries, a gated
  feed-forward part and attention that keeps no scores (sdpa). With checkpointing only each layer's input stays, and one
  layer at a time is computed again. Its last term is fitted to a Llama of 8 layers on a
  CPU, on which the whole is 2 to 8 % too low.
- computation: Kaplan et al., 2020, "Scaling Laws for Neural Language Models", section 2.1
  (https://arxiv.org/abs/2001.08361): 2 operations for each parameter and token forward, 4 backward; 2 of these are
  saved where the weight is frozen, 2 more are needed with checkpointing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith_stages.rehearse.model_shape import ModelShape
from tunesmith_stages.train.limits import LOGITS_AT_ONCE
from tunesmith_stages.train.methods import Method

CLEARLY = 1.2
"""An estimate is rough: what is needed must exceed what is there by this factor to be refused."""
CONTEXT = 1 << 30
"""Bytes that CUDA, its libraries and the allocator's fragments take on each GPU."""
OPERATIONS_A_SECOND = {"GPU": 1e14, "process": 5e10}
"""What each GPU or process of a training on the CPU is taken to do, for there is no way to know before it runs. 100
TFLOPS is a third of an A100's peak in BF16 (https://www.nvidia.com/en-us/data-center/a100/), as trainings reach."""
_WORD: Mapping[str, int] = {"BF16": 2, "FP16": 2, "FP32": 4}
_MASTER_AND_MOMENTS = 12
_FOUR_BITS = 0.516
"""Bytes of a number in NF4: 4 bits, and 0.127 for the scales of its block, which are quantized themselves (Dettmers et
al., 2023, "QLoRA", section 3, https://arxiv.org/abs/2305.14314)."""
_LOSS = 12
"""Bytes for each entry of the logits at the moment when the loss is taken: in float32 they, their log-softmax and its
gradient. (Measured: 12.2 in BF16, 12.3 in FP32.)"""
_AT_ONCE = 256
"""Tokens for which methods that learn from preferences have that at one time; of the others there are the logits and
their gradient. See :mod:`tunesmith_stages.train.log_probabilities`."""


@dataclass(frozen=True)
class Training:
    """How it is trained, as far as estimates go by it: ``runtime.estimate``, and what the data and the base say.

    A sequence is what is taken through the model for itself: a pair of answers are two.
    """

    full: bool
    """Whether the weights themselves are trained, not an adapter."""
    trained: int
    """Parameters that are trained."""
    word: int
    """Bytes of a number in the forward pass."""
    zero_stage: int
    checkpointing: bool
    micro_batch: int
    """Rows that one GPU takes through the model at once."""
    accumulation: int
    ranks: int
    """GPUs (or processes) on all nodes together."""
    longest: int
    """Tokens of the longest sequence."""
    rows: int
    tokens: int
    """Of all rows together."""
    epochs: float
    max_steps: int | None
    layers: int | None = None
    """Only so many of the last layers are trained; None: all."""
    quantized: int = 0
    """Parameters that are held in 4 bits."""
    offload_optimizer: bool = False
    offload_parameters: bool = False
    method: Method | None = None
    """A method that learns from preferences; None: supervised fine-tuning."""

    @property
    def sequences(self) -> int:
        """Sequences that one GPU takes through the model at once."""
        return self.micro_batch * sequences_of(self.method)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        if self.max_steps is not None:
            return self.max_steps
        batch = self.micro_batch * self.accumulation * self.ranks
        return math.ceil(math.ceil(self.rows / batch) * self.epochs)

    @property
    def all_tokens(self) -> int:
        """Tokens of the whole training."""
        batch = self.micro_batch * self.accumulation * self.ranks
        return round(self.tokens / self.rows * min(self.rows, batch) * self.steps) if self.rows else 0

    @property
    def forward_tokens(self) -> int:
        """Tokens that are taken through the model besides, without a backward pass.

        DPO and KTO ask the base about every row once. KTO takes each row with another one's answer, too: then, and
        again in every step.
        """
        if self.method is None or self.method is Method.ORPO:
            return 0
        asked = min(self.tokens, self.all_tokens)
        return 2 * asked + self.all_tokens if self.method is Method.KTO else asked


def sequences_of(method: Method | None) -> int:
    """Return how many sequences a row is."""
    return 2 if method in {Method.DPO, Method.ORPO} else 1


def training_of(estimate: Mapping[str, Any], trained: int, quantized: int, lengths: Sequence[int]) -> Training:
    """Return what follows from ``runtime.estimate`` and the data.

    Args:
        estimate: how it is trained.
        trained: parameters that are trained.
        quantized: parameters that are held in 4 bits.
        lengths: tokens of each sequence.
    """
    steps, layers = estimate["maxSteps"], estimate["trainableLayers"]
    method = method_of(estimate)
    return Training(
        full=estimate["lora"] is None,
        trained=trained,
        layers=None if layers is None else int(layers),
        quantized=quantized,
        offload_optimizer=bool(estimate["offloadOptimizer"]),
        offload_parameters=bool(estimate["offloadParameters"]),
        word=_WORD[estimate["precision"]],
        zero_stage=int(estimate["zeroStage"]),
        checkpointing=bool(estimate["gradientCheckpointing"]),
        micro_batch=int(estimate["perDeviceTrainBatchSize"]),
        accumulation=int(estimate["gradientAccumulationSteps"]),
        ranks=int(estimate["nodes"]) * int(estimate["gpusPerNode"] or estimate["processesPerNode"]),
        longest=max(lengths, default=0),
        rows=len(lengths) // sequences_of(method),
        tokens=sum(lengths),
        epochs=float(estimate["numTrainEpochs"] or 0),
        max_steps=None if steps is None else int(steps),
        method=method,
    )


def method_of(estimate: Mapping[str, Any]) -> Method | None:
    """Return the method that `estimate` names, if it learns from preferences."""
    name = estimate.get("method", "SFT")
    return None if name == "SFT" else Method(name)


# --- memory ----------------------------------------------------------------------------------------------------------


def memory(model: ModelShape, training: Training) -> dict[str, int]:
    """Return the bytes that each GPU needs, by part: ``weights``, ``gradients``, ``optimizer``, ``activations``."""
    stage, ranks, word = training.zero_stage, training.ranks, training.word
    whole = word * (model.parameters - training.quantized + (0 if training.full else training.trained))
    whole += round(_FOUR_BITS * training.quantized)
    kept = 0 if training.offload_parameters else whole // ranks
    weights = kept + 2 * word * model.largest if stage == 3 else whole
    gradients = word * training.trained // (ranks if stage >= 2 else 1)
    optimizer = _MASTER_AND_MOMENTS if word == 2 or stage else _MASTER_AND_MOMENTS - 4
    if training.offload_optimizer:
        optimizer = 0
    elif word == 2:  # the gradients in float32, for the step
        gradients += 4 * training.trained // (ranks if stage else 1)
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer * training.trained // (ranks if stage else 1),
        "activations": activations(model, training),
    }


def activations(model: ModelShape, training: Training) -> int:
    """Return the bytes of what the backward pass needs of the forward pass, for the longest sequences."""
    word, tokens = training.word, training.sequences * training.longest
    norms = 2 * (4 + word) * model.hidden
    attention = word * (2 * model.attention + 2 * model.keys)
    feed_forward = 4 * word * model.inner
    layer = norms + attention + feed_forward
    loss = model.vocabulary * _loss(training, tokens, model.vocabulary)
    layers = min(model.layers, training.layers or model.layers)
    if training.checkpointing and training.zero_stage == 3:
        layers = model.layers  # gradients go through frozen layers, too: see `train.session`
    if training.checkpointing:
        return tokens * layers * word * model.hidden + max(tokens * layer, loss)
    return tokens * layers * layer + loss


def _loss(training: Training, tokens: int, vocabulary: int) -> int:
    """Return the bytes that the loss takes for each word of the vocabulary."""
    if training.method is None:
        return _LOSS * min(tokens, max(1, LOGITS_AT_ONCE // vocabulary))
    return 2 * training.word * tokens + _LOSS * min(tokens, _AT_ONCE)


# --- disk ------------------------------------------------------------------------------------------------------------


def disk(
    model: ModelShape,
    training: Training,
    keep: int,
    out_bits: float,
    type_bits: Sequence[float],
    *,
    checkpoints: int = 0,
    is_trained: bool = False,
) -> int:
    """Return the bytes that the volume must have free: the most that lies there at one time.

    While it is trained there are `keep` checkpoints, one that is being written, and what was trained. They go, and
    then there are the merged model, the GGUF and every quantization.

    Args:
        model: the base.
        training: how it is trained.
        keep: checkpoints that are kept.
        out_bits: bits for each weight of the GGUF.
        type_bits: bits for each weight of each quantization.
        checkpoints: bytes of those that an earlier attempt left: the training goes on from them.
        is_trained: whether the training was done before, by an earlier run: only what follows it is to be made.
    """
    trained = training.word * (model.parameters if training.full else training.trained)
    checkpoint = trained + _MASTER_AND_MOMENTS * training.trained
    merged = 0 if training.full else training.word * model.parameters
    files = sum(model.parameters * bits / 8 for bits in (out_bits, *type_bits))
    after = merged + round(files)
    if is_trained:
        return after
    return trained + max((keep + 1) * checkpoint - checkpoints, after)


# --- computation -----------------------------------------------------------------------------------------------------


def operations(model: ModelShape, training: Training) -> int:
    """Return the floating-point operations of the whole training."""
    passed = training.trained / model.parameters if training.layers else 1.0
    again = 2 if training.checkpointing else 0
    each = 2 + passed * ((4 if training.full else 2) + again)
    if training.checkpointing and training.zero_stage == 3:
        each += (1 - passed) * (2 + again)  # frozen layers are computed again, and gradients go through them
    return round(each * model.active) * training.all_tokens + 2 * model.active * training.forward_tokens
