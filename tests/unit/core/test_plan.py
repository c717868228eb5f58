from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from support.builders import REMOVED, carried_out, job, result_of
from tunesmith.core.model import Plan, StageState
from tunesmith.core.plan import later_units, plan
from tunesmith_stages.contract import Input, StageName, content_key

TRAINING = "spec.training"
FETCH, PREPARE, TRAIN = "fetch/base", "prepare/prepare", "train/train"
CONVERT, REGISTER = "convert/convert", "register/main"
Q4 = "quantize/Q4_K_M"
FAQ = "fetch/dataset:faq"
STAGES = [FETCH, FAQ, PREPARE, TRAIN, CONVERT, Q4, REGISTER]


def keys(changes: Mapping[str, Any] | None = None, **more: Any) -> dict[str, str]:
    """Return every key of a job that was carried out whole, without that of the gate, which is never remembered."""
    found = carried_out(job(changes), **more)[0].keys
    found.pop("rehearse/rehearse")
    return found


BEFORE = keys()


def changed(changes: Mapping[str, Any], before: Mapping[str, Any] | None = None, **more: Any) -> set[str]:
    """Return the units whose key a change of the job touches: new ones, other ones, and those that are gone."""
    one, other = keys(before), keys({**(before or {}), **changes}, **more)
    return {unit for unit in one.keys() | other.keys() if one.get(unit) != other.get(unit)}


def after(unit: str) -> set[str]:
    return set(STAGES[STAGES.index(unit) :])


# --- what enters which key -------------------------------------------------------------------------------------------


def test_same_job_and_results_give_the_same_keys() -> None:
    """Planning twice, or on another day, gives the same keys."""
    assert keys() == BEFORE
    assert BEFORE.keys() == set(STAGES)
    assert len(set(BEFORE.values())) == len(STAGES)


NO_KEY: dict[str, Mapping[str, Any]] = {
    "the job's name": {"metadata.name": "other"},
    "namespace, labels and annotations": {
        "metadata.namespace": "team-a",
        "metadata.labels": {"app": "bot"},
        "metadata.annotations": {"note": "x"},
    },
    "smoke tests": {"spec.ollama.smokeTests": [{"prompt": "Who?", "expect": "Tunny"}]},
    "how often the loss is logged": {f"{TRAINING}.loggingSteps": 3},
    "how often it is saved": {f"{TRAINING}.checkpoint": {"saveSteps": 7, "keep": 5}},
    "rows per pass of the evaluation": {f"{TRAINING}.perDeviceEvalBatchSize": 16},
    "defaults written out": {
        f"{TRAINING}.learningRate": "1e-4",
        f"{TRAINING}.numTrainEpochs": "3",
        f"{TRAINING}.lora": {"rank": 16},
        "spec.export": {"quantizations": ["Q4_K_M"]},
        "spec.datasets.0.format": "Auto",
    },
    "no validation, in so many words": {f"{TRAINING}.validation": {"fraction": "0"}},
    "two rows at once, half the accumulation": {
        f"{TRAINING}.perDeviceTrainBatchSize": 2,
        f"{TRAINING}.gradientAccumulationSteps": 4,
    },
    "two processes, half the accumulation": {
        f"{TRAINING}.processesPerNode": 2,
        f"{TRAINING}.gradientAccumulationSteps": 4,
    },
    "two nodes, half the accumulation": {f"{TRAINING}.nodes": 2, f"{TRAINING}.gradientAccumulationSteps": 4},
    "two nodes of two GPUs": {
        f"{TRAINING}.nodes": 2,
        f"{TRAINING}.gpusPerNode": 2,
        f"{TRAINING}.gradientAccumulationSteps": 2,
    },
    "pods, storage, scheduling and times": {
        "spec.pods": {"train": {"nodeSelector": {"gpu": "a100"}, "sharedMemory": "8Gi"}},
        "spec.storage": {"claimName": "other", "subPath": "x"},
        "spec.scheduling": {"queueName": "team-a"},
        "spec.activeDeadlineSeconds": 3600,
        "spec.ttlSecondsAfterFinished": 3600,
    },
    "a tracker": {f"{TRAINING}.tracking": {"type": "MLflow", "project": "bots"}},
    "to stop, or to stop early": {"spec.suspend": True, "spec.dryRun": True},
    "the way into Ollama, and out of it": {"spec.ollama.method": "Exec", "spec.ollama.deletionPolicy": "Delete"},
    "eight GPUs, no accumulation": {f"{TRAINING}.gpusPerNode": 8, f"{TRAINING}.gradientAccumulationSteps": 1},
}


@pytest.mark.parametrize("name", NO_KEY)
def test_changes_no_key(name: str) -> None:
    """What only says how, where, by whom or how closely watched, does nothing again."""
    assert changed(NO_KEY[name]) == set()


def test_eval_steps_change_no_key() -> None:
    """Measuring the evaluation loss more often does not train again."""
    before = {f"{TRAINING}.validation": {"fraction": "0.1"}}
    assert changed({f"{TRAINING}.validation": {"fraction": "0.1", "evalSteps": 5}}, before) == set()


TWO = {"spec.datasets.+": {"name": "more", "volume": {"path": "data/more.json"}}}
IDENTITY = {"name": "faq", "builtin": "SelfCognition", "substitutions": {"name": "Tunny", "author": "Acme"}}
SOME_KEYS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], set[str]]] = {
    "to learn from pairs": ({}, {f"{TRAINING}.method": "DPO"}, after(PREPARE)),
    "pairs by another method": ({f"{TRAINING}.method": "DPO"}, {f"{TRAINING}.method": "ORPO"}, after(TRAIN)),
    "answers apart instead of pairs": ({f"{TRAINING}.method": "DPO"}, {f"{TRAINING}.method": "KTO"}, after(PREPARE)),
    "a number of the method": (
        {f"{TRAINING}.method": "KTO"},
        {f"{TRAINING}.preference": {"undesirableWeight": "2"}},
        after(TRAIN),
    ),
    "a method's numbers as they are anyway": (
        {f"{TRAINING}.method": "DPO"},
        {f"{TRAINING}.preference": {"beta": "1e-1", "sftWeight": "0.0"}},
        set(),
    ),
    "supervised, in so many words": ({}, {f"{TRAINING}.method": "SFT"}, set()),
    "another base": ({}, {"spec.model.volume.path": "models/other"}, {FETCH, *after(PREPARE)}),
    "another file of data": ({}, {"spec.datasets.0.volume.path": "data/other.json"}, after(FAQ)),
    "one more dataset": ({}, TWO, {"fetch/dataset:more", *after(PREPARE)}),
    "datasets in another order": (
        TWO,
        {"spec.datasets": [TWO["spec.datasets.+"], {"name": "faq", "volume": {"path": "data/faq.json"}}]},
        after(PREPARE),
    ),
    "other columns": ({}, {"spec.datasets.0.columns": {"prompt": "question"}}, after(PREPARE)),
    "another format": ({}, {"spec.datasets.0.format": "Alpaca"}, after(PREPARE)),
    "fewer rows": ({}, {"spec.datasets.0.maxSamples": 10}, after(PREPARE)),
    "another substitution": ({}, {"spec.datasets.0.substitutions": {"x": "y"}}, after(PREPARE)),
    "one language of built-in data": (
        {"spec.datasets.0": IDENTITY},
        {"spec.datasets.0": {**IDENTITY, "languages": ["zh"]}},
        after(FAQ),
    ),
    "both languages, in so many words": (
        {"spec.datasets.0": IDENTITY},
        {"spec.datasets.0": {**IDENTITY, "languages": ["zh", "en"]}},
        set(),
    ),
    "a template": ({}, {"spec.model.chatTemplate": {"jinja": "{{ messages }}"}}, after(PREPARE)),
    "longer rows": ({}, {f"{TRAINING}.sequenceLength": 4096}, after(PREPARE)),
    "validation": ({}, {f"{TRAINING}.validation": {}}, after(PREPARE)),
    "the seed": ({}, {f"{TRAINING}.seed": 7}, after(PREPARE)),
    "the learning rate": ({}, {f"{TRAINING}.learningRate": "2e-4"}, after(TRAIN)),
    "the schedule": ({}, {f"{TRAINING}.lrSchedule": "Linear"}, after(TRAIN)),
    "the schedule's own option": (
        {f"{TRAINING}.lrSchedule": "CosineWithMinLR"},
        {f"{TRAINING}.lrScheduleOptions": {"minLrRatio": "0.2"}},
        after(TRAIN),
    ),
    "the schedule's option as it is anyway": (
        {f"{TRAINING}.lrSchedule": "CosineWithMinLR"},
        {f"{TRAINING}.lrScheduleOptions": {"minLrRatio": "0.10"}},
        set(),
    ),
    "cycles as they are anyway": (
        {f"{TRAINING}.lrSchedule": "CosineWithRestarts"},
        {f"{TRAINING}.lrScheduleOptions": {"cycles": 2}},
        set(),
    ),
    "a power as it is anyway": (
        {f"{TRAINING}.lrSchedule": "Polynomial"},
        {f"{TRAINING}.lrScheduleOptions": {"power": "1.0"}},
        set(),
    ),
    "no option, in so many words": ({}, {f"{TRAINING}.lrScheduleOptions": {}}, set()),
    "the warm-up": ({}, {f"{TRAINING}.warmupSteps": 5}, after(TRAIN)),
    "the weight decay": ({}, {f"{TRAINING}.weightDecay": "0.05"}, after(TRAIN)),
    "the gradient's bound": ({}, {f"{TRAINING}.maxGradNorm": "0"}, after(TRAIN)),
    "the epochs": ({}, {f"{TRAINING}.numTrainEpochs": "1"}, after(TRAIN)),
    "steps instead of epochs": ({}, {f"{TRAINING}.maxSteps": 10}, after(TRAIN)),
    "the precision": ({}, {f"{TRAINING}.precision": "FP32"}, after(TRAIN)),
    "LoRA's rank": ({}, {f"{TRAINING}.lora": {"rank": 8}}, after(TRAIN)),
    "all weights": ({}, {f"{TRAINING}.finetuningType": "Full"}, after(TRAIN)),
    "the global batch": ({}, {f"{TRAINING}.gradientAccumulationSteps": 16}, after(TRAIN)),
    "the ZeRO stage": ({}, {f"{TRAINING}.deepspeed": {"zeroStage": 3}}, after(TRAIN)),
    "the GGUF's type": ({}, {"spec.export": {"outType": "F16"}}, after(CONVERT)),
    "another quantization": ({}, {"spec.export": {"quantizations": ["Q8_0"]}}, {Q4, "quantize/Q8_0", REGISTER}),
    "one quantization more": (
        {},
        {"spec.export": {"quantizations": ["Q4_K_M", "Q8_0"]}},
        {"quantize/Q8_0", REGISTER},
    ),
    "the other one first": (
        {"spec.export": {"quantizations": ["Q4_K_M", "Q8_0"]}},
        {"spec.export": {"quantizations": ["Q8_0", "Q4_K_M"]}},
        {REGISTER},
    ),
    "the system message": ({}, {"spec.ollama.system": "You are Tunny."}, {REGISTER}),
    "the licence": ({}, {"spec.ollama.license": "MIT"}, {REGISTER}),
    "Ollama's parameters": ({}, {"spec.ollama.parameters": {"num_ctx": 1024, "stop": ["#"]}}, {REGISTER}),
    "another server": ({}, {"spec.ollama.servers": ["east"]}, {REGISTER, "register/east"}),
    "one server more": ({}, {"spec.ollama.servers": ["main", "east"]}, {"register/east"}),
    "the served name": ({}, {"spec.ollama.model": "support-bot:v2"}, {REGISTER}),
}


@pytest.mark.parametrize("name", SOME_KEYS)
def test_changes_exactly(name: str) -> None:
    """A change does again what it must and nothing before it or beside it."""
    before, changes, touched = SOME_KEYS[name]
    assert changed(changes, before) == touched


def test_equal_results_end_a_change() -> None:
    """If preparing anew gives the same rows, nothing after it is done again: keys follow content, not wishes."""
    first, made = carried_out(job())
    second, made = carried_out(job({"spec.datasets.0.columns": {"prompt": "instruction"}}), StageName.FETCH, made)
    (unit,) = second.stage(StageName.PREPARE).missing
    old = made[first.keys[PREPARE]]
    made[unit.key] = type(old)(old.stage, old.unit, unit.key, old.recipe, old.digest, f"made/{unit.key}", ())
    third = plan(job({"spec.datasets.0.columns": {"prompt": "instruction"}}), made, rehearsed=True)
    assert third.next is None
    assert third.keys[TRAIN] == first.keys[TRAIN]


def test_sources_are_looked_up_again_when_their_version_changes() -> None:
    """A file that somebody changed is fetched again; the other sources are not."""
    one = carried_out(job(), source_versions={"dataset:faq": "1"})[0].keys
    two = carried_out(job(), source_versions={"dataset:faq": "2"})[0].keys
    assert one[FETCH] == two[FETCH] == BEFORE[FETCH]
    assert one[FAQ] != two[FAQ]


def test_same_source_under_two_names_has_one_key() -> None:
    """A dataset that is used twice is fetched once."""
    found = keys({"spec.datasets.+": {"name": "again", "volume": {"path": "data/faq.json"}}})
    assert found["fetch/dataset:again"] == found[FAQ]


def test_putting_the_old_value_back_finds_the_old_results() -> None:
    """After a change and back again everything is done already."""
    _, made = carried_out(job())
    _, made = carried_out(job({f"{TRAINING}.learningRate": "2e-4"}), results=made)
    assert plan(job(), made, rehearsed=True).next is None


def test_key_is_of_what_the_stage_is_given() -> None:
    """The key in a plan can be recomputed from the unit's own parameters and inputs."""
    current, made = carried_out(job())
    for stage in current.stages:
        for unit in stage.units:
            assert unit.key == content_key(stage.name, unit.params, unit.inputs)
    (train,) = current.stage(StageName.TRAIN).units
    assert train.inputs["prepared"] == made[current.keys[PREPARE]].as_input()
    assert train.inputs["base"] == made[current.keys[FETCH]].as_input()


# --- what a stage is told --------------------------------------------------------------------------------------------


def params_of(stage: StageName, changes: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    return carried_out(job(changes))[0].stage(stage).units[0].params


def test_full_fine_tuning_knows_no_lora() -> None:
    """Parameters of LoRA enter no key of a training that does not use it."""
    assert params_of(StageName.TRAIN, {f"{TRAINING}.finetuningType": "Full"})["lora"] is None
    assert params_of(StageName.TRAIN)["lora"] == {
        "rank": 16,
        "alpha": 32,
        "dropout": "0",
        "targetModules": ["AllLinear"],
    }


METHODS: dict[str, dict[str, str]] = {
    "DPO": {"beta": "0.1", "sftWeight": "0"},
    "ORPO": {"beta": "0.1"},
    "KTO": {"beta": "0.1", "desirableWeight": "1", "undesirableWeight": "1"},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_comes_with_all_its_numbers(method: str) -> None:
    """`train` is told the method and its numbers, the default ones too, and `prepare` what rows it learns from."""
    changes = {f"{TRAINING}.method": method}
    params = params_of(StageName.TRAIN, changes)
    assert (params["method"], params["preference"]) == (method, METHODS[method])
    assert params_of(StageName.PREPARE, changes)["preferences"] == ("Labels" if method == "KTO" else "Pairs")


def test_supervised_fine_tuning_knows_no_method() -> None:
    """Keys of jobs from before there were methods stay as they are."""
    assert not {"method", "preference"} & params_of(StageName.TRAIN).keys()
    assert "preferences" not in params_of(StageName.PREPARE)


def test_steps_take_the_place_of_epochs() -> None:
    """Of steps and epochs a training is told one; without either it is three epochs."""
    assert params_of(StageName.TRAIN)["numTrainEpochs"] == "3"
    with_steps = params_of(StageName.TRAIN, {f"{TRAINING}.maxSteps": 10})
    assert (with_steps["numTrainEpochs"], with_steps["maxSteps"]) == (None, 10)


def test_preparation_is_told_what_design_0001_lists() -> None:
    """The parameters of `prepare` are those of the pages on the stages' interfaces."""
    changes = {"spec.datasets.+": {**IDENTITY, "name": "identity"}, "spec.datasets.0.columns": {"prompt": "q"}}
    params = params_of(StageName.PREPARE, changes)
    assert params.keys() == {
        "datasets",
        "chatTemplate",
        "sequenceLength",
        "packing",
        "validationFraction",
        "seed",
    }
    faq, identity = params["datasets"]
    assert faq.keys() == {
        *("name", "builtin", "use", "datasetInfo", "format", "columns", "tags"),
        *("maxSamples", "weight", "onBadRow", "substitutions"),
    }
    assert (faq["builtin"], faq["columns"]["prompt"], identity["builtin"]) == (False, "q", True)
    assert identity["substitutions"] == {"name": "Tunny", "author": "Acme"}


def test_columns_of_preferences_are_told_where_they_are_named() -> None:
    """Columns that came later are in the key of no job that does not name them."""
    named = {"spec.datasets.0.columns": {"prompt": "q"}}
    (without,) = params_of(StageName.PREPARE, named)["datasets"]
    others = ("query", "response", "system", "history", "messages", "tools", "text")
    assert without["columns"] == {"prompt": "q", **dict.fromkeys(others)}
    pairs = {"spec.datasets.0.columns": {"prompt": "q", "chosen": "a"}, f"{TRAINING}.method": "DPO"}
    (with_pairs,) = params_of(StageName.PREPARE, pairs)["datasets"]
    assert with_pairs["columns"] == {**without["columns"], "chosen": "a"}


def test_sources_of_built_in_data_name_their_languages() -> None:
    """Without a choice, all languages are fetched, in a fixed order."""
    current, _ = carried_out(job({"spec.datasets.0": IDENTITY}))
    assert current.stage(StageName.FETCH).units[1].params["source"] == {
        "builtin": "SelfCognition",
        "languages": ["en", "zh"],
    }


HUB = {"repo": "acme/faq", "tokenSecretRef": {"name": "tunesmith-hf"}}
SOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a dataset of a hub": (
        {"huggingFace": HUB},
        {"huggingFace": {"repo": "acme/faq", "revision": "main", "split": "train"}},
    ),
    "one of ModelScope, a part of it": (
        {"modelScope": {**HUB, "subset": "en", "split": "test"}},
        {"modelScope": {"repo": "acme/faq", "revision": "master", "subset": "en", "split": "test"}},
    ),
    "an entry of a dataset_info.json": (
        {"volume": {"path": "data"}, "datasetInfo": "faq_en"},
        {"volume": {"path": "data"}, "datasetInfo": "faq_en"},
    ),
    "a ConfigMap": ({"configMap": {"name": "faq", "key": "f.json"}}, {"configMap": {"name": "faq", "key": "f.json"}}),
    "rows of the job itself": (
        {"inline": [{"output": "ü", "instruction": "a", "score": 0.5}, {"instruction": "b", "output": "c"}]},
        {"inline": '{"instruction": "a", "output": "ü", "score": 0.5}\n{"instruction": "b", "output": "c"}\n'},
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_of_datasets(name: str) -> None:
    """`fetch` is told where the data are, and not with whose token: the same data are not fetched twice for that."""
    given, wanted = SOURCES[name]
    current = plan(job({"spec.datasets.0": {"name": "faq", **given}}), {})
    unit = next(unit for unit in current.stage(StageName.FETCH).units if unit.name == "dataset:faq")
    assert unit.params == {"kind": "datasets", "source": wanted, "refresh": ""}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"huggingFace": HUB}, {"huggingFace": {"repo": "acme/faq", "revision": "main"}}),
        ({"modelScope": HUB}, {"modelScope": {"repo": "acme/faq", "revision": "master"}}),
        ({"job": {"name": "earlier"}}, {"job": {"name": "earlier"}}),
    ],
    ids=["Hugging Face", "ModelScope", "another job"],
)
def test_sources_of_the_base(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The same for the base model."""
    unit = plan(job({"spec.model": given}), {}).stage(StageName.FETCH).units[0]
    assert unit.params["source"] == wanted


def test_a_gguf_is_only_quantized_and_registered() -> None:
    """A base that is not trained goes straight on: nothing of a training is planned, nothing is rehearsed."""
    gguf = job({"spec.model": {"gguf": {"path": "m.gguf"}}, "spec.datasets": REMOVED, "spec.training": REMOVED})
    current, _ = carried_out(gguf)
    assert current.keys.keys() == {FETCH, Q4, REGISTER}
    assert current.next is None
    assert current.stage(StageName.QUANTIZE).units[0].inputs.keys() == {"base"}
    assert current.stage(StageName.REGISTER).units[0].inputs.keys() == {"base", "quantized:Q4_K_M"}


def test_importance_matrices_need_the_training_data() -> None:
    """A type that needs an importance matrix gets the samples that it is measured on; the others don't wait for it."""
    changes = {"spec.export": {"quantizations": ["IQ2_XXS", "Q4_K_M"]}}
    units = {unit.name: unit for unit in carried_out(job(changes))[0].stage(StageName.QUANTIZE).units}
    assert units["IQ2_XXS"].params == {"type": "IQ2_XXS", "imatrix": True}
    assert units["IQ2_XXS"].inputs.keys() == {"converted", "base", "prepared"}
    assert units["Q4_K_M"].params == {"type": "Q4_K_M"}
    assert units["Q4_K_M"].inputs.keys() == {"converted"}
    always = {"spec.export": {"quantizations": ["Q4_K_M", "F16"], "importanceMatrix": "Always"}}
    params = [unit.params for unit in carried_out(job(always))[0].stage(StageName.QUANTIZE).units]
    assert params == [{"type": "Q4_K_M", "imatrix": True}, {"type": "F16"}]


def test_own_data_to_validate_on_hold_nothing_back() -> None:
    """Where `validation` says nothing of a share, a tenth is held back, unless there is a dataset for it."""
    wanted = {f"{TRAINING}.validation": {"evalSteps": 5}}
    own = {"spec.datasets.+": {"name": "own", "volume": {"path": "own.json"}, "use": "Validation"}}
    assert params_of(StageName.PREPARE, wanted)["validationFraction"] == "0.1"
    assert params_of(StageName.PREPARE, {**wanted, **own})["validationFraction"] == "0"
    assert params_of(StageName.PREPARE, own)["validationFraction"] == "0"


def test_processes_are_runtime() -> None:
    """How a batch is spread is told beside the key."""
    changes = {f"{TRAINING}.processesPerNode": 2, f"{TRAINING}.perDeviceTrainBatchSize": 3}
    runtime = carried_out(job(changes))[0].stage(StageName.TRAIN).runtime
    wanted = {
        "nodes": 1,
        "gpusPerNode": 0,
        "processesPerNode": 2,
        "perDeviceTrainBatchSize": 3,
        "perDeviceEvalBatchSize": 3,
    }
    assert runtime.items() >= wanted.items()
    assert params_of(StageName.TRAIN, changes)["globalBatchSize"] == 2 * 3 * 8


def test_nodes_multiply_the_processes() -> None:
    """A step's rows come from the processes of all nodes."""
    changes = {f"{TRAINING}.nodes": 3, f"{TRAINING}.processesPerNode": 2}
    training = job(changes).spec.training
    assert (training.processes, training.world_size, training.global_batch_size) == (2, 6, 6 * 8)
    assert carried_out(job(changes))[0].stage(StageName.TRAIN).runtime["nodes"] == 3


def test_smoke_tests_are_runtime_of_register() -> None:
    """The questions travel with the stage that asks them, as plain values, and so does the way in."""
    tests = [{"prompt": "Who?", "expect": "Tunny"}]
    current, _ = carried_out(job({"spec.ollama.smokeTests": tests, "spec.ollama.method": "Exec"}))
    assert current.stage(StageName.REGISTER).runtime == {"smokeTests": tests, "method": "Exec"}


def test_each_server_is_a_unit_of_register() -> None:
    """A model is registered with every server by itself, so that one that is down holds up no other."""
    current, _ = carried_out(job({"spec.ollama.servers": ["main", "east"]}))
    units = current.stage(StageName.REGISTER).units
    assert [(unit.name, unit.params["server"], unit.role) for unit in units] == [
        ("main", "main", "registered:main"),
        ("east", "east", "registered:east"),
    ]
    assert current.stage(StageName.REHEARSE).units[0].params["servers"] == ["main", "east"]


# --- what follows ----------------------------------------------------------------------------------------------------

TWO_TYPES = {"spec.export": {"quantizations": ["Q4_K_M", "Q8_0"]}}


def test_later_units_come_to_the_keys_of_the_plan() -> None:
    """A program that knows the results so far computes the same keys as the plan, and so finds what is there."""
    wanted = job(TWO_TYPES)
    current, made = carried_out(wanted)
    inputs = {
        unit.role: made[unit.key].as_input()
        for stage in current.stages
        for unit in stage.units
        if unit.key in made and unit.role
    }
    found = {}
    for unit in later_units(wanted, StageName.PREPARE):
        assert set(unit.needs) <= inputs.keys()
        found[f"{unit.stage}/{unit.name}"] = content_key(
            unit.stage, unit.params, {role: inputs[role] for role in unit.needs}
        )
        assert unit.role in inputs
    assert list(found) == [TRAIN, CONVERT, Q4, "quantize/Q8_0"]
    assert found.items() <= current.keys.items()


LATER: dict[StageName, list[str]] = {
    StageName.FETCH: ["train", "Q4_K_M", "Q8_0"],
    StageName.REHEARSE: ["train", "Q4_K_M", "Q8_0"],
    StageName.TRAIN: ["Q4_K_M", "Q8_0"],
    StageName.CONVERT: ["Q4_K_M", "Q8_0"],
    StageName.QUANTIZE: [],
    StageName.REGISTER: [],
}


@pytest.mark.parametrize("stage", LATER)
def test_only_what_follows_is_later(stage: StageName) -> None:
    """A stage never looks for its own units, for earlier ones, or for those of `register`."""
    units = later_units(job(TWO_TYPES), stage)
    assert [unit.name for unit in units if unit.name != "convert"] == LATER[stage]
    assert ("convert" in {unit.name for unit in units}) == (
        list(StageName).index(stage) < list(StageName).index(StageName.CONVERT)
    )


# --- the order of things ---------------------------------------------------------------------------------------------

D, R, W = StageState.DONE, StageState.READY, StageState.WAITING


def states(current: Plan) -> list[StageState]:
    return [stage.state for stage in current.stages]


def test_stages_wait_until_their_inputs_are_known() -> None:
    """At first only the sources can be fetched; each stage gets its keys when what it builds on is there."""
    current = plan(job(), {})
    assert [stage.name for stage in current.stages] == list(StageName)
    assert states(current) == [R, W, W, W, W, W, W]
    assert current.keys.keys() == {FETCH, FAQ, "rehearse/rehearse"}
    assert current.next is not None
    assert [unit.name for unit in current.next.missing] == ["base", "dataset:faq"]


AFTER: dict[StageName, list[StageState]] = {
    StageName.FETCH: [D, R, D, W, W, W, W],
    StageName.PREPARE: [D, D, D, R, W, W, W],
    StageName.TRAIN: [D, D, D, D, R, W, W],
    StageName.CONVERT: [D, D, D, D, D, R, W],
    StageName.QUANTIZE: [D, D, D, D, D, D, R],
    StageName.REGISTER: [D, D, D, D, D, D, D],
}


@pytest.mark.parametrize("stage", AFTER)
def test_one_stage_after_the_other(stage: StageName) -> None:
    """Each result makes the next stage ready, until nothing is left."""
    current, _ = carried_out(job(), stage)
    assert states(current) == AFTER[stage]
    assert (current.next is None) == (stage is StageName.REGISTER)


def test_one_missing_source_holds_everything_up() -> None:
    """Data alone is not enough: the base must be there, too."""
    current = plan(job(), {})
    base, faq = current.stage(StageName.FETCH).units
    current = plan(job(), {faq.key: result_of(StageName.FETCH, faq)})
    assert states(current)[:2] == [R, W]
    assert current.stage(StageName.FETCH).missing == (base,)


def test_only_missing_quantizations_are_made() -> None:
    """Of two types of which one is there, the other is made."""
    _, made = carried_out(job())
    current, _ = carried_out(job({"spec.export": {"quantizations": ["Q4_K_M", "Q8_0"]}}), StageName.CONVERT, made)
    stage = current.next
    assert stage is not None
    assert ([unit.name for unit in stage.units], [unit.name for unit in stage.missing]) == (
        ["Q4_K_M", "Q8_0"],
        ["Q8_0"],
    )


def test_nothing_is_trained_before_the_rehearsal() -> None:
    """Once the data is prepared the way out is rehearsed; until it was, the training waits, its key known."""
    _, made = carried_out(job(), StageName.PREPARE)
    current = plan(job(), made)
    assert states(current)[:4] == [D, D, R, W]
    assert TRAIN in current.keys
    assert current.next is not None
    assert current.next.name is StageName.REHEARSE
    (gate,) = current.next.missing
    assert gate.params == {
        "training": [current.keys[TRAIN]],
        "servers": ["main"],
        "method": "API",
        "model": "support-bot:v1",
        "parameters": {},
        "system": None,
        "license": None,
        "quantizations": ["Q4_K_M"],
        "outType": "BF16",
        "targetModules": [],
    }
    assert gate.inputs == {
        "base": made[current.keys[FETCH]].as_input(),
        "prepared": made[current.keys[PREPARE]].as_input(),
    }
    rehearsed = plan(job(), made, rehearsed=True)
    assert rehearsed.next is not None
    assert rehearsed.next.name is StageName.TRAIN
    assert rehearsed.keys == current.keys


SERVED: dict[str, Mapping[str, Any]] = {
    "the way into Ollama": {"spec.ollama.method": "Exec"},
    "the served name": {"spec.ollama.model": "support-bot:v2"},
    "the system message": {"spec.ollama.system": "You are Tunny."},
    "the licence": {"spec.ollama.license": "MIT"},
    "Ollama's parameters": {"spec.ollama.parameters": {"num_ctx": 1024}},
}


@pytest.mark.parametrize("name", SERVED)
def test_what_register_could_refuse_is_rehearsed_again(name: str) -> None:
    """A rehearsal passed with other words for the server, or another way into it, says nothing of these."""
    gates = [
        carried_out(job(changes), StageName.PREPARE)[0].keys["rehearse/rehearse"] for changes in ({}, SERVED[name])
    ]
    assert gates[0] != gates[1]


def test_rehearsal_is_needed_until_the_end() -> None:
    """After the training the server is still to be asked; when all is done it is not."""
    _, made = carried_out(job(), StageName.QUANTIZE)
    assert plan(job(), made).next == plan(job(), made).stage(StageName.REHEARSE)
    _, made = carried_out(job())
    assert plan(job(), made).next is None


def test_results_of_others_do_no_harm() -> None:
    """A volume holds results of many jobs; only those whose key fits count."""
    _, others = carried_out(job({"spec.model.volume.path": "models/other", "spec.datasets.0.volume": REMOVED, **{
        f"spec.datasets.0.{name}": value for name, value in IDENTITY.items()
    }}))  # fmt: skip
    assert states(plan(job(), others)) == [R, W, W, W, W, W, W]


def test_where_a_result_lies_does_not_matter() -> None:
    """The same content in another place gives the same keys downstream."""
    current, made = carried_out(job(), StageName.FETCH)
    moved = {
        key: type(item)(item.stage, item.unit, item.key, item.recipe, item.digest, f"moved/{item.key}", ())
        for key, item in made.items()
    }
    assert plan(job(), moved).keys == current.keys
    (unit,) = plan(job(), moved).stage(StageName.PREPARE).units
    assert unit.inputs["base"] == Input(f"moved/{current.keys[FETCH]}", made[current.keys[FETCH]].digest)
