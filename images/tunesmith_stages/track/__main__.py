"""``python -m tunesmith_stages.track <Asked as JSON>``, started by `train` on node 0.

On stdout it writes a JSON object per line: ``{"note": ...}``, for people. On stdin it is told the end of the training:
``{"ended": "Well" | "Failed" | "Interrupted"}``.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

from tunesmith_stages.track.asked import SECRET_VARIABLES, TOKEN_VARIABLE, Asked, Ended, Tracker, TrackerType
from tunesmith_stages.track.following import Follower
from tunesmith_stages.track.relay import Relay
from tunesmith_stages.train.lifeline import die_with

_NICENESS = 10
"""What the training leaves of the processors is enough."""


class _Readable(Protocol):
    def fileno(self) -> int: ...
    def readline(self) -> bytes: ...


def main() -> None:
    """Follow a training to its end."""
    asked = Asked.from_json(sys.argv[1])
    die_with(asked.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C and SIGTERM are for the training, which tells its end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(_NICENESS)
    note = _notes()
    token = take_token(os.environ, asked.type)
    Relay(make_tracker(asked, token), Follower(asked.metrics), note).run(lambda wait: told_end(sys.stdin.buffer, wait))
    os._exit(0)  # the trackers' libraries would like to end things in their own way, which takes its time


def _notes() -> Callable[[str], None]:
    """Return what passes notes on; whatever else is printed from now on goes to the log."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request

    def note(text: str) -> None:
        text = one_line(text)
        if text:
            logging.getLogger(__name__).info("%s", text)
            print(json.dumps({"note": f"tracking: {text}"}, ensure_ascii=False), file=told, flush=True)

    return note


def one_line(text: str) -> str:
    """Return a text as one line that can do nothing to a terminal: part of it may be a server's."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def take_token(environ: dict[str, str] | os._Environ[str], type_: TrackerType) -> str:
    """Return the tracker's token, and take all of them out of the environment.

    What a pod is given goes before what people have in their own environment.
    """
    user, password = environ.get("MLFLOW_TRACKING_USERNAME", ""), environ.get("MLFLOW_TRACKING_PASSWORD", "")
    own = {
        TrackerType.MLFLOW: f"{user}:{password}" if user and password else environ.get("MLFLOW_TRACKING_TOKEN", ""),
        TrackerType.WEIGHTS_AND_BIASES: environ.get("WANDB_API_KEY", ""),
    }
    token = environ.get(TOKEN_VARIABLE, "") or own.get(type_, "")
    for name in SECRET_VARIABLES:
        environ.pop(name, None)
    return token.strip()


def make_tracker(asked: Asked, token: str) -> Tracker:
    """Return the run in the tracker that is asked for. Their libraries are imported here: one of them at most."""
    match asked.type:
        case TrackerType.TENSORBOARD:
            from tunesmith_stages.track.tensorboard import TensorBoardRun

            return TensorBoardRun(asked)
        case TrackerType.MLFLOW:
            from tunesmith_stages.track.mlflow import MlflowRun

            return MlflowRun(asked, token)
        case TrackerType.WEIGHTS_AND_BIASES:
            from tunesmith_stages.track.weights_biases import WeightsBiasesRun

            return WeightsBiasesRun(asked, token)


def told_end(stdin: _Readable, seconds: float) -> Ended | None:
    """Wait for word that the training has ended, so many seconds at most."""
    if not select.select([stdin], [], [], seconds)[0]:
        return None
    try:
        data: Mapping[str, object] = json.loads(stdin.readline())
        return Ended(str(data["ended"]))
    except (ValueError, KeyError, TypeError):  # whoever started this is gone
        return Ended.INTERRUPTED


if __name__ == "__main__":
    main()
