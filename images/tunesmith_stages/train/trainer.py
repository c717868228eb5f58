"""transformers' Trainer with our own order of rows, evaluation, checkpoints and record."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainingArguments
from transformers.integrations.deepspeed import deepspeed_load_checkpoint

from tunesmith_stages.train import checkpoints
from tunesmith_stages.train.best import best_step, evaluations
from tunesmith_stages.train.checkpoints import Checkpoint
from tunesmith_stages.train.deepspeed_config import deepspeed_config, state_layout
from tunesmith_stages.train.ending import EvaluationLeft
from tunesmith_stages.train.gpu_memory import gpu_memory
from tunesmith_stages.train.head_loss import HeadLoss
from tunesmith_stages.train.kernels import is_flash, used_kernels
from tunesmith_stages.train.manifest import FileFacts
from tunesmith_stages.train.metrics import Recorder
from tunesmith_stages.train.order import MicroBatches, Split, eval_batches
from tunesmith_stages.train.packing_proof import prove_packing
from tunesmith_stages.train.preference_rows import AnyRows
from tunesmith_stages.train.rows import IGNORED, Row, flatten, pad
from tunesmith_stages.train.settings import Precision, Settings
from tunesmith_stages.train.standing import TellStanding

METRICS = "metrics.jsonl"
"""Name of the record inside a checkpoint."""

_AT_THE_END_ONLY = 10**9


def training_arguments(settings: Settings, folder: Path, *, evaluate: bool) -> TrainingArguments:
    """Return transformers' arguments for `settings`; `folder` is where checkpoints lie.

    Making them also tells transformers of DeepSpeed's configuration, so make them before the model.
    """
    optimization = settings.optimization
    return TrainingArguments(
        output_dir=str(folder),
        deepspeed=deepspeed_config(settings),
        use_cpu=settings.on_cpu,
        bf16=settings.precision is Precision.BF16,
        fp16=settings.precision is Precision.FP16,
        per_device_train_batch_size=settings.micro_batch_size,
        per_device_eval_batch_size=settings.eval_batch_size,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=optimization.learning_rate,
        lr_scheduler_type=optimization.schedule.name,
        warmup_steps=optimization.schedule.warmup,
        weight_decay=optimization.weight_decay,
        max_grad_norm=optimization.max_grad_norm,
        adam_beta1=optimization.betas[0],
        adam_beta2=optimization.betas[1],
        adam_epsilon=optimization.epsilon,
        neftune_noise_alpha=optimization.neftune_alpha,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        activation_checkpointing=settings.gradient_checkpointing,
        # ZeRO-3 gathers a layer's weights for each pass anew, which only the reentrant kind bears.
        activation_checkpointing_kwargs={"use_reentrant": settings.zero_stage == 3},
        seed=settings.seed,
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=settings.eval_steps or _AT_THE_END_ONLY,
        save_strategy="steps",
        save_steps=settings.save_steps or _AT_THE_END_ONLY,
        dataloader_pin_memory=not settings.on_cpu,
        dataloader_num_workers=settings.workers,
        ddp_timeout=settings.timeout,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )


def collate(rows: list[Row], *, packed: bool, flat: bool = False) -> dict[str, torch.Tensor]:
    """Make a batch of tensors: padded (:func:`pad`), or, of packed rows, a flat one (:func:`flatten`)."""
    batch = flatten(rows) if packed and flat else pad(rows, packed=packed)
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def token_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = 1) -> torch.Tensor:
    """Return the summed next-token cross entropy (nats) of a batch, divided by `num_items_in_batch`.

    The output layer may have summed it up already (:class:`HeadLoss`).
    With the number of labelled tokens of the whole step there, the sum over all passes and ranks is the mean over
    those tokens, however they are split up.
    """
    if outputs["logits"].dim() == 0:
        return outputs["logits"] / num_items_in_batch
    logits = outputs["logits"][:, :-1].float()
    targets = labels[:, 1:].to(logits.device)
    total = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / num_items_in_batch


@dataclass(frozen=True)
class Data:
    """Rows to train on and, if there are any, rows held out."""

    train: AnyRows
    validation: AnyRows | None


def raise_rate_of_b(optimizer: torch.optim.Optimizer, model: torch.nn.Module, ratio: float) -> None:
    """Give the matrices B of an adapter a learning rate that is `ratio` times as high, in groups of their own."""
    raised = {id(value) for name, value in model.named_parameters() if ".lora_B." in name}
    for group in list(optimizer.param_groups):
        high = [value for value in group["params"] if id(value) in raised]
        if high:
            group["params"] = [value for value in group["params"] if id(value) not in raised]
            others = {name: value for name, value in group.items() if name != "params"}
            optimizer.add_param_group({**others, "params": high, "lr": ratio * group["lr"]})


class _EpochLoader(DataLoader):
    """A loader that passes the number of the epoch on to its batches, as Trainer expects."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class FineTuner(Trainer):
    """Trains on prepared rows; see the modules that it puts together for how."""

    def __init__(
        self, model: Any, arguments: TrainingArguments, settings: Settings, data: Data, recorder: Recorder, attempt: str
    ) -> None:
        super().__init__(
            model=model,
            args=arguments,
            data_collator=partial(collate, packed=data.train.packed, flat=is_flash(model)),
            train_dataset=data.train,
            eval_dataset=data.validation,
            compute_loss_func=token_loss,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(TellStanding(recorder))
        self.control: TrainerControl
        self._settings = settings
        self._recorder = recorder
        self._attempt = attempt
        self._head_loss = HeadLoss(model)
        self._facts: dict[str, Any] = {
            "worldSize": self.args.world_size,
            "zeroStage": settings.zero_stage,
            "layout": state_layout(settings),
        }

    def run(self, checkpoint: Checkpoint | None, tools: Mapping[str, str]) -> None:
        """Train to the end, from `checkpoint` on if there is one."""
        self._facts["tools"] = dict(tools)
        if self.args.process_index == 0:
            step = checkpoint.step if checkpoint else 0
            self._recorder.begin(step, checkpoint.folder / METRICS if checkpoint else None)
        self.train(resume_from_checkpoint=str(checkpoint.folder) if checkpoint else None)

    def prove_packing(self) -> None:
        """Prove that packed rows are trained on as their samples would be; every rank must call this.

        Raises:
            StageError: they are not.
        """
        model = self.model_wrapped
        attention = str(getattr(self.model.config, "_attn_implementation", "unknown"))

        def forward(batch: dict[str, torch.Tensor]) -> Any:
            return model(**self._prepare_inputs(batch))["logits"]

        model.eval()
        prove_packing(forward, self.train_dataset, self._settings.precision, attention)
        model.train()

    def take_loss_in_head(self) -> None:
        """Have the output layer give the loss from now on, if it can; every rank must call this."""
        model = self.model_wrapped
        model.eval()
        self._head_loss.use_if_possible(lambda ids: model(input_ids=ids)["logits"], self.args.device)
        model.train()

    @property
    def kernels(self) -> list[str]:
        """What the model computes with, for people."""
        return [*used_kernels(self.model), *(["loss in the output layer"] if self._head_loss.used else [])]

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss of a pass, with the factors that Trainer gives it."""
        with self._head_loss.taken_on(inputs["labels"]):
            return super().compute_loss(model, inputs, *args, **kwargs)

    def go_back(self, checkpoint: Checkpoint) -> None:
        """Take the weights of an earlier step; every rank must call this."""
        deepspeed_load_checkpoint(
            self.model_wrapped, str(checkpoint.folder), load_module_strict=self._settings.lora is None
        )

    @property
    def recorded(self) -> dict[str, float]:
        """The last value of every figure (rank 0)."""
        return dict(self._recorder.latest)

    def get_train_dataloader(self) -> DataLoader:
        """Return this rank's batches of an epoch."""
        split = Split(self.args.world_size, self._settings.micro_batch_size, self._settings.accumulation)
        batches = MicroBatches(len(self.train_dataset), split, self.args.process_index, self._settings.seed)
        return _EpochLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=self.args.dataloader_num_workers > 0,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW, with the learning rates of LoRA+ if they are asked for; Trainer asks twice for the same one."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made and (ratio := self._settings.optimization.plus_ratio) is not None:
            raise_rate_of_b(optimizer, self.model, ratio)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule of the learning rate, now that the number of steps is known."""
        self.args.lr_scheduler_kwargs = self._settings.optimization.schedule.options_for(num_training_steps)
        wrapped = getattr(self.optimizer, "optimizer", None)
        if wrapped is not None and not hasattr(wrapped, "defaults"):  # ZeRO's has none, and Polynomial reads the rate
            wrapped.defaults = {"lr": self.args.learning_rate}
        return super().create_scheduler(num_training_steps, optimizer)

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        """Log, evaluate and save as often as is asked for now, not as was when the checkpoint was saved."""
        begun: tuple[int, int] = super()._init_training_state(max_steps, *args)
        self.state.compute_steps(self.args, max_steps)
        return begun

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        at_the_end = self.state.global_step >= self.state.max_steps
        if at_the_end or self.control.should_training_stop:  # gone on from the last step: Trainer would do one more
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Return what the held-out rows come to, the same for any number of ranks; nothing, if it was left."""
        self.model_wrapped.eval()
        try:
            metrics = self._measure_held_out()
        except EvaluationLeft:
            return {}
        self.model_wrapped.train()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def catch_up(self) -> None:
        """Evaluate, if the checkpoint gone on from lacks the evaluation of its step; every rank must call this.

        It was saved by ranks that were asked to end then.
        """
        step, state = self.state.global_step, self.state
        due = step > 0 and (step % state.eval_steps == 0 or step >= state.max_steps)
        if due and all(measured != step for measured, _ in evaluations(state)):
            self.evaluate()

    def _measure_held_out(self) -> dict[str, float]:
        """Return the mean loss over every labelled token of the held-out rows."""
        ranks, rank = self.args.world_size, self.args.process_index
        rows = self.eval_dataset
        sums = torch.zeros(2, dtype=torch.float64)
        batches = eval_batches(len(rows), ranks, self.args.per_device_eval_batch_size, rank)
        for indices in self._counted(batches, "evaluating"):
            taken = [rows[index] for index in indices]
            batch = self._prepare_inputs(collate(taken, packed=rows.packed, flat=is_flash(self.model)))
            labels = batch.pop("labels")
            with torch.no_grad(), self._head_loss.taken_on(labels):
                sums[0] += token_loss(self.model_wrapped(**batch), labels).double().cpu()
            sums[1] += (labels[:, 1:] != IGNORED).sum().cpu()
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        sums = sums.to(self.args.device)
        dist.all_reduce(sums)
        return {"eval_loss": float(sums[0] / sums[1])}

    def _counted(self, batches: Sequence[list[int]], doing: str) -> Iterator[list[int]]:
        """Yield batches, and tell between them how many are done (rank 0)."""
        for done, batch in enumerate(batches):
            if self.args.process_index == 0:
                words = f"{doing}: {done:,} of {len(batches):,} batches"
                self._recorder.reached(self.state.global_step, self.state.max_steps, words)
            yield batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record what Trainer logs; every rank does at the same time."""
        super().log(logs, start_time)
        if "loss" in logs or "eval_loss" in logs:
            logs = {**logs, **gpu_memory(self.args.device)}
        if self.args.process_index == 0:
            self._recorder.record(self.state.global_step, self.state.max_steps, self.state.epoch or 0.0, logs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002 - Trainer's signature
        """Write a checkpoint with every rank; it counts once rank 0 has published it."""
        began = time.monotonic()
        rank, step = self.args.process_index, self.state.global_step
        folder = Path(self.args.output_dir)
        staged = checkpoints.staging(folder, step, self._attempt)
        staged.mkdir(parents=True, exist_ok=True)
        self._save_optimizer_and_scheduler(str(staged))
        self._save_rng_state(str(staged))
        if rank == 0:
            self.state.save_to_json(str(staged / "trainer_state.json"))
            shutil.copyfile(self._recorder.file, staged / METRICS)
            self._save_more(staged)
        files = self._files_of_all(checkpoints.sync_own_files(staged, rank))
        if rank == 0:
            checkpoints.complete(staged, step, files, self._facts)
            best = best_step(evaluations(self.state)) if self._settings.keep_best else None
            checkpoints.prune(folder, step, self._settings.keep, best)
            self._recorder.saved(step, self.state.max_steps, time.monotonic() - began)

    def _save_more(self, staged: Path) -> None:
        """Write into a checkpoint what else a training goes on from (rank 0); supervised fine-tuning has nothing."""

    def _files_of_all(self, own: Mapping[str, FileFacts]) -> dict[str, FileFacts]:
        """Return the files that all ranks have written, once all have; every rank must call this."""
        files: list[dict[str, FileFacts]] = [{}] * self.args.world_size
        dist.all_gather_object(files, dict(own))
        return {name: known for part in files for name, known in part.items()}


class ProveFirst(TrainerCallback):
    """Has the packing proven when the model is ready, before the first step."""

    def __init__(self, trainer: FineTuner) -> None:
        self._trainer = trainer

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Prove it; every rank does at the same time."""
        self._trainer.prove_packing()


class EvaluateFirst(TrainerCallback):
    """Has the evaluation made up for that was left out when the training was interrupted, before the next step."""

    def __init__(self, trainer: FineTuner) -> None:
        self._trainer = trainer

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Evaluate; every rank does at the same time."""
        self._trainer.catch_up()


class LossInHead(TrainerCallback):
    """Has the loss taken in the output layer when the model is ready, and tells what the model computes with."""

    def __init__(self, trainer: FineTuner, tell: Callable[[str], None]) -> None:
        self._trainer = trainer
        self._tell = tell

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Try it; every rank does at the same time."""
        self._trainer.take_loss_in_head()
        self._tell(f"computing with {', '.join(self._trainer.kernels)}")
