"""Draws the losses of a training, for people."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure  # without pyplot: no display, no global state

from tunesmith_stages.train.metrics import REWARDS, read_metrics


def draw_losses(metrics: Path, picture: Path) -> None:
    """Draw training and held-out loss over steps from ``metrics.jsonl`` into a PNG; without a loss there is none."""
    events = [event for event in read_metrics(metrics) if "loss" in event or "evalLoss" in event]
    if not events:
        return
    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    prefers = any(name in event for event in events for name in REWARDS.values())
    axes = figure.add_subplot(xlabel="step", ylabel="loss" if prefers else "loss (nats per token)")
    for name, label in (("loss", "training"), ("evalLoss", "held-out rows")):
        points = [(event["step"], event[name]) for event in events if name in event]
        if points:
            steps, losses = zip(*points, strict=True)
            axes.plot(steps, losses, label=label, marker="o" if len(points) < 30 else None, markersize=3)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture)
