"""The run on a W&B server; where there is none that answers, as a folder on the volume that ``wandb sync`` takes.

W&B's own library does the work: what it sends is not documented, and it keeps a copy of everything in the folder.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2

from tunesmith_stages.track.asked import Asked, Ended, Event, TrackerDownError, TrackerRefusesError
from tunesmith_stages.track.mlflow import TIMEOUT, why
from tunesmith_stages.track.run_record import RunRecord

log = logging.getLogger(__name__)

_INIT_SECONDS = 30.0
_FLUSH_SECONDS = 1.0
_FINISH_SECONDS = 20.0
"""How long what is still held back may take at the end; `train` waits a little longer than that."""


class WeightsBiasesRun:
    """A training's run: online if its server takes it when the run begins, else offline until the end."""

    def __init__(self, asked: Asked, token: str) -> None:
        self._asked = asked
        self._token = token
        self._record = RunRecord.of(asked)
        self._run: Any = None
        self._offline = ""  # why
        self._last = -1

    def open(self) -> str:
        """See :class:`.asked.Tracker`."""
        keep_to_itself(os.environ)
        if not self._record.id:
            self._record = self._record.begun()
        self._offline = self._trouble()
        if not self._offline:
            try:
                self._run = self._begin("online")
            except Exception as error:  # noqa: BLE001 - whatever it is, the folder remains
                self._offline = f"W&B at {self._asked.url} does not take the run ({why(error)})"
        if self._offline:
            return self._open_offline()
        self._last = int(self._run.starting_step) - 1
        return f"W&B: {self._run.url}"

    def _open_offline(self) -> str:
        from tunesmith_stages.track.wandb_file import last_step

        self._last = last_step(self._asked.folder / "wandb", self._record.id)
        try:
            self._run = self._begin("offline")
        except Exception as error:
            raise TrackerDownError(f"W&B's folder cannot be written ({why(error)})") from error
        return f"{self._offline}; the run is kept on the volume: wandb sync {self._folder}"

    @property
    def _folder(self) -> Path:
        return Path(self._run.dir).parent  # `dir` is the folder of the run's files, in the run's own

    def _trouble(self) -> str:
        """Return why the server does not take the run; empty if it does, as far as can be seen."""
        if not self._asked.url:
            return "no W&B server is set up"
        if not self._token:
            return f"there is no token for W&B at {self._asked.url}"
        question = {"query": "query { viewer { id } }"}
        try:
            answer = httpx2.post(
                f"{self._asked.url.rstrip('/')}/graphql", json=question, auth=("api", self._token), timeout=TIMEOUT
            )
            known = answer.json()["data"]["viewer"] if answer.is_success else None
        except (httpx2.HTTPError, OSError) as error:
            return f"W&B at {self._asked.url} does not answer ({why(error)})"
        except (ValueError, KeyError, TypeError):
            return f"what answers at {self._asked.url} is not W&B"
        if answer.status_code in {401, 403} or (answer.is_success and known is None):
            return f"W&B at {self._asked.url} refuses the token of `training.tracking.tokenSecretRef`"
        return "" if answer.is_success else f"W&B at {self._asked.url} answers with {answer.status_code}"

    def _begin(self, mode: str) -> Any:
        import wandb

        team, _, project = self._asked.project.rpartition("/")
        self._asked.folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            mode=mode,
            api_key=self._token or None,
            **({"base_url": self._asked.url} if self._asked.url else {}),
            entity=team or None,
            project=project,
            run_id=self._record.id,
            run_name=self._asked.name,
            resume="allow",
            root_dir=str(self._asked.folder),
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=_FLUSH_SECONDS,
            # Only what is handed over is sent: no output, code, packages, Git, or figures of the machine.
            console="off",
            silent=True,
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        config = {**self._asked.params, "tunesmith": dict(self._asked.tags)}
        return wandb.init(settings=settings, config=config)

    def send(self, events: Sequence[Event]) -> None:
        """See :class:`.asked.Tracker`. W&B's library holds back what its server does not take, in the folder."""
        try:
            for event in events:
                if event.step > self._last:
                    self._run.log(dict(event.metrics), step=event.step)
        except Exception as error:
            raise TrackerRefusesError(
                f"W&B's library has failed ({why(error)})", f"What it had taken is there: wandb sync {self._folder}"
            ) from error

    def close(self, ended: Ended) -> str:
        """See :class:`.asked.Tracker`."""
        folder = self._folder
        self._record.close(ended)
        try:
            self._run.finish(exit_code=0 if ended is Ended.WELL else 1)
        except Exception as error:  # noqa: BLE001 - it is more than the time that runs out, and the folder has it all
            log.warning("W&B's library: %s", why(error))
            return f"W&B at {self._asked.url} did not take everything in time: wandb sync {folder}"
        return ""


def keep_to_itself(environ: os._Environ[str]) -> None:
    """Let W&B's library go by what it is told here alone, and report nothing to its makers."""
    for name in [name for name in environ if name.startswith("WANDB_")]:
        del environ[name]
    folder = tempfile.mkdtemp(prefix="wandb-")
    environ.update(dict.fromkeys(("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"), folder))
    environ["WANDB_ERROR_REPORTING"] = "false"
