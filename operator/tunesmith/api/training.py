"""How a FineTuneJob trains: the object `training` of its spec and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from tunesmith.api.tracking import Tracking
from tunesmith.api.values import (
    MODULE_PATTERN,
    ApiModel,
    Bool,
    Decimal,
    Fraction,
    Int,
    PositiveDecimal,
    Rule,
)
from tunesmith_stages.contract import ALL_LINEAR


class Method(StrEnum):
    """What the model learns from."""

    SFT = "SFT"
    DPO = "DPO"
    KTO = "KTO"
    ORPO = "ORPO"

    @property
    def prefers(self) -> bool:
        """Whether it learns from what people prefer, not from answers that are all good."""
        return self is not Method.SFT


class Preference(ApiModel):
    """The numbers of the methods that learn from preferences."""

    beta: PositiveDecimal = "0.1"
    """DPO and KTO: how strongly the model is held to what the base answers; the higher, the less it changes. ORPO: the
    weight of the odds ratio, which its paper calls lambda."""

    sft_weight: Decimal | None = None
    """DPO: so many times the loss of the chosen answer is added, as supervised fine-tuning takes it. It keeps that
    answer from becoming less likely along with the other. Default: 0."""

    desirable_weight: PositiveDecimal | None = None
    """KTO: how much a desirable answer counts. Default: 1."""

    undesirable_weight: PositiveDecimal | None = None
    """KTO: how much an undesirable one counts. Default: 1. Where there are n times as many of one kind, its weight
    should be about 1/n."""


_NUMBERS_OF: Mapping[str, Method] = {
    "sft_weight": Method.DPO,
    "desirable_weight": Method.KTO,
    "undesirable_weight": Method.KTO,
}
"""The method that a number belongs to, where it does not belong to all."""


def _numbers_fit(training: Training) -> bool:
    """Tell whether only numbers of the method are given."""
    given = training.preference.model_dump(exclude_none=True) if training.preference else {}
    return all(_NUMBERS_OF.get(field, training.method) is training.method for field in given)


def _numbers_fit_in_cel() -> str:
    """Return the same in CEL."""
    fitting = [
        f"(!has(self.preference.{to_camel(field)}) || self.method == '{method}')"
        for field, method in _NUMBERS_OF.items()
    ]
    return "!has(self.preference) || (" + " && ".join(fitting) + ")"


class FinetuningType(StrEnum):
    """How much of the model is trained."""

    FULL = "Full"
    FREEZE = "Freeze"
    LORA = "LoRA"
    QLORA = "QLoRA"

    @property
    def adapts(self) -> bool:
        """Whether small matrices are trained beside the weights."""
        return self in {FinetuningType.LORA, FinetuningType.QLORA}


class Lora(ApiModel):
    """Low-rank adaptation (LoRA)."""

    RULES: ClassVar = (
        Rule(
            f"must be either [{ALL_LINEAR}] or a list of module names",
            lambda lora: ALL_LINEAR not in lora.target_modules or len(lora.target_modules) == 1,
            f"!('{ALL_LINEAR}' in self.targetModules) || size(self.targetModules) == 1",
            ("targetModules",),
        ),
    )

    rank: Annotated[Int, Field(ge=1, le=1024)] = 16
    """Rank of the update matrices."""

    alpha: Annotated[Int, Field(ge=1, le=4096)] = 32
    """The update is scaled by alpha / rank."""

    dropout: Fraction = "0"
    """Share of the adapter's inputs that is dropped while training."""

    target_modules: Annotated[
        tuple[Annotated[str, Field(pattern=MODULE_PATTERN)], ...], Field(min_length=1, max_length=64)
    ] = (ALL_LINEAR,)
    """The modules that get an adapter, by the end of their names (`q_proj`), or AllLinear: every linear layer but the
    output head; of a mixture of experts neither the experts nor what chooses among them."""

    use_rslora: Bool = False
    """Scale the update by alpha / sqrt(rank): rsLoRA, which lets higher ranks learn as fast."""

    use_dora: Bool = False
    """Train length and direction of the weights apart: DoRA, nearer to training all weights, and slower."""

    plus_lr_ratio: PositiveDecimal | None = None
    """LoRA+: the learning rate of the matrices B is so many times as high; its authors take 16. Default: the same."""


class Freeze(ApiModel):
    """What is trained where the rest is frozen."""

    trainable_layers: Annotated[Int, Field(ge=1, le=1000)] = 2
    """So many of the last layers are trained, with all their weights."""


class LrSchedule(StrEnum):
    """How the learning rate goes on after the warm-up."""

    COSINE = "Cosine"
    COSINE_WITH_MIN_LR = "CosineWithMinLR"
    COSINE_WITH_RESTARTS = "CosineWithRestarts"
    LINEAR = "Linear"
    POLYNOMIAL = "Polynomial"
    INVERSE_SQRT = "InverseSqrt"
    WARMUP_STABLE_DECAY = "WarmupStableDecay"
    CONSTANT = "Constant"


class LrScheduleOptions(ApiModel):
    """What a schedule of the learning rate can be told besides."""

    min_lr_ratio: Fraction | None = None
    """CosineWithMinLR: the share of the highest learning rate at which it ends. Default: 0.1."""

    cycles: Annotated[Int, Field(ge=1, le=1000)] | None = None
    """CosineWithRestarts: so many times it falls from the highest learning rate to 0. Default: 2."""

    power: PositiveDecimal | None = None
    """Polynomial: the power with which it falls to 0; 1 is Linear. Default: 1."""

    decay_ratio: Fraction | None = None
    """WarmupStableDecay: the share of all steps, at the end, over which it falls. Default: 0.1."""


_OPTION_OF: Mapping[LrSchedule, str] = {
    LrSchedule.COSINE_WITH_MIN_LR: "min_lr_ratio",
    LrSchedule.COSINE_WITH_RESTARTS: "cycles",
    LrSchedule.POLYNOMIAL: "power",
    LrSchedule.WARMUP_STABLE_DECAY: "decay_ratio",
}


def _options_fit(training: Training) -> bool:
    """Tell whether only the option of the schedule is given, if any."""
    options = training.lr_schedule_options
    return options is None or options.model_fields_set <= {_OPTION_OF.get(training.lr_schedule, "")}


def _options_fit_in_cel() -> str:
    """Return the same in CEL."""
    fitting = [
        f"has(self.lrScheduleOptions.{to_camel(field)}) ? self.lrSchedule == '{schedule}' : true"
        for schedule, field in _OPTION_OF.items()
    ]
    return "!has(self.lrScheduleOptions) || (" + " && ".join(f"({part})" for part in fitting) + ")"


class Adam(ApiModel):
    """The numbers of AdamW."""

    beta1: Fraction = "0.9"
    """How slowly the mean of the gradients forgets."""

    beta2: Fraction = "0.999"
    """How slowly the mean of their squares forgets."""

    epsilon: PositiveDecimal = "0.00000001"
    """Added to the root of that."""


class Precision(StrEnum):
    """Number format of the computation."""

    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


class EarlyStopping(ApiModel):
    """When a training that no longer gets better is stopped."""

    patience: Annotated[Int, Field(ge=1, le=1000)] = 3
    """Evaluations without an improvement, at which it stops."""

    min_delta: Decimal = "0"
    """By so much at least must the evaluation loss fall to be an improvement."""


class Validation(ApiModel):
    """What is held back from training to measure the evaluation loss."""

    RULES: ClassVar = (
        Rule(
            "must be given with `keepBest` and `earlyStopping`, which go by the evaluations in between",
            lambda validation: (
                validation.eval_steps is not None or not (validation.keep_best or validation.early_stopping)
            ),
            "has(self.evalSteps) || !(self.keepBest || has(self.earlyStopping))",
            ("evalSteps",),
        ),
    )

    fraction: Fraction | None = None
    """Share of the rows that is held back. Default: 0.1, or nothing if a dataset has `use: Validation`."""

    eval_steps: Annotated[Int, Field(ge=1, le=1_000_000)] | None = None
    """Measure every so many steps. Default: at the end only."""

    keep_best: Bool = False
    """Take the weights of the step with the lowest evaluation loss, not those of the last. Needs `evalSteps`."""

    early_stopping: EarlyStopping | None = None
    """Stop a training that no longer gets better. Needs `evalSteps`. Default: train to the end."""


class Checkpoint(ApiModel):
    """What an interrupted training goes on from."""

    save_steps: Annotated[Int, Field(ge=1, le=1_000_000)] = 500
    """Save every so many steps."""

    keep: Annotated[Int, Field(ge=1, le=100)] = 2
    """How many to keep; older ones are removed once a newer one is whole."""


_Bucket = Annotated[Int, Field(ge=1, le=100_000_000_000)]


class ZeroConfig(ApiModel):
    """DeepSpeed's `zero_optimization`, as far as it changes how fast it is and how much memory that takes."""

    model_config = ConfigDict(alias_generator=None)

    overlap_comm: Bool | None = None
    """Send gradients while others are computed."""
    contiguous_gradients: Bool | None = None
    """Copy gradients into one place as they come."""
    round_robin_gradients: Bool | None = None
    """Share the copying of gradients out over the ranks."""
    reduce_bucket_size: _Bucket | None = None
    """Elements that are reduced at once."""
    allgather_bucket_size: _Bucket | None = None
    """Elements that are gathered at once."""
    sub_group_size: _Bucket | None = None
    """Elements that the optimizer steps over at once."""
    stage3_prefetch_bucket_size: _Bucket | None = None
    """Elements that are fetched ahead."""
    stage3_param_persistence_threshold: _Bucket | None = None
    """Weights of fewer elements stay on every rank."""
    stage3_max_live_parameters: _Bucket | None = None
    """Elements that may be on a GPU at once."""
    stage3_max_reuse_distance: _Bucket | None = None
    """What is used again within so many elements is not given back."""
    zero_hpz_partition_size: Annotated[Int, Field(ge=1, le=64)] | None = None
    """Ranks within which weights are gathered again (ZeRO++): a divisor of the number of processes."""


class Fp16Config(ApiModel):
    """DeepSpeed's `fp16`: the scaling of the loss."""

    model_config = ConfigDict(alias_generator=None)

    initial_scale_power: Annotated[Int, Field(ge=0, le=32)] | None = None
    """The first scale, as a power of 2."""
    loss_scale_window: Annotated[Int, Field(ge=1, le=1_000_000)] | None = None
    """Steps without an overflow after which the scale is doubled."""
    hysteresis: Annotated[Int, Field(ge=1, le=1000)] | None = None
    """Overflows after which it is halved."""
    min_loss_scale: Annotated[Int, Field(ge=0, le=1_000_000)] | None = None
    """The lowest scale."""


class CommunicationType(StrEnum):
    """Number format in which gradients are sent."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"


class DeepspeedConfig(ApiModel):
    """Settings of DeepSpeed in its own spelling."""

    model_config = ConfigDict(alias_generator=None)

    zero_optimization: ZeroConfig | None = None
    """How ZeRO shares things out."""
    fp16: Fp16Config | None = None
    """The scaling of the loss with `precision: FP16`."""
    communication_data_type: CommunicationType | None = None
    """Number format in which gradients are sent."""
    wall_clock_breakdown: Bool | None = None
    """Write into the log how long each part of a step takes."""


_OF_STAGE_3 = (
    "sub_group_size",
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
    "zero_hpz_partition_size",
)
"""What DeepSpeed reads with ZeRO 3 alone."""


def _zero_config(deepspeed: Deepspeed) -> set[str]:
    """Return what is given of DeepSpeed's `zero_optimization`."""
    config = deepspeed.config
    return config.zero_optimization.model_fields_set if config and config.zero_optimization else set()


def _gathered_within(deepspeed: Deepspeed) -> int:
    """Return how many ranks gather weights from each other; 1: from all of them."""
    config = deepspeed.config
    return (config.zero_optimization.zero_hpz_partition_size if config and config.zero_optimization else None) or 1


class Deepspeed(ApiModel):
    """How DeepSpeed spreads the training over the processes."""

    RULES: ClassVar = (
        Rule(
            "goes with `zeroStage` 2 or 3 only: set one of them, or remove it",
            lambda deepspeed: not deepspeed.offload_optimizer or deepspeed.zero_stage > 0,
            "!self.offloadOptimizer || self.zeroStage > 0",
            ("offloadOptimizer",),
        ),
        Rule(
            "goes with `zeroStage: 3` only: set that, or remove it",
            lambda deepspeed: not deepspeed.offload_parameters or deepspeed.zero_stage == 3,
            "!self.offloadParameters || self.zeroStage == 3",
            ("offloadParameters",),
        ),
        Rule(
            "goes with `zeroStage` 2 or 3 only: set one of them, or remove it",
            lambda deepspeed: not _zero_config(deepspeed) or deepspeed.zero_stage > 0,
            "self.zeroStage > 0 || !has(self.config) || !has(self.config.zero_optimization)",
            ("config", "zero_optimization"),
        ),
        Rule(
            f"may hold {', '.join(_OF_STAGE_3)} with `zeroStage: 3` only: set that, or remove them",
            lambda deepspeed: deepspeed.zero_stage == 3 or not _zero_config(deepspeed) & set(_OF_STAGE_3),
            "self.zeroStage == 3 || !has(self.config) || !has(self.config.zero_optimization) || !("
            + " || ".join(f"has(self.config.zero_optimization.{field})" for field in _OF_STAGE_3)
            + ")",
            ("config", "zero_optimization"),
        ),
    )

    zero_stage: Annotated[
        Int,
        Field(json_schema_extra={"enum": [0, 2, 3]}),
        Rule(  # the enum says it to the API server
            "must be 0, 2 or 3; instead of 1 take 2, which shares out the gradients besides and costs nothing more",
            lambda stage: stage in {0, 2, 3},
            "",
        ),
    ] = 2
    """ZeRO stage: 0 copies everything to each process, 2 splits gradients and optimizer, 3 the weights too. There is
    no 1, which splits the optimizer alone: 2 does that, too."""

    offload_optimizer: Bool = False
    """Keep the optimizer's state in the memory of the machine and take its step there: 12 bytes a trained weight less
    on the GPUs, and slower. Needs GPUs and ZeRO 2 or 3."""

    offload_parameters: Bool = False
    """Keep the weights in the memory of the machine, too. Needs GPUs and ZeRO 3."""

    config: DeepspeedConfig | None = None
    """More of DeepSpeed's own settings. Those that Tunesmith must set itself (batch sizes, precision, optimizer,
    offload, files) are not among them."""


class Guards(ApiModel):
    """What ends a training that goes wrong, besides a loss that is no number."""

    max_final_loss: PositiveDecimal | None = None
    """The last reported loss must not be higher. Default: no limit."""

    loss_spike: PositiveDecimal | None = None
    """No reported loss may be more than so many times the median of the 20 before it. Default: no limit."""

    stall_minutes: Annotated[Int, Field(ge=1, le=10_080)] = 60
    """A training in which nothing is finished for so long hangs: it is ended, and tried again from its newest
    checkpoint."""


class OnOutOfMemory(StrEnum):
    """What becomes of a training for which the memory does not suffice."""

    FAIL = "Fail"
    REDUCE = "Reduce"


class Training(ApiModel):
    """Fine-tuning with DeepSpeed."""

    RULES: ClassVar = (
        Rule(
            "goes with `method` DPO, KTO or ORPO only: set one of them, or remove it",
            lambda training: training.preference is None or training.method.prefers,
            "!has(self.preference) || self.method != 'SFT'",
            ("preference",),
        ),
        Rule(
            "must hold nothing but the numbers of the job's `method`: beta of all three, sftWeight of DPO, "
            "desirableWeight and undesirableWeight of KTO",
            _numbers_fit,
            _numbers_fit_in_cel(),
            ("preference",),
        ),
        Rule(
            "goes with `method: SFT` only, for preferences are compared sample by sample: remove it",
            lambda training: not (training.packing and training.method.prefers),
            "!self.packing || self.method == 'SFT'",
            ("packing",),
        ),
        Rule(
            "goes with `finetuningType` LoRA or QLoRA only; remove it, or train LoRA",
            lambda training: training.lora is None or training.finetuning_type.adapts,
            "!has(self.lora) || self.finetuningType in ['LoRA', 'QLoRA']",
            ("lora",),
        ),
        Rule(
            "goes with `finetuningType: Freeze` only: set that, or remove it",
            lambda training: training.freeze is None or training.finetuning_type is FinetuningType.FREEZE,
            "!has(self.freeze) || self.finetuningType == 'Freeze'",
            ("freeze",),
        ),
        Rule(
            "needs GPUs for QLoRA: set `gpusPerNode`, or train LoRA",
            lambda training: training.finetuning_type is not FinetuningType.QLORA or training.gpus_per_node > 0,
            "self.finetuningType != 'QLoRA' || self.gpusPerNode > 0",
            ("finetuningType",),
        ),
        Rule(
            "must not offload with `gpusPerNode: 0`: on the CPU there is nothing to offload from; set `gpusPerNode`, "
            "or remove `offloadOptimizer` and `offloadParameters`",
            lambda training: (
                training.gpus_per_node > 0
                or not (training.deepspeed.offload_optimizer or training.deepspeed.offload_parameters)
            ),
            "self.gpusPerNode > 0 || !(self.deepspeed.offloadOptimizer || self.deepspeed.offloadParameters)",
            ("deepspeed",),
        ),
        Rule(
            "must have no `fp16` with another `precision` than FP16, for there is no loss to scale: remove it",
            lambda training: (
                training.deepspeed.config is None
                or training.deepspeed.config.fp16 is None
                or training.precision is Precision.FP16
            ),
            "!has(self.deepspeed.config) || !has(self.deepspeed.config.fp16) || self.precision == 'FP16'",
            ("deepspeed", "config"),
        ),
        Rule(
            "must not be given together with `warmupRatio`: remove one of them",
            lambda training: training.warmup_steps == 0 or training.warmup_ratio is None,
            "self.warmupSteps == 0 || !has(self.warmupRatio)",
            ("warmupSteps",),
        ),
        Rule(
            "must hold nothing but the option of the job's `lrSchedule`: minLrRatio of CosineWithMinLR, cycles of "
            "CosineWithRestarts, power of Polynomial, decayRatio of WarmupStableDecay",
            _options_fit,
            _options_fit_in_cel(),
            ("lrScheduleOptions",),
        ),
        Rule(
            "must be BF16 or FP32 on the CPU (`gpusPerNode: 0`)",
            lambda training: training.gpus_per_node > 0 or training.precision is not Precision.FP16,
            "self.gpusPerNode > 0 || self.precision != 'FP16'",
            ("precision",),
        ),
        Rule(
            "goes with `gpusPerNode: 0` only: each GPU has one process",
            lambda training: training.processes_per_node is None or training.gpus_per_node == 0,
            "!has(self.processesPerNode) || self.gpusPerNode == 0",
            ("processesPerNode",),
        ),
        Rule(
            "must not be given together with `maxSteps`: remove one of them",
            lambda training: training.max_steps is None or training.num_train_epochs is None,
            "!has(self.numTrainEpochs) || !has(self.maxSteps)",
            ("numTrainEpochs",),
        ),
        Rule(
            "must be below `maxSteps`: the learning rate would never be reached; lower it, or take `warmupRatio`",
            lambda training: training.max_steps is None or training.warmup_steps < training.max_steps,
            "!has(self.maxSteps) || self.warmupSteps < self.maxSteps",
            ("warmupSteps",),
        ),
        Rule(
            "must be below `maxSteps` with `keepBest` and `earlyStopping`, which go by the evaluations in between",
            lambda training: (
                training.max_steps is None
                or training.validation is None
                or training.validation.eval_steps is None
                or not (training.validation.keep_best or training.validation.early_stopping)
                or training.validation.eval_steps < training.max_steps
            ),
            "!has(self.maxSteps) || !has(self.validation) || !has(self.validation.evalSteps) || "
            "!(self.validation.keepBest || has(self.validation.earlyStopping)) || "
            "self.validation.evalSteps < self.maxSteps",
            ("validation", "evalSteps"),
        ),
        Rule(
            "must have a `zero_hpz_partition_size` that divides the number of processes, `nodes` x `gpusPerNode` (or "
            "`processesPerNode`): take that of a node's GPUs",
            lambda training: training.world_size % _gathered_within(training.deepspeed) == 0,
            "!has(self.deepspeed.config) || !has(self.deepspeed.config.zero_optimization) || "
            "!has(self.deepspeed.config.zero_optimization.zero_hpz_partition_size) || self.nodes * "
            "(self.gpusPerNode > 0 ? self.gpusPerNode : has(self.processesPerNode) ? self.processesPerNode : 1) % "
            "self.deepspeed.config.zero_optimization.zero_hpz_partition_size == 0",
            ("deepspeed", "config"),
        ),
    )

    method: Method = Method.SFT
    """SFT learns to answer as the data do: supervised fine-tuning, and continued pre-training on plain text. DPO and
    ORPO learn from pairs of a chosen and a rejected answer, KTO from single answers that are desirable or not."""

    preference: Preference | None = None
    """The numbers of DPO, KTO and ORPO. Default: beta 0.1 alone."""

    finetuning_type: FinetuningType = FinetuningType.LORA
    """LoRA trains small matrices beside the weights, which are merged afterwards; QLoRA does with the weights held in
    4 bits, on GPUs; Full trains all weights, Freeze those of the last layers."""

    lora: Lora | None = None
    """Settings of LoRA. Default: rank 16, alpha 32, all linear layers."""

    freeze: Freeze | None = None
    """What is trained with `finetuningType: Freeze`. Default: the last 2 layers."""

    sequence_length: Annotated[Int, Field(ge=16, le=1_048_576)] = 2048
    """Longest row, in tokens. Longer rows are left out and counted: cut ones would teach answers without an end."""

    packing: Bool = False
    """Put several samples into one row of up to `sequenceLength` tokens, so that little is computed for padding. The
    samples of a row do not see each other; that is proven before the training."""

    per_device_train_batch_size: Annotated[Int, Field(ge=1, le=4096)] = 1
    """Rows per process in one forward pass."""

    per_device_eval_batch_size: Annotated[Int, Field(ge=1, le=4096)] | None = None
    """Rows per process in one pass of the evaluation. Default: as in training."""

    gradient_accumulation_steps: Annotated[Int, Field(ge=1, le=4096)] = 8
    """Forward passes per optimizer step."""

    learning_rate: PositiveDecimal = "0.0001"
    """Highest learning rate."""

    lr_schedule: LrSchedule = LrSchedule.COSINE
    """How the learning rate goes on after the warm-up."""

    lr_schedule_options: LrScheduleOptions | None = None
    """What the schedule can be told besides."""

    warmup_steps: Annotated[Int, Field(ge=0, le=1_000_000)] = 0
    """Steps over which the learning rate rises from 0."""

    warmup_ratio: Fraction | None = None
    """The same as a share of all steps. Default: none."""

    adam: Adam = Adam()
    """The numbers of AdamW."""

    weight_decay: Decimal = "0"
    """Weight decay of AdamW."""

    max_grad_norm: Decimal = "1"
    """The gradient is scaled down to this norm; 0 turns it off."""

    neftune_noise_alpha: PositiveDecimal | None = None
    """NEFTune: noise of this size on the embeddings of training rows; its authors take 5. Default: none."""

    num_train_epochs: PositiveDecimal | None = None
    """How often the data is gone through. Default: 3, unless `maxSteps` is given."""

    max_steps: Annotated[Int, Field(ge=1, le=100_000_000)] | None = None
    """Stop after so many optimizer steps, whatever the epochs."""

    precision: Precision = Precision.BF16
    """Number format of the computation. FP16 needs GPUs."""

    gradient_checkpointing: Bool = True
    """Compute activations again in the backward pass, which saves memory and costs about a quarter of the speed."""

    validation: Validation | None = None
    """Hold back part of the rows and measure the loss on them. Default: none."""

    checkpoint: Checkpoint = Checkpoint()
    """What an interrupted training goes on from."""

    logging_steps: Annotated[Int, Field(ge=1, le=1_000_000)] = 10
    """Report loss, gradient norm, learning rate and speed every so many steps, and besides before each evaluation and
    checkpoint and at the end."""

    tracking: Tracking | None = None
    """An experiment tracker that shows the training while it runs. Default: none."""

    guards: Guards = Guards()
    """What ends a training that goes wrong."""

    on_out_of_memory: OnOutOfMemory = OnOutOfMemory.FAIL
    """Fail ends the training. Reduce goes on with half as many rows at a time in twice as many passes, down to one:
    the same rows enter each step."""

    dataloader_workers: Annotated[Int, Field(ge=0, le=64)] = 0
    """Processes of each rank that read rows ahead. Rows are read from memory maps: few trainings need one."""

    ddp_timeout_seconds: Annotated[Int, Field(ge=60, le=86_400)] = 1800
    """How long processes wait for each other before they give up: in a step, and while one of them loads or saves."""

    seed: Annotated[Int, Field(ge=0, le=2_147_483_647)] = 42
    """Seed of everything random: sampling, splitting, shuffling, new weights."""

    deepspeed: Deepspeed = Deepspeed()
    """How DeepSpeed spreads the training over the processes."""

    nodes: Annotated[Int, Field(ge=1, le=64)] = 1
    """Nodes of a cluster that train together, with a pod on each. `tunesmith run` trains on one."""

    gpus_per_node: Annotated[Int, Field(ge=0, le=64)] = 1
    """GPUs on each node, one process each. 0 trains on the CPU with `processesPerNode` processes."""

    processes_per_node: Annotated[Int, Field(ge=1, le=64)] | None = None
    """Processes on each node of a training on the CPU. Default: 1. With GPUs there is one process for each."""

    @property
    def processes(self) -> int:
        """Number of training processes on each node."""
        return self.gpus_per_node or self.processes_per_node or 1

    @property
    def world_size(self) -> int:
        """Number of training processes over all nodes."""
        return self.nodes * self.processes

    @property
    def global_batch_size(self) -> int:
        """Rows per optimizer step over all processes."""
        return self.world_size * self.per_device_train_batch_size * self.gradient_accumulation_steps
