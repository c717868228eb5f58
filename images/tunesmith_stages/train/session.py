"""What every rank does, from joining the others to the proof of what was saved."""

from __future__ import annotations

import json
import math
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from transformers import set_seed

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError, Work
from tunesmith_stages.train import checkpoints
from tunesmith_stages.train.before import FILE as BEFORE
from tunesmith_stages.train.before import AskFirst, Questions
from tunesmith_stages.train.checkpoints import Checkpoint
from tunesmith_stages.train.ending import EndTogether
from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.metrics import Recorder
from tunesmith_stages.train.model import add_adapter, check_vocabulary, load_base
from tunesmith_stages.train.order import tokens_per_step
from tunesmith_stages.train.reference import read_probes, reference
from tunesmith_stages.train.rows import Rows
from tunesmith_stages.train.save import check_saved, gather, save_adapter, save_model
from tunesmith_stages.train.settings import Settings, read_settings
from tunesmith_stages.train.trainer import Data, FineTuner, ProveFirst, training_arguments

TOOLS = ("torch", "transformers", "accelerate", "deepspeed", "peft")


def run_rank(work: Work, exchange: Exchange) -> None:
    """Train as one rank among those that torchrun started; rank 0 leaves the outcome."""
    began = time.monotonic()
    settings = read_settings(work.params, work.runtime)
    _join(settings)
    leader = dist.get_rank() == 0
    data = _open_data(work.input("prepared"))
    probes = read_probes(work.input("prepared") / "probes.json")
    checkpoint = _choose_checkpoint(work, exchange)
    if leader:
        exchange.tell({"note": f"going on from step {checkpoint.step}" if checkpoint else "loading the base"})
    trainer = _make_trainer(work, settings, data, exchange)
    ending = EndTogether(exchange, int(os.environ["GROUP_RANK"]), trainer.args.device)  # torchrun's number of the node
    trainer.add_callback(ending)
    if data.train.packed:
        trainer.add_callback(ProveFirst(trainer))
    if asked := work.runtime.get("smokeTests"):
        questions = Questions(work.input("base"), work.input("prepared"), asked)
        trainer.add_callback(AskFirst(trainer, questions, work.logs / BEFORE))
    ending.check()
    loaded = time.monotonic()
    trainer.run(checkpoint, _tools())
    ending.check()
    trained = time.monotonic()
    figures = _figures(trainer, settings)
    if leader:
        exchange.tell({"note": "saving"})
    _save(work.out, trainer, probes, adapter=settings.lora is not None)
    if leader:
        figures |= {"loadSeconds": loaded - began, "trainSeconds": trained - loaded}
        figures["saveSeconds"] = time.monotonic() - trained
        exchange.leave_outcome(_outcome(settings, figures))
    dist.barrier()


def _join(settings: Settings) -> None:
    if not settings.on_cpu and torch.cuda.device_count() < settings.gpus:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`gpusPerNode` is {settings.gpus}, but this machine shows {torch.cuda.device_count()} GPUs",
            reason="GpuMissing",
            hint="Lower `gpusPerNode`, or set it to 0 to train on the CPU.",
        )
    # Where DeepSpeed finds a compiler it would build its shared-memory collectives (a minute), elsewhere it goes
    # without. It is told that it can build no operator: the same everywhere, and no compiler at run time.
    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed("gloo" if settings.on_cpu else "nccl")


def _open_data(folder: Path) -> Data:
    train = Rows(folder / "train.arrow")
    if not len(train):
        raise StageError(ExitCode.BAD_DATA, "the prepared data hold no row to train on", reason="NoRows")
    held_out = folder / "validation.arrow"
    validation = Rows(held_out) if held_out.exists() else None
    return Data(train, validation or None)


def _choose_checkpoint(work: Work, exchange: Exchange) -> Checkpoint | None:
    """Let rank 0 choose what all go on from: ranks that look for themselves could see different folders."""
    chosen: list[Checkpoint | None] = [None]
    if dist.get_rank() == 0:
        folder = work.volume.checkpoints(work.unit.key)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.clear_leftovers(folder)
        chosen[0], notes = checkpoints.newest(folder, dist.get_world_size())
        for note in notes:
            exchange.tell({"note": note})
    dist.broadcast_object_list(chosen)
    return chosen[0]


def _make_trainer(work: Work, settings: Settings, data: Data, exchange: Exchange) -> FineTuner:
    folder = work.volume.checkpoints(work.unit.key)
    arguments = training_arguments(settings, folder, evaluate=data.validation is not None)
    set_seed(settings.seed)
    model = load_base(work.input("base"), settings.precision)
    check_vocabulary(data.train.id_range(), model)
    if settings.lora is not None:
        model = add_adapter(model, settings.lora)
        if settings.gradient_checkpointing:
            model.enable_input_require_grads()
    recorder = Recorder(work.logs / "metrics.jsonl", exchange, _token_counter(data.train, settings))
    return FineTuner(model, arguments, settings, data, recorder, work.config.attempt)


def _token_counter(rows: Rows, settings: Settings) -> Any:
    """Return a function from a number of steps to the tokens that they take in, over all epochs up to there."""
    lengths = rows.lengths
    per_epoch = -(-len(rows) // settings.global_batch_size)

    def tokens_until(step: int) -> int:
        epochs, rest = divmod(step, per_epoch)
        begun = tokens_per_step(lengths, settings.global_batch_size, settings.seed, epochs)[:rest] if rest else [0]
        return int(epochs * lengths.sum() + sum(begun))

    return tokens_until


def _figures(trainer: FineTuner, settings: Settings) -> dict[str, float]:
    """Return what the training came to; every rank must call this.

    Raises:
        StageError: the last loss is not a number.
    """
    latest = [trainer.recorded if dist.get_rank() == 0 else {}]
    dist.broadcast_object_list(latest)
    loss = latest[0].get("loss", math.nan)
    if not math.isfinite(loss):
        raise StageError(
            ExitCode.GATE_FAILED,
            f"the loss was {loss} at the end of training",
            reason="LossNotFinite",
            hint=f"Lower the learning rate (now {settings.learning_rate:g}), or train in BF16 or FP32.",
        )
    shown = ("loss", "evalLoss", "tokensPerSecond")
    figures: dict[str, float] = {name: latest[0][name] for name in shown if name in latest[0]}
    return {**figures, "steps": trainer.state.global_step, "epochs": round(trainer.state.epoch or 0.0, 6)}


def _save(folder: Path, trainer: FineTuner, probes: list[list[int]], *, adapter: bool) -> None:
    engine, model = trainer.model_wrapped, trainer.model
    answers = reference(engine, probes, trainer.args.device)
    state = gather(engine, adapter=adapter)
    if dist.get_rank() == 0 and state is not None:
        save = save_adapter if adapter else save_model
        check_saved(folder, save(model, state, folder))
        (folder / "reference.json").write_text(json.dumps(answers) + "\n", encoding="utf-8")
    dist.barrier()


def _tools() -> dict[str, str]:
    return {name: version(name) for name in TOOLS}


def _outcome(settings: Settings, figures: dict[str, float]) -> dict[str, Any]:
    return {
        "outputs": {
            "finetuningType": "Full" if settings.lora is None else "LoRA",
            "steps": figures["steps"],
            "epochs": str(figures["epochs"]),
        },
        "numbers": {name: round(value, 6) for name, value in figures.items()},
        "tools": _tools(),
    }
