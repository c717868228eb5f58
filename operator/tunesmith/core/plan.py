"""The plan of a job: which stages there are, with which keys, and which of them are done.

:func:`plan` is called again after every stage, by whichever edge carries the job out: a stage has keys only once the
results that it builds on are known. What enters a key is listed in ``docs/design/0001-stage-interfaces.md``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.api.datasets import Dataset, DatasetUse
from tunesmith.api.finetunejob import FineTuneJob, Model
from tunesmith.api.sources import DATASET_SOURCES, MODEL_SOURCES, Language
from tunesmith.api.tracking import DEFAULT_PROJECT
from tunesmith.api.training import (
    Adam,
    DeepspeedConfig,
    FinetuningType,
    Freeze,
    Lora,
    LrScheduleOptions,
    Method,
    Preference,
    Training,
)
from tunesmith.api.values import ApiModel
from tunesmith.core.model import Plan, PlannedStage, StageState
from tunesmith_stages.contract import (
    RECIPES,
    Input,
    LaterUnit,
    StageName,
    StageResult,
    UnitConfig,
    content_key,
    digest_of,
)

DEFAULT_EPOCHS = "3"
DEFAULT_VALIDATION = "0.1"
"""Share that is held back where `training.validation` is given and says nothing else."""

Params = Mapping[str, Any]


@dataclass(frozen=True)
class _Recipe:
    """How one stage follows from the job and from what earlier stages made."""

    stage: StageName
    units: Callable[[FineTuneJob], Mapping[str, Params]]
    """The keyed parameters of each unit, by the unit's name."""
    needs: Callable[[FineTuneJob, str], Iterable[str]]
    """The roles of a unit's inputs, by the unit's name."""
    role: Callable[[str], str]
    """The role in which later stages take what a unit makes."""
    runtime: Callable[[FineTuneJob], Params] = lambda _job: {}


def plan(
    job: FineTuneJob,
    results: Mapping[str, StageResult],
    *,
    source_versions: Mapping[str, str] | None = None,
    recipes: Mapping[StageName, int] = RECIPES,
    rehearsed: bool = False,
) -> Plan:
    """Return what there is to do for a job, given what was done.

    Args:
        job: what is wanted.
        results: by content key, every result that may matter; others do no harm.
        source_versions: by unit of `fetch` (``base``, ``dataset:<name>``), a text that changes when that source is to
            be looked up again. A source without one is looked up once.
        recipes: the recipe numbers to plan with; a job that runs keeps those that it began with.
        rehearsed: whether the gate before the training was passed.
    """
    made: dict[str, Input] = {}
    stages: dict[StageName, PlannedStage] = {}
    for recipe in _recipes(source_versions or {}):
        stage = _plan_stage(recipe, job, results, made, recipes[recipe.stage])
        stages[recipe.stage] = stage
        for unit in stage.units:
            if unit.key in results:
                made[recipe.role(unit.name)] = results[unit.key].as_input()
    rehearse = _plan_rehearsal(job, stages, made, recipes[StageName.REHEARSE], rehearsed=rehearsed)
    stages[StageName.REHEARSE] = rehearse
    train = stages[StageName.TRAIN]
    if train.state is StageState.READY and rehearse.state is not StageState.DONE:
        stages[StageName.TRAIN] = PlannedStage(
            train.name, StageState.WAITING, train.units, train.missing, train.runtime
        )
    return Plan(job.metadata.name, tuple(stages[name] for name in StageName))


def _plan_stage(
    recipe: _Recipe, job: FineTuneJob, results: Mapping[str, StageResult], made: Mapping[str, Input], number: int
) -> PlannedStage:
    planned = recipe.units(job)
    needs = {name: tuple(recipe.needs(job, name)) for name in planned}
    if any(role not in made for roles in needs.values() for role in roles):
        return PlannedStage(recipe.stage, StageState.WAITING)
    inputs = {name: {role: made[role] for role in roles} for name, roles in needs.items()}
    units = tuple(
        UnitConfig(
            name, content_key(recipe.stage, params, inputs[name], number), params, inputs[name], recipe.role(name)
        )
        for name, params in planned.items()
    )
    missing = tuple(unit for unit in units if unit.key not in results)
    state = StageState.READY if missing else StageState.DONE
    return PlannedStage(recipe.stage, state, units, missing, recipe.runtime(job))


def _plan_rehearsal(
    job: FineTuneJob,
    stages: Mapping[StageName, PlannedStage],
    made: Mapping[str, Input],
    number: int,
    *,
    rehearsed: bool,
) -> PlannedStage:
    """Plan the gate: needed as long as something after it is missing; it enters no key and is never remembered.

    It is passed for one training and one way into Ollama: another one has another key here.
    """
    if _is_gguf(job):
        return PlannedStage(StageName.REHEARSE, StageState.DONE)
    params = {
        "training": [unit.key for unit in stages[StageName.TRAIN].units],
        "servers": list(job.spec.ollama.servers),
        "method": str(job.spec.ollama.method),
        **_served(job),
        "outType": str(job.spec.export.out_type),
        "targetModules": list(job.spec.training.lora.target_modules) if job.spec.training.lora else [],
    }
    inputs = {role: made[role] for role in ("base", "prepared") if role in made}
    unit = UnitConfig(StageName.REHEARSE, content_key(StageName.REHEARSE, params, inputs, number), params, inputs)
    after = (stages[StageName.TRAIN], stages[StageName.REGISTER])
    if rehearsed or all(stage.state is StageState.DONE for stage in after):
        return PlannedStage(StageName.REHEARSE, StageState.DONE, (unit,))
    prepared = stages[StageName.PREPARE].state is StageState.DONE
    state = StageState.READY if prepared else StageState.WAITING
    runtime = {"method": str(job.spec.ollama.method), "estimate": _estimated(job)}
    return PlannedStage(StageName.REHEARSE, state, (unit,), (unit,), runtime)


def later_units(job: FineTuneJob, stage: StageName) -> tuple[LaterUnit, ...]:
    """Return what follows `stage` and can be found on the volume: the units of `train`, `convert` and `quantize`."""
    order = list(StageName)
    return tuple(
        LaterUnit(recipe.stage, name, params, tuple(recipe.needs(job, name)), recipe.role(name))
        for recipe in _recipes({})
        if recipe.stage in _FOLLOWED and order.index(recipe.stage) > order.index(stage)
        for name, params in recipe.units(job).items()
    )


_FOLLOWED = frozenset({StageName.TRAIN, StageName.CONVERT, StageName.QUANTIZE})


def source_specs(job: FineTuneJob) -> dict[str, str]:
    """Return, by unit of `fetch`, a digest that changes when the job names another source."""
    return {name: digest_of(params) for name, params in _sources(job, {}).items()}


def source_kinds(job: FineTuneJob) -> dict[str, str]:
    """Return, by unit of `fetch`, the folder of the store that its content goes into."""
    return {name: str(params["kind"]) for name, params in _sources(job, {}).items()}


# --- the stages ------------------------------------------------------------------------------------------------------

# A GGUF is not trained: what would be made of a training has no units then, so there is nothing to do for it.


def _recipes(versions: Mapping[str, str]) -> tuple[_Recipe, ...]:
    return (
        _Recipe(StageName.FETCH, lambda job: _sources(job, versions), lambda _job, _unit: (), lambda unit: unit),
        _Recipe(StageName.PREPARE, _preparation, lambda job, _unit: _sources(job, versions), lambda _unit: "prepared"),
        _Recipe(
            StageName.TRAIN, _training, lambda _job, _unit: ("base", "prepared"), lambda _unit: "trained", _processes
        ),
        _Recipe(
            StageName.CONVERT,
            _conversion,
            lambda _job, _unit: ("base", "prepared", "trained"),
            lambda _unit: "converted",
        ),
        _Recipe(StageName.QUANTIZE, _quantization, _quantized_from, _quantized),
        _Recipe(
            StageName.REGISTER,
            _registration,
            _registered_from,
            lambda unit: f"registered:{unit}",
            lambda job: {
                "method": str(job.spec.ollama.method),
                "smokeTests": _smoke_tests(job),
            },
        ),
    )


def _is_gguf(job: FineTuneJob) -> bool:
    return job.spec.model.gguf is not None


def _quantized(quantization: str) -> str:
    return f"quantized:{quantization}"


def _sources(job: FineTuneJob, versions: Mapping[str, str]) -> dict[str, Params]:
    sources: dict[str, Params] = {"base": {"kind": "models", "source": _model_source(job.spec.model)}}
    for dataset in job.spec.datasets:
        sources[f"dataset:{dataset.name}"] = {"kind": "datasets", "source": _dataset_source(dataset)}
    return {name: {**params, "refresh": versions.get(name, "")} for name, params in sources.items()}


def _model_source(model: Model) -> Params:
    return _plain(model, include={*MODEL_SOURCES}, exclude=_NO_TOKENS, exclude_none=True)  # type: ignore[no-any-return]


def _dataset_source(dataset: Dataset) -> Params:
    if dataset.builtin is not None:
        return {"builtin": str(dataset.builtin), "languages": sorted(dataset.languages or Language)}
    if dataset.inline is not None:
        return {"inline": "".join(_line(row) for row in dataset.inline)}
    source: dict[str, Any] = _plain(dataset, include={*DATASET_SOURCES}, exclude=_NO_TOKENS, exclude_none=True)
    return source | ({"datasetInfo": dataset.dataset_info} if dataset.dataset_info else {})


_NO_TOKENS = {"hugging_face": {"token_secret_ref"}, "model_scope": {"token_secret_ref"}}
"""Who asks for a source does not make it another one."""


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n"


def _preparation(job: FineTuneJob) -> dict[str, Params]:
    if _is_gguf(job):
        return {}
    spec = job.spec
    template = spec.model.chat_template
    return {
        StageName.PREPARE: {
            "datasets": [_reading(item) for item in spec.datasets],
            "chatTemplate": _plain(template) if template else None,
            "sequenceLength": spec.training.sequence_length,
            "packing": spec.training.packing,
            "validationFraction": _validation_fraction(job),
            "seed": spec.training.seed,
            **_preferences(spec.training.method),
        }
    }


def _preferences(method: Method) -> Params:
    """Return what the rows must be made of: DPO and ORPO take the same ones."""
    rows = {Method.DPO: "Pairs", Method.ORPO: "Pairs", Method.KTO: "Labels"}
    return {"preferences": rows[method]} if method in rows else {}


def _reading(dataset: Dataset) -> Params:
    """Return how a dataset's rows are read, wherever they come from."""
    reading = {**_plain(dataset, exclude={*DATASET_SOURCES, "languages"}), "builtin": dataset.builtin is not None}
    if dataset.columns:
        given = _plain(dataset.columns, exclude_none=True)
        reading["columns"] = {**_plain(dataset.columns, exclude=_LATER_COLUMNS), **given}
    return reading


_LATER_COLUMNS = {"chosen", "rejected", "desirable"}
"""They are in the key only where they are named: older keys stay as they are."""


def _validation_fraction(job: FineTuneJob) -> str:
    validation = job.spec.training.validation
    if validation is None or any(item.use is DatasetUse.VALIDATION for item in job.spec.datasets):
        return "0"
    return DEFAULT_VALIDATION if validation.fraction is None else validation.fraction


def _training(job: FineTuneJob) -> dict[str, Params]:
    if _is_gguf(job):
        return {}
    training = job.spec.training
    return {
        StageName.TRAIN: {
            "finetuningType": str(training.finetuning_type),
            "lora": _adapter(training),
            "precision": str(training.precision),
            "learningRate": training.learning_rate,
            "lrSchedule": str(training.lr_schedule),
            "warmupSteps": training.warmup_steps,
            "weightDecay": training.weight_decay,
            "maxGradNorm": training.max_grad_norm,
            "numTrainEpochs": None if training.max_steps else training.num_train_epochs or DEFAULT_EPOCHS,
            "maxSteps": training.max_steps,
            "globalBatchSize": training.global_batch_size,
            "zeroStage": training.deepspeed.zero_stage,
            "gradientCheckpointing": training.gradient_checkpointing,
            "seed": training.seed,
            **_later_knobs(training),
        }
    }


def _lora_of(training: Training) -> Lora | None:
    return (training.lora or Lora()) if training.finetuning_type.adapts else None


def _freeze_of(training: Training) -> Freeze | None:
    return (training.freeze or Freeze()) if training.finetuning_type is FinetuningType.FREEZE else None


def _preference(training: Training) -> Params | None:
    """Return the numbers of the method, those that were not given filled in."""
    given = training.preference or Preference()
    weights = {
        Method.DPO: {"sftWeight": given.sft_weight or "0"},
        Method.KTO: {
            "desirableWeight": given.desirable_weight or "1",
            "undesirableWeight": given.undesirable_weight or "1",
        },
    }
    return {"beta": given.beta, **weights.get(training.method, {})} if training.method.prefers else None


def _adapter(training: Training) -> Params | None:
    lora = _lora_of(training)
    if lora is None:
        return None
    later = {
        **({"useRslora": True} if lora.use_rslora else {}),
        **({"useDora": True} if lora.use_dora else {}),
        **({"plusLrRatio": lora.plus_lr_ratio} if lora.plus_lr_ratio else {}),
    }
    first = _plain(lora, include={"rank", "alpha", "dropout"})
    return {**first, "targetModules": sorted(lora.target_modules), **later}


def _later_knobs(training: Training) -> Params:
    """Return what came to the API later and is in the key only where it is used: older keys stay as they are."""
    validation = training.validation
    by_evaluation = validation is not None and (validation.keep_best or validation.early_stopping is not None)
    found: dict[str, Any] = {
        "method": str(training.method) if training.method.prefers else None,
        "preference": _preference(training),
        "freeze": _freeze_of(training),
        "lrScheduleOptions": _schedule_options(training.lr_schedule_options),
        "warmupRatio": training.warmup_ratio,
        "adam": training.adam if training.adam != Adam() else None,
        "neftuneNoiseAlpha": training.neftune_noise_alpha,
        "keepBest": (validation.keep_best if validation else False) or None,
        "earlyStopping": validation.early_stopping if validation else None,
        "evalSteps": validation.eval_steps if validation and by_evaluation else None,
        "deepspeed": _rounding(training.deepspeed.config),
    }
    return {
        name: _plain(value, exclude_none=True) if isinstance(value, ApiModel) else value
        for name, value in found.items()
        if value is not None
    }


_USUAL_OPTIONS = {"min_lr_ratio": 0.1, "cycles": 2, "power": 1, "decay_ratio": 0.1}
"""What the options of schedules are where they are not given."""


def _schedule_options(given: LrScheduleOptions | None) -> Params | None:
    """Return the options that are not as they would be anyway: written out, a default makes no other training."""
    if given is None:
        return None
    usual = {name for name, default in _USUAL_OPTIONS.items() if float(getattr(given, name) or default) == default}
    options: Params = _plain(given, exclude=usual, exclude_none=True)
    return options or None


def _rounding(config: DeepspeedConfig | None) -> Params | None:
    """Return what of DeepSpeed's settings changes the numbers: what gradients are rounded to, steps left out."""
    given: Params = _plain(config, include={"fp16", "communication_data_type"}, exclude_none=True) if config else {}
    return given or None


def _processes(job: FineTuneJob) -> Params:
    training = job.spec.training
    validation = training.validation
    return {
        "nodes": training.nodes,
        "gpusPerNode": training.gpus_per_node,
        "processesPerNode": training.processes,
        "perDeviceTrainBatchSize": training.per_device_train_batch_size,
        "gradientAccumulationSteps": training.gradient_accumulation_steps,
        "perDeviceEvalBatchSize": training.per_device_eval_batch_size or training.per_device_train_batch_size,
        "loggingSteps": training.logging_steps,
        "evalSteps": validation.eval_steps if validation else None,
        "saveSteps": training.checkpoint.save_steps,
        "keep": training.checkpoint.keep,
        "smokeTests": _smoke_tests(job),
        **_safety(training),
        **_tracking(job),
    }


def _safety(training: Training) -> Params:
    """Return what changes nothing of what comes out: whether, how fast and with how much memory it does."""
    guards, deepspeed = training.guards, training.deepspeed
    limits = {"maxFinalLoss": guards.max_final_loss, "lossSpike": guards.loss_spike}
    return {
        "guards": {
            **{name: value for name, value in limits.items() if value is not None},
            "stallSeconds": 60 * guards.stall_minutes,
        },
        "onOutOfMemory": str(training.on_out_of_memory),
        "dataloaderWorkers": training.dataloader_workers,
        "ddpTimeoutSeconds": training.ddp_timeout_seconds,
        "offloadOptimizer": deepspeed.offload_optimizer,
        "offloadParameters": deepspeed.offload_parameters,
        "deepspeed": _plain(deepspeed.config, exclude_none=True) if deepspeed.config else {},
    }


def _tracking(job: FineTuneJob) -> Params:
    """Return what is shown of a training in its experiment tracker; nothing, if it has none. It enters no key."""
    training = job.spec.training
    if training.tracking is None:
        return {}
    source = _model_source(job.spec.model)
    (kind, where), *_ = source.items()
    return {
        "tracking": {
            "type": str(training.tracking.type),
            "project": training.tracking.project or DEFAULT_PROJECT,
            "model": " ".join([kind, *(str(value) for value in where.values())]),
            "data": ", ".join(item.name for item in job.spec.datasets),
            "params": _flat(_plain(training, exclude={"tracking"}, exclude_none=True)),
        }
    }


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters as texts by their paths: `lora.rank`."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = ", ".join(value) if isinstance(value, list) else _text(value)
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _smoke_tests(job: FineTuneJob) -> list[Any]:
    """Return the questions that the trained model must answer; the base is asked them, too, for people to compare."""
    return [_plain(test) for test in job.spec.ollama.smoke_tests]


def _conversion(job: FineTuneJob) -> dict[str, Params]:
    if _is_gguf(job):
        return {}
    export = job.spec.export
    return {
        StageName.CONVERT: {"outType": str(export.out_type), **({"keepMerged": True} if export.keep_merged else {})}
    }


def _quantization(job: FineTuneJob) -> dict[str, Params]:
    export = job.spec.export
    return {
        item: {"type": item, **({"imatrix": True} if export.uses_imatrix(item) else {})}
        for item in export.quantizations
    }


def _quantized_from(job: FineTuneJob, unit: str) -> Iterable[str]:
    if _is_gguf(job):
        return ("base",)
    uses_imatrix = job.spec.export.uses_imatrix(unit)
    return ("converted", "base", "prepared") if uses_imatrix else ("converted",)


def _registered_from(job: FineTuneJob, _unit: str) -> Iterable[str]:
    made = [_quantized(item) for item in job.spec.export.quantizations]
    return ("base", *made) if _is_gguf(job) else ("base", "prepared", "converted", *made)


def _estimated(job: FineTuneJob) -> Params:
    """Return what the memory and the time of a training follow from."""
    training = job.spec.training
    lora, freeze = _lora_of(training), _freeze_of(training)
    return {
        "method": str(training.method),
        "finetuningType": str(training.finetuning_type),
        "lora": _plain(lora) if lora else None,
        "trainableLayers": freeze.trainable_layers if freeze else None,
        "offloadOptimizer": training.deepspeed.offload_optimizer,
        "offloadParameters": training.deepspeed.offload_parameters,
        "precision": str(training.precision),
        "zeroStage": training.deepspeed.zero_stage,
        "gradientCheckpointing": training.gradient_checkpointing,
        "perDeviceTrainBatchSize": training.per_device_train_batch_size,
        "gradientAccumulationSteps": training.gradient_accumulation_steps,
        "sequenceLength": training.sequence_length,
        "maxSteps": training.max_steps,
        "numTrainEpochs": None if training.max_steps else training.num_train_epochs or DEFAULT_EPOCHS,
        "keep": training.checkpoint.keep + bool(training.validation and training.validation.keep_best),
        "nodes": training.nodes,
        "processesPerNode": training.processes,
        "gpusPerNode": training.gpus_per_node,
        **_doubtful(training),
    }


def _doubtful(training: Training) -> Params:
    """Return what may turn out unwise once the number of steps is known, or is so with this method."""
    validation, by_epochs = training.validation, training.max_steps is None
    by_evaluation = validation is not None and (validation.keep_best or validation.early_stopping is not None)
    found = {
        "learningRate": training.learning_rate if training.method in {Method.DPO, Method.KTO} else None,
        "warmupSteps": training.warmup_steps if by_epochs else None,
        "evalSteps": validation.eval_steps if validation and by_evaluation and by_epochs else None,
    }
    return {name: value for name, value in found.items() if value}


def _registration(job: FineTuneJob) -> dict[str, Params]:
    return {server: {**_served(job), "server": server} for server in job.spec.ollama.servers}


def _served(job: FineTuneJob) -> Params:
    """Return what a server is to be given beside the files: the gate sees it before the training."""
    ollama = job.spec.ollama
    return {
        "model": ollama.model,
        "parameters": _plain(ollama.parameters, exclude_none=True),
        "system": ollama.system,
        "license": ollama.license,
        "quantizations": list(job.spec.export.quantizations),
    }


def _plain(
    model: Any,
    *,
    include: set[str] | None = None,
    exclude: set[str] | Mapping[str, Any] | None = None,
    exclude_none: bool = False,
) -> Any:
    """Return a model of the API as plain JSON values, in the API's own spelling."""
    return model.model_dump(mode="json", by_alias=True, include=include, exclude=exclude, exclude_none=exclude_none)
