"""The plan of a job: which stages there are, with which keys, and which of them are done.

:func:`plan` is called again after every stage, by whichever edge carries the job out: a stage has keys only once the
results that it builds on are known. What enters a key is listed in ``docs/design/0001-stage-interfaces.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.api.finetunejob import Dataset, FineTuneJob, FinetuningType, Language, Lora
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

Params = Mapping[str, Any]


@dataclass(frozen=True)
class _Recipe:
    """How one stage follows from the job and from what earlier stages made."""

    stage: StageName
    units: Callable[[FineTuneJob], Mapping[str, Params]]
    """The keyed parameters of each unit, by the unit's name."""
    needs: Callable[[FineTuneJob], Iterable[str]]
    """The roles of its inputs."""
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
    needs = tuple(recipe.needs(job))
    if any(role not in made for role in needs):
        return PlannedStage(recipe.stage, StageState.WAITING)
    inputs = {role: made[role] for role in needs}
    units = tuple(
        UnitConfig(name, content_key(recipe.stage, params, inputs, number), params, inputs, recipe.role(name))
        for name, params in recipe.units(job).items()
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
    params = {
        "training": [unit.key for unit in stages[StageName.TRAIN].units],
        "servers": list(job.spec.ollama.servers),
        "method": str(job.spec.ollama.method),
        **_served(job),
        "targetModules": list(job.spec.training.lora.target_modules) if job.spec.training.lora else [],
    }
    inputs = {role: made[role] for role in ("base", "prepared") if role in made}
    unit = UnitConfig(StageName.REHEARSE, content_key(StageName.REHEARSE, params, inputs, number), params, inputs)
    after = (stages[StageName.TRAIN], stages[StageName.REGISTER])
    if rehearsed or all(stage.state is StageState.DONE for stage in after):
        return PlannedStage(StageName.REHEARSE, StageState.DONE, (unit,))
    prepared = stages[StageName.PREPARE].state is StageState.DONE
    state = StageState.READY if prepared else StageState.WAITING
    return PlannedStage(StageName.REHEARSE, state, (unit,), (unit,), {"method": str(job.spec.ollama.method)})


def later_units(job: FineTuneJob, stage: StageName) -> tuple[LaterUnit, ...]:
    """Return what follows `stage` and can be found on the volume: the units of `train`, `convert` and `quantize`."""
    order = list(StageName)
    return tuple(
        LaterUnit(recipe.stage, name, params, tuple(recipe.needs(job)), recipe.role(name))
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


def _recipes(versions: Mapping[str, str]) -> tuple[_Recipe, ...]:
    return (
        _Recipe(StageName.FETCH, lambda job: _sources(job, versions), lambda _job: (), lambda unit: unit),
        _Recipe(StageName.PREPARE, _preparation, lambda job: _sources(job, versions), lambda _unit: "prepared"),
        _Recipe(StageName.TRAIN, _training, lambda _job: ("base", "prepared"), lambda _unit: "trained", _processes),
        _Recipe(
            StageName.CONVERT,
            lambda job: {StageName.CONVERT: {"outType": str(job.spec.export.out_type)}},
            lambda _job: ("base", "prepared", "trained"),
            lambda _unit: "converted",
        ),
        _Recipe(
            StageName.QUANTIZE,
            lambda job: {str(item): {"type": str(item)} for item in job.spec.export.quantizations},
            lambda _job: ("converted",),
            _quantized,
        ),
        _Recipe(
            StageName.REGISTER,
            _registration,
            lambda job: ("base", "prepared", "converted", *map(_quantized, job.spec.export.quantizations)),
            lambda unit: f"registered:{unit}",
            lambda job: {
                "method": str(job.spec.ollama.method),
                "smokeTests": [_plain(test) for test in job.spec.ollama.smoke_tests],
            },
        ),
    )


def _quantized(quantization: str) -> str:
    return f"quantized:{quantization}"


def _sources(job: FineTuneJob, versions: Mapping[str, str]) -> dict[str, Params]:
    sources: dict[str, Params] = {"base": {"kind": "models", "source": {"volume": _plain(job.spec.model.volume)}}}
    for dataset in job.spec.datasets:
        sources[f"dataset:{dataset.name}"] = {"kind": "datasets", "source": _dataset_source(dataset)}
    return {name: {**params, "refresh": versions.get(name, "")} for name, params in sources.items()}


def _dataset_source(dataset: Dataset) -> Params:
    if dataset.builtin is not None:
        return {"builtin": str(dataset.builtin), "languages": sorted(dataset.languages or Language)}
    return {"volume": _plain(dataset.volume)}


def _preparation(job: FineTuneJob) -> dict[str, Params]:
    spec = job.spec
    template = spec.model.chat_template
    validation = spec.training.validation
    return {
        StageName.PREPARE: {
            "datasets": [
                {**_plain(item, exclude={"volume", "languages"}), "builtin": item.builtin is not None}
                for item in spec.datasets
            ],
            "chatTemplate": template.jinja if template else None,
            "sequenceLength": spec.training.sequence_length,
            "validationFraction": validation.fraction if validation else "0",
            "seed": spec.training.seed,
        }
    }


def _training(job: FineTuneJob) -> dict[str, Params]:
    training = job.spec.training
    lora = (training.lora or Lora()) if training.finetuning_type is FinetuningType.LORA else None
    return {
        StageName.TRAIN: {
            "finetuningType": str(training.finetuning_type),
            "lora": {**_plain(lora), "targetModules": sorted(lora.target_modules)} if lora else None,
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
        }
    }


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
    }


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
        "quantizations": [str(item) for item in job.spec.export.quantizations],
    }


def _plain(model: Any, *, exclude: set[str] | None = None, exclude_none: bool = False) -> Any:
    """Return a model of the API as plain JSON values, in the API's own spelling."""
    return model.model_dump(mode="json", by_alias=True, exclude=exclude, exclude_none=exclude_none)
