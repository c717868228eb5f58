"""Reasons: it goes on."""

from __future__ import annotations

from tunesmith_stages.reasons.retry import WAITS
from tunesmith_stages.reasons.row import Reason

GOING_ON = (
    Reason(
        ("Fetching", "Preparing", "Rehearsing", "Training", "Converting", "Quantizing", "Registering"),
        "The program of this stage runs. PROGRESS, LOSS and ETA are read from its log every ten seconds; where more "
        "than 200 programs run, twenty logs are read in a second: of 1,000 each every 50 s.",
        "",
        own_retry=WAITS,
    ),
    Reason(
        ("Fetched", "Prepared", "Rehearsed", "Trained", "Converted", "Quantized", "Registered"),
        "Never a STATUS: conditions that say that a stage is done, and events. Their reason is `Done`, `Cached` if "
        "the result was there before, or `NotNeeded`.",
        "",
        own_retry=WAITS,
    ),
    Reason(
        ("Pending",),
        "The stage comes next, or its pod is being made. If it lasts for a minute: `kubectl describe job` and "
        "`kubectl describe pod` of the job that `kubectl tunesmith status` names.",
        "",
        own_retry=WAITS,
    ),
    Reason(
        ("Succeeded",),
        "The model is served and proven.",
        "",
        own_retry=WAITS,
    ),
    Reason(
        ("DryRunSucceeded",),
        "With `dryRun`: all that can be proven before the training is proven.",
        "",
        own_retry=WAITS,
    ),
)
