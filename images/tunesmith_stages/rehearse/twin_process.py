"""Makes the twin, in a fork of the stage, so that the memory that it takes is free again before the next step.

The base is loaded as `train` loads it, but onto no device: that takes no memory, and tells which weights transformers
misses. Then a small model of the same architecture gets random weights, with a random adapter where the job trains one,
takes one step of training, and is left as `train` leaves its result: the folders ``base`` and ``trained``. The task and
the outcome are JSON; see :class:`Task` and :class:`Outcome`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.convert.folder import TOKENIZER_FILES
from tunesmith_stages.program import StageError
from tunesmith_stages.rehearse.shrinking import by_all_names, fewer_layers, shrunk

REFUSED = 3
"""Exit code: the outcome is a failure of the contract."""
_SPREAD = 0.06
"""Standard deviation of the weights: so wide that the likeliest tokens differ, and a wrong export shows."""
_RANK = 4


@dataclass(frozen=True)
class Task:
    """What is to be made."""

    base: str
    folder: str
    """Where ``base`` and ``trained`` are made."""
    outcome: str
    """The file that the outcome is written to."""
    probes: list[list[int]]
    """Token ids of prompts whose next tokens go into ``reference.json``."""
    row: list[int]
    """Token ids of a row, from which it learns."""
    targets: list[str]
    """Modules that LoRA is to adapt; empty if all weights are trained."""
    variant: dict[str, bool]
    """Which LoRA it is: ``rslora`` and ``dora`` of :class:`tunesmith_stages.train.settings.Lora`."""
    checkpointing: bool
    largest: int
    """So many parameters the small model may have."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    missing: list[str]
    """Weights of the architecture that are not in the files."""
    unexpected: list[str]
    """Tensors of the files that the architecture does not have."""
    mismatched: list[list[Any]]
    """Name, shape in the files, shape in the architecture."""
    tied: bool
    """Whether the output layer is the embedding."""
    head: str
    """Name of the output layer's weight."""
    parameters: int = 0
    """Of the twin; 0 if none was made."""
    changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What of the configuration the twin has otherwise."""
    why_none: str = ""
    """Why no twin was made."""


def make(task: Task) -> Outcome:
    """Compare the base with its architecture, and make the twin if the base is whole."""
    import torch

    torch.manual_seed(1)
    outcome, config = _compared(Path(task.base))
    if outcome.missing or outcome.mismatched:
        return outcome
    base, trained = Path(task.folder) / "base", Path(task.folder) / "trained"
    base.mkdir(parents=True)
    trained.mkdir()
    _copy_tokenizer(Path(task.base), base)
    model, changes, why = _twin(task, base, config)
    if model is None:
        return dataclasses.replace(outcome, why_none=why)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model = _saved(model, task, base, trained, changes)
    _take_a_step(model, task)
    _refer(model, task.probes, trained)
    return dataclasses.replace(outcome, parameters=parameters, changes=changes)


def _compared(base: Path) -> tuple[Outcome, Any]:
    """Return what transformers finds missing in the base's files, and the base's configuration."""
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            base,
            device_map="meta",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except Exception as error:  # a configuration can be wrong in more ways than transformers has words for
        raise StageError(
            ExitCode.BAD_DATA,
            f"transformers cannot load the base: {_in_short(error)}",
            reason="BaseUnreadable",
            hint="Fetch the base again; if it is whole, choose one of an architecture that transformers knows.",
        ) from error
    head = model.get_output_embeddings()
    outcome = Outcome(
        missing=sorted(report["missing_keys"]),
        unexpected=sorted(report["unexpected_keys"]),
        mismatched=[[name, list(found), list(wanted)] for name, found, wanted in sorted(report["mismatched_keys"])],
        tied=bool(model.config.get_text_config().tie_word_embeddings),
        head=next((f"{name}.weight" for name, module in model.named_modules() if module is head), ""),
    )
    return outcome, model.config


# --- the twin --------------------------------------------------------------------------------------------------------


def _twin(task: Task, base: Path, config: Any) -> tuple[Any, dict[str, Any], str]:
    """Return a small model of the architecture with random weights, and what of its configuration differs.

    Some architectures cannot do with other sizes; they get fewer layers only. None if that is still too large, and why.
    """
    reasons = []
    for shrink in (shrunk, fewer_layers):
        changes = shrink(config.get_text_config().to_dict())
        _write_config(Path(task.base), base, changes)
        try:
            return _random(base, task.largest), changes, ""
        except Exception as error:  # noqa: BLE001 - whatever a model's code raises for sizes that it does not like
            logging.getLogger(__name__).info("%s does not work: %s", shrink.__name__, _in_short(error))
            reasons.append(_in_short(error))
    return None, {}, f"with smaller sizes {reasons[0]}; with fewer layers only {reasons[1]}"


def _write_config(source: Path, base: Path, changes: Mapping[str, Any]) -> None:
    """Write the base's own ``config.json`` with these changes, and nothing that names code of the model's own."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("auto_map", None)
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    text |= by_all_names(text, changes)
    (base / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _random(base: Path, largest: int) -> Any:
    """Return a model of the configuration in `base`, in float32 but with weights that bfloat16 can hold."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if size > largest:
        raise ValueError(f"it would have {size:,} parameters")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=_SPREAD)
    return model.to(torch.bfloat16).float()


def _saved(model: Any, task: Task, base: Path, trained: Path, changes: Mapping[str, Any]) -> Any:
    """Leave the model as `train` leaves its result; return it, with an adapter if the job trains one."""
    import torch

    whole = trained if not task.targets else base
    model.to(torch.bfloat16).save_pretrained(whole)
    if not task.targets:
        return model.float()
    _write_config(Path(task.base), base, changes)
    from tunesmith_stages.train.model import add_adapter
    from tunesmith_stages.train.save import save_adapter
    from tunesmith_stages.train.settings import Lora

    model = add_adapter(model, Lora(_RANK, 2 * _RANK, 0.0, tuple(task.targets), **task.variant))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_B" in name:  # PEFT begins with zeros
                parameter.normal_(std=_SPREAD)
    save_adapter(model, model.state_dict(), trained)
    return model.float()


def _take_a_step(model: Any, task: Task) -> None:
    """Let the model learn from one row.

    Raises:
        StageError: it cannot be trained in the way that the job asks for.
    """
    import torch

    ids = torch.tensor([task.row])
    model.train()
    try:
        if task.checkpointing:
            model.enable_input_require_grads()
            model.activation_checkpointing_enable()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
    except Exception as error:
        lacks = task.checkpointing and not model.supports_gradient_checkpointing
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"a small model of the base's architecture cannot be trained: {_in_short(error)}",
            reason="GradientCheckpointingUnsupported" if lacks else "ModelCannotBeTrained",
            hint="Set `training.gradientCheckpointing` to false." if lacks else "Choose another base model.",
        ) from error
    norms = [float(value.grad.norm()) for value in model.parameters() if value.grad is not None]
    if not norms or not all(map(math.isfinite, (*norms, float(loss.detach())))):
        raise StageError(
            ExitCode.BAD_CONFIG,
            "a small model of the base's architecture gets no finite gradients in a step of training",
            reason="ModelCannotBeTrained",
            hint="Choose another base model.",
        )
    model.zero_grad()
    if task.checkpointing:
        model.activation_checkpointing_disable()


def _refer(model: Any, probes: Sequence[Sequence[int]], trained: Path) -> None:
    """Write ``reference.json`` as `train` does."""
    import torch

    from tunesmith_stages.train.reference import reference

    text = json.dumps(reference(model, [list(probe) for probe in probes], torch.device("cpu")))
    (trained / "reference.json").write_text(text, encoding="utf-8")


def _copy_tokenizer(source: Path, base: Path) -> None:
    """Copy what the twin has of the base as it is: through a link transformers would write its own into the base."""
    for name in (*TOKENIZER_FILES, "tokenizer_config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, base / name)


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main(task_file: Path) -> int:
    """Read the task, make the twin, write the outcome; return the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s", force=True)
    task = Task(**json.loads(task_file.read_text(encoding="utf-8")))
    try:
        text, code = json.dumps(dataclasses.asdict(make(task))), 0
    except StageError as error:
        text, code = error.failure().to_json(), REFUSED
    Path(task.outcome).write_text(text, encoding="utf-8")
    return code
