from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from support.builders import REMOVED, job_data, job_text
from tunesmith.api.datasets import DatasetFormat
from tunesmith.api.elsewhere import DEEPSPEED, OPTIONS, folded
from tunesmith.api.finetunejob import FineTuneJob
from tunesmith.api.parse import MAX_BYTES, InvalidJobError, Problem, parse_job, parse_job_file, parse_object
from tunesmith.api.pods import Pods
from tunesmith.api.problems import fields_at
from tunesmith.api.sources import Builtin, Language
from tunesmith.api.training import FinetuningType, LrSchedule, Training

DATASET = "spec.datasets.0"
TRAINING = "spec.training"
IDENTITY = {"name": "identity", "builtin": "SelfCognition", "substitutions": {"name": "Tunny", "author": "Acme"}}


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(InvalidJobError) as caught:
        parse_job(text)
    return caught.value.problems


# --- a field that is wrong -------------------------------------------------------------------------------------------

BAD_FIELDS: dict[str, tuple[Mapping[str, Any], str, str]] = {
    "ConfigMap's key that names no format": (
        {DATASET: {"name": "faq", "configMap": {"name": "rows", "key": "stage.yaml"}}},
        "spec.datasets[0].configMap.key",
        "must be a name that ends in .json, .jsonl, .csv, .parquet or .txt",
    ),
    "ConfigMap's key that is an ending alone": (
        {DATASET: {"name": "faq", "configMap": {"name": "rows", "key": ".jsonl"}}},
        "spec.datasets[0].configMap.key",
        "must be a name that ends in .json, .jsonl, .csv, .parquet or .txt",
    ),
    "ConfigMap's key that describes data": (
        {DATASET: {"name": "faq", "configMap": {"name": "rows", "key": "dataset_info.json"}}},
        "spec.datasets[0].configMap.key",
        "files of these names describe data and hold none",
    ),
    # unknown fields, at every level
    "unknown at the top": ({"specs": {}}, "specs", "is not a field here; did you mean `spec`?"),
    "status is not ours": ({"status": {}}, "status", "the fields here are apiVersion, kind, metadata, spec"),
    "unknown in spec": ({"spec.dataset": []}, "spec.dataset", "did you mean `datasets`?"),
    "unknown in model": ({"spec.model.chat_template": {}}, "spec.model.chat_template", "did you mean `chatTemplate`?"),
    "unknown in a source": (
        {"spec.model.volume.paht": "x"},
        "spec.model.volume.paht",
        "did you mean `path`?",
    ),
    "unknown in a dataset": ({f"{DATASET}.colums": {}}, "spec.datasets[0].colums", "did you mean `columns`?"),
    "unknown column": (
        {f"{DATASET}.columns": {"promt": "q"}},
        "spec.datasets[0].columns.promt",
        "did you mean `prompt`?",
    ),
    "snake case in training": (
        {f"{TRAINING}.learning_rate": "0.0001"},
        "spec.training.learning_rate",
        "did you mean `learningRate`?",
    ),
    "unknown in lora": ({f"{TRAINING}.lora": {"r": 8}}, "spec.training.lora.r", "alpha, dropout, targetModules"),
    "unknown in deepspeed": (
        {f"{TRAINING}.deepspeed": {"stage": 3}},
        "spec.training.deepspeed.stage",
        "did you mean `zeroStage`?",
    ),
    "unknown in validation": (
        {f"{TRAINING}.validation": {"split": "0.1"}},
        "spec.training.validation.split",
        "the fields here are fraction, evalSteps",
    ),
    "unknown in checkpoint": (
        {f"{TRAINING}.checkpoint": {"saveStep": 3}},
        "spec.training.checkpoint.saveStep",
        "did you mean `saveSteps`?",
    ),
    "unknown in export": (
        {"spec.export": {"quantization": []}},
        "spec.export.quantization",
        "did you mean `quantizations`?",
    ),
    "unknown in ollama": ({"spec.ollama.param": {}}, "spec.ollama.param", "did you mean `parameters`?"),
    "camel case for Ollama's parameter": (
        {"spec.ollama.parameters": {"numCtx": 1}},
        "spec.ollama.parameters.numCtx",
        "did you mean `num_ctx`?",
    ),
    "unknown parameter of Ollama": (
        {"spec.ollama.parameters": {"mirostat": 1}},
        "spec.ollama.parameters.mirostat",
        "the fields here are num_ctx, num_predict",
    ),
    "unknown in a smoke test": (
        {"spec.ollama.smokeTests": [{"prompt": "Hi", "expect": "Hi"}, {"prompt": "Hi", "expects": "Hi"}]},
        "spec.ollama.smokeTests[1].expects",
        "did you mean `expect`?",
    ),
    # trackers
    "a project for TensorBoard": (
        {f"{TRAINING}.tracking": {"type": "TensorBoard", "project": "bots"}},
        "spec.training.tracking.project",
        "goes with `type` MLflow or WeightsAndBiases only",
    ),
    "a token for TensorBoard": (
        {f"{TRAINING}.tracking": {"type": "TensorBoard", "tokenSecretRef": {"name": "tunesmith-x"}}},
        "spec.training.tracking.tokenSecretRef",
        "goes with `type` MLflow or WeightsAndBiases only",
    ),
    "a Secret of others for a tracker": (
        {f"{TRAINING}.tracking": {"type": "MLflow", "tokenSecretRef": {"name": "database"}}},
        "spec.training.tracking.tokenSecretRef.name",
        "must begin with `tunesmith-`",
    ),
    "two teams for W&B": (
        {f"{TRAINING}.tracking": {"type": "WeightsAndBiases", "project": "a/b/c"}},
        "spec.training.tracking.project",
        "must be `project` or `team/project`",
    ),
    "a project that is none": (
        {f"{TRAINING}.tracking": {"type": "MLflow", "project": "a?b"}},
        "spec.training.tracking.project",
        "must be text of the form",
    ),
    "a tracker without a type": ({f"{TRAINING}.tracking": {}}, "spec.training.tracking.type", "must be given"),
    # wrong types
    "text for a number": (
        {f"{TRAINING}.warmupSteps": "10"},
        "spec.training.warmupSteps",
        "must be a whole number without quotes, got '10'",
    ),
    "fraction for a whole number": (
        {f"{TRAINING}.warmupSteps": 1.5},
        "spec.training.warmupSteps",
        "must be a whole number without quotes, got 1.5",
    ),
    "truth for a number": (
        {f"{TRAINING}.seed": True},
        "spec.training.seed",
        "must be a whole number without quotes, got true",
    ),
    "text for a truth": (
        {f"{TRAINING}.gradientCheckpointing": "no"},
        "spec.training.gradientCheckpointing",
        "must be true or false, without quotes, got 'no'",
    ),
    "number for a text": (
        {f"{DATASET}.columns": {"prompt": 5}},
        "spec.datasets[0].columns.prompt",
        "must be a text; put numbers, true and false in quotes to make texts of them, got 5",
    ),
    "nothing where a mapping must be": (
        {"spec.training": None},
        "spec.training",
        "must be a mapping of fields, got nothing",
    ),
    "a text where a mapping must be": (
        {"spec.model": "models/base"},
        "spec.model",
        "must be a mapping of fields, got 'models/base'",
    ),
    "a mapping where a list must be": ({"spec.datasets": {"name": "faq"}}, "spec.datasets", "must be a list, got"),
    "one type instead of a list": (
        {"spec.export": {"quantizations": "Q8_0"}},
        "spec.export.quantizations",
        "must be a list, got 'Q8_0'",
    ),
    "a list where a mapping must be": (
        {f"{DATASET}.substitutions": ["name"]},
        "spec.datasets[0].substitutions",
        "must be a mapping of names to texts",
    ),
    # decimals
    "a decimal without quotes": (
        {f"{TRAINING}.weightDecay": 0.05},
        "spec.training.weightDecay",
        'must be a decimal in quotes: "0.05"',
    ),
    "a whole number for a decimal": (
        {f"{TRAINING}.numTrainEpochs": 3},
        "spec.training.numTrainEpochs",
        'must be a decimal in quotes: "3"',
    ),
    "Ollama's decimal without quotes": (
        {"spec.ollama.parameters": {"temperature": 0.7}},
        "spec.ollama.parameters.temperature",
        'must be a decimal in quotes: "0.7"',
    ),
    "a decimal that is none": (
        {f"{TRAINING}.learningRate": "fast"},
        "spec.training.learningRate",
        'must be a decimal in quotes, such as "0.05" or "1e-5", not below 0, got \'fast\'',
    ),
    "a percentage": (
        {f"{TRAINING}.validation": {"fraction": "10%"}},
        "spec.training.validation.fraction",
        'must be a decimal in quotes, from "0" to below "1", got \'10%\'',
    ),
    # bounds
    "below": ({f"{TRAINING}.sequenceLength": 8}, "spec.training.sequenceLength", "must be 16 or more, got 8"),
    "above": ({f"{TRAINING}.gpusPerNode": 65}, "spec.training.gpusPerNode", "must be 64 or less, got 65"),
    "negative decimal": ({f"{TRAINING}.weightDecay": "-0.1"}, "spec.training.weightDecay", "not below 0, got '-0.1'"),
    "learning rate of nothing": (
        {f"{TRAINING}.learningRate": "0.0"},
        "spec.training.learningRate",
        "must be above 0, got '0.0'",
    ),
    "no epochs": ({f"{TRAINING}.numTrainEpochs": "0"}, "spec.training.numTrainEpochs", "must be above 0, got '0'"),
    "all for validation": (
        {f"{TRAINING}.validation": {"fraction": "1"}},
        "spec.training.validation.fraction",
        "below \"1\", got '1'",
    ),
    "no datasets": ({"spec.datasets": []}, "spec.datasets", "must hold at least one dataset with `use: Training`"),
    "empty text": ({"spec.model.volume.path": ""}, "spec.model.volume.path", "must not be empty"),
    "too long": (
        {"spec.model.volume.path": "x" * 2000},
        "spec.model.volume.path",
        "must have at most 1024 characters, got 'xxx",
    ),
    "a long name": ({"metadata.name": "x" * 53}, "metadata.name", "must have at most 52 characters"),
    "half a character": (
        {"spec.ollama.system": "\ud83d"},
        "spec.ollama.system",
        "must be a text of whole Unicode characters",
    ),
    # one of several
    "misspelt type": (
        {f"{TRAINING}.finetuningType": "lora"},
        "spec.training.finetuningType",
        "must be one of Full, Freeze, LoRA, QLoRA, got 'lora'; did you mean `LoRA`?",
    ),
    "misspelt quantization": (
        {"spec.export": {"quantizations": ["Q8_0", "q4_k_m"]}},
        "spec.export.quantizations[1]",
        "got 'q4_k_m'; did you mean `Q4_K_M`?",
    ),
    "unknown schedule": (
        {f"{TRAINING}.lrSchedule": "Exponential"},
        "spec.training.lrSchedule",
        "WarmupStableDecay, Constant, got 'Exponential'",
    ),
    "misspelt builtin": (
        {f"{DATASET}.builtin": "self-cognition"},
        "spec.datasets[0].builtin",
        "must be SelfCognition, got 'self-cognition'; did you mean `SelfCognition`?",
    ),
    "unknown language": (
        {DATASET: {**IDENTITY, "languages": ["en", "fr"]}},
        "spec.datasets[0].languages[1]",
        "must be one of en, zh, got 'fr'",
    ),
    "another kind": ({"kind": "FinetuneJob"}, "kind", "must be FineTuneJob, got 'FinetuneJob'"),
    "another version": ({"apiVersion": "tunesmith.dev/v1"}, "apiVersion", "must be tunesmith.dev/v1alpha1"),
    "a ZeRO stage that is not offered": (
        {f"{TRAINING}.deepspeed": {"zeroStage": 1}},
        "spec.training.deepspeed.zeroStage",
        "must be 0, 2 or 3; instead of 1 take 2, which shares out the gradients besides and costs nothing more, got 1",
    ),
    # missing
    "no name": ({"metadata": {}}, "metadata.name", "must be given"),
    "no model": ({"spec.model": REMOVED}, "spec.model", "must be given"),
    "no spec": ({"spec": REMOVED}, "spec", "must be given"),
    "no source of the model": ({"spec.model": {}}, "spec.model", "must have exactly one source: `volume`, `hugg"),
    "two sources of the model": (
        {"spec.model": {"volume": {"path": "m"}, "huggingFace": {"repo": "Qwen/Qwen2.5-0.5B"}}},
        "spec.model",
        "must have exactly one source",
    ),
    "a repository that leads elsewhere": (
        {"spec.model": {"huggingFace": {"repo": "../secrets"}}},
        "spec.model.huggingFace.repo",
        "must be",
    ),
    "a revision that leads elsewhere": (
        {"spec.model": {"huggingFace": {"repo": "a/b", "revision": "x/../../y"}}},
        "spec.model.huggingFace.revision",
        "must not contain '.' or '..' as a part of a path, got 'x/../../y'",
    ),
    "somebody else's Secret": (
        {"spec.model": {"modelScope": {"repo": "a/b", "tokenSecretRef": {"name": "database"}}}},
        "spec.model.modelScope.tokenSecretRef.name",
        "must begin with `tunesmith-`: no other Secrets are given to jobs, got 'database'",
    ),
    "the job itself as base": (
        {"spec.model": {"job": {"name": "support-bot"}}},
        "spec.model.job.name",
        "must be another job, got 'support-bot'",
    ),
    "a template for a GGUF": (
        {"spec.model": {"gguf": {"path": "m.gguf"}, "chatTemplate": {"name": "qwen"}}, "spec.datasets": REMOVED},
        "spec.model.chatTemplate",
        "must not be given with `gguf`",
    ),
    "data for a GGUF": (
        {"spec.model": {"gguf": {"path": "m.gguf"}}},
        "spec.model.gguf",
        "must come without `datasets`, `training` and `export` but its `quantizations`",
    ),
    "a training of a GGUF": (
        {"spec.model": {"gguf": {"path": "m.gguf"}}, "spec.datasets": REMOVED, f"{TRAINING}.packing": True},
        "spec.model.gguf",
        "must come without `datasets`, `training`",
    ),
    "two templates": (
        {"spec.model.chatTemplate": {"name": "qwen", "jinja": "x"}},
        "spec.model.chatTemplate.name",
        "must not be given together with `jinja`",
    ),
    "an unknown template": (
        {"spec.model.chatTemplate": {"name": "lama3"}},
        "spec.model.chatTemplate.name",
        "did you mean `llama3`?",
    ),
    # validation
    "only data to validate on": (
        {f"{DATASET}.use": "Validation"},
        "spec.datasets",
        "must hold at least one dataset with `use: Training`",
    ),
    "two ways to validate": (
        {
            "spec.datasets.+": {"name": "own", "volume": {"path": "own.json"}, "use": "Validation"},
            f"{TRAINING}.validation": {"fraction": "0.2"},
        },
        "spec.training.validation.fraction",
        "must not be given together with a dataset that has `use: Validation`",
    ),
    # export
    "a type that Ollama does not serve": (
        {"spec.export": {"quantizations": ["TQ1_0"]}},
        "spec.export.quantizations",
        "must not name Q2_0, TQ1_0, TQ2_0: Ollama refuses to serve them",
    ),
    "a GGUF in a type that needs samples": (
        {
            "spec.model": {"gguf": {"path": "m.gguf"}},
            "spec.datasets": REMOVED,
            "spec.training": REMOVED,
            "spec.export": {"quantizations": ["IQ1_S"]},
        },
        "spec.export.quantizations",
        "must not name types that need an importance matrix",
    ),
    "no importance matrix for a type that needs one": (
        {"spec.export": {"quantizations": ["IQ2_XXS"], "importanceMatrix": "Never"}},
        "spec.export.importanceMatrix",
        "must not be Never for types that need an importance matrix: IQ1_M",
    ),
    # names
    "capitals in a name": (
        {"metadata.name": "Support-Bot"},
        "metadata.name",
        "must be lower-case letters, digits and hyphens, with a letter or digit at both ends, got 'Support-Bot'",
    ),
    "a name that ends in a hyphen": ({f"{DATASET}.name": "faq-"}, "spec.datasets[0].name", "at both ends, got 'faq-'"),
    "a placeholder with braces": (
        {DATASET: {**IDENTITY, "substitutions": {"name": "T", "author": "A", "{{x}}": "y"}}},
        "spec.datasets[0].substitutions.{{x}}",
        "must be a name of letters, digits and '_'",
    ),
    "a module's name": (
        {f"{TRAINING}.lora": {"targetModules": ["q_proj|k_proj"]}},
        "spec.training.lora.targetModules[0]",
        "must be a module's name",
    ),
    # rules over several fields
    "both sources": (
        {f"{DATASET}.builtin": "SelfCognition"},
        "spec.datasets[0]",
        "must have exactly one source: `volume`, `huggingFace`, `modelScope`, `configMap`, `inline` or `builtin`",
    ),
    "no source": (
        {f"{DATASET}.volume": REMOVED},
        "spec.datasets[0]",
        "must have exactly one source: `volume`, `huggingFace`, `modelScope`, `configMap`, `inline` or `builtin`",
    ),
    "languages of one's own data": (
        {f"{DATASET}.languages": ["en"]},
        "spec.datasets[0].languages",
        "goes with `builtin` only",
    ),
    "columns of a built-in dataset": (
        {DATASET: {**IDENTITY, "columns": {"prompt": "q"}}},
        "spec.datasets[0].columns",
        "must not be given for a built-in dataset",
    ),
    "format of a built-in dataset": (
        {DATASET: {**IDENTITY, "format": "Alpaca"}},
        "spec.datasets[0].format",
        "must be Auto for a built-in dataset, which knows its own, and with `datasetInfo`",
    ),
    "no author": (
        {DATASET: {**IDENTITY, "substitutions": {"name": "Tunny"}}},
        "spec.datasets[0].substitutions",
        "must hold `name` and `author`",
    ),
    "neither name nor author": (
        {DATASET: {"name": "identity", "builtin": "SelfCognition"}},
        "spec.datasets[0].substitutions",
        "must hold `name` and `author`",
    ),
    "columns of both formats": (
        {f"{DATASET}.columns": {"messages": "talk", "query": "context"}},
        "spec.datasets[0].columns",
        "must name columns of one format, of `format` if that is given: Alpaca: prompt",
    ),
    "columns of the other format": (
        {f"{DATASET}.format": "Alpaca", f"{DATASET}.columns": {"messages": "talk"}},
        "spec.datasets[0].columns",
        "must name columns of one format, of `format` if that is given: Alpaca: prompt",
    ),
    "columns of Alpaca in Messages rows": (
        {f"{DATASET}.format": "Messages", f"{DATASET}.columns": {"prompt": "q"}},
        "spec.datasets[0].columns",
        "must name columns of one format, of `format` if that is given: Alpaca: prompt",
    ),
    "columns of pairs without a method": (
        {f"{DATASET}.columns": {"chosen": "a", "rejected": "b"}},
        "spec.datasets",
        "must name no columns that the job's `training.method` does not learn from: DPO and ORPO take `chosen` and",
    ),
    "a label without a method": (
        {f"{DATASET}.columns": {"desirable": "good"}},
        "spec.datasets",
        "must name no columns that the job's `training.method` does not learn from",
    ),
    "one answer with DPO": (
        {f"{DATASET}.columns": {"response": "a"}, f"{TRAINING}.method": "DPO"},
        "spec.datasets",
        "must name no columns that the job's `training.method` does not learn from",
    ),
    "a label with ORPO": (
        {f"{DATASET}.columns": {"desirable": "good"}, f"{TRAINING}.method": "ORPO"},
        "spec.datasets",
        "must name no columns that the job's `training.method` does not learn from",
    ),
    "two answers with KTO": (
        {f"{DATASET}.columns": {"rejected": "b"}, f"{TRAINING}.method": "KTO"},
        "spec.datasets",
        "must name no columns that the job's `training.method` does not learn from",
    ),
    "a column of plain texts with DPO": (
        {f"{DATASET}.columns": {"text": "story"}, f"{TRAINING}.method": "DPO"},
        "spec.datasets",
        "must name no columns that the job's `training.method` does not learn from",
    ),
    "a column of plain texts with KTO": (
        {f"{DATASET}.columns": {"text": "story"}, f"{TRAINING}.method": "KTO"},
        "spec.datasets",
        "must name no columns that the job's `training.method` does not learn from",
    ),
    "plain texts with DPO": (
        {f"{DATASET}.format": "Text", f"{TRAINING}.method": "DPO"},
        "spec.datasets",
        "must have answers that people prefer with the `training.method` DPO, ORPO and KTO",
    ),
    "a label in plain texts": (
        {f"{DATASET}.format": "Text", f"{DATASET}.columns": {"desirable": "good"}, f"{TRAINING}.method": "KTO"},
        "spec.datasets[0].columns",
        "must name columns of one format",
    ),
    "a built-in dataset with KTO": (
        {DATASET: IDENTITY, f"{TRAINING}.method": "KTO"},
        "spec.datasets",
        "must have answers that people prefer with the `training.method` DPO, ORPO and KTO",
    ),
    "a folder's entry without a folder": (
        {DATASET: {"name": "faq", "inline": [{"text": "a"}], "datasetInfo": "faq"}},
        "spec.datasets[0].datasetInfo",
        "goes with `volume`, `huggingFace` or `modelScope` only",
    ),
    "tags of another format": (
        {f"{DATASET}.format": "Messages", f"{DATASET}.tags": {"role": "who"}},
        "spec.datasets[0].tags",
        "goes with `format` ShareGPT only",
    ),
    "too heavy": (
        {f"{DATASET}.weight": "1000"},
        "spec.datasets[0].weight",
        "must be at most 100, got '1000'",
    ),
    "two datasets of one name": (
        {"spec.datasets.+": {"name": "faq", "volume": {"path": "other.json"}}},
        "spec.datasets[1].name",
        "must differ from the others in this list, got 'faq' again",
    ),
    "FP16 on the CPU": (
        {f"{TRAINING}.precision": "FP16"},
        "spec.training.precision",
        "must be BF16 or FP32 on the CPU (`gpusPerNode: 0`), got 'FP16'",
    ),
    "lora with Full": (
        {f"{TRAINING}.finetuningType": "Full", f"{TRAINING}.lora": {"rank": 8}},
        "spec.training.lora",
        "goes with `finetuningType` LoRA or QLoRA only",
    ),
    "numbers of a method without one": (
        {f"{TRAINING}.preference": {"beta": "0.1"}},
        "spec.training.preference",
        "goes with `method` DPO, KTO or ORPO only",
    ),
    "weights of KTO with DPO": (
        {f"{TRAINING}.method": "DPO", f"{TRAINING}.preference": {"desirableWeight": "1"}},
        "spec.training.preference",
        "nothing but the numbers of the job's `method`",
    ),
    "the chosen answer's loss with ORPO, which has it anyway": (
        {f"{TRAINING}.method": "ORPO", f"{TRAINING}.preference": {"sftWeight": "1"}},
        "spec.training.preference",
        "nothing but the numbers of the job's `method`",
    ),
    "beta of nothing": (
        {f"{TRAINING}.method": "KTO", f"{TRAINING}.preference": {"beta": "0"}},
        "spec.training.preference.beta",
        "must be above 0, got '0'",
    ),
    "packed preferences": (
        {f"{TRAINING}.method": "KTO", f"{TRAINING}.packing": True},
        "spec.training.packing",
        "goes with `method: SFT` only",
    ),
    "freeze with LoRA": (
        {f"{TRAINING}.freeze": {"trainableLayers": 1}},
        "spec.training.freeze",
        "goes with `finetuningType: Freeze` only",
    ),
    "QLoRA on the CPU": (
        {f"{TRAINING}.finetuningType": "QLoRA"},
        "spec.training.finetuningType",
        "needs GPUs for QLoRA",
    ),
    "offload on the CPU": (
        {f"{TRAINING}.deepspeed": {"offloadOptimizer": True}},
        "spec.training.deepspeed",
        "on the CPU there is nothing to offload from",
    ),
    "offload without ZeRO": (
        {f"{TRAINING}.deepspeed": {"offloadOptimizer": True, "zeroStage": 0}},
        "spec.training.deepspeed.offloadOptimizer",
        "goes with `zeroStage` 2 or 3 only",
    ),
    "weights offloaded without ZeRO 3": (
        {f"{TRAINING}.deepspeed": {"offloadParameters": True, "zeroStage": 2}},
        "spec.training.deepspeed.offloadParameters",
        "goes with `zeroStage: 3` only",
    ),
    "sharing out without ZeRO": (
        {f"{TRAINING}.deepspeed": {"config": {"zero_optimization": {"overlap_comm": True}}, "zeroStage": 0}},
        "spec.training.deepspeed.config.zero_optimization",
        "goes with `zeroStage` 2 or 3 only",
    ),
    "settings of ZeRO 3 with ZeRO 2": (
        {f"{TRAINING}.deepspeed": {"config": {"zero_optimization": {"zero_hpz_partition_size": 2}}}},
        "spec.training.deepspeed.config.zero_optimization",
        "zero_hpz_partition_size with `zeroStage: 3` only",
    ),
    "batch size in DeepSpeed's configuration": (
        {f"{TRAINING}.deepspeed": {"config": {"train_batch_size": 8}}},
        "spec.training.deepspeed.config.train_batch_size",
        "is not a field here",
    ),
    "scaling of a loss that is not scaled": (
        {f"{TRAINING}.deepspeed": {"config": {"fp16": {"hysteresis": 2}}}},
        "spec.training.deepspeed.config",
        "must have no `fp16` with another `precision` than FP16",
    ),
    "quantized gradients, whose kernels would have to be compiled": (
        {f"{TRAINING}.deepspeed": {"config": {"zero_optimization": {"zero_quantized_gradients": True}}}},
        "spec.training.deepspeed.config.zero_optimization.zero_quantized_gradients",
        "is not a field here",
    ),
    "warm-up both ways": (
        {f"{TRAINING}.warmupSteps": 5, f"{TRAINING}.warmupRatio": "0.1"},
        "spec.training.warmupSteps",
        "must not be given together with `warmupRatio`",
    ),
    "option of another schedule": (
        {f"{TRAINING}.lrScheduleOptions": {"cycles": 3}},
        "spec.training.lrScheduleOptions",
        "nothing but the option of the job's `lrSchedule`",
    ),
    "a warm-up to a rate that is never reached": (
        {f"{TRAINING}.warmupSteps": 100, f"{TRAINING}.maxSteps": 100},
        "spec.training.warmupSteps",
        "must be below `maxSteps`: the learning rate would never be reached; lower it, or take `warmupRatio`, got 100",
    ),
    "best of evaluations that never come": (
        {f"{TRAINING}.validation": {"keepBest": True, "evalSteps": 500}, f"{TRAINING}.maxSteps": 100},
        "spec.training.validation.evalSteps",
        "must be below `maxSteps` with `keepBest` and `earlyStopping`",
    ),
    "an early end by evaluations that never come": (
        {f"{TRAINING}.validation": {"earlyStopping": {}, "evalSteps": 100}, f"{TRAINING}.maxSteps": 100},
        "spec.training.validation.evalSteps",
        "must be below `maxSteps` with `keepBest` and `earlyStopping`",
    ),
    "groups of ranks that do not come out even": (
        {
            f"{TRAINING}.deepspeed": {
                "zeroStage": 3,
                "config": {"zero_optimization": {"zero_hpz_partition_size": 3}},
            },
            f"{TRAINING}.gpusPerNode": 4,
        },
        "spec.training.deepspeed.config",
        "must have a `zero_hpz_partition_size` that divides the number of processes",
    ),
    "best of no evaluations": (
        {f"{TRAINING}.validation": {"keepBest": True}},
        "spec.training.validation.evalSteps",
        "must be given with `keepBest` and `earlyStopping`",
    ),
    "epochs and steps": (
        {f"{TRAINING}.numTrainEpochs": "2", f"{TRAINING}.maxSteps": 10},
        "spec.training.numTrainEpochs",
        "must not be given together with `maxSteps`",
    ),
    "processes on GPUs": (
        {f"{TRAINING}.gpusPerNode": 4, f"{TRAINING}.processesPerNode": 2},
        "spec.training.processesPerNode",
        "goes with `gpusPerNode: 0` only: each GPU has one process, got 2",
    ),
    "all linear layers and more": (
        {f"{TRAINING}.lora": {"targetModules": ["AllLinear", "q_proj"]}},
        "spec.training.lora.targetModules",
        "must be either [AllLinear] or a list of module names",
    ),
    "a quantization twice": (
        {"spec.export": {"quantizations": ["Q8_0", "Q4_0", "Q8_0"]}},
        "spec.export.quantizations[2]",
        "must differ from the others in this list, got 'Q8_0' again",
    ),
    # fields for clusters
    "a root user": ({"spec.storage": {"runAsUser": 0}}, "spec.storage.runAsUser", "must be 1 or more, got 0"),
    "a folder outside of the claim": (
        {"spec.storage": {"subPath": "a/../../b"}},
        "spec.storage.subPath",
        "must be relative to the volume's root and must not contain '..', got 'a/../../b'",
    ),
    "a claim with capitals": (
        {"spec.storage": {"claimName": "NFS"}},
        "spec.storage.claimName",
        "must be lower-case letters, digits, hyphens and dots",
    ),
    "misspelt storage": ({"spec.storage": {"claim": "x"}}, "spec.storage.claim", "did you mean `claimName`?"),
    "no nodes": ({f"{TRAINING}.nodes": 0}, "spec.training.nodes", "must be 1 or more, got 0"),
    "a server twice": (
        {"spec.ollama.servers": ["main", "east", "main"]},
        "spec.ollama.servers[2]",
        "must differ from the others in this list, got 'main' again",
    ),
    "no server": ({"spec.ollama.servers": []}, "spec.ollama.servers", "must have at least 1 item(s)"),
    "a server by its address": (
        {"spec.ollama.servers": ["http://ollama:11434"]},
        "spec.ollama.servers[0]",
        "must be lower-case letters, digits and hyphens",
    ),
    "a method in capitals": ({"spec.ollama.method": "EXEC"}, "spec.ollama.method", "did you mean `Exec`?"),
    "suspended in words": ({"spec.suspend": "yes"}, "spec.suspend", "must be true or false, without quotes"),
    "a stage that is none": ({"spec.pods": {"trian": {}}}, "spec.pods.trian", "did you mean `train`?"),
    "what only the training has": (
        {"spec.pods": {"fetch": {"sharedMemory": "1Gi"}}},
        "spec.pods.fetch.sharedMemory",
        "the fields here are resources, nodeSelector",
    ),
    "an amount without quotes": (
        {"spec.pods": {"train": {"resources": {"limits": {"cpu": 4}}}}},
        "spec.pods.train.resources.limits.cpu",
        'must be a quantity in quotes: "4"',
    ),
    "an amount that is none": (
        {"spec.pods": {"train": {"resources": {"requests": {"memory": "16GB"}}}}},
        "spec.pods.train.resources.requests.memory",
        'must be a quantity in quotes, such as "4", "500m" or "16Gi", got \'16GB\'',
    ),
    "a resource that is none": (
        {"spec.pods": {"train": {"resources": {"requests": {"a/b/c": "1"}}}}},
        "spec.pods.train.resources.requests.a/b/c",
        "must be a name that Kubernetes takes",
    ),
    "a label of ours": (
        {"spec.pods": {"train": {"labels": {"tunesmith.dev/job": "x"}}}},
        "spec.pods.train.labels",
        "must not have",
    ),
    "a label of Kubernetes": (
        {"spec.pods": {"train": {"labels": {"pod-security.kubernetes.io/enforce": "x"}}}},
        "spec.pods.train.labels",
        "must not have keys of `tunesmith.dev/`, `kubernetes.io/`",
    ),
    "an annotation that lifts AppArmor": (
        {"spec.pods": {"default": {"annotations": {"container.apparmor.security.beta.kubernetes.io/x": "unconfined"}}}},
        "spec.pods.default.annotations",
        "must not have keys",
    ),
    "a toleration with a value of any": (
        {"spec.pods": {"train": {"tolerations": [{"key": "gpu", "operator": "Exists", "value": "x"}]}}},
        "spec.pods.train.tolerations[0].value",
        "must be empty with `operator: Exists`",
    ),
    "a toleration of nothing": (
        {"spec.pods": {"train": {"tolerations": [{"value": "x"}]}}},
        "spec.pods.train.tolerations[0].operator",
        "must be Exists if there is no `key`",
    ),
    "a variable twice": (
        {"spec.pods": {"train": {"env": [{"name": "NCCL_DEBUG"}, {"name": "NCCL_DEBUG", "value": "INFO"}]}}},
        "spec.pods.train.env[1].name",
        "must differ from the others in this list, got 'NCCL_DEBUG' again",
    ),
    "a secret in a variable": (
        {"spec.pods": {"train": {"env": [{"name": "NCCL_DEBUG", "valueFrom": {"secretKeyRef": {}}}]}}},
        "spec.pods.train.env[0].valueFrom",
        "is not a field here; did you mean `value`?",
    ),
    "an end at once": (
        {"spec.pods": {"train": {"terminationGracePeriodSeconds": 0}}},
        "spec.pods.train.terminationGracePeriodSeconds",
        "must be 30 or more, got 0",
    ),
    "a short time to live": (
        {"spec.ttlSecondsAfterFinished": 1},
        "spec.ttlSecondsAfterFinished",
        "must be 60 or more, got 1",
    ),
    # the model's name in Ollama
    "a model's name with a blank": ({"spec.ollama.model": "support bot"}, "spec.ollama.model", "[:tag]"),
    "a model's name with a scheme": ({"spec.ollama.model": "https://x/y"}, "spec.ollama.model", "without `http://`"),
    "a model's name with an empty tag": ({"spec.ollama.model": "bot:"}, "spec.ollama.model", "the tag"),
    "a model's name of a path": ({"spec.ollama.model": "a/b/c/d"}, "spec.ollama.model", "host"),
    "a tag that is a place": ({"spec.ollama.model": "bot:cloud"}, "spec.ollama.model", "'cloud'"),
    "a tag that gets too long": (
        {"spec.ollama.model": "bot:" + "x" * 78, "spec.export": {"quantizations": ["Q4_0", "Q8_0"]}},
        "spec.ollama.model",
        "must have a tag of at most 70 characters",
    ),
}


GOOD_TOGETHER: dict[str, Mapping[str, Any]] = {
    "a warm-up that ends before the last step": {f"{TRAINING}.warmupSteps": 9, f"{TRAINING}.maxSteps": 10},
    "one step without a warm-up": {f"{TRAINING}.maxSteps": 1},
    "rare evaluations that nothing goes by": {
        f"{TRAINING}.validation": {"evalSteps": 500},
        f"{TRAINING}.maxSteps": 10,
    },
    "an evaluation in between": {
        f"{TRAINING}.validation": {"evalSteps": 9, "keepBest": True},
        f"{TRAINING}.maxSteps": 10,
    },
    "groups of ranks over two nodes": {
        f"{TRAINING}.deepspeed": {"zeroStage": 3, "config": {"zero_optimization": {"zero_hpz_partition_size": 3}}},
        f"{TRAINING}.gpusPerNode": 3,
        f"{TRAINING}.nodes": 2,
    },
}


@pytest.mark.parametrize("name", GOOD_TOGETHER)
def test_what_goes_together_is_taken(name: str) -> None:
    """A rule refuses what contradicts itself, and nothing beside it."""
    parse_job(job_text(GOOD_TOGETHER[name]))


# --- fields that others have -----------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[str, str]] = {
    "optim": ("spec.training.optim", "there is none for it: AdamW with a state of 32 bits alone"),
    "report_to": ("spec.training.report_to", "use `training.tracking`"),
    "reportTo": ("spec.training.reportTo", "use `training.tracking`"),
    "saveTotalLimit": ("spec.training.saveTotalLimit", "use `training.checkpoint.keep`"),
    "limit beside its fellows": ("spec.training.checkpoint.save_total_limit", "use `training.checkpoint.keep`"),
    "groupByLength": ("spec.training.groupByLength", "there is none for it: the order of the rows is the seed's"),
    "bf16": ("spec.training.bf16", "use `training.precision`"),
    "eval_steps": ("spec.training.eval_steps", "use `training.validation.evalSteps`: whole steps"),
    "spelt as others do": ("spec.training.num_train_epochs", "did you mean `numTrainEpochs`?"),
    "misspelt": ("spec.training.lr_schedulee", "did you mean `lrSchedule`?"),
    "beside the training": ("spec.push_to_hub", "the model is served in Ollama; `export.keepMerged` keeps it"),
    "DeepSpeed's": ("spec.training.deepspeed.config.optimizer", "leave it out: Tunesmith sets it by `training.adam`"),
    "nobody's": ("spec.training.sparkle", "the fields here are method, preference"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_others_call_it(name: str) -> None:
    """Someone who comes from another trainer is told the field, or why there is none."""
    field, words = OTHERS[name]
    (problem,) = problems_of(job_text({field: 1}))
    assert problem.field == field
    assert problem.message.startswith("is not a field here; ")
    assert words in problem.message


def test_the_fields_that_are_named_are_there() -> None:
    """What someone is told to use is a field of a job, and no name has two answers."""
    options = [option for group in OPTIONS.values() for option in group]
    for option in (*options, *DEEPSPEED):
        assert bool(option.field) or bool(option.note)
        path = option.field.replace("[]", ".0").split(".") if option.field else []
        parts = tuple(int(part) if part == "0" else part for part in ("spec", *path))
        assert not path or parts[-1] in fields_at(FineTuneJob, parts[:-1]), option
    names = [folded(name) for option in options for name in option.names]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


def test_no_name_of_ours_is_taken_for_others() -> None:
    """A field of the training is not answered as if it were another trainer's, where it stands in its place."""
    ours = {folded(info.alias or name) for name, info in Training.model_fields.items()}
    assert not ours & {folded(name) for group in OPTIONS.values() for option in group for name in option.names}


LLAMA_FACTORYS_ZERO_3: dict[str, Any] = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16},
    "bf16": {"enabled": "auto"},
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": False,
        "sub_group_size": 1e9,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_max_live_parameters": 1e9,
        "stage3_max_reuse_distance": 1e9,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}
"""As its ds_z3_config.json is."""


def test_a_configuration_of_deepspeed_as_others_have_it() -> None:
    """Of a DeepSpeed configuration that is pasted in, what must go is named with the reason, and nothing else."""
    given = {"spec.training.deepspeed": {"zeroStage": 3, "config": LLAMA_FACTORYS_ZERO_3}}
    told = {
        problem.field.removeprefix("spec.training.deepspeed.config."): problem.message
        for problem in problems_of(job_text(given))
    }
    assert all("left out" in said or "leave it out: " in said for said in told.values()), told
    assert told["zero_optimization.stage"].endswith("Tunesmith sets it by `training.deepspeed.zeroStage`")
    assert told["zero_optimization.reduce_bucket_size"].startswith("must be left out instead of 'auto'")
    taken = {"overlap_comm", "sub_group_size", "stage3_max_live_parameters", "stage3_max_reuse_distance"}
    assert told.keys() == {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "zero_allow_untested_optimizer",
        "bf16",
        "fp16.enabled",
        "fp16.loss_scale",
        *(f"zero_optimization.{name}" for name in LLAMA_FACTORYS_ZERO_3["zero_optimization"].keys() - taken),
    }


def test_whole_numbers_that_are_written_with_an_exponent() -> None:
    """`1e9` is a whole number, as it is to kubectl; what is no whole number is refused as before."""
    buckets = {"sub_group_size": 1e9, "reduce_bucket_size": 5.0}
    given = {"zeroStage": 3, "config": {"zero_optimization": buckets}}
    config = parse_job(job_text({"spec.training.deepspeed": given})).spec.training.deepspeed.config
    assert config is not None
    assert config.zero_optimization is not None
    assert repr(config.zero_optimization.sub_group_size) == "1000000000"
    assert repr(config.zero_optimization.reduce_bucket_size) == "5"


@pytest.mark.parametrize("value", [".nan", "!!binary aGk=", "!!set {a: }", r'"\ud800"'])
def test_inline_row_that_is_no_json(value: str) -> None:
    """YAML can say more than JSON; an API server would refuse it, or make something else of it."""
    text = job_text({DATASET: {"name": "faq", "inline": [{"instruction": "VALUE"}]}}).replace("VALUE", value)
    (problem,) = problems_of(text)
    assert problem.field == "spec.datasets[0].inline[0]"
    assert "what JSON can say" in problem.message


@pytest.mark.parametrize("value", ["5", "[1]", r'"\ud800"'])
def test_config_map_that_holds_no_texts(value: str) -> None:
    """A ConfigMap beside the job must hold texts, as on a cluster."""
    beside = f"---\nkind: ConfigMap\nmetadata: {{name: rows}}\ndata:\n  faq.json: {value}\n"
    with pytest.raises(InvalidJobError, match=r"data\.faq\.json of the ConfigMap rows"):
        parse_job_file(job_text() + beside)


def test_config_map_with_bytes() -> None:
    """What `kubectl create configmap` puts into `binaryData`, such as Parquet, is read as on a cluster."""
    beside = "---\nkind: ConfigMap\nmetadata: {name: rows}\ndata: {a.txt: é}\nbinaryData:\n"
    beside += "  b.parquet: |\n    UEFS\n    Mf8=\n"
    assert parse_job_file(job_text() + beside)[1] == {"rows": {"a.txt": "é".encode(), "b.parquet": b"PAR1\xff"}}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("b.parquet", "a_b=", "must be bytes in base 64"),
        ("b.parquet", "5", "must be bytes in base 64"),
        ("a.txt", "UEFS", "must not be in `data` as well"),
    ],
)
def test_config_map_with_bytes_that_are_none(key: str, value: str, words: str) -> None:
    """Bytes must be in base 64, and under a key of their own, as the API server wants them."""
    beside = f"---\nkind: ConfigMap\nmetadata: {{name: rows}}\ndata: {{a.txt: a}}\nbinaryData: {{{key}: {value}}}\n"
    with pytest.raises(InvalidJobError, match=rf"`binaryData.{key} of the ConfigMap rows` {words}"):
        parse_job_file(job_text() + beside)


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_bad_field(name: str) -> None:
    """A field that is wrong is named by its path, with what is allowed and, if it looks misspelt, what was meant."""
    changes, field, words = BAD_FIELDS[name]
    problems = problems_of(job_text(changes))
    found = [problem for problem in problems if problem.field == field]
    assert found, [str(problem) for problem in problems]
    assert words in found[0].message
    assert found[0].line > 0
    assert len(str(found[0])) < 600


def test_every_problem_is_told_at_once() -> None:
    """Someone who made three mistakes is told of three, in the order of the file."""
    changes = {"metadata.name": "X", f"{TRAINING}.seed": -1, "spec.ollama.modle": "bot", "spec.ollama.model": REMOVED}
    assert [problem.field for problem in problems_of(job_text(changes))] == [
        "metadata.name",
        "spec.training.seed",
        "spec.ollama.model",
        "spec.ollama.modle",
    ]


def test_problems_have_their_line() -> None:
    """The line is that of the field itself; of one that is missing, that of the object which lacks it."""
    text = job_text({f"{TRAINING}.seed": -1, f"{DATASET}.name": REMOVED})
    lines = text.splitlines()
    for problem in problems_of(text):
        wanted = "seed: -1" if problem.field.endswith("seed") else "- volume:"
        assert lines[problem.line - 1].strip() == wanted
    assert (
        str(problems_of(text)[-1])
        == f"line {lines.index('    seed: -1') + 1}: `spec.training.seed` must be 0 or more, got -1"
    )


def test_broken_items_do_not_also_make_a_list_too_short() -> None:
    """One mistake in the only dataset is one problem, not two."""
    assert len(problems_of(job_text({f"{DATASET}.name": "X"}))) == 1


REFUSED_VARIABLES = [
    # what makes a program load or run something
    "LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "PYTHONSTARTUP", "BASH_ENV", "NCCL_NET_PLUGIN",
    "NCCL_TUNER_PLUGIN", "NCCL_PROFILER_PLUGIN", "NCCL_CONF_FILE", "NCCL_CUDA_PATH", "FI_PROVIDER_PATH",
    "UCX_MODULE_DIR", "UCX_GDB_COMMAND", "RDMAV_DRIVERS", "IBV_DRIVERS", "OMP_TOOL_LIBRARIES", "CUDA_INJECTION64_PATH",
    "CUDA_HOME", "TORCH_EXTENSIONS_DIR", "TRITON_CACHE_DIR",
    # what makes it write or read a file
    "NCCL_DEBUG_FILE", "NCCL_TOPO_DUMP_FILE", "UCX_STATS_DEST", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE", "MLX5_DEBUG_FILE",
    "GLOO_DEVICE_TRANSPORT_TCP_TLS_PKEY", "GLOO_DEVICE_TRANSPORT_TCP_TLS_CERT",
    # what makes it send something somewhere
    "NCCL_COMM_ID", "NCCL_RAS_ADDR", "UCX_ERROR_MAIL_TO",
    # and what gives it what was not asked for
    "OMP_TOOL_VERBOSE_INIT", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "HF_ENDPOINT", "HF_TOKEN",
    "HTTPS_PROXY", "HOME", "nccl_debug", "NCCL_", "XNCCL_DEBUG", "NCCL_DEBUG\n",
]  # fmt: skip
TAKEN_VARIABLES = [
    "NCCL_DEBUG", "NCCL_IB_HCA", "NCCL_SOCKET_IFNAME", "NCCL_P2P_DIRECT_DISABLE", "NCCL_NET", "NCCL_NET_GDR_LEVEL",
    "NCCL_CROSS_NIC", "RCCL_MSCCL_ENABLE", "UCX_TLS", "UCX_NET_DEVICES", "FI_PROVIDER", "FI_EFA_USE_DEVICE_RDMA",
    "GLOO_SOCKET_IFNAME", "TORCH_NCCL_ASYNC_ERROR_HANDLING", "IBV_FORK_SAFE", "RDMAV_FORK_SAFE", "MLX5_SINGLE_THREADED",
    "OMP_NUM_THREADS", "KMP_AFFINITY", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_MAX_CONNECTIONS", "PYTORCH_CUDA_ALLOC_CONF",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_VARIABLES)
def test_no_variable_lets_a_user_run_code(name: str) -> None:
    """Whoever may write FineTuneJobs but no pods gets no code of their own into one by its environment."""
    problems = problems_of(job_text({"spec.pods": {"train": {"env": [{"name": name, "value": "/data/x.so"}]}}}))
    assert [problem.field for problem in problems] == ["spec.pods.train.env[0].name"]


@pytest.mark.parametrize("name", TAKEN_VARIABLES)
def test_variables_of_communication_are_passed(name: str) -> None:
    """What a GPU team sets for NCCL, RDMA, OpenMP and CUDA is taken as it is."""
    job = parse_job(job_text({"spec.pods": {"train": {"env": [{"name": name, "value": "1"}]}}}))
    assert [(item.name, item.value) for item in job.spec.pods.train.env] == [(name, "1")]


KEPT_KEYS = [
    "tunesmith.dev/job", "kubernetes.io/x", "k8s.io/x", "kueue.x-k8s.io/queue-name", "batch.kubernetes.io/job-name",
    "seccomp.security.alpha.kubernetes.io/pod", "pod-security.kubernetes.io/enforce",
]  # fmt: skip
FREE_LABELS = ["example.com/team", "notk8s.io/x", "kueue.x-k8s.io/podset-required-topology"]
CHOOSING_LABELS = ["app", "role", "aadpodidbinding"]
FREE_ANNOTATIONS = {
    "owner": "anybody",
    "k8s.v1.cni.cncf.io/networks": "rdma-a, rdma-b@net1",
    "sidecar.istio.io/inject": "false",
    "linkerd.io/inject": "disabled",
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "kueue.x-k8s.io/podset-required-topology": "rack",
}
INJECTING_ANNOTATIONS = {
    "sidecar.istio.io/inject": "true",
    "sidecar.istio.io/proxyImage": "example.com/any:1",
    "sidecar.istio.io/userVolume": '[{"name": "all", "hostPath": {"path": "/"}}]',
    "linkerd.io/inject": "enabled",
    "config.linkerd.io/proxy-image": "example.com/any",
    "vault.hashicorp.com/agent-inject-secret-x": "secret/others",
    "admission.datadoghq.com/python-lib.custom-image": "example.com/any:1",
    "instrumentation.opentelemetry.io/inject-python": "others/any",
    "iam.amazonaws.com/role": "admin",
    "io.katacontainers.config.hypervisor.path": "/volume/any",
    "io.kubernetes.cri-o.Devices": "/dev/mem",
    "k8s.v1.cni.cncf.io/networks": "other-namespace/net",
}


@pytest.mark.parametrize("field", ["labels", "annotations"])
@pytest.mark.parametrize("key", KEPT_KEYS)
def test_keys_that_others_rely_on_are_kept(key: str, field: str) -> None:
    """Labels and annotations of Kubernetes and of Tunesmith are not a user's, but for those that place a pod."""
    problems = problems_of(job_text({"spec.pods": {"default": {field: {key: "x"}}}}))
    assert [problem.field for problem in problems] == [f"spec.pods.default.{field}"]


@pytest.mark.parametrize("key", FREE_LABELS + CHOOSING_LABELS)
def test_no_label_brings_a_pod_into_the_services_of_others(key: str) -> None:
    """Services, NetworkPolicies and identities choose pods by plain labels, which only the administrator gives."""
    text = job_text({"spec.pods": {"train": {"labels": {key: "x"}}}})
    if key in FREE_LABELS:
        assert parse_job(text).spec.pods.train.labels == {key: "x"}
    else:
        assert [problem.field for problem in problems_of(text)] == ["spec.pods.train.labels"]


@pytest.mark.parametrize(("key", "value"), FREE_ANNOTATIONS.items())
def test_annotations_that_place_a_pod_are_passed(key: str, value: str) -> None:
    """What says where a pod runs, what keeps a service mesh away and plain notes are taken as they are."""
    job = parse_job(job_text({"spec.pods": {"train": {"annotations": {key: value}}}}))
    assert job.spec.pods.train.annotations == {key: value}


@pytest.mark.parametrize(("key", "value"), [*INJECTING_ANNOTATIONS.items(), ("k8s.v1.cni.cncf.io/networks", "[{}]")])
def test_no_annotation_brings_something_into_a_pod(key: str, value: str) -> None:
    """Whoever may write FineTuneJobs but no pods gets no image, volume, network or identity of their choice into one.

    Programs that many clusters have read such annotations.
    """
    problems = problems_of(job_text({"spec.pods": {"train": {"annotations": {key: value}}}}))
    assert [problem.field for problem in problems] == ["spec.pods.train.annotations"]


# --- from the API server ---------------------------------------------------------------------------------------------


def test_unknown_fields_of_the_api_server_are_passed_over() -> None:
    """A CRD that is newer than the operator does not stop its jobs: what is not known is left out, and told."""
    data = job_data(
        {
            f"{TRAINING}.sparkle": True,
            f"{DATASET}.flavour": {"of": 1},
            "spec.pods": {"train": {"env": [{"name": "NCCL_DEBUG", "optional": True}]}},
            "metadata.resourceVersion": "17",
            "status": {"whatever": 1},
        }
    )
    before = job_text()
    job, warnings = parse_object(data)
    assert warnings == ["spec.datasets[0].flavour", "spec.training.sparkle", "spec.pods.train.env[0].optional"]
    assert data["spec"]["training"]["sparkle"] is True, "what the caller has is not changed"
    assert job.spec.model_copy(update={"pods": Pods()}) == parse_job(before).spec


def test_a_known_object_has_no_warnings() -> None:
    """What the API server gives of a job that is all known comes without a word, whatever its status is."""
    job, warnings = parse_object(
        job_data({"status": {"conditions": "by hand"}, "metadata.uid": "1", "metadata.managedFields": []})
    )
    assert warnings == []
    assert job.metadata.name == "support-bot"


def test_invalid_objects_are_refused_with_their_fields() -> None:
    """Unknown fields hide no mistake; where there is no file, problems have no line."""
    data = job_data({f"{TRAINING}.packing": True, f"{TRAINING}.precision": "FP16", "spec.ollama.model": "a b"})
    with pytest.raises(InvalidJobError) as caught:
        parse_object(data)
    assert [(problem.field, problem.line) for problem in caught.value.problems] == [
        ("spec.training.precision", 0),
        ("spec.ollama.model", 0),
    ]
    assert str(caught.value).startswith("`spec.training.precision` must be BF16 or FP32")


@pytest.mark.parametrize("data", [{}, {"spec": None}, {"metadata": {}, "spec": []}, {"spec": {"datasets": [1]}}])
def test_an_object_without_sense_is_refused(data: dict[str, Any]) -> None:
    """Whatever an object holds, the answer is a job or an InvalidJobError."""
    with pytest.raises(InvalidJobError):
        parse_object(data)


# --- a file that is no job -------------------------------------------------------------------------------------------

GOOD = job_text()
BAD_FILES: dict[str, tuple[str, str, int]] = {
    "empty": ("", "the file is empty", 0),
    "only comments": ("# nothing\n---\n", "the file is empty", 0),
    "a list": ("- a\n- b\n", "the file must hold a FineTuneJob", 1),
    "a text": ("hello\n", "the file must hold a FineTuneJob", 1),
    "two jobs": (
        f"{GOOD}---\n{GOOD}",
        "the file must hold a FineTuneJob and nothing else, it holds 2",
        len(GOOD.splitlines()) + 2,
    ),
    "not YAML": ("spec: [1, 2\n", "not YAML: ", 2),
    "a bad indent": ("spec:\n  model: x\n training: y\n", "not YAML: ", 3),
    "a colon in a text": ("spec:\n  a: b: c\n", "not YAML: mapping values are not allowed here", 2),
    "a tab": ("spec:\n\tmodel: x\n", "not YAML: a line is indented with a tab; YAML takes blanks only", 2),
    "a control character": ("a: b\nc: \x07\n", "not YAML: the character '\\x07' is not allowed", 2),
    "a tag": ("spec: !!python/object/apply:os.system ['true']\n", "not YAML: could not determine a constructor", 1),
    "a number that is none": ("spec: 0x_\n", "not YAML: ", 0),
    "a key twice": ("kind: FineTuneJob\nspec: {a: 1, b: {}, a: 2}\n", "`spec.a` is there twice", 2),
    "a key twice at the top": (f"{GOOD}kind: FineTuneJob\n", "`kind` is there twice", len(GOOD.splitlines()) + 1),
    "an alias": (
        "spec:\n  model: &here {volume: {path: x}}\n  training: *here\n",
        "must be written out: YAML aliases are not taken",
        2,
    ),
    "aliases that grow without bound": (
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
        "YAML aliases are not taken",
        1,
    ),
    "an alias to itself": ("a: &a [*a]\n", "YAML aliases are not taken", 1),
    "a list as a key": ("? [a, b]\n: c\n", "must have names as keys", 1),
    "a key that is a truth": ("spec:\n  on: push\n", "`spec` must have names as keys, not on: put it in quotes", 2),
    "nested too deeply": ("a: " + "[\n" * 2_000, "the file is nested too deeply", 0),
    "too large": (f"{GOOD}# {'x' * MAX_BYTES}\n", "the file is larger than 1048576 bytes", 0),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name: str) -> None:
    """A file that holds no single plain FineTuneJob is refused in one sentence, with the line where there is one."""
    text, words, line = BAD_FILES[name]
    (problem,) = problems_of(text)
    assert words in str(problem)
    assert "\n" not in str(problem)
    assert problem.line == line


# --- good ones -------------------------------------------------------------------------------------------------------


def test_smallest_job() -> None:
    """What is not given has its documented default."""
    spec = parse_job(job_text({"spec.training": REMOVED})).spec
    training = spec.training
    assert training.finetuning_type is FinetuningType.LORA
    assert training.lora is None
    assert (training.learning_rate, training.lr_schedule) == ("0.0001", LrSchedule.COSINE)
    assert (training.global_batch_size, training.processes, training.deepspeed.zero_stage) == (8, 1, 2)
    assert spec.export.quantizations == ("Q4_K_M",)
    assert spec.datasets[0].format is DatasetFormat.AUTO
    assert spec.ollama.smoke_tests == ()


def test_a_number_of_another_method_that_is_null() -> None:
    """Null is as good as nothing, as it is to the API server, which takes it out before it checks."""
    given = {"spec.training": {"method": "KTO", "preference": {"sftWeight": None, "desirableWeight": "2"}}}
    preference = parse_job(job_text(given)).spec.training.preference
    assert preference is not None
    assert (preference.sft_weight, preference.desirable_weight) == (None, "2")


FULL = """\
# A comment, and a document that begins with its mark.
---
apiVersion: tunesmith.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: support-bot
  namespace: team-a
  labels: {app: bot}
  annotations: {note: "any"}
spec:
  model:
    volume: {path: models/my-base}
    chatTemplate:
      jinja: |
        {% for m in messages %}{{ m.content }}{% endfor %}
  datasets:
    - name: faq
      volume: {path: data/faq.json}
      format: Alpaca
      columns: {prompt: question, response: answer}
      maxSamples: 10_000
    - name: identity
      builtin: SelfCognition
      format: Auto
      languages: [zh]
      substitutions: {name: "20:30", author: 爱丽丝}
  training:
    finetuningType: Full
    learningRate: "1e-5"
    numTrainEpochs: "2"
    precision: FP16
    validation: {fraction: "0.1", evalSteps: 300}
    perDeviceTrainBatchSize: 4
    gradientAccumulationSteps: 8
    deepspeed: {zeroStage: 3}
    gpusPerNode: 4
  export: {outType: F16, quantizations: [Q4_0, Q8_0]}
  ollama:
    model: registry.local:5000/team/support-bot:v1
    parameters: {num_ctx: 4096, temperature: "0.7", stop: ["###"], seed: 1}
    smokeTests: [{prompt: "Who are you?", expect: Tunny}]
"""


def test_whole_job() -> None:
    """Every kind of value arrives as it was written."""
    job = parse_job(FULL)
    spec = job.spec
    assert (job.metadata.name, job.metadata.namespace) == ("support-bot", "team-a")
    assert spec.model.chat_template is not None
    assert spec.model.chat_template.jinja == "{% for m in messages %}{{ m.content }}{% endfor %}\n"
    faq, identity = spec.datasets
    assert faq.columns is not None
    assert (faq.columns.prompt, faq.columns.response, faq.max_samples) == ("question", "answer", 10_000)
    assert (identity.builtin, identity.languages) == (Builtin.SELF_COGNITION, (Language.ZH,))
    assert identity.substitutions == {"name": "20:30", "author": "爱丽丝"}
    assert spec.training.global_batch_size == 4 * 4 * 8
    assert spec.training.validation is not None
    assert spec.training.validation.fraction == "0.1"
    assert spec.export.quantizations == ("Q4_0", "Q8_0")
    assert spec.ollama.parameters.stop == ("###",)
    assert spec.ollama.parameters.temperature == "0.7"


def test_text_that_kubectl_reads_as_text() -> None:
    """What is a text to kubectl is a text here: dates and times of day are no numbers."""
    for text in ("2026-01-31", "12:30", "1:2"):
        job = parse_job(job_text().replace("model: support-bot:v1", "model: bot\n    system: " + text))
        assert job.spec.ollama.system == text


def test_number_that_kubectl_reads_as_number() -> None:
    """What is a number to kubectl is one here: an exponent without quotes is refused as it would be on a cluster."""
    (problem,) = problems_of(job_text().replace("gpusPerNode: 0", "gpusPerNode: 0\n    learningRate: 1e-5"))
    assert problem.message == 'must be a decimal in quotes: "1e-05"'


def test_names_in_python_are_no_names_in_yaml() -> None:
    """Only one spelling of each field is taken, so that two files that mean the same look the same."""
    data = job_data()
    assert "api_version" not in data
    (first, *_) = problems_of(job_text({"apiVersion": REMOVED, "api_version": "tunesmith.dev/v1alpha1"}))
    assert first.field in {"apiVersion", "api_version"}
