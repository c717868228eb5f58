"""What every rank does, from joining the others to the proof of what was saved."""

from __future__ import annotations

import json
import math
import os
import time
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from transformers import set_seed

from tunesmith_stages.contract import ExitCode
from tunesmith_stages.program import StageError, Work
from tunesmith_stages.train import batch_split, checkpoints, choosing
from tunesmith_stages.train.before import FILE as BEFORE
from tunesmith_stages.train.before import AskFirst, Questions
from tunesmith_stages.train.best import SaveBest, StopEarly, best_step, evaluations
from tunesmith_stages.train.checkpoints import Checkpoint
from tunesmith_stages.train.deepspeed_config import state_layout
from tunesmith_stages.train.ending import EndTogether
from tunesmith_stages.train.exchange import Exchange
from tunesmith_stages.train.guards import Guards
from tunesmith_stages.train.heartbeat import Heartbeat
from tunesmith_stages.train.kernels import KERNELS, use_kernels
from tunesmith_stages.train.metrics import REWARDS, Recorder
from tunesmith_stages.train.model import (
    add_adapter,
    check_vocabulary,
    freeze_but_last,
    load_base,
    trains_embeddings,
)
from tunesmith_stages.train.order import tokens_per_step
from tunesmith_stages.train.preference_rows import AnyRows, open_rows, require_enough
from tunesmith_stages.train.preference_trainer import AskBaseFirst, PreferenceTuner
from tunesmith_stages.train.reference import read_probes, reference
from tunesmith_stages.train.save import check_saved, gather, save_adapter, save_model
from tunesmith_stages.train.settings import Settings, read_settings
from tunesmith_stages.train.trainer import Data, EvaluateFirst, FineTuner, LossInHead, ProveFirst, training_arguments

TOOLS = ("torch", "transformers", "accelerate", "deepspeed", "peft")


def run_rank(work: Work, exchange: Exchange) -> None:
    """Train as one rank among those that torchrun started; rank 0 leaves the outcome."""
    began = time.monotonic()
    settings = read_settings(work.params, work.runtime)
    _join(settings)
    settings = _share_out(settings, work)
    data = _open_data(work.input("prepared"), settings)
    _check_evaluations(settings, data)
    probes = read_probes(work.input("prepared") / "probes.json")
    checkpoint = _choose_checkpoint(work, settings, exchange)
    _tell(exchange, f"going on from step {checkpoint.step}" if checkpoint else "loading the base")
    trainer = _make_trainer(work, settings, data, exchange)
    ending = EndTogether(exchange, int(os.environ["GROUP_RANK"]), trainer.args.device)  # torchrun's number of the node
    trainer.add_callback(ending)
    heartbeat = Heartbeat(exchange)
    heartbeat.listen_to(trainer.model, dist.get_rank())
    trainer.add_callback(heartbeat)
    guards = Guards(settings.limits, settings.optimization.learning_rate)
    trainer.add_callback(guards)
    if settings.keep_best:
        trainer.add_callback(SaveBest())
    if settings.early_stopping is not None:
        trainer.add_callback(StopEarly(settings.early_stopping, lambda note: _tell(exchange, note)))
    _add_what_comes_first(trainer, work, data, ending, exchange)
    ending.check()
    loaded = time.monotonic()
    trainer.run(checkpoint, _tools())
    ending.check()
    trained = time.monotonic()
    figures = _figures(trainer, guards)
    step = _take_the_best(work, trainer, exchange) if settings.keep_best else trainer.state.global_step
    _tell(exchange, "saving")
    _save(work.out, trainer, probes, exchange, adapter=settings.lora is not None)
    if dist.get_rank() == 0:
        figures |= {"loadSeconds": loaded - began, "trainSeconds": trained - loaded}
        figures["saveSeconds"] = time.monotonic() - trained
        if settings.reduces:
            figures["microBatchSize"] = settings.micro_batch_size
        exchange.leave_outcome(_outcome(settings, figures, step, trainer.kernels))
    dist.barrier()


def _add_what_comes_first(trainer: FineTuner, work: Work, data: Data, ending: EndTogether, exchange: Exchange) -> None:
    """Add what is done with the model before the first step, in this order."""
    if isinstance(trainer, PreferenceTuner):
        trainer.add_callback(AskBaseFirst(trainer, ending.check, lambda note: _tell(exchange, note)))
        _tell(exchange, f"computing with {', '.join(trainer.kernels)}")
    else:
        trainer.add_callback(LossInHead(trainer, lambda note: _tell(exchange, note)))
    if data.train.packed:
        trainer.add_callback(ProveFirst(trainer))
    if asked := work.runtime.get("smokeTests"):
        questions = Questions(work.input("base"), work.input("prepared"), asked)
        trainer.add_callback(AskFirst(trainer, questions, work.logs / BEFORE))
    if data.validation is not None:
        trainer.add_callback(EvaluateFirst(trainer))  # last: the model must be as it is in every evaluation


def _join(settings: Settings) -> None:
    if not settings.on_cpu and torch.cuda.device_count() < settings.gpus:
        raise StageError(
            ExitCode.BAD_CONFIG,
            f"`gpusPerNode` is {settings.gpus}, but this machine shows {torch.cuda.device_count()} GPUs",
            reason="GpuMissing",
            hint="Lower `gpusPerNode`, or set it to 0 to train on the CPU.",
        )
    if not settings.on_cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # NCCL sends objects by way of the current one
    # Where DeepSpeed finds a compiler it would build its shared-memory collectives (a minute), elsewhere it goes
    # without. It is told that it can build no operator: the same everywhere, and no compiler at run time.
    deepspeed.ops.__compatible_ops__ = {}
    timeout = timedelta(seconds=settings.timeout)
    # The groups that DeepSpeed makes later, and does nearly everything in, have PyTorch's own: 10 minutes with NCCL.
    distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout
    deepspeed.init_distributed("gloo" if settings.on_cpu else "nccl", timeout=timeout)


def _share_out(settings: Settings, work: Work) -> Settings:
    """Return the settings with the batch split up as it is on all ranks: smaller, if memory ran out before."""
    found = [batch_split.read(work.volume.checkpoints(work.unit.key)) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    return settings if found[0] is None else found[0].apply(settings)


def _open_data(folder: Path, settings: Settings) -> Data:
    preference, held_out = settings.preference, folder / "validation.arrow"
    train = open_rows(folder / "train.arrow", preference)
    if not len(train):
        raise StageError(ExitCode.BAD_DATA, "the prepared data hold no row to train on", reason="NoRows")
    require_enough(train)
    validation = open_rows(held_out, preference) if held_out.exists() else None
    return Data(train, validation or None)


def _check_evaluations(settings: Settings, data: Data) -> None:
    """Check that what goes by evaluations has rows for them.

    Raises:
        StageError: it has none.
    """
    asked = {"keepBest": settings.keep_best, "earlyStopping": settings.early_stopping is not None}
    fields = [f"`validation.{name}`" for name, given in asked.items() if given]
    if fields and data.validation is None:
        raise StageError(
            ExitCode.BAD_DATA,
            f"{' and '.join(fields)} must have rows to measure the loss on, but none were held back",
            reason="NothingHeldOut",
            hint="Raise `validation.fraction`, add a dataset with `use: Validation`, or remove the field.",
        )


def _choose_checkpoint(work: Work, settings: Settings, exchange: Exchange) -> Checkpoint | None:
    """Return what to go on from; every rank must call this."""
    folder = work.volume.checkpoints(work.unit.key)
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.clear_leftovers(folder)
    chosen, notes = choosing.newest(folder, state_layout(settings))
    for note in notes:
        _tell(exchange, note)
    return chosen


def _make_trainer(work: Work, settings: Settings, data: Data, exchange: Exchange) -> FineTuner:
    folder = work.volume.checkpoints(work.unit.key)
    arguments = training_arguments(settings, folder, evaluate=data.validation is not None)
    set_seed(settings.seed)
    model = load_base(work.input("base"), settings.precision, quantized=settings.quantized)
    check_vocabulary(data.train.id_range(), model)
    use_kernels(model, settings)  # Liger's go into the layers themselves, so an adapter comes after
    if settings.lora is not None:
        model = add_adapter(model, settings.lora)
    if settings.trained_layers is not None:
        freeze_but_last(model, settings.trained_layers)
    # Below layers that are frozen only reentrant checkpoints need it (see `training_arguments`): gradients go through
    # all of them then.
    through_all = settings.trained_layers is None or settings.zero_stage == 3
    if settings.gradient_checkpointing and through_all and not trains_embeddings(model):
        model.enable_input_require_grads()
    recorder = Recorder(work.logs / "metrics.jsonl", exchange, _token_counter(data.train, settings))
    given = (model, arguments, settings, data, recorder, work.config.attempt)
    return FineTuner(*given) if settings.preference is None else PreferenceTuner(*given, settings.preference)


def _token_counter(rows: AnyRows, settings: Settings) -> Any:
    """Return a function from a number of steps to the tokens that they take in, over all epochs up to there."""
    lengths = rows.lengths
    per_epoch = -(-len(rows) // settings.global_batch_size)

    def tokens_until(step: int) -> int:
        epochs, rest = divmod(step, per_epoch)
        begun = tokens_per_step(lengths, settings.global_batch_size, settings.seed, epochs)[:rest] if rest else [0]
        return int(epochs * lengths.sum() + sum(begun))

    return tokens_until


def _tell(exchange: Exchange, note: str) -> None:
    if dist.get_rank() == 0:
        exchange.tell({"note": note})


def _take_the_best(work: Work, trainer: FineTuner, exchange: Exchange) -> int:
    """Go back to the checkpoint with the lowest loss on held-out rows; return its step.

    Raises:
        StageError: it is not there.
    """
    wanted = best_step(evaluations(trainer.state))
    last: int = trainer.state.global_step
    if wanted is None or wanted == last:
        return last
    found = choosing.of_step(work.volume.checkpoints(work.unit.key), wanted)
    if isinstance(found, str):
        raise StageError(
            ExitCode.GATE_FAILED,
            f"the loss on held-out rows was lowest at step {wanted}, but the checkpoint of that step is damaged: "
            f"{found}",
            reason="BestCheckpointLost",
            hint=f"Delete the folder {work.volume.checkpoints(work.unit.key)} to train again.",
        )
    _tell(exchange, f"going back to step {wanted}, where the loss on held-out rows was lowest")
    trainer.go_back(found)
    return wanted


def _figures(trainer: FineTuner, guards: Guards) -> dict[str, float]:
    """Return what the training came to; every rank must call this.

    Raises:
        StageError: the last loss is no number, or too high.
    """
    latest = [trainer.recorded if dist.get_rank() == 0 else {}]
    dist.broadcast_object_list(latest)
    loss = latest[0].get("loss", math.nan)
    if not math.isfinite(loss):
        raise guards.not_finite("loss", loss, trainer.state.global_step)
    guards.check_final(loss)
    shown = ("loss", "evalLoss", *REWARDS.values(), "tokensPerSecond", "peakGpuMemory")
    figures: dict[str, float] = {name: latest[0][name] for name in shown if name in latest[0]}
    return {**figures, "steps": trainer.state.global_step, "epochs": round(trainer.state.epoch or 0.0, 6)}


def _save(folder: Path, trainer: FineTuner, probes: list[list[int]], exchange: Exchange, *, adapter: bool) -> None:
    engine, model = trainer.model_wrapped, trainer.model
    answers = reference(engine, probes, trainer.args.device)
    state = gather(engine, adapter=adapter)
    if dist.get_rank() == 0 and state is not None:
        exchange.beat()  # each of these may take minutes
        shapes = (save_adapter if adapter else save_model)(model, state, folder)
        exchange.beat()
        check_saved(folder, shapes)
        (folder / "reference.json").write_text(json.dumps(answers) + "\n", encoding="utf-8")
    dist.barrier()


def _tools() -> dict[str, str]:
    return {name: version(name) for name in TOOLS}


def _outcome(settings: Settings, figures: dict[str, float], step: int, kernels: list[str]) -> dict[str, Any]:
    return {
        "outputs": {
            "finetuningType": "Full" if settings.lora is None else "LoRA",
            "steps": figures["steps"],
            "epochs": str(figures["epochs"]),
            "kernels": kernels,
            **({"bestStep": step} if settings.keep_best else {}),
        },
        "numbers": {name: round(value, 6) for name, value in figures.items()},
        "tools": _tools() | {tool: version(tool) for kernel, tool in KERNELS.items() if kernel in kernels},
    }
