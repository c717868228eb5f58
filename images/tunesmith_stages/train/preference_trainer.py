"""The trainer of the methods that learn from preferences: DPO, ORPO and KTO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainingArguments

from tunesmith_stages.train import base_answers
from tunesmith_stages.train.base_answers import Tables, ask_base, used_rows
from tunesmith_stages.train.checkpoints import Checkpoint
from tunesmith_stages.train.log_probabilities import Answers, answers_in
from tunesmith_stages.train.methods import Method, Preference
from tunesmith_stages.train.metrics import Recorder
from tunesmith_stages.train.order import eval_batches
from tunesmith_stages.train.preference_losses import (
    LABEL_FIGURES,
    PAIR_FIGURES,
    Measured,
    drift_of,
    label_losses,
    pair_losses,
)
from tunesmith_stages.train.preference_rows import MISMATCHED, Batch, collate_judged, collate_pairs
from tunesmith_stages.train.settings import Settings
from tunesmith_stages.train.trainer import Data, FineTuner


class PreferenceTuner(FineTuner):
    """Trains on what people prefer: see the modules that it puts together."""

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        settings: Settings,
        data: Data,
        recorder: Recorder,
        attempt: str,
        preference: Preference,
    ) -> None:
        super().__init__(model, arguments, settings, data, recorder, attempt)
        self._preference = preference
        self._judges = preference.method is Method.KTO
        self.data_collator = collate_judged if self._judges else collate_pairs
        self._names = LABEL_FIGURES if self._judges else PAIR_FIGURES
        self._figures = self._nothing()
        self._drift = 0.0
        self._tables: Tables = {}

    def run(self, checkpoint: Checkpoint | None, tools: Mapping[str, str]) -> None:
        """Train to the end, from `checkpoint` on if there is one."""
        if checkpoint is not None and self._preference.has_reference:
            self._tables = base_answers.read(checkpoint.folder, self.args.device)
        super().run(checkpoint, tools)

    # --- what the base says ------------------------------------------------------------------------------------------

    def ask_base(self, check: Callable[[], None], tell: Callable[[str], None]) -> None:
        """Find out how likely the base holds every answer, unless a checkpoint told; every rank must call this.

        Args:
            check: see :func:`base_answers.ask_base`.
            tell: is told what is done.
        """
        if self._tables or not self._preference.has_reference:
            return
        train, held_out = self.train_dataset, self.eval_dataset
        settings = self._settings
        used = {"train": used_rows(len(train), self.state.max_steps, settings.global_batch_size, settings.seed)}
        if held_out is not None:
            used["validation"] = np.arange(len(held_out))
        tell(f"asking the base how likely it holds the answers of {sum(map(len, used.values())):,} rows")
        self.model_wrapped.eval()
        for name, rows, words in (("train", train, "rows to train on"), ("validation", held_out, "held-out rows")):
            if name in used:
                micro, device = settings.eval_batch_size, self.args.device
                counted = partial(self._counted, doing=f"asked the base about the {words}")
                self._tables[name] = ask_base(
                    rows, used[name], micro, self.data_collator, self._log_probabilities, check, counted, device
                )
        self.model_wrapped.train()

    def _log_probabilities(self, batch: Batch) -> torch.Tensor:
        """Return what a row of :data:`base_answers.Tables` holds, for each of a batch."""
        batch = self._prepare_inputs(batch)
        rows = len(batch["rows"])
        sums = self._answers(batch).sums
        second = self._answers(batch, MISMATCHED).sums[:rows] if self._judges else sums[rows : 2 * rows]
        return torch.stack([sums[:rows], second], dim=1)

    def _save_more(self, staged: Path) -> None:
        if self._tables:
            base_answers.write(staged, self._tables)

    # --- losses ------------------------------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """Return the batches of a step, and the rows of the step on all ranks together."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = torch.tensor(sum(len(batch["rows"]) for batch in batches), device=device)
        dist.all_reduce(rows)
        if self._judges:
            self.model_wrapped.eval()
            self._drift = self._find_drift(map(self._prepare_inputs, batches), "train")
        return batches, rows

    def compute_loss(
        self,
        model: Any,  # noqa: ARG002 - Trainer's signature; it is the wrapped model
        inputs: Batch,
        return_outputs: bool = False,  # noqa: ARG002 - Trainer's own loop never asks for them
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return this rank's part of the mean loss over the rows of a step.

        DeepSpeed takes the mean of the ranks' gradients, where their sum is meant: hence the factor.
        """
        measured = self._measure(inputs, "train", self._drift)
        self._figures += measured.figures
        return measured.loss / num_items_in_batch * self.args.world_size

    def _measure(self, batch: Batch, name: str, drift: float) -> Measured:
        """Take a batch of the rows called `name` through the model."""
        indices, answers = batch["rows"], self._answers(batch)
        rows = len(indices)
        known = self._tables[name][indices] if self._preference.has_reference else None
        if self._judges and known is not None:
            own = answers.part(slice(rows))
            measured = label_losses(self._preference, own, batch["desirable"], known[:, 0], drift)
        else:
            chosen, rejected = answers.part(slice(rows)), answers.part(slice(rows, 2 * rows))
            measured = pair_losses(self._preference, chosen, rejected, known)
        # A rank that has nothing left of a step's rows takes part in the backward pass all the same.
        return measured._replace(loss=measured.loss + 0 * answers.sums.sum())

    def _answers(self, batch: Batch, names: str = "") -> Answers:
        """Take the rows whose names begin so through the model."""
        given = {name: batch[names + name] for name in ("input_ids", "attention_mask")}
        return answers_in(self.model_wrapped(**given)["logits"], batch[names + "labels"])

    def _find_drift(self, batches: Iterator[Batch] | Sequence[Batch], name: str) -> float:
        """Return KTO's z0 over the rows of all ranks."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in batches:
            rows = batch["rows"]
            with torch.no_grad():
                answers = self._answers(batch, MISMATCHED)
            sums[0] += (answers.sums[: len(rows)] - self._tables[name][rows, 1]).double().sum()
            sums[1] += len(rows)
        dist.all_reduce(sums)
        return drift_of(*sums.tolist())

    def _measure_held_out(self) -> dict[str, float]:
        """Return the mean loss over the held-out rows, and the figures, the same for any number of ranks."""
        drift = 0.0
        if self._judges:
            drift = self._find_drift(self._held_out("evaluating the reference point"), "validation")
        loss, figures = torch.zeros(2, dtype=torch.float64), self._nothing()
        for batch in self._held_out("evaluating"):
            with torch.no_grad():
                measured = self._measure(batch, "validation", drift)
            loss += torch.tensor([float(measured.loss), len(batch["rows"])], dtype=torch.float64)
            figures += measured.figures
        loss = loss.to(self.args.device)
        dist.all_reduce(loss)
        return {"eval_loss": float(loss[0] / loss[1]), **self._named(figures, "eval_")}

    def _held_out(self, doing: str) -> Iterator[Batch]:
        """Yield this rank's batches of the held-out rows, and tell how many are done; after each all may leave."""
        ranks, rank, micro = self.args.world_size, self.args.process_index, self.args.per_device_eval_batch_size
        for indices in self._counted(eval_batches(len(self.eval_dataset), ranks, micro, rank), doing):
            yield self._prepare_inputs(self.data_collator([self.eval_dataset[index] for index in indices]))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    # --- figures -----------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record what Trainer logs, and the figures of all steps since the last time."""
        if "loss" in logs:
            logs = {**logs, **self._named(self._figures)}
            self._figures = self._nothing()
        super().log(logs, start_time)

    def _nothing(self) -> torch.Tensor:
        return torch.zeros((len(PAIR_FIGURES), 2), dtype=torch.float64, device=self.args.device)

    def _named(self, figures: torch.Tensor, prefix: str = "") -> dict[str, float]:
        """Return the means over the rows of all ranks, of figures that any row is in; every rank must call this."""
        everywhere = figures.clone()
        dist.all_reduce(everywhere)
        pairs = zip(self._names, everywhere.tolist(), strict=True)
        return {prefix + name: total / rows for name, (total, rows) in pairs if rows}


class AskBaseFirst(TrainerCallback):
    """Has the base asked when the model is ready, before the first step."""

    def __init__(self, trainer: PreferenceTuner, check: Callable[[], None], tell: Callable[[str], None]) -> None:
        self._trainer = trainer
        self._check = check
        self._tell = tell

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Ask it; every rank does at the same time."""
        self._trainer.ask_base(self._check, self._tell)
